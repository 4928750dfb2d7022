"""This package's modules by one stat and one open each, for a process that lives as long as its imports take.

The interpreter's own finder lists each folder, then asks for a module's file five times (as a package, as an extension
under three names, as source) before it opens anything. Here the folder of the parent and a list of packages say where
a module is. What is imported stays the interpreter's business: its loader checks nothing less, and takes over wherever
the compiled file is not exactly what it would accept.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader
from _imp import _fix_co_filename  # type: ignore[attr-defined]
from marshal import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec as Spec
    from types import CodeType, ModuleType

PACKAGES = frozenset(
    f"elfpatch.{name}" for name in ("cli", "deploy", "deploy.attach", "explain", "flow", "kernel", "patch", "template")
)
_HEADER = MAGIC_NUMBER + bytes(4)  # flags 0: checked by the source's time and size, which follow
_LARGEST = 100_000  # bytes of a compiled file; a larger one is left to the interpreter


class Loader(SourceFileLoader):
    """The interpreter's loader for source files, which knows already where the compiled file is and what the source's
    stat is: good for one use, so that a later one looks anew."""

    def __init__(self, name: str, path: str, cached: str, seen: os.stat_result) -> None:
        self.name = name
        self.path = path
        self._cached = cached
        self._seen: os.stat_result | None = seen

    def get_code(self, fullname: str) -> CodeType | None:
        seen, self._seen = self._seen, None
        data = _contents(self._cached) if seen is not None else b""
        if seen is None or data[:16] != _HEADER + _word(int(seen.st_mtime)) + _word(seen.st_size):
            return super().get_code(fullname)
        code: CodeType = loads(memoryview(data)[16:])
        _fix_co_filename(code, self.path)  # where the file was when it was compiled
        return code


class Finder:
    """For `sys.meta_path`. `ending`: what follows a module's name in the name of its compiled file."""

    __slots__ = ("_ending",)

    def __init__(self, ending: str) -> None:
        self._ending = ending

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Spec | None:
        """The spec of a module of ours, as the interpreter's finder makes it; None for any other."""
        if path is None or name[:9] != "elfpatch." or len(path) != 1:
            return None
        folder = path[0]
        last = name.rpartition(".")[2]
        package = name in PACKAGES
        if package:
            folder, last = f"{folder}/{last}", "__init__"
        source = f"{folder}/{last}.py"
        try:
            seen = os.stat(source)
        except OSError:
            return None
        cached = f"{folder}/__pycache__/{last}{self._ending}"
        spec = ModuleSpec(name, Loader(name, source, cached, seen), origin=source, is_package=package)
        spec.has_location = True
        spec.cached = cached
        if package:
            spec.submodule_search_locations = [folder]
        return spec


def install() -> None:
    """Put the finder in front, unless modules come from elsewhere than files with `__pycache__` beside them (a zip
    archive, PYTHONPYCACHEPREFIX, an interpreter that keeps no compiled files)."""
    spec = __spec__
    if spec is None or type(spec.loader) is not SourceFileLoader:
        return
    _, folder, ending = (spec.cached or "").rpartition("/__pycache__/finder")
    if folder:
        sys.meta_path.insert(0, Finder(ending))


def _contents(path: str) -> bytes:
    """A file's bytes; none when it cannot be read, or is larger than expected."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        data = os.read(fd, _LARGEST)
    except OSError:
        return b""
    finally:
        os.close(fd)
    return data if len(data) < _LARGEST else b""


def _word(number: int) -> bytes:
    return (number & 0xFFFFFFFF).to_bytes(4, "little")
