"""Opening a template: the object's file with its own index, or with one from the cache, or with one made now.

The file is opened once and read once; what was checked is what is used. An indexed template costs no import beyond
this package; an object without an index is compiled by the template wing (lief), and the index kept in the cache under
a key of everything that it depends on.
"""

from __future__ import annotations

import os
from errno import EACCES, EISDIR, EPERM

from elfpatch import index as ix
from elfpatch.errors import BadObject, Missing, NoPermission
from elfpatch.patch.image import Template

MAX_OBJECT = 1 << 30


def read_object(path: str) -> bytes:
    """The bytes of a regular file. Raises Missing, NoPermission, BadObject."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (EACCES, EPERM):
            raise NoPermission("cannot read it: permission denied", where=path) from None
        raise Missing(f"cannot open it: {os.strerror(error.errno or 0).lower()}", where=path) from None
    try:
        size = os.fstat(fd).st_size
        if size > MAX_OBJECT:
            raise BadObject(f"{size} bytes are too many for an object", where=path)
        chunks = []
        while chunk := os.read(fd, size + 1):
            chunks.append(chunk)
            if sum(map(len, chunks)) > MAX_OBJECT:
                raise BadObject("it does not end", where=path)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except OSError as error:
        what = "it is a directory" if error.errno == EISDIR else f"cannot read it: {os.strerror(error.errno or 0)}"
        raise BadObject(what, where=path) from None
    finally:
        os.close(fd)


def stem_of(path: str) -> str:
    """`mark` for `/lib/mark.o` and `mark.bpf.o`."""
    name = os.path.basename(path)
    for ending in (".o", ".bpf"):
        name = name.removesuffix(ending)
    return name or "object"


def open_template(path: str, cache: str = "", immediates: tuple[str, ...] = ()) -> Template:
    """The template in file `path`. `cache`: folder of indexes for objects that carry none; "" for no cache.
    `immediates`: names of variables that are to be immediates.

    Raises Missing, NoPermission, BadValue, or BadObject naming the file.
    """
    data = read_object(path)
    try:
        block = ix.find(data)
        if block is not None:
            index = ix.Index(block)
            ix.verify(index, data)
            _require_immediates(index, immediates, path)
        else:
            index = ix.Index(_foreign(data, stem_of(path), cache, immediates))
    except BadObject as error:
        error.where = f"{path}: {error.where}" if error.where else path
        raise
    return Template(path, data, index)


def _require_immediates(index: ix.Index, names: tuple[str, ...], path: str) -> None:
    """An indexed template has the immediates that it was built with."""
    missing = [
        name
        for name in names
        if not any(row.flags & ix.IMMEDIATE for _, row in index.variables_named(name.removesuffix(":value")))
    ]
    if missing:
        words = " ".join(f"--immediate {name}" for name in missing)
        raise BadObject(
            f"its index was made without {', '.join(missing)} as an immediate",
            hint=f"make it anew: elfpatch build {words} {path}",
        )


def _foreign(data: bytes, stem: str, cache: str, immediates: tuple[str, ...]) -> bytes | memoryview:
    """The index of an object that carries none."""
    path = _cached(data, stem, cache, immediates) if cache else ""
    if path:
        try:
            with open(path, "rb") as file:
                stored = ix.find(file.read())
        except OSError:
            stored = None
        if stored is not None:
            try:
                index = ix.Index(stored)
                ix.verify(index, data)
                return stored
            except BadObject:
                pass  # damaged: made anew below
    from elfpatch.template.compile import compile_object

    made = compile_object(data, stem, asked=immediates)
    if path:
        _keep(path, ix.with_trailer(made))
    return made


def _cached(data: bytes, stem: str, cache: str, immediates: tuple[str, ...]) -> str:
    """Where the index of these bytes is kept: every input is in the key, the compiler itself included."""
    from elfpatch import __version__

    key = ix.sha256()
    words = f"{__version__} {ix.VERSION} {stem}\0{' '.join(immediates)}\0"
    key.update(words.encode("utf-8", "surrogateescape"))
    for name in _compiler_files(f"{os.path.dirname(ix.__file__)}/template"):
        with open(name, "rb") as file:
            key.update(file.read())
    key.update(data)
    return f"{cache}/{key.hexdigest()}"


def _compiler_files(folder: str) -> list[str]:
    """The sources of the template wing; none where it is not in a folder (a zip archive), which has a version only."""
    try:
        return [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.endswith(".py")]
    except OSError:
        return []


def _keep(path: str, block: bytes) -> None:
    """Store an index; a cache that cannot be written is none."""
    fresh = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        with open(fresh, "wb") as file:
            file.write(block)
        os.replace(fresh, path)
    except OSError:
        try:
            os.unlink(fresh)
        except OSError:
            return
