"""`elfpatch inspect`: what can be set, and what is loaded."""

from __future__ import annotations

from elfpatch import index as ix
from elfpatch.cli import options, output, request
from elfpatch.deploy.source import open_template
from elfpatch.patch.code import disagreement, sites_of
from elfpatch.patch.describe import type_text
from elfpatch.patch.path import Place, leaves, whole
from elfpatch.patch.value import brief, show
from elfpatch.uapi import ATTACH_TYPES, MAP_TYPES, PROG_TYPES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from elfpatch.patch.image import Template

_LARGE = 4096  # of what has more bytes, inspect shows the size only
_SITES = 8  # as many of a key are shown without --all

OPERANDS = "OBJECT"
OPTIONS = (
    options.Option("--all -a", "", "also show variables that cannot be set, with the reason, and every branch site"),
    options.IMMEDIATE,
    *options.FOLDERS,
    *options.JSON,
)
EXAMPLES = ("elfpatch inspect endpoint.o", "elfpatch inspect -p endpoint.o | jq '.variables[].path'")


def run(arguments: options.Arguments) -> int:
    (path,) = options.operands(arguments, OPERANDS, "inspect")
    template = open_template(path, request.layout(arguments).cache, request.immediates(arguments))
    if output.wants_json(arguments):
        output.print_json(arguments, as_json(template))
    else:
        output.print_lines(as_text(template, everything=arguments.flag("all")))
    return 0


class _Entry:
    """A settable place, or with `why_not` one that is not."""

    __slots__ = ("place", "why_not")

    def __init__(self, place: Place, why_not: str) -> None:
        self.place = place
        self.why_not = why_not


def _entries(template: Template) -> Iterator[_Entry]:
    for row, variable in enumerate(template.index.rows(ix.Variable)):
        if variable.flags & ix.KEY:
            continue
        for place in leaves(template.index, row):
            yield _Entry(place, "" if variable.flags & ix.SETTABLE else variable.why_not)


def _type(template: Template, place: Place) -> str:
    if place.type is None:
        return f"{place.size} bytes, no type"
    text = type_text(template.index, place.type)
    return f"{text}:{place.bit_size}" if place.bitfield else text


def _keys(template: Template) -> Iterator[tuple[int, Place]]:
    """Row and place of each static key."""
    index = template.index
    for row, variable in enumerate(index.rows(ix.Variable)):
        if variable.flags & ix.KEY:
            yield row, whole(index, row, variable)


def _key_problem(template: Template, row: int, place: Place) -> str:
    return disagreement(template, place.variable, [site for site, _, _ in sites_of(template, row)])


def _keys_json(template: Template) -> list[dict[str, object]]:
    return [
        {
            "path": place.path,
            "default": show(template.index, place, template.raw(place)),
            "settable": not place.variable.why_not,
            "why_not": place.variable.why_not or None,
            "problem": _key_problem(template, row, place) or None,
            "description": place.description or None,
            "required": bool(place.meta and place.meta.required),
            "sites": [
                {
                    "programs": programs,
                    "section": site.section,
                    "section_offset": site.section_offset,
                    "offset": site.file_offset,
                    "function": site.function,
                    "insn": site.insn,
                    "source": site.source or None,
                    "kind": "opcode" if site.kind == ix.SITE_OPCODE else "offset",
                    "likely": bool(site.likely),
                    "state": None if state is None else "on" if state else "off",
                }
                for site, state, programs in sites_of(template, row)
            ],
        }
        for row, place in _keys(template)
    ]


def _keys_text(template: Template, *, everything: bool) -> list[str]:
    """A line for each key, and one for each of its sites."""
    lines = []
    for row, place in _keys(template):
        state = show(template.index, place, template.raw(place))
        required = "; required" if place.meta and place.meta.required else ""
        lines.append(f"  {place.path}  {state}  {place.description}{required}".rstrip())
        if place.variable.why_not:
            lines.append(f"    cannot be set: {place.variable.why_not}")
        if problem := _key_problem(template, row, place):
            lines.append(f"    cannot be used: {problem}")
        found = sites_of(template, row)
        rows = [
            (
                ", ".join(programs) or "no program",
                f"{site.function} insn {site.insn}",
                site.source,
                "no branch" if now is None else "on" if now else "off",
                "opcode" if site.kind == ix.SITE_OPCODE else "offset",
                "likely" if site.likely else "unlikely",
            )
            for site, now, programs in found
        ]
        shown = rows if everything else rows[:_SITES]
        lines += output.table(shown, "    ")
        if len(shown) < len(rows):
            lines.append(f"    ({len(rows) - len(shown)} more sites; --all shows them)")
    return lines


