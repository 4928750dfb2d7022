"""Template plus values: the image, its receipt, and the patched object.

A template is never changed. An image holds a patched copy of each data section that a value touches, and nothing of
the others, so that an untouched `.bss` of 16 MB costs nothing.
"""

from __future__ import annotations

from elfpatch.errors import BadValue, Problems, raise_all
from elfpatch.index import KEY, SECTION_SITES, SETTABLE, Fixup, Immediate, Index, Mask, Meta, Section, Site, sha256
from elfpatch.patch.place import Place, position, require_settable, resolve
from elfpatch.patch.setting import DATA, Setting
from elfpatch.patch.value import encode, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from elfpatch.index import Program
    from elfpatch.patch.code import CodeChange


class Template:
    """An object with its index. `data` is the object file as read; its values are the defaults."""

    __slots__ = (
        "path",
        "data",
        "index",
        "_fixups",
        "_sections",
        "_places",
        "_masks",
        "_settable",
        "_required",
        "_derived",
        "_keys_agree",
    )

    def __init__(self, path: str, data: bytes, index: Index) -> None:
        self.path = path
        self.data = data
        self.index = index
        self._sections: dict[int, Section] = {}
        self._places: dict[str, Place] = {}
        self._masks: list[tuple[int, int]] | None = None
        self._settable: bytes | None = None
        self._required: list[tuple[Place, bytes | int]] | None = None
        self._derived: dict[int, bytes] = {}  # of SECTION_SITES
        self._keys_agree = False
        self._fixups: dict[int, list[Fixup]] = {}  # by the first of them

    def section(self, number: int) -> Section:
        """Row `number` of SECTIONS."""
        row = self._sections.get(number)
        if row is None:
            row = self._sections[number] = self.index.row(Section, number)
        return row

    def section_bytes(self, number: int) -> bytes:
        """The template's contents of a data section; zeros for one without bytes in the file."""
        row = self.section(number)
        if row.kind == SECTION_SITES:
            return self._words(number, row)
        return self.data[row.file_offset : row.file_offset + row.size] if row.has_bytes else bytes(row.size)

    def _words(self, number: int, row: Section) -> bytes:
        if number not in self._derived:
            from elfpatch.patch.code import words_of_sites

            self._derived[number] = words_of_sites(self, row, number)
        return self._derived[number]

    @property
    def has_code(self) -> bool:
        """Whether values reach into instructions: there are static keys or immediates."""
        return bool(self.index.count(Site) or self.index.count(Immediate))

    @property
    def settable_ranges(self) -> list[tuple[int, int]]:
        """Start and end of each range of the file that holds bytes of settable variables, in order."""
        if self._masks is None:
            self._masks = [(mask.offset, mask.offset + mask.size) for mask in self.index.rows(Mask) if not mask.code]
        return self._masks

    @property
    def settable_bytes(self) -> bytes:
        """What the file holds in `settable_ranges`, one after the other."""
        if self._settable is None:
            self._settable = b"".join([self.data[start:end] for start, end in self.settable_ranges])
        return self._settable

    @property
    def required(self) -> list[tuple[Place, bytes | int]]:
        """Each place that must be set, with the placeholder that it holds until then."""
        if self._required is None:
            self._required = []
            if any(meta.required for meta in self.index.rows(Meta)):
                from elfpatch.patch.required import required_places

                self._required = required_places(self.index)
        return self._required

    def fixups(self, program: Program) -> list[Fixup]:
        """The instructions of a program that are completed at load, remembered."""
        if not program.fixups:
            return []
        found = self._fixups.get(program.first_fixup)
        if found is None:
            rows = self.index.rows(Fixup, program.first_fixup, program.fixups)
            found = self._fixups[program.first_fixup] = list(rows)
        return found

    def check_keys(self) -> None:
        """Raise BadObject, once looked, unless the word and the sites of each static key say the same."""
        if not self._keys_agree and self.index.count(Site):
            from elfpatch.patch.code import check_keys

            check_keys(self)
        self._keys_agree = True

    def place(self, path: str) -> Place:
        """`resolve`, remembered."""
        place = self._places.get(path)
        if place is None:
            place = self._places[path] = resolve(self.index, path)
        return place

    def held(self, place: Place) -> bytes:
        """The template's bytes that hold `place` (of a bit-field also its neighbours' bits)."""
        row = self.section(place.section)
        if row.kind == SECTION_SITES:
            return self._words(place.section, row)[place.offset : place.offset + place.size]
        start = row.file_offset + place.offset
        return self.data[start : start + place.size] if row.has_bytes else bytes(place.size)

    def bits(self, place: Place, held: bytes) -> bytes | int:
        """The value at `place` out of the bytes that hold it: bytes, or the bit pattern of a bit-field."""
        return _bits(self.index, place, held)

    def raw(self, place: Place) -> bytes | int:
        """The template's value at `place`."""
        return _bits(self.index, place, self.held(place))


