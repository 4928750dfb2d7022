"""Values that change in a running program: one store into the mapped memory of its `.data` or `.bss`, no reload.

A reload changes all values at once for every packet, so a live change must, too: it is made only when all that changes
is one aligned word of up to 8 bytes, and nothing else of that word. Everything else is reloaded.
"""

from __future__ import annotations

import os
import time

from elfpatch.deploy import record as rec
from elfpatch.deploy.attach.base import OURS
from elfpatch.deploy.reuse import differences, pin_path, section_digest
from elfpatch.index import IMMEDIATE, KEY, SECTION_BSS, SECTION_DATA, Map
from elfpatch.kernel import bpf, bpffs
from elfpatch.patch.image import make_image
from elfpatch.patch.path import leaves_of
from elfpatch.patch.setting import from_set

TYPE_CHECKING = False
if TYPE_CHECKING:
    from elfpatch.deploy.paths import Layout
    from elfpatch.deploy.plan import Plan
    from elfpatch.deploy.record import Record
    from elfpatch.patch.image import Image
    from elfpatch.patch.path import Place

_MMAPABLE = 1 << 10
_WORD = 8


class Store:
    """`word` goes to `offset` of data section `section` (a row of SECTIONS); `paths` are what it changes."""

    __slots__ = ("offset", "paths", "section", "word")

    def __init__(self, section: int, offset: int, word: bytes, paths: list[str]) -> None:
        self.section = section
        self.offset = offset
        self.word = word
        self.paths = paths


def live_store(plan: Plan) -> Store | None:
    """The store that makes a plan's change in the running programs; None when it takes a reload."""
    record = plan.record
    if record is None or not _only_values(plan, record):
        return None
    image = plan.image
    settings = [from_set(f"{path}={text}") for path, text in record.settings]
    before = make_image(image.template, settings, force=True)
    changed = _changed(before, image)
    if not changed or any(not _can_store(image, place) for place in changed):
        return None
    start, end = changed[0].offset, changed[-1].offset + changed[-1].size
    whole = len({place.section for place in changed}) == 1 and sum(place.size for place in changed) == end - start
    if not whole or end - start not in (1, 2, 4, _WORD) or start % (end - start):
        return None
    word = image.bytes_at(changed[0].section, start, end - start)
    return Store(changed[0].section, start, word, [place.path for place in changed])


def _only_values(plan: Plan, record: Record) -> bool:
    """Whether the same programs run on the same targets, and would with the new values."""
    return (
        record.generation > 0
        and record.template_sha256 == plan.image.template.index.template_sha256.hex()
        and record.specialized == plan.request.specialize
        and not record.pending
        and not plan.unpinned
        and len(plan.steps) == len(record.attached)
        and all(
            step.old is not None and step.live.state == OURS and step.live.prog_id == step.old.prog_id
            for step in plan.steps
        )
    )


def _changed(before: Image, after: Image) -> list[Place]:
    """The places that hold one value each and differ, in the order of sections and offsets."""
    index = after.template.index
    found: dict[tuple[int, int, int], Place] = {}
    for outer in (*before.places, *after.places):
        for place in leaves_of(index, outer):
            if before.bytes_at(place.section, place.offset, place.size) != after.bytes_at(
                place.section, place.offset, place.size
            ):
                found[place.section, place.offset, place.size] = place
    return [found[key] for key in sorted(found)]


def _can_store(image: Image, place: Place) -> bool:
    template = image.template
    section = template.section(place.section)
    if section.kind not in (SECTION_DATA, SECTION_BSS) or section.map < 0 or place.bitfield:
        return False
    mapped = template.index.row(Map, section.map).flags & _MMAPABLE
    return bool(mapped) and not place.variable.flags & (KEY | IMMEDIATE)


def store_live(layout: Layout, plan: Plan, store: Store) -> Record | None:
    """Make the change, and record it as a generation of its own. None, and nothing done, when the map is not there."""
    from elfpatch.kernel.memory import store as store_word

    record = plan.record
    assert record is not None
    image = plan.image
    section = image.template.section(store.section)
    definition = image.template.index.row(Map, section.map)
    fd = bpffs.open_pin(pin_path(layout, plan.name, definition, section.name))
    if fd is None:
        return None
    try:
        if differences(definition, bpf.map_info(fd)):
            return None
        store_word(fd, section.size, store.offset, store.word)
    finally:
        os.close(fd)
    record.object = os.path.abspath(plan.request.object)
    record.force = plan.request.force
    record.generation = plan.generation
    record.config_sha256 = plan.config_sha256
    record.settings = image.settings_text
    record.since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    record.sections[section.name] = section_digest(image, store.section)
    rec.write(layout, record)
    return record
