"""The kernel's helper functions: their names, and what they take.

Names as in the kernel's enum bpf_func_id, arguments as in the prototypes of bpf_helper_defs.h; the numbers are UAPI.
"""

from __future__ import annotations

POINTER, WIDE, NARROW = "p", "d", "w"  # kinds of arguments: a pointer, a number of 64 bits, of 32 bits
_UNKNOWN = ("", POINTER * 5)

# By number: the name without its bpf_, then the kind of each argument. A variable list of arguments counts as numbers.
_HELPERS = (
    "unspec:ddddd map_lookup_elem:pp map_update_elem:pppd map_delete_elem:pp probe_read:pwp ktime_get_ns "
    "trace_printk:pwddd get_prandom_u32 get_smp_processor_id skb_store_bytes:pwpwd l3_csum_replace:pwddd "
    "l4_csum_replace:pwddd tail_call:ppw clone_redirect:pwd get_current_pid_tgid get_current_uid_gid "
    "get_current_comm:pw get_cgroup_classid:p skb_vlan_push:pww skb_vlan_pop:p skb_get_tunnel_key:ppwd "
    "skb_set_tunnel_key:ppwd perf_event_read:pd redirect:wd get_route_realm:p perf_event_output:ppdpd "
    "skb_load_bytes:pwpw get_stackid:ppd csum_diff:pwpww skb_get_tunnel_opt:ppw skb_set_tunnel_opt:ppw "
    "skb_change_proto:pwd skb_change_type:pw skb_under_cgroup:ppw get_hash_recalc:p get_current_task "
    "probe_write_user:ppw current_task_under_cgroup:pw skb_change_tail:pwd skb_pull_data:pw csum_update:pw "
    "set_hash_invalid:p get_numa_node_id skb_change_head:pwd xdp_adjust_head:pw probe_read_str:pwp "
    "get_socket_cookie:p get_socket_uid:p set_hash:pw setsockopt:pwwpw skb_adjust_room:pwwd redirect_map:pdd "
    "sk_redirect_map:ppwd sock_map_update:pppd xdp_adjust_meta:pw perf_event_read_value:pdpw "
    "perf_prog_read_value:ppw getsockopt:pwwpw override_return:pd sock_ops_cb_flags_set:pw msg_redirect_map:ppwd "
    "msg_apply_bytes:pw msg_cork_bytes:pw msg_pull_data:pwwd bind:ppw xdp_adjust_tail:pw skb_get_xfrm_state:pwpwd "
    "get_stack:ppwd skb_load_bytes_relative:pwpww fib_lookup:ppww sock_hash_update:pppd msg_redirect_hash:pppd "
    "sk_redirect_hash:pppd lwt_push_encap:pwpw lwt_seg6_store_bytes:pwpw lwt_seg6_adjust_srh:pww "
    "lwt_seg6_action:pwpw rc_repeat:p rc_keydown:pwdw skb_cgroup_id:p get_current_cgroup_id get_local_storage:pd "
    "sk_select_reuseport:pppd skb_ancestor_cgroup_id:pw sk_lookup_tcp:ppwdd sk_lookup_udp:ppwdd sk_release:p "
    "map_push_elem:ppd map_pop_elem:pp map_peek_elem:pp msg_push_data:pwwd msg_pop_data:pwwd rc_pointer_rel:pww "
    "spin_lock:p spin_unlock:p sk_fullsock:p tcp_sock:p skb_ecn_set_ce:p get_listener_sock:p skc_lookup_tcp:ppwdd "
    "tcp_check_syncookie:ppwpw sysctl_get_name:ppdd sysctl_get_current_value:ppd sysctl_get_new_value:ppd "
    "sysctl_set_new_value:ppd strtol:pddp strtoul:pddp sk_storage_get:pppd sk_storage_delete:pp send_signal:w "
    "tcp_gen_syncookie:ppwpw skb_output:ppdpd probe_read_user:pwp probe_read_kernel:pwp probe_read_user_str:pwp "
    "probe_read_kernel_str:pwp tcp_send_ack:pw send_signal_thread:w jiffies64 read_branch_records:ppwd "
    "get_ns_current_pid_tgid:ddpw xdp_output:ppdpd get_netns_cookie:p get_current_ancestor_cgroup_id:w "
    "sk_assign:ppd ktime_get_boot_ns seq_printf:ppwpw seq_write:ppw sk_cgroup_id:p sk_ancestor_cgroup_id:pw "
    "ringbuf_output:ppdd ringbuf_reserve:pdd ringbuf_submit:pd ringbuf_discard:pd ringbuf_query:pd csum_level:pd "
    "skc_to_tcp6_sock:p skc_to_tcp_sock:p skc_to_tcp_timewait_sock:p skc_to_tcp_request_sock:p skc_to_udp6_sock:p "
    "get_task_stack:ppwd load_hdr_opt:ppwd store_hdr_opt:ppwd reserve_hdr_opt:pwd inode_storage_get:pppd "
    "inode_storage_delete:pp d_path:ppw copy_from_user:pwp snprintf_btf:pwpwd seq_printf_btf:ppwd "
    "skb_cgroup_classid:p redirect_neigh:wpwd per_cpu_ptr:pw this_cpu_ptr:p redirect_peer:wd task_storage_get:pppd "
    "task_storage_delete:pp get_current_task_btf bprm_opts_set:pd ktime_get_coarse_ns ima_inode_hash:ppw "
    "sock_from_file:p check_mtu:pwpwd for_each_map_elem:pppd snprintf:pwppw sys_bpf:wpw btf_find_by_name_kind:pwww "
    "sys_close:w timer_init:ppd timer_set_callback:pp timer_start:pdd timer_cancel:p get_func_ip:p "
    "get_attach_cookie:p task_pt_regs:p get_branch_snapshot:pwd trace_vprintk:pwpw skc_to_unix_sock:p "
    "kallsyms_lookup_name:pwwp find_vma:pdppd loop:wppd strncmp:pwp get_func_arg:pwp get_func_ret:pp "
    "get_func_arg_cnt:p get_retval set_retval:w xdp_get_buff_len:p xdp_load_bytes:pwpw xdp_store_bytes:pwpw "
    "copy_from_user_task:pwppd skb_set_tstamp:pdw ima_file_hash:ppw kptr_xchg:pp map_lookup_percpu_elem:ppw "
    "skc_to_mptcp_sock:p dynptr_from_mem:pwdp ringbuf_reserve_dynptr:pwdp ringbuf_submit_dynptr:pd "
    "ringbuf_discard_dynptr:pd dynptr_read:pwpwd dynptr_write:pwpwd dynptr_data:pww tcp_raw_gen_syncookie_ipv4:ppw "
    "tcp_raw_gen_syncookie_ipv6:ppw tcp_raw_check_syncookie_ipv4:pp tcp_raw_check_syncookie_ipv6:pp "
    "ktime_get_tai_ns user_ringbuf_drain:pppd cgrp_storage_get:pppd cgrp_storage_delete:pp"
)
_helpers: list[tuple[str, str]] = []


def _helper(number: int) -> tuple[str, str]:
    """(name, kinds of arguments); "" and five pointers for a number that Linux 6.18 does not know."""
    if not _helpers:
        for word in _HELPERS.split():
            name, _, kinds = word.partition(":")
            _helpers.append((f"bpf_{name}", kinds))
    return _helpers[number] if 0 <= number < len(_helpers) else _UNKNOWN


def helper_name(number: int) -> str:
    """`bpf_map_lookup_elem` for 1; "" when unknown."""
    return _helper(number)[0]


def helper_arguments(number: int) -> int:
    """How many of r1..r5 the helper takes; all when unknown."""
    return len(_helper(number)[1])


def argument_kinds(number: int) -> str:
    """What each argument of the helper is: a letter each, POINTER, WIDE or NARROW."""
    return _helper(number)[1]
