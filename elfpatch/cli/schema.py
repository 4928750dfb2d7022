"""`elfpatch schema`: the JSON Schema of an object's values."""

from __future__ import annotations

import json

from elfpatch.cli import options, request
from elfpatch.deploy.source import open_template
from elfpatch.patch.schema import schema

OPERANDS = "OBJECT"
OPTIONS = (options.IMMEDIATE, *options.FOLDERS, *options.JSON)
EXAMPLES = ("elfpatch schema endpoint.o > endpoint.schema.json",)


def run(arguments: options.Arguments) -> int:
    (path,) = options.operands(arguments, OPERANDS, "schema")
    template = open_template(path, request.layout(arguments).cache, request.immediates(arguments))
    print(json.dumps(schema(template), indent=None if arguments.flag("json") else 2))
    return 0
