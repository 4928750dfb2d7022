"""Which module may import which: the floors of the house, and what the path of an apply costs to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import MARK
from tests.support.net import VethPair, unique

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "elfpatch"

# What the two wings may share
COMMON = {"errors", "index", "insn", "uapi", "code", "disasm", "flow", "helpers"}
MAY_IMPORT = {
    "": {"api"},
    "api": {"deploy", "patch", "errors"},
    "errors": set(),
    "uapi": set(),
    "insn": {"errors"},
    "index": {"errors"},
    "code": {"insn", "index"},
    "helpers": set(),
    "finder": set(),
    "disasm": {"insn", "helpers"},
    "flow": {"flow", "insn", "index", "errors", "helpers"},
    "patch": {"patch", *COMMON},
    "kernel": {"kernel", "errors", "uapi"},
    "template": {"template", *COMMON},
    "deploy": {"deploy", "patch", "kernel", *COMMON, "", "template"},
    "explain": {"explain", "patch", *COMMON},
    "cli": {"cli", "deploy", "explain", "patch", "kernel", "template", *COMMON, ""},
}
# Only where an object without an index must be compiled, and only then: inside a function
ONLY_LAZILY = {("deploy", "template"), ("cli", "template")}

# All that a swap of one number on a TCX target imports of the standard library, beyond what the interpreter itself
# imports to start
STANDARD = {"__future__", "_ctypes", "_struct", "errno", "struct"}
HASHES = {"_sha2", "_sha256"}  # by the version of Python
# ... and of this package. Each one more costs a swap about a hundredth of the interpreter's start, before it does
# anything.
OWN = set(
    """
    elfpatch elfpatch.errors elfpatch.finder elfpatch.index
    elfpatch.cli elfpatch.cli.apply elfpatch.cli.main elfpatch.cli.options elfpatch.cli.output elfpatch.cli.request
    elfpatch.deploy elfpatch.deploy.load elfpatch.deploy.lock elfpatch.deploy.paths elfpatch.deploy.plan
    elfpatch.deploy.prepare elfpatch.deploy.record elfpatch.deploy.reuse elfpatch.deploy.select elfpatch.deploy.session
    elfpatch.deploy.shared elfpatch.deploy.source elfpatch.deploy.target elfpatch.deploy.transaction
    elfpatch.deploy.attach elfpatch.deploy.attach.base elfpatch.deploy.attach.link elfpatch.deploy.attach.tcx
    elfpatch.kernel elfpatch.kernel.abi elfpatch.kernel.bpf elfpatch.kernel.bpffs elfpatch.kernel.libc
    elfpatch.kernel.netns
    elfpatch.patch elfpatch.patch.image elfpatch.patch.number elfpatch.patch.place elfpatch.patch.record
    elfpatch.patch.scalar elfpatch.patch.setting elfpatch.patch.value
    """.split()
)
ONLY_TO_LOAD = {"elfpatch.patch.record"}  # what an apply that changes nothing does without

PROBE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
before = set(sys.modules)
from elfpatch.finder import install
install()  # as the console script does
from elfpatch.cli.main import main
code = main(sys.argv[1:])
after = set(sys.modules)
print("\\n".join(sorted(after - before)), file=sys.stderr)
sys.exit(code)
"""


def floor(module: str) -> str:
    """`deploy` for elfpatch.deploy.plan, `index` for elfpatch.index, "" for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def own_imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """(imported module of ours, whether at module level), imports for type checking included."""

    def walk(node: ast.AST, top: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                module = "." * child.level + (child.module or "")
                if module == "elfpatch":
                    yield from ((f"elfpatch.{alias.name}", top) for alias in child.names)
                else:
                    yield module, top
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, top and not inside)

    for module, top in walk(tree, True):
        if module.startswith("."):
            raise AssertionError(f"a relative import: {module}")
        if module == "elfpatch" or module.startswith("elfpatch."):
            yield ("elfpatch" if module == "elfpatch.__version__" else module), top


def violations(name: str, tree: ast.Module) -> list[str]:
    """Every import of this module that points the wrong way."""
    found = []
    here = floor(name)
    for module, top in own_imports(tree):
        there = floor(module)
        if there not in MAY_IMPORT[here]:
            found.append(f"{name} imports {module}")
        elif top and (here, there) in ONLY_LAZILY:
            found.append(f"{name} imports {module} at module level")
    return found


def test_imports_point_one_way() -> None:
    assert [wrong for name, tree in sources() for wrong in violations(name, tree)] == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("elfpatch.patch.image", "from elfpatch.kernel import bpf"),
        ("elfpatch.kernel.bpf", "import elfpatch.patch.image"),
        ("elfpatch.kernel.bpf", "from elfpatch import index"),
        ("elfpatch.template.compile", "def f():\n    from elfpatch.deploy.plan import Plan"),
        ("elfpatch.deploy.source", "from elfpatch.template.compile import compile_object"),
        ("elfpatch.deploy.source", "if TYPE_CHECKING:\n    from elfpatch.cli.main import main"),
    ],
)
def test_a_wrong_import_is_noticed(name: str, source: str) -> None:
    assert violations(name, ast.parse(source))


def test_every_part_of_the_package_has_its_place() -> None:
    assert {floor(name) for name, _ in sources()} <= set(MAY_IMPORT)


def imported(net: VethPair, bpffs: str, state: Path, *words: str) -> set[str]:
    """The modules that a run of the command line imports, in a fresh interpreter."""
    done = subprocess.run(
        ["nsenter", f"--net={net.a.ns.path}", sys.executable, "-I", "-c", PROBE, *words]
        + ["--bpffs", bpffs, "--state-dir", str(state)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_an_apply_imports_little(net: VethPair, bpffs: str, tmp_path: Path) -> None:
    name = ("--name", unique("imports"))
    first = imported(net, bpffs, tmp_path, "apply", "--target", "tcx:veth0:ingress", *name, "--set", "foo=1", MARK)
    swap = imported(net, bpffs, tmp_path, "apply", *name, "--set", "foo=2", MARK)
    same = imported(net, bpffs, tmp_path, "apply", *name, "--set", "foo=2", MARK)
    assert {floor(module) for module in OWN} <= {"", "cli", "deploy", "patch", "kernel", "index", "errors", "finder"}
    assert first - HASHES == swap - HASHES == OWN | STANDARD
    assert same - HASHES == (OWN | STANDARD) - ONLY_TO_LOAD


def test_other_verbs_import_little(net: VethPair, bpffs: str, tmp_path: Path) -> None:
    name = ("--name", unique("imports"))
    for words in (("plan", "--target", "tcx:veth0:ingress", *name, "--set", "foo=1", MARK), ("inspect", MARK)):
        found = imported(net, bpffs, tmp_path, *words)
        assert {module for module in found if module.partition(".")[0] != "elfpatch"} - HASHES <= STANDARD
        assert not [module for module in found if floor(module) in ("template", "flow", "explain", "disasm")]
