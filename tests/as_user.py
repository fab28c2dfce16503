"""Commands by other users, in children of a process that is root and has imported everything.

An ordinary user may be unable to enter the folder that Python is in (one below /root), so that what
commands import has to be there before rights are given up: each is run here first, as it is.

Reads jobs from standard input, a line of JSON for each, and answers each with its exit status.
"""

from __future__ import annotations

import errno
import gc
import importlib
import json
import os
import signal
import sys
from functools import reduce
from typing import Any

from pausedata.cli import main
from pausedata.store import hashes

# Else the hashes of small files are not kept, nor those of files that are a second old.
hashes._KEEP_FROM_BYTES, hashes._SETTLED_AFTER_S = 0, 0.0


def give_up_rights(uid: int, group: int) -> None:
    """Be an ordinary user with a group of their own, and a member of ``group``."""
    os.setgroups([group])
    os.setgid(uid)
    os.setuid(uid)


def refuse_links() -> None:
    """What Linux does where fs.protected_hardlinks is 1, and to all files of others."""
    real = os.link

    def link(source: Any, target: Any, **options: Any) -> None:
        if os.stat(source).st_uid != os.geteuid():  # noqa: PTH116
            raise PermissionError(errno.EPERM, "Operation not permitted", str(source))
        real(source, target, **options)

    os.link = link


def be_killed_in(module: str, name: str, call: int) -> None:
    """End this process, by kill, when a function is called for the ``call``-th time."""
    *above, last = name.split(".")
    owner = reduce(getattr, above, importlib.import_module(module))
    real, left = getattr(owner, last), [call]

    def killed(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)

    setattr(owner, last, killed)


def begin(job: dict[str, Any]) -> None:
    """Become the process that a job wants."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if job["user"] is not None:
        give_up_rights(*job["user"])
    os.umask(job["umask"])
    if job["refuse_links"]:
        refuse_links()
    if job["kill"]:
        be_killed_in(*job["kill"])


def call(words: list[str]) -> int:
    """Run a command in this process; its exit status."""
    sys.argv = ["pausedata", *words]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def serve() -> None:
    """Do all jobs that come."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        os.environ["PAUSEDATA_CACHE"] = job["cache"]
        for number, path in ((1, job["out"]), (2, job["err"])):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(file, number)
            os.close(file)
        if job["here"]:
            status = call(job["words"])
        else:
            gc.freeze()  # else each child goes through all that was imported, and so copies it
            child = os.fork()
            if not child:
                begin(job)
                status = call(job["words"])
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)  # what libraries tidy up at the end is the parent's
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, file=answers, flush=True)


if __name__ == "__main__":
    serve()
