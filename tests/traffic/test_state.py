"""What packets have counted is kept over replacements, and nothing of the old generations is."""

from __future__ import annotations

import os
import time

from elfpatch.deploy.source import open_template
from elfpatch.errors import SyscallFailed
from elfpatch.kernel import bpf
from tests.traffic.conftest import Deployment


def live(deployment: Deployment, variable: str) -> int:
    """A variable of .data or .bss as the running generation has it."""
    template = open_template(str(deployment.object))
    [(_, row)] = template.index.variables_named(variable)
    section = template.section(row.section).name.replace(".", "_")
    value = pinned_value(deployment, section)[row.offset : row.offset + row.size]
    return int.from_bytes(value, "little")


def pinned_value(deployment: Deployment, pin: str) -> bytes:
    fd = bpf.obj_get(f"{deployment.layout.pins(deployment.name)}/maps/{pin}")
    try:
        return bpf.map_lookup(fd, bytes(4), bpf.map_info(fd).value_size)
    finally:
        os.close(fd)


def counted(deployment: Deployment) -> dict[str, int]:
    """What the programs have counted in a map, in .bss and in .data (which starts at 1)."""
    return {
        "map": int.from_bytes(pinned_value(deployment, "stamped"), "little"),
        ".bss": live(deployment, "stamped_bss"),
        ".data": live(deployment, "stamped_data") - 1,
    }


def everywhere(count: int) -> dict[str, int]:
    return {"map": count, ".bss": count, ".data": count}


def tcx(end) -> str:
    return f"tcx:{end.ifname}:ingress,netns={end.ns.name},prog=stamp_tc"


def test_counters_count_on_while_the_program_is_replaced(deployment, traffic, net):
    with traffic() as packets:
        deployment.apply(tcx(net.b), version=1)
        packets.wait_for(1)
        for version in range(2, 102):
            deployment.apply(version=version)
            packets.wait_for(version)
        verdict = packets.stop()
    stamped = sum(verdict.versions.values())
    assert verdict.unprocessed == verdict.lost == 0
    assert counted(deployment) == everywhere(stamped)


def test_what_was_counted_moves_along_when_a_data_section_is_configured_anew(deployment, traffic, net):
    """Between streams: what is counted during the copy itself would be lost, which is why it is only made when it must
    be."""
    deployment.apply(tcx(net.b), version=1)
    total = 0
    for round_, second in enumerate((5, 6, 7), 2):
        outcome = deployment.apply(version=round_, writable=second)
        assert outcome.carried is not None
        assert outcome.carried.copied == [".data"]
        with traffic(rate=5000) as packets:
            packets.wait_for(round_)
            time.sleep(0.1)
            verdict = packets.stop()
            assert packets.latest_second == second
        total += sum(verdict.versions.values())
        assert counted(deployment) == everywhere(total)


def test_a_variable_of_bss_is_set_and_its_neighbour_counts_on(layout, tmp_path, traffic, net):
    deployment = Deployment(layout, tmp_path, "scalars")
    target = f"tcx:{net.b.ifname}:ingress,netns={net.b.ns.name}"
    deployment.apply(target, v_u32=1)
    with traffic(rate=5000) as packets:
        until = time.monotonic() + 5
        while packets.received < 100 and time.monotonic() < until:
            time.sleep(0.01)
        packets.stop()
    hits = live(deployment, "hits")
    assert hits >= 100
    deployment.apply(v_u32=1, b_u32=77)
    assert (live(deployment, "hits"), live(deployment, "b_u32")) == (hits, 77)


def test_tail_calls_find_their_programs_all_the_time(layout, tmp_path, traffic, net):
    """The kernel empties a prog array when its last pin goes; packets that are on their way through the old program
    still call through the old one."""
    deployment = Deployment(layout, tmp_path, "stamp_tail")
    target = f"tcx:{net.b.ifname}:ingress,netns={net.b.ns.name},prog=enter"
    with traffic() as packets:
        deployment.apply(target, version=1)
        packets.wait_for(1)
        for version in range(2, 302):
            deployment.apply(version=version)
            packets.wait_for(version)
        verdict = packets.stop()
    print(verdict)
    assert verdict.unprocessed == verdict.lost == verdict.backward == 0


# --- leaks


def ours(deployment) -> tuple[list[int], list[int], list[int]]:
    """Ids of the maps named after the deployment's object, of the programs that use one, and of links to those."""
    maps = [number for number in ids(bpf.map_next_id) if map_name(number).startswith(deployment.name[:8])]
    programs = [number for number in ids(bpf.prog_next_id) if set(maps_of(number)) & set(maps)]
    links = [number for number in ids(bpf.link_next_id) if link_program(number) in programs]
    return maps, programs, links


def ids(after) -> list[int]:
    found, number = [], 0
    while number := after(number):
        found.append(number)
    return found


def looked_up(open_by_id, number: int, look):
    """What `look` says of the object with this id; None when it has gone meanwhile."""
    try:
        fd = open_by_id(number)
    except SyscallFailed:
        return None
    try:
        return look(fd)
    finally:
        os.close(fd)


def map_name(number: int) -> str:
    info = looked_up(bpf.map_fd_by_id, number, bpf.map_info)
    return info.name if info else ""


def maps_of(number: int) -> list[int]:
    info = looked_up(bpf.prog_fd_by_id, number, bpf.prog_info)
    return info.map_ids if info else []


def link_program(number: int) -> int:
    info = looked_up(bpf.link_fd_by_id, number, bpf.link_info)
    return info.prog_id if info else 0


def eventually(look, wanted, timeout: float = 5.0) -> None:
    """The kernel frees programs and maps a little later than the last reference goes."""
    until = time.monotonic() + timeout
    while look() != wanted:
        assert time.monotonic() < until, f"{look()} instead of {wanted}"
        time.sleep(0.05)


def counts(deployment) -> tuple[int, ...]:
    return tuple(map(len, ours(deployment)))


def test_nothing_is_left_of_200_generations(deployment, net):
    files = len(os.listdir("/proc/self/fd"))
    deployment.apply(tcx(net.b), version=1)
    eventually(lambda: counts(deployment), (3, 1, 1))  # .rodata, .data and .bss; stamp_tc; its link
    for version in range(2, 202):
        deployment.apply(version=version)
    eventually(lambda: counts(deployment), (3, 1, 1))
    deployment.apply(version=500, writable=9)
    eventually(lambda: counts(deployment), (3, 1, 1))
    deployment.detach()
    eventually(lambda: counts(deployment), (0, 0, 0))
    assert len(os.listdir("/proc/self/fd")) == files
    assert not os.path.exists(deployment.layout.pins(deployment.name))


def test_nothing_is_left_of_generations_with_tail_calls(layout, tmp_path, net):
    deployment = Deployment(layout, tmp_path, "stamp_tail")
    deployment.apply(f"tcx:{net.b.ifname}:ingress,netns={net.b.ns.name},prog=enter", version=1)
    for version in range(2, 30):
        deployment.apply(version=version)
    # `stamp_tc` of this generation, and of the one before for packets that are still on their way
    eventually(lambda: counts(deployment)[1], 2)
    deployment.detach()
    eventually(lambda: counts(deployment), (0, 0, 0))
