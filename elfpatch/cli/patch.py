"""`elfpatch patch`: write a patched object."""

from __future__ import annotations

import os
import sys
import time

from elfpatch.cli import options, output, request
from elfpatch.deploy.source import open_template
from elfpatch.errors import UsageError, of_system
from elfpatch.index import Immediate, find, resealed
from elfpatch.patch.code import CodeChange
from elfpatch.patch.image import Change, Image, digest, make_image, written

OPERANDS = "OBJECT"
OPTIONS = (
    options.Option("--output -o", "FILE", "where to write the patched object (needed); written whole and renamed"),
    *options.VALUES,
    *options.FOLDERS,
    *options.JSON,
)
EXAMPLES = (
    "elfpatch patch --set ep.ip4=10.0.0.5 -o out.o endpoint.o",
    'elfpatch patch --set-json \'ep={"id": 7, "ip4": "10.0.0.5"}\' -o out.o endpoint.o',
)


def run(arguments: options.Arguments) -> int:
    (path,) = options.operands(arguments, OPERANDS, "patch")
    target = arguments.value("output")
    if not target:
        raise UsageError("patch needs -o FILE", hint="usage: elfpatch patch --set PATH=VALUE -o FILE OBJECT")
    template = open_template(path, request.layout(arguments).cache, request.immediates(arguments))
    image = make_image(template, output.settings(arguments), force=arguments.flag("force"))
    plain = written(image)
    data = resealed(plain) if arguments.flag("force") else plain
    write_file(target, data)
    if data != plain:
        print("elfpatch: note: bytes that are not settable were forced: the index was sealed anew", file=sys.stderr)
    if template.index.count(Immediate) and find(template.data) is None:
        print(
            "elfpatch: note: without an index the immediates of the written object stay as they are now: "
            "`elfpatch build` the object, then patch it",
            file=sys.stderr,
        )
    if output.wants_json(arguments):
        output.print_json(arguments, as_json(image, target))
    else:
        output.print_lines(as_text(image, target))
    return 0


def write_file(path: str, data: bytes) -> None:
    """Write a file whole: a reader sees the old one or the new one. A symbolic link stays and its file is replaced; a
    device or pipe (/dev/null, /dev/stdout) is written to, never replaced. Raises what `of_system` makes of OSError."""
    fresh = ""
    try:
        real = os.path.realpath(path)
        fresh = f"{os.path.dirname(real)}/.elfpatch.{os.getpid()}.{time.monotonic_ns()}"
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            with open(path, "wb") as device:
                device.write(data)
            return
        with open(fresh, "xb") as file:
            file.write(data)
            if os.path.exists(real):
                os.fchmod(file.fileno(), os.stat(real).st_mode & 0o7777)
        os.replace(fresh, real)
    except OSError as error:
        try:
            os.unlink(fresh)
        except OSError:
            pass
        raise of_system(error, "cannot write it", where=path) from None


def as_json(image: Image, target: str) -> dict[str, object]:
    return {
        "result": "written",
        "output": target,
        "template_sha256": image.template.index.template_sha256.hex(),
        "config_sha256": digest(image),
        "changes": [
            {
                "path": change.path,
                "section": change.section or None,
                "section_offset": change.offset,
                "offset": change.file_offset,
                "old": change.old_text,
                "new": change.new_text,
                "old_bytes": change.old.hex(),
                "bytes": change.new.hex(),
                **_instruction(change),
            }
            for change in image.receipt
        ],
    }


def _instruction(change: Change | CodeChange) -> dict[str, object]:
    """Which instruction a change is in; nothing for others."""
    if isinstance(change, Change) or change.insn < 0:
        return {}
    return {"function": change.function, "insn": change.insn}


def as_text(image: Image, target: str) -> list[str]:
    if not image.receipt:
        return [f"{target}: the same bytes, every value is as it was"]
    rows = [
        (
            change.path,
            f"{change.old_text} -> {change.new_text}",
            f"{change.section}+{change.offset:#x}" if change.section else "",
            f"file {change.file_offset:#x}" if change.file_offset is not None else "",
            f"{output.short(change.old.hex())} -> {output.short(change.new.hex())}",
        )
        for change in image.receipt
    ]
    values = len(image.values)
    code = sum(not isinstance(change, Change) for change in image.receipt)
    what = [f"{values} value{'s' if values != 1 else ''} changed"] if values else []
    what += [f"{code} place{'s' if code != 1 else ''} in code"] if code else []
    return [f"{target}: {', '.join(what)}", *output.table(rows)]
