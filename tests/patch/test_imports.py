"""What the run-time wing loads: apply's start is most of what apply costs."""

import json
import subprocess
import sys
from pathlib import Path

import elfpatch.patch

ALLOWED = {
    "__future__",
    "struct",
    "_struct",
    "errno",
    "fcntl",
    "time",
    "ctypes",
    "_ctypes",
    "_socket",
    "_sha256",
    "_sha2",
}

CODE = """
import sys
before = set(sys.modules)
import elfpatch.patch.image, elfpatch.patch.setting
imported = set(sys.modules) - before
from elfpatch.patch.image import make_image, written, digest
from synthetic import patched, template
t = template()
before = set(sys.modules)
image = patched(t)
written(image), digest(image), image.settings_text, image.unset_required()
texts = [(change.old_text, change.new_text) for change in image.receipt]
used = set(sys.modules) - before
import json
print(json.dumps([sorted(imported), sorted(used)]))
"""

SYNTHETIC = """
import sys
sys.path.insert(0, {tests!r})
from patch.synthetic import Builder
def template():
    b = Builder()
    b.var("foo", b.int(4)).var("ip", b.int(4), meta=b.meta(format="ipv4")).var("name", b.array(b.char(), 8))
    b.var("mac", b.array(b.int(1), 6)).var("mode", b.enum("mode", dict(OFF=0, ON=1))).var("ip6", b.array(b.int(1), 16))
    return b.template()
def patched(t):
    from elfpatch.patch.image import make_image
    from elfpatch.patch.setting import from_set
    texts = ["foo=1", "ip=10.0.0.5", "name=eth0", "mac=02:00:00:00:00:01", "mode=ON", "ip6=::1"]
    return make_image(t, [from_set(text) for text in texts])
"""


def test_patching_imports_nothing_heavy(tmp_path):
    (tmp_path / "synthetic.py").write_text(SYNTHETIC.format(tests=str(Path(__file__).parent.parent)))
    root = str(Path(__file__).parent.parent.parent)
    run = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{root}:{tmp_path}"},
        timeout=60,
    )
    imported, used = json.loads(run.stdout)
    heavy = {name for name in imported + used if not name.startswith("elfpatch") and name not in ALLOWED}
    assert not heavy
    assert "elfpatch.patch.image" in imported and "elfpatch.patch.record" in used


def test_the_wing_knows_neither_the_kernel_nor_the_compiler():
    for module in Path(elfpatch.patch.__file__).parent.glob("*.py"):
        text = module.read_text()
        for floor in ("kernel", "template", "deploy", "cli"):
            assert f"elfpatch.{floor}" not in text and f"from elfpatch import {floor}" not in text, module.name
