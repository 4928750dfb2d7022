"""A template keeps what it found out (places, rows, texts): no image may tell that others were made before it."""

import random
from pathlib import Path

import pytest

from elfpatch.deploy.source import open_template
from elfpatch.errors import ElfpatchError
from elfpatch.index import Variable
from elfpatch.patch.image import digest, image_to_load, make_image, written
from elfpatch.patch.path import leaves
from elfpatch.patch.setting import from_set, from_set_hex, from_set_json

TEMPLATES = sorted((Path(__file__).parents[2] / "fixtures" / "templates").glob("*.o"))
TEXTS = ("0", "1", "5", "80", "-1", "70000", "on", "10.0.0.1", "fe80::1", "02:00:00:00:00:01", "10.0.0.0/8", "5s")


def some_settings(rng, places):
    made = []
    for place in rng.sample(places, min(len(places), rng.randrange(1, 5))):
        kind = rng.randrange(4)
        if kind == 0:
            made.append(from_set_hex(f"{place.path}={rng.randbytes(place.size).hex()}"))
        elif kind == 1:
            made.append(from_set_json(f"{place.path}={rng.choice((0, 1, 2, 300))}"))
        else:
            made.append(from_set(f"{place.path}={rng.choice(TEXTS)}"))
    return made


def told(template, settings, make, **how):
    """All that an image says, or the error."""
    try:
        image = make(template, settings, **how)
    except ElfpatchError as error:
        return [type(error), *error.lines()]
    changes = [(change.path, change.offset, change.new, change.old_text, change.new_text) for change in image.receipt]
    return [digest(image), image.settings_text, image.unset_required(), changes, written(image)]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_an_image_does_not_depend_on_those_before_it(path):
    shared = open_template(str(path))
    rows = range(shared.index.count(Variable))
    places = [place for row in rows for place in leaves(shared.index, row, open_arrays=True)]
    rng = random.Random(path.stem)
    images = 0
    for _ in range(60):
        settings = some_settings(rng, places)
        for make, how in ((make_image, {}), (make_image, {"force": True}), (image_to_load, {})):
            fresh = told(open_template(str(path)), settings, make, **how)
            assert told(shared, settings, make, **how) == fresh
            images += len(fresh) == 5
    assert images > 20


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_the_text_of_any_bytes_gives_them_again(path):
    shared = open_template(str(path))
    rows = range(shared.index.count(Variable))
    places = [place for row in rows for place in leaves(shared.index, row, open_arrays=True)]
    for place in places:
        for raw in (bytes(place.size), b"\1" + bytes(place.size - 1), b"\xff" * place.size, bytes(range(place.size))):
            try:
                image = make_image(shared, [from_set_hex(f"{place.path}={raw.hex()}")], force=True)
            except ElfpatchError:  # a static key takes two values
                continue
            again = make_image(shared, [from_set(f"{path}={text}") for path, text in image.settings_text], force=True)
            assert again.raw(place) == image.raw(place) == raw
