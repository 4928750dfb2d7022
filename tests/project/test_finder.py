"""`elfpatch.finder` changes how fast modules are found, and nothing about what is then imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from elfpatch.finder import PACKAGES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "elfpatch"
SOURCE = 'VALUE = 1\n\n\nclass Thing:\n    """Kept."""\n\n\ndef fails():\n    raise ValueError("here")\n'
VALUE = "import elfpatch.probe; print(elfpatch.probe.VALUE)"
INSTALL = "from elfpatch.finder import install; install()\n"


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    """A folder with a copy of the package in it, compiled, and a module `elfpatch.probe` more."""
    shutil.copytree(PACKAGE, tmp_path / "elfpatch", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "elfpatch" / "probe.py").write_text(SOURCE)
    compiled(tmp_path)
    return tmp_path


def compiled(lib: Path, *options: str, python: tuple[str, ...] = ()) -> None:
    words = (sys.executable, *python, "-m", "compileall", "-q", "-f", *options, str(lib / "elfpatch"))
    subprocess.run(words, check=True)


def ran(place: Path, code: str, *options: str, finder: bool = True, **environ: str) -> str:
    """What a fresh interpreter prints that finds the package in `place`."""
    start = f"import sys; sys.path.insert(0, {str(place)!r})\n" + (INSTALL if finder else "")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    words = [sys.executable, *options, "-c", start + code]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=kept | environ, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def rewritten(path: Path, text: str, time: float) -> None:
    path.write_text(text)
    os.utime(path, (time, time))


def test_it_knows_the_packages_of_the_tree() -> None:
    inner = [path.parent for path in PACKAGE.glob("*/**/__init__.py")]
    assert {".".join(("elfpatch", *path.relative_to(PACKAGE).parts)) for path in inner} == PACKAGES


def test_every_module_is_what_it_is_without_the_finder(lib: Path) -> None:
    names = sorted(
        ".".join(path.relative_to(lib).with_suffix("").parts).removesuffix(".__init__")
        for path in (lib / "elfpatch").rglob("*.py")
    )
    code = f"""
import importlib, json
found = {{}}
ours = []
for name, module in [(name, importlib.import_module(name)) for name in {names!r}]:
    spec = module.__spec__
    found[name] = [module.__file__, module.__cached__, module.__package__, list(getattr(module, "__path__", [])),
        spec.name, spec.origin, spec.cached, spec.has_location, spec.parent, spec.submodule_search_locations,
        module.__loader__.get_filename(name), module.__loader__ is spec.loader, sorted(vars(module))]
    ours += [name] * (type(spec.loader).__name__ == "Loader")
print(json.dumps([found, ours]))
"""
    plain, none = json.loads(ran(lib, code, finder=False))
    quick, ours = json.loads(ran(lib, code))
    assert quick == plain
    assert none == []
    assert ours == [name for name in names if name not in ("elfpatch", "elfpatch.finder")]


@pytest.mark.parametrize("finder", [True, False])
def test_a_compiled_file_runs_only_for_the_source_it_was_made_from(lib: Path, finder: bool) -> None:
    """The same with the interpreter's own finder, whose rule it is."""
    source = lib / "elfpatch" / "probe.py"
    second = int(source.stat().st_mtime)
    rewritten(source, SOURCE.replace("1", "2"), second)
    assert ran(lib, VALUE, finder=finder) == "1", "of the same second and size: the compiled file should be used"
    rewritten(source, SOURCE.replace("1", "333"), second)
    assert ran(lib, VALUE, "-B", finder=finder) == "333", "of another size"
    rewritten(source, SOURCE.replace("1", "4"), second + 1)
    assert ran(lib, VALUE, "-B", finder=finder) == "4", "of another second"
    rewritten(source, SOURCE.replace("1", "5"), second - 1)
    assert ran(lib, VALUE, finder=finder) == "5", "of an earlier second"
    rewritten(source, SOURCE.replace("1", "6"), second - 1)
    assert ran(lib, VALUE, finder=finder) == "5", "what was compiled is kept"


def test_it_works_without_compiled_files(lib: Path) -> None:
    caches = [lib / "elfpatch" / "__pycache__", lib / "elfpatch" / "kernel" / "__pycache__"]
    for cache in caches:
        shutil.rmtree(cache)
    code = "import elfpatch.probe, elfpatch.kernel.libc; print(elfpatch.probe.VALUE)"
    assert ran(lib, code, PYTHONDONTWRITEBYTECODE="1") == "1"
    assert not any(cache.exists() for cache in caches)
    assert ran(lib, code) == "1"
    assert [cache.exists() for cache in caches] == [True, True]


