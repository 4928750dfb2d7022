"""Objects and images for the tests of `explain`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from elfpatch import index as ix
from elfpatch.cli.explain import explained
from elfpatch.deploy.source import open_template
from elfpatch.explain.model import Program
from elfpatch.patch.image import Image, Template, make_image
from elfpatch.patch.setting import from_set

ROOT = Path(__file__).parents[2]
OBJECTS = ROOT / "fixtures" / "objects"
EVERY = [
    path
    for path in sorted(OBJECTS.rglob("*.o"))
    # by themselves half of a program, or made to be refused
    if not path.name.startswith(("keys_linked_", "keys_twice"))
]
# For the drawings, which know nothing of compilers
FEW = [path for path in EVERY if path.parent.name in ("clang-19-v3", "big-endian", "without-btf")]


def name_of(path: Path) -> str:
    return str(path.relative_to(OBJECTS))


@cache
def template_of(path: Path) -> Template:
    """A template, which nothing changes."""
    return open_template(str(path))


def images(path: Path, *settings: str) -> tuple[Image, Image]:
    """The image with these values, and that without any."""
    template = template_of(path)
    return make_image(template, [from_set(text) for text in settings]), make_image(template, ())


def programs(
    path: Path, *settings: str, specialize: bool = False, syntax: str = "kernel"
) -> Iterator[tuple[ix.Program, Program]]:
    """Each program that can be loaded, as the index has it and explained."""
    image, defaults = images(path, *settings)
    for row in image.template.index.rows(ix.Program):
        if not row.problem:
            yield row, explained(image, defaults, row, syntax, specialize=specialize)


def one(path: Path, name: str, *settings: str, specialize: bool = False, syntax: str = "kernel") -> Program:
    """The program of this name."""
    return next(
        made for row, made in programs(path, *settings, specialize=specialize, syntax=syntax) if row.name == name
    )
