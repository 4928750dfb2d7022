"""`elfpatch status`: deployments, targets, values and drift."""

from __future__ import annotations

from elfpatch.cli import options, output, request
from elfpatch.deploy.status import DeploymentStatus, status

OPERANDS = "[NAME...]"
OPTIONS = (*options.FOLDERS, *options.JSON)
EXAMPLES = ("elfpatch status", "elfpatch status -j mark")


def run(arguments: options.Arguments) -> int:
    found = status(request.layout(arguments), arguments.operands)
    if output.wants_json(arguments):
        output.print_json(arguments, {"deployments": [as_json(one) for one in found]})
    elif not found:
        print("no deployments")
    else:
        output.print_lines(line for one in found for line in as_text(one))
    return 0


def as_json(one: DeploymentStatus) -> dict[str, object]:
    record = one.record
    if record is None:
        return {"name": one.name, "drift": True, "problem": one.problem}
    return {
        "name": one.name,
        "object": record.object,
        "generation": record.generation,
        "since": record.since,
        "template_sha256": record.template_sha256,
        "config_sha256": record.config_sha256,
        "values": dict(record.settings),
        "programs": [{"name": name, "id": number, "tag": tag} for name, number, tag in record.programs],
        "targets": [
            {
                "target": target.attached.target,
                "prog": {"id": target.attached.prog_id, "name": target.attached.program, "tag": target.attached.tag},
                "live": {"state": target.live.state, "prog_id": target.live.prog_id or None},
                "drift": target.drift or None,
            }
            for target in one.targets
        ],
        "drift": one.drifted,
        "problem": one.problem or None,
    }


def as_text(one: DeploymentStatus) -> list[str]:
    record = one.record
    if record is None:
        return [f"{one.name}: {one.problem}"]
    lines = [f"{one.name}: generation {record.generation} since {record.since}, {record.object}"]
    if one.problem:
        lines.append(f"  {one.problem}")
    rows = []
    for target in one.targets:
        attached = target.attached
        rows.append(
            (
                attached.target,
                f"program {attached.prog_id}",
                f"tag {attached.tag}",
                f"DRIFT: {target.drift}" if target.drift else "ok",
            )
        )
    lines += output.table(rows)
    if not one.targets and not one.problem:
        lines.append("  on no target; pinned: " + ", ".join(f"{n} (program {i})" for n, i, _ in record.programs))
    lines += [f"  {path} = {text}" for path, text in record.settings]
    return lines
