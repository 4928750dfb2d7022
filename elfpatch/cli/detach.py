"""`elfpatch detach`: take a deployment off its targets and remove what it made."""

from __future__ import annotations

from elfpatch.cli import options, output, request
from elfpatch.deploy.transaction import DEFAULT_LOCK_TIMEOUT, detach

OPERANDS = "NAME"
OPTIONS = (*options.LOCK, *options.FOLDERS, *options.JSON)
EXAMPLES = ("elfpatch detach mark",)


def run(arguments: options.Arguments) -> int:
    (name,) = options.operands(arguments, OPERANDS, "detach")
    timeout = DEFAULT_LOCK_TIMEOUT
    if arguments.value("lock_timeout"):
        timeout = options.duration(arguments.value("lock_timeout"), "--lock-timeout")
    record = detach(request.layout(arguments), name, timeout)
    targets = [one.target for one in record.attached]
    if output.wants_json(arguments):
        output.print_json(
            arguments,
            {"result": "detached", "name": name, "targets": targets, "shared_maps_left": record.shared_maps},
        )
        return 0
    print(f"{name}: detached from {', '.join(targets)}" if targets else f"{name}: removed, it had no target")
    for path in record.shared_maps:
        print(f"  left, for others may use it: map pinned at {path}")
    return 0
