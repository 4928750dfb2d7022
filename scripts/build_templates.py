"""Compile bpf_templates/*.bpf.c to templates: `build_templates.py [--clang CLANG] FOLDER [NAME...]`.

The same compiler and headers give the same bytes on every machine: paths are relative to the project, DWARF is
stripped (BTF stays). NAME.o then gets its index, as `elfpatch build` appends it. COMPILER says who compiled them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from elfpatch.template.build import build

ROOT = Path(__file__).resolve().parents[1]
SOURCES = Path("bpf_templates")


def names() -> list[str]:
    """The shipped templates."""
    return sorted(path.name.removesuffix(".bpf.c") for path in (ROOT / SOURCES).glob("*.bpf.c"))


def llvm_strip(clang: str) -> str:
    """The strip of the same LLVM: `llvm-strip-19` for `clang-19`. Debian's binutils do not know BPF."""
    found = shutil.which(os.path.basename(clang).replace("clang", "llvm-strip"))
    return found or shutil.which("llvm-strip") or "llvm-strip-19"


def compile_object(source: Path, out: Path, *flags: str, clang: str = "clang-19") -> None:
    """Compile one source to an object without index. Raises CalledProcessError; the compiler says why on stderr."""
    machine = os.uname().machine
    subprocess.run(
        [clang, "-O2", "-g", "-Wall", "-Werror", "--target=bpf", "-mcpu=v3", f"-ffile-prefix-map={ROOT}/="]
        + ["-fdebug-compilation-dir=.", f"-I{SOURCES}", f"-I/usr/include/{machine}-linux-gnu", *flags]
        + ["-c", str(source), "-o", str(out)],
        check=True,
        cwd=ROOT,
    )
    subprocess.run([llvm_strip(clang), "-g", str(out)], check=True)


def build_template(name: str, out: Path, *, clang: str = "clang-19") -> None:
    """Compile and index one shipped template; `out` is written whole."""
    with tempfile.TemporaryDirectory() as work:
        plain = Path(work, f"{name}.o")
        compile_object(SOURCES / f"{name}.bpf.c", plain, clang=clang)
        fresh = out.with_suffix(".new")
        fresh.write_bytes(build(plain.read_bytes(), name))
        fresh.replace(out)


def version(clang: str) -> str:
    """The compiler's first line about itself."""
    return subprocess.run([clang, "--version"], check=True, capture_output=True, text=True).stdout.partition("\n")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clang", default=os.environ.get("CLANG", "clang-19"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    given = parser.parse_args()
    if shutil.which(given.clang) is None:
        print(f"build_templates: {given.clang} is not installed; fixtures/templates has them built", file=sys.stderr)
        return 1
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.names or names():
        out = given.folder / f"{name}.o"
        try:
            build_template(name, out, clang=given.clang)
        except subprocess.CalledProcessError as error:
            print(f"build_templates: {name}: {error.cmd[0]} failed", file=sys.stderr)
            return 1
        print(out)
    (given.folder / "COMPILER").write_text(f"{version(given.clang)}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
