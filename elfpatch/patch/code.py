"""An image's instructions: branch sites that follow static keys, and instructions that hold values.

Keys and immediates are variables like others, whose bytes are the values; what instructions say is derived from them,
here. Imported only for templates that have keys or immediates.
"""

from __future__ import annotations

from elfpatch.code import KEY_SIZE, placed, set_immediate, set_site, site_size, site_state
from elfpatch.errors import BadObject, BadValue, raise_all
from elfpatch.index import (
    FIXUP_IMMEDIATE,
    FIXUP_SITE,
    KEY,
    SETTABLE,
    SITE_OPCODE,
    Immediate,
    Program,
    Rewrite,
    Site,
    Variable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.errors import ElfpatchError
    from elfpatch.index import Section
    from elfpatch.patch.image import Image, Template


class CodeChange:
    """A range of instructions (or of their relocations) whose bytes differ from the template's, as `Change` is for
    variables. `function`, `insn` and `source` say which instruction; "" and -1 for relocations."""

    __slots__ = ("file_offset", "function", "insn", "new", "new_text", "offset", "old", "old_text", "path", "section")

    def __init__(
        self,
        path: str,
        section: str,
        offset: int,
        file_offset: int,
        old: bytes,
        new: bytes,
        old_text: str,
        new_text: str,
        function: str = "",
        insn: int = -1,
    ) -> None:
        self.path = path
        self.section = section
        self.offset = offset
        self.file_offset: int | None = file_offset
        self.old = old
        self.new = new
        self.old_text = old_text
        self.new_text = new_text
        self.function = function
        self.insn = insn

    def __repr__(self) -> str:
        return f"CodeChange({self.path!r}, {self.section}+{self.offset:#x}, {self.old.hex()} -> {self.new.hex()})"


def site_text(site: Site) -> str:
    """`endpoint instruction 12 (endpoint.bpf.c:120)`."""
    return f"{site.function} instruction {site.insn}" + (f" ({site.source})" if site.source else "")


# --- keys -------------------------------------------------------------------------------------------------------


def state_in_file(template: Template, site: Site) -> bool | None:
    """Whether the key is on as the file's bytes say at one site; None where there is no such branch."""
    start = site.file_offset
    return site_state(site, template.data[start : start + site_size(site)], template.index.big_endian)


def words_of_sites(template: Template, section: Section, number: int) -> bytes:
    """The words of keys that have none in the file: what the first site of each says."""
    index = template.index
    words = bytearray(section.size)
    owners = {row: v.offset for row, v in enumerate(index.rows(Variable)) if v.flags & KEY and v.section == number}
    for site in index.rows(Site):
        at = owners.pop(site.variable, -1)
        if at >= 0:
            words[at : at + KEY_SIZE] = _word(template, bool(state_in_file(template, site)))
    return bytes(words)


def _word(template: Template, on: bool) -> bytes:
    return int(on).to_bytes(KEY_SIZE, "big" if template.index.big_endian else "little")


def is_on(image: Image, site: Site) -> bool:
    """Whether the key of a branch site is on."""
    variable = image.template.index.row(Variable, site.variable)
    return any(image.bytes_at(variable.section, variable.offset, KEY_SIZE))


def check_keys(template: Template) -> None:
    """Raise BadObject for keys whose word and sites do not all say the same, or BadValue for a word that is neither 0
    nor 1: something else wrote into the object, and what it meant cannot be known."""
    index = template.index
    sites: dict[int, list[Site]] = {}
    for site in index.rows(Site):
        sites.setdefault(site.variable, []).append(site)
    problems: list[ElfpatchError] = []
    for row, found in sites.items():
        variable = index.row(Variable, row)
        problem = disagreement(template, variable, found)
        if problem:
            problems.append(
                BadObject(
                    problem,
                    where=f"static key {variable.name}",
                    hint="restore the object: something else has written into it",
                )
            )
    raise_all(problems)


def disagreement(template: Template, variable: Variable, sites: list[Site]) -> str:
    """In which way the word and the sites of a key contradict each other; "" when they agree."""
    word = template.section_bytes(variable.section)[variable.offset : variable.offset + KEY_SIZE]
    states = [(site, state_in_file(template, site)) for site in sites]
    for site, state in states:
        if state is None:
            opcode = template.data[site.file_offset]
            return f"its site at {site_text(site)} is no branch that it switches but opcode {opcode:#04x}"
    if word not in (_word(template, False), _word(template, True)):
        return f"its word is {word.hex()}, neither off nor on"
    wrong = [site for site, state in states if _word(template, bool(state)) != word]
    if not wrong:
        return ""
    said = "off" if word == _word(template, False) else "on"
    return f"its sites disagree: it is {said}, and not so at {', '.join(site_text(site) for site in wrong)}"


def check_words(image: Image) -> None:
    """Raise BadValue for a key that was given raw bytes that are neither off nor on."""
    problems: list[ElfpatchError] = []
    for place in image.places:
        if place.variable.flags & KEY and place.variable.flags & SETTABLE:
            word = image.bytes_at(place.section, place.variable.offset, KEY_SIZE)
            if word not in (_word(image.template, False), _word(image.template, True)):
                problems.append(
                    BadValue(f"{word.hex()} is neither off nor on", where=place.path, hint="give on or off")
                )
    raise_all(problems)


def sites_of(template: Template, row: int) -> list[tuple[Site, bool | None, list[str]]]:
    """The sites of the key in row `row` of VARIABLES: each with what it says, and the programs that it is in."""
    index = template.index
    programs: dict[int, list[str]] = {}
    for program in index.rows(Program):
        for fixup in template.fixups(program):
            if fixup.kind == FIXUP_SITE and program.name not in programs.setdefault(fixup.ref, []):
                programs[fixup.ref].append(program.name)
    return [
        (site, state_in_file(template, site), programs.get(number, []))
        for number, site in enumerate(index.rows(Site))
        if site.variable == row
    ]


# --- the written object -----------------------------------------------------------------------------------------


def code_changes(image: Image) -> list[CodeChange]:
    """What differs outside the data sections between the template's file and the image's, in the order of the file."""
    template = image.template
    index = template.index
    on: dict[int, bool] = {}  # by key, which may have many sites

    def state(site: Site) -> bool:
        if site.variable not in on:
            on[site.variable] = is_on(image, site)
        return on[site.variable]

    found = []
    for row, offset, new in placed(index, state, image.section_bytes):
        old = template.data[offset : offset + len(new)]
        if old != new:
            found.append(_change(image, row, offset, old, new))
    found.sort(key=_file_offset)
    return found


def _file_offset(change: CodeChange) -> int:
    return change.file_offset or 0


def _change(image: Image, row: Site | Immediate | Rewrite, offset: int, old: bytes, new: bytes) -> CodeChange:
    if isinstance(row, Rewrite):
        return CodeChange(row.what, "", 0, offset, old, new, "as compiled", "without those of immediates")
    path = image.template.index.row(Variable, row.variable).name
    if isinstance(row, Site):
        state = state_in_file(image.template, row)
        before = "no branch" if state is None else "on" if state else "off"
        after = "on" if is_on(image, row) else "off"
        before += ", as compiled" if before == after else ""
    else:
        before, after = _immediate_texts(image, row)
    return CodeChange(path, row.section, row.section_offset, offset, old, new, before, after, row.function, row.insn)


def _immediate_texts(image: Image, row: Immediate) -> tuple[str, str]:
    span = slice(row.offset, row.offset + row.size)
    raw = image.template.data[row.file_offset : row.file_offset + len(row.raw)] == row.raw
    before = image.template.section_bytes(row.data)[span].hex()
    return "as compiled" if raw else before or "0", image.section_bytes(row.data)[span].hex() or "0"


# --- the program to load ----------------------------------------------------------------------------------------


def program_code(image: Image, program: Program) -> tuple[bytearray, bool]:
    """A program's instructions with the image's keys and immediates in them, maps still missing; and whether there may
    now be instructions that no edge leads to, which the verifier refuses."""
    index = image.template.index
    code = bytearray(program.insns)
    loose = False
    for fixup in image.template.fixups(program):
        if fixup.kind == FIXUP_SITE:
            site = index.row(Site, fixup.ref)
            set_site(code, fixup.insn, site, is_on(image, site), index.big_endian)
            loose = loose or site.kind != SITE_OPCODE
        elif fixup.kind == FIXUP_IMMEDIATE:
            row = index.row(Immediate, fixup.ref)
            set_immediate(code, fixup.insn, row, image.bytes_at(row.data, row.offset, row.size), index.big_endian)
    return code, loose
