"""Fetches BPF objects that other people ship: `python -m scripts.corpus` fills build/corpus.

They come out of Debian packages, most of them embedded in a program: every ELF image of machine BPF is cut out of every
file, by its own headers. Kept are build/corpus/objects/<sha16>-<name>.o, one of each content, and build/corpus/list.tsv
with their origins. The download is 6.5 MB and takes seconds (qemu-system-x86, 9 MB for two objects, is left out). Done
once, it is a look at the list; two that run at once wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "corpus"
PACKAGES = (
    "golang-github-cilium-ebpf-dev",
    "ir-keytable",
    "libbpf-tools",
    "libknot13",
    "libxdp1",
    "pcp",
    "xdp-tests",
    "xdp-tools",
)
VERSION = 1  # of what is kept and how; another one fetches anew
COLUMNS = ("object", "package", "version", "file", "offset")
COMMAND_TIMEOUT = 120.0  # seconds

EM_BPF, ET_REL = 247, 1
SHT_NOBITS = 8
_EHDR, _SHDR = "HHIQQQIHHHHHH", "IIQQQQIIQQ"


class Unavailable(Exception):
    """The corpus is not there and cannot be fetched; the message says why."""


@dataclass(frozen=True)
class Found:
    image: bytes
    package: str
    version: str
    file: str
    offset: int

    @property
    def name(self) -> str:
        stem = re.sub(r"\.(bpf\.)?(o|elf)$", "", Path(self.file).name)
        return f"{hashlib.sha256(self.image).hexdigest()[:16]}-{re.sub(r'[^A-Za-z0-9_.-]', '_', stem)}.o"


def ensure(folder: Path = FOLDER) -> list[Path]:
    """The objects, fetched if need be. Raises Unavailable."""
    if (kept := _kept(folder)) is None:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (kept := _kept(folder)) is None:
                _fill(folder)
                kept = _kept(folder) or []
    return kept


def _header() -> str:
    return f"# {VERSION} {' '.join(PACKAGES)}"


def _kept(folder: Path) -> list[Path] | None:
    """The objects of a complete list; None when there is none, or it is of another version."""
    try:
        header, _, *rows = (folder / "list.tsv").read_text().splitlines()
    except (OSError, ValueError):
        return None
    paths = [folder / "objects" / row.split("\t")[0] for row in rows]
    return paths if header == _header() and all(path.exists() for path in paths) else None


def _fill(folder: Path) -> None:
    for left in folder.glob("fetch-*"):  # by one that was killed: the lock is ours
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as work:
        archives = _download(Path(work))
        found: dict[bytes, Found] = {}
        for archive in archives:
            for one in _unpacked(archive, Path(work) / "tree"):
                found.setdefault(hashlib.sha256(one.image).digest(), one)
        objects = Path(work) / "objects"
        objects.mkdir()
        kept = sorted(found.values(), key=lambda one: (one.package, one.file, one.offset))
        for one in kept:
            (objects / one.name).write_bytes(one.image)
        shutil.rmtree(folder / "objects", ignore_errors=True)
        os.replace(objects, folder / "objects")
        rows = ["\t".join((one.name, one.package, one.version, one.file, str(one.offset))) for one in kept]
        listing = Path(work) / "list.tsv"
        listing.write_text("\n".join((_header(), "\t".join(COLUMNS), *rows)) + "\n")
        os.replace(listing, folder / "list.tsv")  # last: a list is complete


# --- packages ---------------------------------------------------------------------------------------------------


def _run(*argv: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
    except FileNotFoundError:
        raise Unavailable(f"the corpus comes from Debian packages, and there is no {argv[0]}") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(argv[:2])} took longer than {COMMAND_TIMEOUT:.0f} s") from None
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg-deb:"))] or [done.stderr]
        raise Unavailable(f"{' '.join(argv[:2])}: {words[0].strip()}")
    return done.stdout.strip()


def _download(work: Path) -> list[Path]:
    """The packages' archives. Package lists that are absent or out of date are renewed, once."""
    # As root, apt gives the download to user _apt, who cannot write here, and warns.
    download = ("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *PACKAGES)
    try:
        _run(*download, cwd=work)
    except Unavailable:
        if os.geteuid() != 0:
            raise
        _run("apt-get", "update", "-q")
        _run(*download, cwd=work)
    return sorted(work.glob("*.deb"))


def _unpacked(archive: Path, tree: Path) -> Iterator[Found]:
    """The images in all files of a package, whose extracted tree is gone again afterwards."""
    package, version = (_run("dpkg-deb", "-f", str(archive), field) for field in ("Package", "Version"))
    _run("dpkg-deb", "-x", str(archive), str(tree))
    try:
        for path in sorted(tree.rglob("*")):
            if path.is_file() and not path.is_symlink():
                for offset, image in images(path.read_bytes()):
                    yield Found(image, package, version, f"/{path.relative_to(tree)}", offset)
    finally:
        shutil.rmtree(tree)


# --- ELF images -------------------------------------------------------------------------------------------------


def images(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of every ELF image of machine BPF within `data`: relocatable, 64-bit, of either byte order."""
    at = data.find(b"\x7fELF")
    while at >= 0:
        size = _image_size(data, at)
        if size:
            yield at, data[at : at + size]
        at = data.find(b"\x7fELF", at + max(size, 1))


def _image_size(data: bytes, at: int) -> int:
    """How far the headers of an image reach; 0 when it is no BPF object, or reaches beyond the end of `data`."""
    order = {b"\x02\x01\x01": "<", b"\x02\x02\x01": ">"}.get(data[at + 4 : at + 7])
    if order is None or len(data) < at + 64:
        return 0
    kind, machine, _, _, _, table, _, _, _, _, entry, count, _ = struct.unpack_from(order + _EHDR, data, at + 16)
    end = table + entry * count
    if (kind, machine, entry) != (ET_REL, EM_BPF, 64) or at + end > len(data):
        return 0
    for number in range(count):
        _, section, _, _, offset, size, *_ = struct.unpack_from(order + _SHDR, data, at + table + number * entry)
        if section != SHT_NOBITS:
            end = max(end, offset + size)
    return end if at + end <= len(data) else 0


def main() -> int:
    try:
        kept = ensure()
    except Unavailable as error:
        print(f"corpus: {error}", file=sys.stderr)
        return 1
    print(f"{len(kept)} objects, {sum(path.stat().st_size for path in kept) / 1e6:.1f} MB, in {FOLDER / 'objects'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