class Change:
    """One place whose bytes differ from the template's. `old` and `new` are whole bytes (of a bit-field those that
    hold it); `file_offset` is None for a section without bytes in the file. `derived`: of a key whose state is only in
    its branch sites."""

    __slots__ = ("path", "section", "offset", "file_offset", "old", "new", "derived", "_index", "_place")

    def __init__(self, index: Index, place: Place, section: Section, old: bytes, new: bytes) -> None:
        self.path = place.path
        self.section = section.name
        self.offset = place.offset
        self.file_offset = section.file_offset + place.offset if section.has_bytes else None
        self.old = old
        self.new = new
        self.derived = section.kind == SECTION_SITES
        self._index = index
        self._place = place

    @property
    def old_text(self) -> str:
        return show(self._index, self._place, _bits(self._index, self._place, self.old))

    @property
    def new_text(self) -> str:
        return show(self._index, self._place, _bits(self._index, self._place, self.new))

    def __repr__(self) -> str:
        return f"Change({self.path!r}, {self.section}+{self.offset:#x}, {self.old.hex()} -> {self.new.hex()})"


class Image:
    """A template with values. `values` lists the values that differ from the template's, in the order of sections and
    offsets. `places` are all places that were set, changed or not, without those inside another one."""

    __slots__ = ("template", "places", "values", "_patched", "_receipt")

    def __init__(self, template: Template, places: list[Place], patched: dict[int, bytearray]) -> None:
        self.template = template
        self.places = places
        self._patched = patched
        self.values = _changes(template, places, patched)
        self._receipt: list[Change | CodeChange] | None = None

    @property
    def receipt(self) -> list[Change | CodeChange]:
        """The ranges of bytes that differ from the template's, in the order of sections and offsets, those of
        instructions last. Made when asked for: a load needs none."""
        if self._receipt is None:
            self._receipt = [change for change in self.values if not change.derived]
            if self.template.has_code:
                from elfpatch.patch.code import code_changes

                self._receipt += code_changes(self)
        return self._receipt

    def touched(self, number: int) -> bool:
        """Whether a value was written into data section `number`."""
        return number in self._patched

    def section_bytes(self, number: int) -> bytes:
        """The contents of data section `number` (row in SECTIONS)."""
        patched = self._patched.get(number)
        return self.template.section_bytes(number) if patched is None else bytes(patched)

    def bytes_at(self, number: int, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of data section `number`."""
        patched = self._patched.get(number)
        held = self.template.section_bytes(number) if patched is None else patched
        return bytes(held[offset : offset + size])

    @property
    def sections(self) -> dict[int, bytes]:
        """The contents of every data section by its row in SECTIONS."""
        return {number: self.section_bytes(number) for number in range(self.template.index.count(Section))}

    def raw(self, place: Place) -> bytes | int:
        """The image's value at `place`: bytes, or the bit pattern of a bit-field."""
        patched = self._patched.get(place.section)
        if patched is None:
            return self.template.raw(place)
        return _bits(self.template.index, place, bytes(patched[place.offset : place.offset + place.size]))

    @property
    def settings_text(self) -> list[tuple[str, str]]:
        """Path and text pairs which, given with `--set`, make this image of its template again."""
        from elfpatch.patch.record import settings_text

        return settings_text(self)

    def unset_required(self) -> list[str]:
        """The paths of *required* variables and members that were not set and still hold their placeholder."""
        if not self.template.required:
            return []
        from elfpatch.patch.required import unset_required

        return unset_required(self)


def _changes(template: Template, places: list[Place], patched: dict[int, bytearray]) -> list[Change]:
    """The places whose bytes differ from the template's."""
    found = []
    for place in places:
        new = patched[place.section][place.offset : place.offset + place.size]
        old = template.held(place)
        if old != new:
            found.append(Change(template.index, place, template.section(place.section), old, bytes(new)))
    return found


def make_image(template: Template, settings: Sequence[Setting], *, force: bool = False) -> Image:
    """The image of `template` with `settings`: lower levels first, so that a higher level wins where they overlap.

    Raises BadValue, or Problems with all of them. `force` also writes variables that are not settable.
    """
    index = template.index
    if not force:
        template.check_keys()
    errors: list[BadValue] = []
    claims: list[tuple[Place, Setting]] = []
    writes: list[tuple[Place, bytes | int]] = []
    for setting in sorted(settings, key=_level):
        for one in (setting,) if setting.kind != DATA else _expanded(index, setting):
            try:
                place = template.place(one.path)
                if not (force or place.variable.flags & SETTABLE):
                    require_settable(place)
            except BadValue as error:
                errors.append(BadValue(error.what, where=one.origin, hint=error.hint))
                continue
            made = encode(index, place, one, errors)
            if one.kind == DATA:
                claims += [(inner, one) for inner, _ in made]
            else:
                claims.append((place, one))
                if len(made) > 1:
                    _check_claims([(inner, one) for inner, _ in made], errors)
            writes += made
    _check_claims(claims, errors)
    raise_all(errors)
    patched: dict[int, bytearray] = {}
    for place, value in writes:
        _write(template, patched, place, value)
    image = Image(template, _outermost([place for place, _ in writes]), patched)
    if any(place.variable.flags & KEY for place in image.places):
        from elfpatch.patch.code import check_words

        check_words(image)
    return image


def _check_claims(claims: list[tuple[Place, Setting]], errors: list[BadValue]) -> None:
    """Places apart from each other dispute nothing: the module that says who is in whose way is for others."""
    if not _apart(sorted([place for place, _ in claims], key=position)):
        from elfpatch.patch.claims import Claim, check_claims

        check_claims([Claim(place, setting) for place, setting in claims], errors)


def _outermost(places: list[Place]) -> list[Place]:
    """The places in order, without those inside another one."""
    ordered = sorted(places, key=position)
    if _apart(ordered):
        return ordered
    from elfpatch.patch.claims import outermost

    return outermost(places)


def _apart(places: list[Place]) -> bool:
    """Whether no two of these places, which are in order, share a bit."""
    section, end = -1, 0
    for place in places:
        if place.section == section and place.start < end:
            return False
        section, end = place.section, place.start + place.bit_size
    return True


def image_to_load(template: Template, settings: Sequence[Setting], *, force: bool = False) -> Image:
    """`make_image`, for a load: what is *required* must be set, too. Raises BadValue, or Problems with all of them."""
    try:
        image = make_image(template, settings, force=force)
    except (BadValue, Problems) as error:
        told = error.errors if isinstance(error, Problems) else [error]
        given = tuple(setting.path for setting in settings)
        raise_all([*told, *_unset(make_image(template, ()), given)])
        raise
    raise_all(_unset(image, ()))
    return image


def _unset(image: Image, given: tuple[str, ...]) -> list[BadValue]:
    """An error for each required place that is not set, those aside that a path of `given` names or contains."""
    return [
        BadValue("it is required and not set", where=path, hint=f"give --set {path}=VALUE")
        for path in image.unset_required()
        if not any(path == one or path.startswith((f"{one}.", f"{one}[")) for one in given)
    ]


def written(image: Image) -> bytes:
    """The patched object file: the template's bytes but for the receipt's ranges.

    Raises BadValue when a value is not zero in a section that has no bytes in the file (`.bss`).
    """
    errors = []
    data = bytearray(image.template.data)
    for change in image.receipt:
        if change.file_offset is None:
            errors.append(
                BadValue(
                    f"{change.path} lies in {change.section}, which has no bytes in the file to hold {change.new_text}",
                    hint="initialize it in the source (non-zero, or in a section of its own), or use `elfpatch apply`",
                )
            )
        else:
            data[change.file_offset : change.file_offset + len(change.new)] = change.new
    raise_all(errors)
    return bytes(data)


def digest(image: Image) -> str:
    """SHA-256, as hexadecimal digits, over the template's digest and the bytes of all settable variables, from which
    follows what instructions say.

    It is the same whether the values are in memory or were written into the object. Bytes outside the object's
    settable ranges (of `.bss`, or forced) count where they differ from the template's.
    """
    template = image.template
    state = sha256()
    state.update(template.index.template_sha256)
    in_file = [change for change in image.values if not change.derived]
    settable, strays = _settable_bytes(template, in_file)
    state.update(settable)
    if template.has_code:
        for number, section in enumerate(template.index.rows(Section)):
            if section.kind == SECTION_SITES:
                state.update(image.section_bytes(number))
    outside: dict[tuple[str, int], int] = {}
    for change in strays:
        for at, (old, new) in enumerate(zip(change.old, change.new, strict=True)):
            if old != new:
                outside[change.section, change.offset + at] = new
    for (name, offset), value in sorted(outside.items()):
        state.update(f"\n{name}+{offset:#x}={value:#x}".encode())
    return state.hexdigest()


def _settable_bytes(template: Template, changes: list[Change]) -> tuple[bytes, list[Change]]:
    """What a file with these changes holds in the template's settable ranges, and the changes that lie in none."""
    spans = template.settable_ranges
    made = bytearray(template.settable_bytes)
    strays: list[Change] = []
    number = before = 0  # `before`: bytes of the ranges before this one
    for change in sorted(changes, key=_file_offset):
        at = _file_offset(change)
        while number < len(spans) and spans[number][1] <= at:
            before += spans[number][1] - spans[number][0]
            number += 1
        if number == len(spans) or at < spans[number][0] or at + len(change.new) > spans[number][1]:
            strays.append(change)
        else:
            start = before + at - spans[number][0]
            made[start : start + len(change.new)] = change.new
    if any(change.file_offset is not None for change in strays):  # forced, and may reach into a range
        view = _file_view(template.data, changes)
        return b"".join([view[start:end] for start, end in spans]), strays
    return bytes(made), strays


def _file_view(data: bytes, changes: list[Change]) -> memoryview:
    """The object's file with these changes in it, sections without bytes aside."""
    made = bytearray(data)
    for change in changes:
        if change.file_offset is not None:
            made[change.file_offset : change.file_offset + len(change.new)] = change.new
    return memoryview(made)


def _file_offset(change: Change) -> int:
    return -1 if change.file_offset is None else change.file_offset


def _expanded(index: Index, setting: Setting) -> list[Setting]:
    from elfpatch.patch.expand import expand

    return expand(index, setting)


def _level(setting: Setting) -> int:
    return setting.level


def _write(template: Template, patched: dict[int, bytearray], place: Place, value: bytes | int) -> None:
    buffer = patched.get(place.section)
    if buffer is None:
        row = template.section(place.section)
        stored = row.has_bytes or row.kind == SECTION_SITES
        contents = template.section_bytes(place.section) if stored else row.size
        buffer = patched[place.section] = bytearray(contents)
    if isinstance(value, int):
        from elfpatch.patch.bits import write_bits

        write_bits(buffer, place.start, place.bit_size, value, big=template.index.big_endian)
    else:
        buffer[place.offset : place.offset + len(value)] = value


def _bits(index: Index, place: Place, held: bytes) -> bytes | int:
    """The value at `place` out of the bytes that hold it."""
    if place.bitfield:
        from elfpatch.patch.bits import read_bits

        return read_bits(held, place.bit_offset % 8, place.bit_size, big=index.big_endian)
    return held
