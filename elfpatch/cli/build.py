"""`elfpatch build`: append the index to an object."""

from __future__ import annotations

from elfpatch.cli import options, output, request
from elfpatch.cli.patch import write_file
from elfpatch.deploy.source import read_object, stem_of
from elfpatch.errors import BadObject

OPERANDS = "OBJECT"
OPTIONS = (
    options.Option("--output -o", "FILE", "where to write the template (the object itself)"),
    options.IMMEDIATE,
    *options.JSON,
)
EXAMPLES = ("elfpatch build prog.o", "elfpatch build -o template.o prog.o")


def run(arguments: options.Arguments) -> int:
    from elfpatch.template.build import build

    (path,) = options.operands(arguments, OPERANDS, "build")
    target = arguments.value("output", path)
    data = read_object(path)
    try:
        made = build(data, stem_of(target), request.immediates(arguments))
    except BadObject as error:
        error.where = f"{path}: {error.where}" if error.where else path
        raise
    write_file(target, made)
    if output.wants_json(arguments):
        output.print_json(arguments, {"result": "written", "output": target, "bytes": len(made)})
    else:
        print(f"{target}: indexed, {len(made) - len(data):+} bytes")
    return 0