@pytest.mark.parametrize("length", [0, 15, 16, 40])
def test_a_damaged_compiled_file_is_the_interpreters_affair(lib: Path, length: int) -> None:
    (cached,) = (lib / "elfpatch" / "__pycache__").glob("probe.*.pyc")
    cached.write_bytes(cached.read_bytes()[:length])
    code = "try:\n    import elfpatch.probe\nexcept Exception as error:\n    print(type(error).__name__)\nelse:\n"
    code += "    print(elfpatch.probe.VALUE)"
    plain = ran(lib, code, "-B", finder=False)
    assert ran(lib, code, "-B") == plain
    assert plain == ("1" if length < 16 else "EOFError")


@pytest.mark.parametrize("mode", ["checked-hash", "unchecked-hash"])
def test_compiled_files_checked_by_hash_are_the_interpreters_affair(lib: Path, mode: str) -> None:
    compiled(lib, "--invalidation-mode", mode)
    rewritten(lib / "elfpatch" / "probe.py", SOURCE.replace("1", "2"), 1_000_000)
    assert ran(lib, VALUE) == ran(lib, VALUE, finder=False) == ("2" if mode == "checked-hash" else "1")


def test_an_optimized_run_has_compiled_files_of_its_own(lib: Path) -> None:
    compiled(lib, python=("-OO",))
    source = lib / "elfpatch" / "probe.py"
    rewritten(source, SOURCE.replace("1", "2"), int(source.stat().st_mtime))
    code = "import elfpatch.probe as p; print(p.VALUE, p.Thing.__doc__, p.__cached__.rpartition('probe')[2])"
    tag = sys.implementation.cache_tag
    assert ran(lib, code) == f"1 Kept. .{tag}.pyc"
    assert ran(lib, code, "-OO") == f"1 None .{tag}.opt-2.pyc"


def test_where_compiled_files_are_elsewhere_it_stands_aside(lib: Path, tmp_path: Path) -> None:
    code = "import elfpatch.probe as p; here = sys.modules.get('elfpatch.finder')\n"
    code += "print(p.VALUE, type(p.__loader__).__name__, any(type(one) is here.Finder for one in sys.meta_path))"
    assert ran(lib, code) == "1 Loader True"
    assert ran(lib, code, "-X", f"pycache_prefix={tmp_path / 'cache'}") == "1 SourceFileLoader False"
    archive = tmp_path / "elfpatch.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (lib / "elfpatch").rglob("*.py"):
            file.write(path, path.relative_to(lib))
    assert ran(archive, code) == "1 zipimporter False"


def test_a_package_that_was_moved_tells_its_new_place(lib: Path) -> None:
    (lib / "moved").mkdir()
    shutil.move(lib / "elfpatch", lib / "moved" / "elfpatch")
    code = "import elfpatch.probe as p; print(p.fails.__code__.co_filename, p.__file__)"
    path = f"{lib}/moved/elfpatch/probe.py"
    assert ran(lib / "moved", code) == f"{path} {path}"


def test_a_module_that_is_not_there_is_missed_as_ever(lib: Path) -> None:
    code = "try:\n    import elfpatch.NAME\nexcept ModuleNotFoundError as error:\n    print(error, error.name)"
    assert ran(lib, code.replace("NAME", "nothing")) == "No module named 'elfpatch.nothing' elfpatch.nothing"
    (lib / "elfpatch" / "later").mkdir()
    (lib / "elfpatch" / "later" / "__init__.py").write_text("")
    (lib / "elfpatch" / "later" / "one.py").write_text("VALUE = 8")
    assert ran(lib, "import elfpatch.later.one as one; print(one.VALUE)") == "8", "a package that is not in the list"


def test_tools_find_their_way(lib: Path) -> None:
    """Source, traceback, pickle, reload."""
    code = f"""
import importlib, inspect, os, pickle, traceback
import elfpatch.probe as probe
assert inspect.getsource(probe.fails) == {SOURCE[SOURCE.index("def") :]!r}
assert inspect.getsource(probe) == probe.__loader__.get_source("elfpatch.probe") == {SOURCE!r}
try:
    probe.fails()
except ValueError:
    shown = traceback.format_exc()
assert 'probe.py", line 9, in fails' in shown and 'raise ValueError("here")' in shown, shown
assert type(pickle.loads(pickle.dumps(probe.Thing()))) is probe.Thing
assert pickle.loads(pickle.dumps(probe.__loader__.__class__)) is probe.__loader__.__class__
with open(probe.__file__, "w") as file:
    file.write("VALUE = 77")
os.utime(probe.__file__, (5, 5))
exec(probe.__loader__.get_code("elfpatch.probe"), space := {{}})
assert space["VALUE"] == 77, "a loader's second look should be a fresh one"
assert importlib.reload(probe) is probe and probe.VALUE == 77
with open(probe.__file__, "w") as file:
    file.write("import elfpatch.probe\\n1 / 0")
os.utime(probe.__file__, (6, 6))
del sys.modules["elfpatch.probe"]
try:
    import elfpatch.probe
except ZeroDivisionError:
    shown = traceback.format_exc()
assert shown.count("File") == 2, shown
print("good")
"""
    assert ran(lib, code) == "good"
