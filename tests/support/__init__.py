"""What tests share: network namespaces with veth pairs, a bpffs and a cgroup of one's own, hand-assembled programs."""
