"""`elfpatch check`: does the real verifier accept it? Nothing is attached, pinned or kept."""

from __future__ import annotations

from elfpatch.cli import options, output, request
from elfpatch.deploy.load import load
from elfpatch.deploy.prepare import prepare
from elfpatch.deploy.select import select
from elfpatch.deploy.source import open_template
from elfpatch.deploy.target import parse_all
from elfpatch.kernel import bpf
from elfpatch.patch.image import digest, image_to_load
from elfpatch.uapi import PROG_TYPES

OPERANDS = "OBJECT"
OPTIONS = (
    *options.VALUES,
    options.SPECIALIZE,
    options.Option("--target", "TARGET", "check the program for this target, with its type", many=True),
    *options.FOLDERS,
    *options.JSON,
    *options.VERBOSE,
)
EXAMPLES = ("elfpatch check --set foo=42 mark.o",)


def run(arguments: options.Arguments) -> int:
    (path,) = options.operands(arguments, OPERANDS, "check")
    template = open_template(path, request.layout(arguments).cache, request.immediates(arguments))
    image = image_to_load(template, output.settings(arguments), force=arguments.flag("force"))
    selection = select(template.index, parse_all(arguments.all("target")))
    prepared = prepare(image, selection, specialize=arguments.flag("specialize"))
    with load(image, prepared) as loaded:
        found = [(ready, bpf.prog_info(loaded.progs[row])) for row, ready in prepared.programs.items()]
    if output.wants_json(arguments):
        programs = [
            {
                "name": ready.wanted.program.name,
                "type": PROG_TYPES[ready.wanted.prog_type],
                "tag": info.tag,
                "insns": len(ready.insns) // 8,
                "verified_insns": info.verified_insns,
                "xlated_bytes": info.xlated_len,
                "jited_bytes": info.jited_len,
            }
            for ready, info in found
        ]
        body: dict[str, object] = {"result": "accepted", "config_sha256": digest(image), "programs": programs}
        output.print_json(arguments, {**body, "left_out": prepared.left_out, "notes": loaded.notes})
        return 0
    print(f"{path}: accepted by the verifier")
    rows = [
        (
            ready.wanted.program.name,
            PROG_TYPES[ready.wanted.prog_type],
            f"{len(ready.insns) // 8} insns",
            f"{info.verified_insns} verified",
            f"{info.jited_len} bytes jited",
        )
        for ready, info in found
    ]
    output.print_lines(output.table(rows))
    if prepared.left_out:
        output.print_lines([f"not needed for these values: {', '.join(prepared.left_out)}"])
    return 0
