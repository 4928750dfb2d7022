"""A program as data, for JSON."""

from __future__ import annotations

from elfpatch.explain.model import KEY, Block, Insn, Program, Value


def document(program: Program) -> dict[str, object]:
    """All that the model holds. An instruction of two slots is one entry, for `slot` and `slot + 1`."""
    done = program.summary
    return {
        "name": program.name,
        "section": program.section,
        "problem": program.problem or None,
        "notes": program.notes,
        "transformed": program.transformed,
        "specialized": program.specialized,
        "functions": [{"name": name, "start": start} for start, name in program.functions.items()],
        "insns": [_insn(insn) for insn in program.insns],
        "blocks": [_block(block) for block in program.blocks],
        "summary": {
            "insns_before": done.insns_before,
            "insns_after": done.insns_after,
            "branches_decided": done.branches_decided,
            "loads_folded": done.loads_folded,
            "functions_removed": done.functions_removed,
            "maps_not_needed": done.maps_not_needed,
        },
    }


def _insn(insn: Insn) -> dict[str, object]:
    source = insn.source
    return {
        "slot": insn.slot,
        "slots": insn.width,
        "new_slot": insn.new_slot,
        "new_slots": insn.new_width,
        "raw": insn.raw.hex(),
        "text": insn.text,
        "default_text": insn.default_text,
        "new_text": insn.new_text,
        "new_raw": None if insn.new_raw is None else insn.new_raw.hex(),
        "operand": insn.operand or None,
        "target": insn.target,
        "function": insn.function,
        "source": None if source is None else {"file": source.file, "line": source.line, "text": source.text or None},
        "values": [_value(value) for value in insn.values],
        "state": insn.state,
        "removed_because": insn.removed_because or None,
    }


def _value(value: Value) -> dict[str, object]:
    found: dict[str, object] = {
        "kind": value.kind,
        "path": value.path,
        "value": value.value,
        "default": value.value if value.default is None else value.default,
        "constant": value.constant,
    }
    if value.kind == KEY:
        found["jumps"] = value.jumps
    return found


def _block(block: Block) -> dict[str, object]:
    return {
        "id": block.first,
        "first": block.first,
        "end": block.end,
        "function": block.function,
        "state": block.state,
        "successors": [{"block": edge.block, "kind": edge.kind} for edge in block.successors],
    }
