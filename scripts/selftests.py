"""Builds large BPF objects of the kernel's own selftests: `python -m scripts.selftests` fills build/selftests.

Their sources are those of Debian's package linux-source-6.1; vmlinux.h comes out of the kernel of a package, not out of
the one that runs. Kept are the sources and headers that a compiler needs (24 MB) and <name>.o, stripped of DWARF. The
download is 166 MB; done once, it is a look at the list.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from scripts.build_templates import llvm_strip

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "selftests"
SOURCE_PACKAGE = "linux-source-6.1"
KERNEL_PACKAGE = re.compile(r"^linux-image-6\.1\.0-(\d+)-cloud-amd64-unsigned$", re.MULTILINE)
VERSION = 1  # of what is kept and how; another one fetches anew
COMMAND_TIMEOUT = 300.0  # seconds

BPF = Path("tools", "testing", "selftests", "bpf")
NEEDED = (
    f"*/{BPF}/*",
    "*/tools/lib/bpf/*",
    "*/tools/include/uapi/*",
    "*/scripts/bpf_doc.py",
    "*/scripts/extract-vmlinux",
)

# The largest by instructions and by BTF of those that also a 6.18 takes. Linux 6.15 gave `kernfs_node.parent`, which
# the profiler reads, another name.
OBJECTS: dict[str, tuple[str, ...]] = {
    "pyperf180": (),
    "pyperf600_nounroll": (),
    "strobemeta": (),
    "test_verif_scale2": (),
    "profiler1": ("-Dparent=__parent",),
    "test_cls_redirect": (),
    "bpf_flow": (),
}


class Unavailable(Exception):
    """The selftests are not there and cannot be fetched or built; the message says why."""


@dataclass(frozen=True)
class Selftest:
    """An object, and the words of the compiler that give it, but for the compiler and `-o FILE`."""

    name: str
    path: Path
    compiled_by: list[str]


def ensure(folder: Path = FOLDER, clang: str = "clang-19") -> list[Selftest]:
    """The objects, fetched and built if need be. Raises Unavailable."""
    mark = folder / "complete"
    stamp = f"{VERSION} {clang} {' '.join(OBJECTS)}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists() or mark.read_text() != stamp:
            mark.unlink(missing_ok=True)
            if not (folder / "include" / "vmlinux.h").exists():
                _fetch(folder)
            for name in OBJECTS:
                _compile(folder, name, clang)
            mark.write_text(stamp)
    return [Selftest(name, folder / f"{name}.o", compiler_words(folder, name)) for name in OBJECTS]


def compiler_words(folder: Path, name: str) -> list[str]:
    """As the selftests' Makefile has it, but with headers that do not depend on the running kernel."""
    sources = folder / "linux"
    words = ["-g", "-w", "-O2", "--target=bpf", "-mlittle-endian", "-mcpu=v3", "-D__TARGET_ARCH_x86", *OBJECTS[name]]
    words += [f"-I{folder / 'include'}", f"-I{sources / BPF}", f"-I{sources / 'tools/include/uapi'}"]
    words += ["-idirafter", f"/usr/include/{os.uname().machine}-linux-gnu", "-idirafter", "/usr/include"]
    return [*words, "-c", str(sources / BPF / "progs" / f"{name}.c")]


def _compile(folder: Path, name: str, clang: str) -> None:
    path = folder / f"{name}.o"
    _run(clang, *compiler_words(folder, name), "-o", str(path))
    _run(llvm_strip(clang), "-g", str(path))


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as made:
        work = Path(made)
        kernel = _latest_kernel()
        _run("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", SOURCE_PACKAGE, kernel, cwd=work)
        for package in work.glob("*.deb"):
            _run("dpkg-deb", "-x", str(package), str(work / "unpacked"))
        archive = next((work / "unpacked" / "usr" / "src").glob("linux-source-*.tar.xz"))
        sources = work / "linux"
        sources.mkdir()
        _run("tar", "-C", str(sources), "--strip-components=1", "--wildcards", "-xf", str(archive), *NEEDED)
        headers = work / "include"
        _headers(sources, next((work / "unpacked" / "boot").glob("vmlinuz-*")), headers)
        for fresh in (sources, headers):  # last the one that says that all is there
            shutil.rmtree(folder / fresh.name, ignore_errors=True)
            os.replace(fresh, folder / fresh.name)


def _headers(sources: Path, kernel: Path, headers: Path) -> None:
    """vmlinux.h of a kernel, and libbpf's headers with the helpers of these sources."""
    (headers / "bpf").mkdir(parents=True)
    for header in (sources / "tools" / "lib" / "bpf").glob("*.h"):
        shutil.copy(header, headers / "bpf")
    uapi = sources / "tools" / "include" / "uapi" / "linux" / "bpf.h"
    helpers = _run(sys.executable, str(sources / "scripts" / "bpf_doc.py"), "--header", "--file", str(uapi))
    (headers / "bpf" / "bpf_helper_defs.h").write_bytes(helpers)
    plain = headers / "vmlinux"
    plain.write_bytes(_run("sh", str(sources / "scripts" / "extract-vmlinux"), str(kernel)))
    (headers / "vmlinux.h").write_bytes(_run("bpftool", "btf", "dump", "file", str(plain), "format", "c"))
    plain.unlink()


def _latest_kernel() -> str:
    """The newest kernel package of the release that the sources are of."""
    listed = _run("apt-cache", "search", "--names-only", "^linux-image-6.1.0-.*-cloud-amd64-unsigned$").decode()
    found = KERNEL_PACKAGE.findall(listed.replace(" - ", "\n"))
    if not found:
        raise Unavailable("apt knows no kernel package of Linux 6.1: run apt-get update")
    return f"linux-image-6.1.0-{max(found, key=int)}-cloud-amd64-unsigned"


def _run(*argv: str, cwd: Path | None = None) -> bytes:
    """The output of a command that must succeed."""
    try:
        return subprocess.run(argv, cwd=cwd, capture_output=True, timeout=COMMAND_TIMEOUT, check=True).stdout
    except FileNotFoundError:
        raise Unavailable(f"the selftests are built with {argv[0]}, which is not there") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(argv[:2])} took longer than {COMMAND_TIMEOUT:.0f} s") from None
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit {error.returncode}"]
        raise Unavailable(f"{' '.join(argv[:2])}: {words[0]}") from None


def main() -> int:
    try:
        made = ensure()
    except Unavailable as error:
        print(f"selftests: {error}", file=sys.stderr)
        return 1
    for one in made:
        print(f"{one.path.stat().st_size / 1000:8.1f} KB  {one.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
