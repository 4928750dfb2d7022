"""`elfpatch plan`: what an apply would change."""

from __future__ import annotations

from elfpatch.cli import options, output, request
from elfpatch.deploy.plan import ATTACH, DETACH, SWAP, Plan, make_plan, refuse_other_object
from elfpatch.errors import ElfpatchError

OPERANDS = "OBJECT"
OPTIONS = (
    *options.VALUES,
    *options.DEPLOYMENT,
    options.Option("--detailed-exitcode", "", "exit with 2 when there are changes, 1 on any error"),
    *options.FOLDERS,
    *options.JSON,
)
EXAMPLES = ("elfpatch plan --set foo=43 mark.o", "elfpatch plan --detailed-exitcode -j -f values.toml endpoint.o")


def run(arguments: options.Arguments) -> int:
    (path,) = options.operands(arguments, OPERANDS, "plan")
    detailed = arguments.flag("detailed_exitcode")
    try:
        plan = make_plan(request.layout(arguments), request.request(arguments, path), may_look=False)
        refuse_other_object(plan)
    except ElfpatchError as error:
        if detailed:
            error.exit_code = 1
        raise
    if output.wants_json(arguments):
        output.print_json(arguments, as_json(plan))
    else:
        output.print_lines(as_text(plan))
    return 2 if detailed and plan.changed else 0


def as_json(plan: Plan) -> dict[str, object]:
    index = plan.image.template.index
    return {
        "result": "changes" if plan.changed else "unchanged",
        "name": plan.name,
        "generation": plan.generation,
        "template_sha256": index.template_sha256.hex(),
        "config_sha256": plan.config_sha256,
        "steps": [
            {"action": step.action, "target": step.target.text, "prog": {"old": step.live.prog_id or None}}
            for step in plan.steps
        ],
        "programs": [ready.wanted.program.name for ready in plan.prepared.programs.values()],
        "live": plan.live.paths if plan.live else [],
        "specialized": plan.request.specialize,
        "left_out": plan.prepared.left_out,
        "changes": output.changes_json(plan) if plan.changed else [],
    }


def as_text(plan: Plan) -> list[str]:
    if not plan.changed:
        return [f"{plan.name}: no change, generation {plan.generation} already is this configuration"]
    lines = [f"{plan.name}: would become generation {plan.generation}"]
    if plan.live:
        lines.append(f"  store {', '.join(plan.live.paths)} in the running programs' memory, with no reload")
        return lines + output.changes_lines(plan)
    names = ", ".join(ready.wanted.program.name for ready in plan.prepared.programs.values())
    lines.append(f"  load and verify {names}" + (", specialised" if plan.request.specialize else ""))
    if plan.prepared.left_out:
        lines.append(f"  not needed for these values: {', '.join(plan.prepared.left_out)}")
    for step in plan.steps:
        text = step.target.text
        if step.action == ATTACH:
            lines.append(f"  attach to {text}")
        elif step.action == SWAP:
            lines.append(f"  swap on {text}, if program {step.live.prog_id} still runs there")
        elif step.action == DETACH:
            lines.append(f"  detach from {text}")
    if not plan.steps:
        lines.append("  pin; nothing is attached (no --target)")
    return lines + (output.changes_lines(plan) or ["  no value changes"])