def as_json(template: Template) -> dict[str, object]:
    index = template.index
    info = index.info
    variables = []
    for entry in _entries(template):
        place, meta = entry.place, entry.place.meta
        raw = template.raw(place)
        variables.append(
            {
                "path": place.path,
                "type": _type(template, place),
                "size": place.size,
                "default": show(index, place, raw) if place.size <= _LARGE else None,
                "bytes": template.held(place).hex() if place.size <= _LARGE else None,
                "section": template.section(place.section).name,
                "section_offset": place.offset,
                "settable": not entry.why_not,
                "why_not": entry.why_not or None,
                "description": place.description or None,
                "format": place.format or None,
                "unit": meta.unit or None if meta else None,
                "min": int(meta.minimum) if meta and meta.minimum else None,
                "max": int(meta.maximum) if meta and meta.maximum else None,
                "required": bool(meta and meta.required),
                "immediate": bool(place.variable.flags & ix.IMMEDIATE),
            }
        )
    return {
        "object": template.path,
        "template_sha256": index.template_sha256.hex(),
        "license": info.license,
        "compiler": info.compiler,
        "byte_order": "big" if index.big_endian else "little",
        "variables": variables,
        "keys": _keys_json(template),
        "programs": [
            {
                "name": program.name,
                "section": program.section,
                "type": PROG_TYPES[program.type] if program.type else None,
                "attach_type": _attach_type(program),
                "insns": len(program.insns) // 8,
                "core_relocations": len(program.core_relos) // (info.core_relo_rec_size or 16),
                "problem": program.problem or None,
            }
            for program in index.rows(ix.Program)
        ],
        "maps": [
            {
                "name": row.name,
                "type": _map_type(row),
                "key_size": row.key_size,
                "value_size": row.value_size,
                "max_entries": row.max_entries,
                "flags": row.flags,
                "pinning": "by name" if row.pinning else None,
                "problem": row.problem or None,
            }
            for row in index.rows(ix.Map)
        ],
        "notes": [note.text for note in index.rows(ix.Note)],
    }


def _attach_type(program: ix.Program) -> str | None:
    # 0 is both "none" and cgroup_inet_ingress
    if not program.attach_type and program.section != "cgroup_skb/ingress":
        return None
    return ATTACH_TYPES[program.attach_type]


def _map_type(row: ix.Map) -> str:
    return MAP_TYPES[row.type] if row.type < len(MAP_TYPES) else str(row.type)


def as_text(template: Template, *, everything: bool) -> list[str]:
    index = template.index
    info = index.info
    order = ", big-endian" if index.big_endian else ""
    lines = [f"{template.path}: template {index.template_sha256.hex()[:16]}, license {info.license or 'none'}{order}"]
    if info.compiler:
        lines.append(f"compiled by {info.compiler}")
    entries = list(_entries(template))
    rows = [_row(template, entry.place) for entry in entries if not entry.why_not]
    lines += ["", "variables:"] if rows else ["", "no variable can be set"]
    if rows:
        lines += output.table([("NAME", "TYPE", "DEFAULT", "BYTES", "SECTION", "DESCRIPTION"), *rows])
    fixed = [entry for entry in entries if entry.why_not]
    if fixed and everything:
        lines += ["", "not settable:"]
        lines += output.table([(e.place.path, _type(template, e.place), e.why_not) for e in fixed])
    elif fixed:
        names = dict.fromkeys(entry.place.variable.name for entry in fixed)
        lines.append(f"  ({len(names)} more cannot be set; --all shows them and says why)")
    keys = _keys_text(template, everything=everything)
    if keys:
        lines += ["", "static keys:", *keys]
    lines += ["", "programs:"]
    lines += output.table(
        [
            (
                program.name,
                f"section {program.section}",
                PROG_TYPES[program.type] if program.type else "type not said",
                f"cannot be loaded: {program.problem}" if program.problem else f"{len(program.insns) // 8} insns",
            )
            for program in index.rows(ix.Program)
        ]
    )
    maps = [
        (
            row.name,
            _map_type(row),
            f"key {row.key_size}",
            f"value {row.value_size}",
            f"cannot be made: {row.problem}" if row.problem else f"{row.max_entries} entries",
        )
        for row in index.rows(ix.Map)
    ]
    if maps:
        lines += ["", "maps:", *output.table(maps)]
    lines += [f"note: {note.text}" for note in index.rows(ix.Note)]
    return lines


def _row(template: Template, place: Place) -> tuple[str, str, str, str, str, str]:
    meta = place.meta
    said = [place.description] if place.description else []
    if place.variable.flags & ix.IMMEDIATE:
        said.append("immediate")
    if meta and meta.required:
        said.append("required")
    if meta and (meta.minimum or meta.maximum):
        said.append(f"{meta.minimum or '...'} to {meta.maximum or '...'}")
    if meta and meta.unit:
        said.append(f"in {meta.unit}")
    if place.format:
        said.append(place.format)
    return (
        place.path,
        _type(template, place),
        _cut(brief(template.index, place, template.raw(place))),
        _cut(template.held(place).hex()) if place.size <= _LARGE else "",
        f"{template.section(place.section).name}+{place.offset:#x}",
        "; ".join(said),
    )


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
