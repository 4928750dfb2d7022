"""Programs assembled by hand, for tests that need a program and not what it does."""

from __future__ import annotations

import struct

XDP_PASS, XDP_DROP = 2, 1
TC_OK, TC_SHOT, TC_NEXT = 0, 2, -1


def mov_exit(value: int) -> bytes:
    """`r0 = value; exit`"""
    return struct.pack("=BBhi", 0xB7, 0, 0, value) + struct.pack("=BBhi", 0x95, 0, 0, 0)


def mark_exit(mark: int) -> bytes:
    """For tc: `skb->mark = mark; return TC_ACT_OK`"""
    mov = struct.pack("=BBhi", 0xB7, 2, 0, mark)
    store = struct.pack("=BBhi", 0x63, 1 | 2 << 4, 8, 0)  # *(u32 *)(r1 + 8) = r2; __sk_buff.mark is at 8
    return mov + store + mov_exit(TC_OK)
