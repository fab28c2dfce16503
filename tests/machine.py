"""A computer beside a Hub on loopback: what a person types there, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopback_hub import WRITE, LoopbackHub


@dataclass
class Done:
    status: int
    out: str
    err: str


class Machine:
    """Commands with a login, and caches of their own in ``folder``."""

    def __init__(self, hub: LoopbackHub, folder: Path, token: str | None = WRITE) -> None:
        self.hub, self.folder, self.token = hub, folder, token

    def environment(self, **more: str) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
        return {**own, **self.hub.env(self.folder, self.token), **more}

    def run(self, *words: object, **env: str) -> Done:
        return self.python("-m", "pausedata", *words, **env)

    def python(self, *words: object, **env: str) -> Done:
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            env=self.environment(**env),
            cwd=self.folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert "Traceback" not in done.stderr or "--debug" in words, done.stderr
        assert WRITE not in done.stdout + done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def run_without_waiting(self, *words: object) -> Done:
        """Run it where nothing waits between tries, of which huggingface_hub makes many."""
        start = "import sys, time; time.sleep = lambda seconds: None"
        main = f"sys.argv = ['pausedata', *{list(map(str, words))!r}]"
        return self.python("-c", f"{start}; {main}; from pausedata.cli import main; main()")

    def ok(self, *words: object, **env: str) -> Done:
        done = self.run(*words, **env)
        assert done.status == 0, done.err
        return done

    def json(self, *words: object, **env: str) -> Any:
        return json.loads(self.ok(*words, "--json", **env).out)
