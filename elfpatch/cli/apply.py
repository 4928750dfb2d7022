"""`elfpatch apply`: put an object with values on its targets."""

from __future__ import annotations

import sys

from elfpatch.cli import options, output, request
from elfpatch.deploy.plan import ATTACH, DETACH, KEEP
from elfpatch.deploy.transaction import DEFAULT_LOCK_TIMEOUT, Outcome, apply
from elfpatch.errors import UsageError

OPERANDS = "OBJECT"
OPTIONS = (
    *options.VALUES,
    *options.DEPLOYMENT,
    options.Option("--dry-run", "", "the same as `elfpatch plan`"),
    options.Option("--batch", "FILE", "one JSON object a line (-: standard input): deployment, targets, set"),
    options.Option("--jobs", "N", "how many of a batch at once (as many as cores)"),
    *options.LOCK,
    *options.FOLDERS,
    *options.JSON,
    *options.VERBOSE,
)
EXAMPLES = (
    "elfpatch apply --set foo=42 --target tcx:eth0:ingress mark.o",
    "elfpatch apply --set foo=43 mark.o",
    "elfpatch apply -f node.toml --set ep.ip4=10.0.0.5 --name ep7 --target tcx:veth7:ingress,netns=red endpoint.o",
    "elfpatch apply --batch endpoints.jsonl -f node.toml endpoint.o",
)


def run(arguments: options.Arguments) -> int:
    if arguments.value("batch"):
        from elfpatch.cli import batch

        return batch.run(arguments)
    if arguments.value("jobs"):
        raise UsageError("--jobs goes with --batch")
    if arguments.flag("dry_run"):
        from elfpatch.cli import plan

        return plan.run(arguments)
    (path,) = options.operands(arguments, OPERANDS, "apply")
    timeout = DEFAULT_LOCK_TIMEOUT
    if arguments.value("lock_timeout"):
        timeout = options.duration(arguments.value("lock_timeout"), "--lock-timeout")
    outcome = apply(request.layout(arguments), request.request(arguments, path), timeout)
    for note in outcome.notes:
        print(f"elfpatch: note: {note}", file=sys.stderr)
    if output.wants_json(arguments):
        output.print_json(arguments, as_json(outcome))
    else:
        output.print_lines(as_text(outcome))
    return 0


def as_json(outcome: Outcome) -> dict[str, object]:
    """The result as reference/cli.md shapes it; `target` and `prog` stand at the top when there is one target."""
    plan = outcome.plan
    targets: list[dict[str, object]] = []
    for step in plan.steps:
        text = step.target.text
        entry: dict[str, object] = {"target": text, "action": step.action}
        entry["prog"] = {
            "old": step.old.prog_id if step.old and step.action != ATTACH else None,
            "new": None if step.action == DETACH else outcome.new_ids.get(text, step.old.prog_id if step.old else None),
        }
        targets.append(entry)
    body: dict[str, object] = {"result": "changed" if plan.changed else "unchanged", "name": plan.name}
    if len(targets) == 1:
        body["target"] = targets[0]["target"]
    body["generation"] = outcome.record.generation
    body["template_sha256"] = outcome.record.template_sha256
    body["config_sha256"] = outcome.record.config_sha256
    if len(targets) == 1:
        body["prog"] = targets[0]["prog"]
    body["targets"] = targets
    body["programs"] = [{"name": name, "id": number, "tag": tag} for name, number, tag in outcome.record.programs]
    body["changes"] = output.changes_json(plan) if plan.changed else []
    if outcome.carried is not None:
        body["maps"] = {"copied": outcome.carried.copied, "replaced": outcome.carried.replaced}
    body["live"] = plan.live.paths if plan.live else []
    body["specialized"] = outcome.record.specialized
    body["left_out"] = outcome.left_out
    body["notes"] = outcome.notes
    return body


def as_text(outcome: Outcome) -> list[str]:
    plan = outcome.plan
    record = outcome.record
    if not plan.changed:
        return [f"{plan.name}: unchanged, generation {record.generation} since {record.since}"]
    lines = [f"{plan.name}: generation {record.generation}"]
    for step in plan.steps:
        text = step.target.text
        new = outcome.new_ids.get(text, 0)
        if step.action == DETACH:
            lines.append(f"  detached {text}")
        elif step.action == KEEP:
            lines.append(f"  kept {text}: program {new}")
        elif step.action == ATTACH:
            lines.append(f"  attached {text}: program {new}")
        else:
            lines.append(f"  swapped {text}: program {step.live.prog_id} -> {new}")
    if plan.live:
        lines.append(f"  stored {', '.join(plan.live.paths)} in the running programs' memory, with no reload")
    elif not plan.steps:
        names = ", ".join(f"{name} (program {number})" for name, number, _ in record.programs)
        lines.append(f"  loaded, verified and pinned {names}; nothing is attached (no --target)")
    if outcome.carried is not None and outcome.carried.copied:
        lines.append(f"  copied with the new values in it: {', '.join(outcome.carried.copied)}")
    if outcome.carried is not None and outcome.carried.replaced:
        lines.append(f"  replaced, contents given up: {', '.join(outcome.carried.replaced)}")
    if outcome.left_out:
        lines.append(f"  not needed for these values: {', '.join(outcome.left_out)}")
    return lines + output.changes_lines(plan)
