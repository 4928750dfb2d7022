from __future__ import annotations

import struct

from elfpatch import index as ix
from elfpatch.flow.program import code_of, function_target, heads, imm64
from tests.flow.asm import assemble, call, goto, ld, leave, mov


def program() -> tuple[str | object, ...]:
    return (call("f"), ld(1, func="g"), mov(0, 0), leave(), "f", mov(0, 1), leave(), "g", mov(0, 2), leave())


def test_functions_start_where_calls_and_addresses_point() -> None:
    assert assemble(*program()).starts == [0, 5, 7]  # type: ignore[arg-type]


def test_functions_start_where_func_info_says() -> None:
    records = struct.pack("<II", 0, 7) + struct.pack("<II", 2, 8)
    assert assemble(mov(0, 0), leave(), mov(0, 0), leave(), func_info=records).starts == [0, 2]


def test_a_call_that_the_loader_completes_starts_no_function() -> None:
    items = (mov(0, 0), call("here"), "here", leave())
    assert assemble(*items).starts == [0, 2]
    external = assemble(*items, opaque={1})
    assert external.starts == [0]
    assert function_target(external, 1) is None


def test_relocated_instructions_are_opaque_and_counted_in_bytes() -> None:
    assert assemble(mov(1, 0), mov(0, 0), leave(), core_relos=struct.pack("<IIII", 8, 1, 2, 0)).opaque == {1}


def test_both_slots_of_a_wide_load_are_one_instruction() -> None:
    code = assemble(ld(1, 0x1122334455667788), ld(2, -1), mov(0, 0), leave())
    assert list(heads(code)) == [0, 2, 4, 5]
    assert (imm64(code, 0), imm64(code, 2)) == (0x1122334455667788, (1 << 64) - 1)


def test_what_is_decoded_is_encoded_again_in_either_byte_order() -> None:
    items = (ld(1, map=3, offset=16), "again", mov(2, -5), goto("again"))
    for big_endian in (False, True):
        code = assemble(*items, big_endian=big_endian)
        data = code.encode()
        assert code_of(data, {}, big_endian=big_endian).encode() == data
        assert code.refs == {0: (ix.FIXUP_MAP_VALUE, 3, 16)}
    assert assemble(*items, big_endian=True).encode()[1:2] == b"\x12"  # dst in the high nibble


def test_records_have_the_byte_order_of_the_object() -> None:
    record = struct.pack(">II", 0, 7)
    code = assemble(mov(0, 0), leave(), big_endian=True, func_info=record)
    assert list(code.records(record, 8)) == [(0, record[4:])]
    assert code.pack_records(code.records(record, 8)) == record
