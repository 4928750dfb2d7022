"""`elfpatch check`: does the real verifier accept it? Nothing is attached, pinned or kept."""

from __future__ import annotations

from elfpatch.cli import options, output, request
from elfpatch.deploy.load import load
from elfpatch.deploy.select import select
from elfpatch.deploy.source import open_template
from elfpatch.deploy.target import parse_all
from elfpatch.kernel import bpf
from elfpatch.patch.image import digest, image_to_load
from elfpatch.uapi import PROG_TYPES

OPERANDS = "OBJECT"
OPTIONS = (
    *options.VALUES,
    options.Option("--target", "TARGET", "check the program for this target, with its type", many=True),
    *options.FOLDERS,
    *options.JSON,
    *options.VERBOSE,
)
EXAMPLES = ("elfpatch check --set foo=42 mark.o",)


def run(arguments: options.Arguments) -> int:
    (path,) = options.operands(arguments, OPERANDS, "check")
    template = open_template(path, request.layout(arguments).cache)
    image = image_to_load(template, output.settings(arguments), force=arguments.flag("force"))
    selection = select(template.index, parse_all(arguments.all("target")))
    with load(image, selection, {}, {}) as loaded:
        found = [(wanted, bpf.prog_info(loaded.progs[row])) for row, wanted in selection.wanted.items()]
    if output.wants_json(arguments):
        programs = [
            {
                "name": wanted.program.name,
                "type": PROG_TYPES[wanted.prog_type],
                "tag": info.tag,
                "insns": len(wanted.program.insns) // 8,
                "verified_insns": info.verified_insns,
                "xlated_bytes": info.xlated_len,
                "jited_bytes": info.jited_len,
            }
            for wanted, info in found
        ]
        body: dict[str, object] = {"result": "accepted", "config_sha256": digest(image), "programs": programs}
        output.print_json(arguments, {**body, "notes": loaded.notes})
        return 0
    print(f"{path}: accepted by the verifier")
    rows = [
        (
            wanted.program.name,
            PROG_TYPES[wanted.prog_type],
            f"{len(wanted.program.insns) // 8} insns",
            f"{info.verified_insns} verified",
            f"{info.jited_len} bytes jited",
        )
        for wanted, info in found
    ]
    output.print_lines(output.table(rows))
    return 0
