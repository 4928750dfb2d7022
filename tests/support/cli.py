"""The command line, called in process, with a state folder and a bpffs of the test's own."""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elfpatch.cli.main import main
from elfpatch.deploy.paths import Layout

ROOT = Path(__file__).parents[2]
MARK = str(ROOT / "fixtures" / "templates" / "mark.o")
ENDPOINT = str(ROOT / "fixtures" / "templates" / "endpoint.o")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """`cli("apply", "--set", ...)` runs elfpatch; verbs that take them get the test's own folders."""

    def __init__(self, state: Path, bpffs: Path | str) -> None:
        self.layout = Layout(str(state), str(bpffs))

    def __call__(self, verb: str = "", *words: str) -> Result:
        folders = ["--state-dir", self.layout.state, "--bpffs", self.layout.bpffs]
        own = [] if verb in ("", "build", "help") or verb.startswith("-") else folders
        return self.bare(*([verb] if verb else []), *own, *words)

    def bare(self, *words: str) -> Result:
        """Without folders of its own."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(words))
        return Result(code, out.getvalue(), err.getvalue())

    def ok(self, verb: str, *words: str) -> Result:
        """The same, which must end with 0."""
        done = self(verb, *words)
        assert done.code == 0, done.err
        return done

    def left(self) -> list[str]:
        """What lies in the state folder (the cache aside) and under the pins."""
        found = []
        for top in (self.layout.state, self.layout.root):
            for folder, folders, files in os.walk(top):
                if folder == self.layout.cache:
                    folders.clear()
                    continue
                found += [os.path.join(folder, name) for name in files]
        return found
