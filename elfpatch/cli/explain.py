"""`elfpatch explain`: a program's instructions, where values enter, what specialising makes of it."""

from __future__ import annotations

import os
import sys

from elfpatch import index as ix
from elfpatch.cli import options, output, request
from elfpatch.cli.patch import write_file
from elfpatch.deploy.prepare import code_before, constants
from elfpatch.deploy.source import open_template
from elfpatch.errors import Missing, UsageError
from elfpatch.explain.build import Given, explain, unloadable
from elfpatch.explain.model import Program
from elfpatch.explain.syntax import SYNTAXES
from elfpatch.patch.code import program_code
from elfpatch.patch.image import Image, make_image
from elfpatch.patch.specialise import prune, specialise

FORMATS = ("text", "json", "dot", "svg")

OPERANDS = "OBJECT"
OPTIONS = (
    options.Option("--prog", "NAME", "explain this program only", many=True),
    *options.VALUES,
    options.Option("--specialize", "", "also show what specialising for these values removes and changes, and why"),
    options.Option("--format", "FORMAT", "text, json, dot (for Graphviz) or svg: the last two draw the control flow"),
    options.Option("--syntax", "SYNTAX", "kernel (the verifier's own), or capstone where that is right"),
    options.Option("--output -o", "FILE", "where to write dot or svg (stdout)"),
    *options.FOLDERS,
    *options.JSON,
)
EXAMPLES = (
    "elfpatch explain mark.o",
    "elfpatch explain --specialize --set debug=on endpoint.o",
    "elfpatch explain --format svg -o endpoint.svg --specialize endpoint.o",
)


def run(arguments: options.Arguments) -> int:
    (path,) = options.operands(arguments, OPERANDS, "explain")
    form, syntax = _format(arguments), _choice(arguments, "syntax", tuple(SYNTAXES))
    target = arguments.value("output")
    if target and form not in ("dot", "svg"):
        raise UsageError(f"-o goes with dot and svg, not with {form}", hint="add --format svg, or redirect stdout")
    template = open_template(path, request.layout(arguments).cache, request.immediates(arguments))
    chosen = _chosen(template.index, arguments.all("prog"), path)
    image = make_image(template, output.settings(arguments), force=arguments.flag("force"))
    defaults = make_image(template, (), force=arguments.flag("force"))
    specialize = arguments.flag("specialize")
    programs = [explained(image, defaults, one, syntax, specialize=specialize) for one in chosen]
    if form == "json":
        _print_json(arguments, path, image, programs)
    elif form == "text":
        _print_text(programs)
    else:
        _write(_drawn(form, os.path.basename(path), programs), target)
    return 0


def explained(image: Image, defaults: Image, program: ix.Program, syntax: str, *, specialize: bool) -> Program:
    """The model of one program. `defaults`: the image of the same template without values."""
    if program.problem:
        return unloadable(program)
    index = image.template.index
    fixups = list(index.rows(ix.Fixup, program.first_fixup, program.fixups))
    insns, loose = program_code(image, program)
    code = code_before(image, insns, program, fixups)
    default = code_before(defaults, program_code(defaults, program)[0], program, fixups)
    memory = constants(image)
    # As for a load: without specialising, what a key's `goto` leaves without an edge goes all the same.
    done = specialise(code, memory) if specialize else prune(code) if loose else None
    given = Given(image, defaults, program, code, default, done, memory, specialize=specialize)
    return explain(given, SYNTAXES[syntax])


def _format(arguments: options.Arguments) -> str:
    form = _choice(arguments, "format", FORMATS)
    if output.wants_json(arguments):
        if arguments.value("format", "json") != "json":
            raise UsageError(f"--json contradicts --format {form}", hint="give one of them")
        return "json"
    return form


def _choice(arguments: options.Arguments, key: str, known: tuple[str, ...]) -> str:
    """The value of an option that takes one of a few words, the first by default."""
    word = arguments.value(key, known[0])
    if word not in known:
        raise UsageError(f"there is no {key} {word!r}", hint=f"one of {', '.join(known)}")
    return word


def _chosen(index: ix.Index, names: list[str], path: str) -> list[ix.Program]:
    programs = list(index.rows(ix.Program))
    have = [program.name for program in programs]
    for name in names:
        if name not in have:
            hint = f"there are {', '.join(have)}" if have else "it holds no program"
            raise Missing(f"the object has no program named {name}", where=path, hint=hint)
    return [program for program in programs if not names or program.name in names]


def _print_json(arguments: options.Arguments, path: str, image: Image, programs: list[Program]) -> None:
    from elfpatch.explain.document import document

    body: dict[str, object] = {
        "object": path,
        "template_sha256": image.template.index.template_sha256.hex(),
        "byte_order": "big" if image.template.index.big_endian else "little",
        "programs": [document(program) for program in programs],
    }
    output.print_json(arguments, body)


def _print_text(programs: list[Program]) -> None:
    from elfpatch.explain import text

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for number, program in enumerate(programs):
        if number:
            print()
        for style, line in text.lines(program):
            shown = output.visible(line)
            print(text.coloured((style, shown)) if colour else shown)


def _drawn(form: str, title: str, programs: list[Program]) -> str:
    if form == "dot":
        from elfpatch.explain.dot import dot

        return dot(title, programs)
    from elfpatch.explain.svg import svg

    return svg(title, programs)


def _write(drawing: str, target: str) -> None:
    if target:
        write_file(target, drawing.encode("utf-8", "backslashreplace"))
    else:
        sys.stdout.write(drawing)
