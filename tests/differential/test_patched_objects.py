"""`elfpatch patch -o` on every fixture and shipped template, with values at both ends of every type.

Objects with immediates or offset sites are patched as templates: as compiled nothing takes them, and what is written of
them then is another form, to which tests/patch/test_immediates.py and test_keys.py hold.

What it writes differs from the original in the receipt's ranges and nowhere else, is taken by libbpf exactly when the
original is, and goes back to the identical bytes.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from elfpatch import index as ix
from elfpatch.cli.main import main
from elfpatch.deploy.source import open_template
from elfpatch.patch.path import leaves
from elfpatch.template.build import build
from tests.template.oracles import ALL, ROOT, UNWRITTEN, Loaded, libbpf_load, name_of
from tests.template.test_loaded import PINNED_BY_NAME

OBJECTS = [*ALL, *sorted((ROOT / "fixtures" / "templates").glob("*.o"))]
HOW = ("lowest", "highest", "random")
cases = pytest.mark.parametrize(
    ("path", "how"), [pytest.param(path, how, id=f"{name_of(path)}-{how}") for path in OBJECTS for how in HOW]
)


def value_of(index: ix.Index, place, how: str, rng: random.Random) -> str:
    """A text for one place of the object."""
    kind = place.type
    if kind is None:
        return "hex:" + {"lowest": "00", "highest": "ff", "random": rng.randbytes(1).hex()}[how] * place.size
    if kind.kind in (ix.ARRAY, ix.STRUCT, ix.UNION, ix.POINTER, ix.FLOAT, ix.OPAQUE):
        return ""
    if kind.kind == ix.ENUM:
        names = [row.name for row in index.rows(ix.Enumerator, kind.first, kind.members)]
        return {"lowest": names[0], "highest": names[-1], "random": rng.choice(names)}[how]
    low, high = 0, (1 << (place.bit_size or 8 * place.size)) - 1
    if kind.kind == ix.BOOL:
        high = 1
    if kind.flags & ix.SIGNED or kind.kind == ix.CHAR:
        low, high = -(high + 1) // 2, high // 2
        low, high = (0, 127) if kind.kind == ix.CHAR else (low, high)
    if place.meta and place.meta.minimum:
        low = max(low, int(place.meta.minimum))
    if place.meta and place.meta.maximum:
        high = min(high, int(place.meta.maximum))
    if place.format == "port":
        high = min(high, 65535)
    return str({"lowest": low, "highest": high, "random": rng.randint(low, high)}[how])


def as_template(path: Path, folder: Path) -> Path:
    """The object itself, or where values are in instructions that must be written first its template."""
    if path.stem not in UNWRITTEN:
        return path
    out = folder / "template" / path.name
    out.parent.mkdir()
    out.write_bytes(build(path.read_bytes(), path.stem))
    return out


def settings_of(path: Path, how: str) -> dict[str, str]:
    """A value for every scalar of every settable variable that has bytes in the file."""
    template = open_template(str(path))
    rng = random.Random(f"{name_of(path)} {how}")
    found = {}
    for row, variable in enumerate(template.index.rows(ix.Variable)):
        if not variable.flags & ix.SETTABLE or not template.section(variable.section).has_bytes:
            continue
        if len(template.index.variables_named(variable.name)) > 1:
            continue  # tested where values are, not here
        taken = 0  # bits: the first member of a union has them
        for place in leaves(template.index, row, open_arrays=True):
            bits = (1 << (place.bit_size or 8 * place.size)) - 1 << place.bit_offset
            if taken & bits:
                continue
            taken |= bits
            text = value_of(template.index, place, how, rng)
            if text and not (place.format in ("ipv4", "ipv6", "mac", "cidr") and how != "lowest"):
                found[place.path] = "hex:" + "00" * place.size if place.format else text
    return found


def patch(path: Path, out: Path, settings: dict[str, str], capsys) -> dict[str, object]:
    words = [word for place, text in settings.items() for word in ("--set", f"{place}={text}")]
    capsys.readouterr()
    code = main(["patch", "-j", "--state-dir", str(out.parent / "state"), "-o", str(out), *words, str(path)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


@cases
def test_only_the_receipt_differs_and_the_way_back_is_exact(path, how, tmp_path, capsys):
    path = as_template(path, tmp_path)
    settings = settings_of(path, how)
    out = tmp_path / path.name
    receipt = patch(path, out, settings, capsys)
    before, after = path.read_bytes(), out.read_bytes()
    assert len(before) == len(after)
    allowed: set[int] = set()
    for change in receipt["changes"]:
        start, old, new = change["offset"], bytes.fromhex(change["old_bytes"]), bytes.fromhex(change["bytes"])
        assert before[start : start + len(old)] == old
        assert after[start : start + len(new)] == new
        allowed |= set(range(start, start + len(new)))
    assert {at for at in range(len(before)) if before[at] != after[at]} <= allowed
    assert allowed or not settings or how == "lowest" or path.stem.startswith("keys_")  # a key that already is so

    back = tmp_path / "back" / path.name
    back.parent.mkdir()
    values = [change for change in receipt["changes"] if "insn" not in change]
    patch(out, back, {change["path"]: change["old"] for change in values}, capsys)
    assert back.read_bytes() == before
    again = tmp_path / "again" / path.name
    again.parent.mkdir()
    assert not patch(out, again, settings, capsys)["changes"]
    assert again.read_bytes() == after


@cases
def test_libbpf_takes_what_was_written_when_it_takes_the_original(path, how, tmp_path, capsys, session_bpffs):
    path = as_template(path, tmp_path)
    out = tmp_path / path.name
    patch(path, out, settings_of(path, how), capsys)
    verdicts = []
    for file in (path, out):
        options = ("type", "classifier") if path.stem == "sections_unknown" else ()
        loaded = libbpf_load(file, session_bpffs, *options)
        verdicts.append(isinstance(loaded, Loaded))
        if isinstance(loaded, Loaded):
            loaded.remove()
        PINNED_BY_NAME.unlink(missing_ok=True)
    assert verdicts[0] == verdicts[1]


def test_most_fixtures_have_something_to_set():
    nothing = ("jump_table", "keys_unneeded", "keys_linked_b", "keys_twice")  # in bytes of data that are theirs
    objects = [path for path in OBJECTS if path.stem not in nothing]
    assert sum(bool(settings_of(path, "highest")) for path in objects) > len(objects) - 5
