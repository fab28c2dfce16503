"""Generated programs run where they can do nothing but compute, and each end has its answer."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import SHARED

from pausedata.core.errors import DataError, UsageError
from pausedata.measure import answers
from pausedata.measure.answers import sandbox
from pausedata.measure.answers.mbpp import Checks, program
from pausedata.measure.answers.sandbox import MEGABYTE, run_python

if sys.platform != "linux":
    pytest.skip("the sandbox is of Linux", allow_module_level=True)


TASKS_AND_TIMERS = """
import asyncio
async def one(n):
    await asyncio.sleep(0.01 * (3 - n))
    return n
async def all(n):
    return await asyncio.wait_for(asyncio.gather(*[one(k) for k in range(n)]), 5)
def f(n):
    return asyncio.run(all(n))
"""


@pytest.mark.parametrize(
    ("code", "tests", "ended"),
    [
        ("def f(x): return x + 1", "assert f(1) == 2", "ok"),
        ("def f(x): return x", "assert f(1) == 2", "failed"),
        ("def f(x): return y", "assert f(1) == 2", "error"),
        ("assert False", "", "error"),  # its own, not a test's
        ("def f(:", "assert f(1) == 2", "syntax"),
        ("x = '\0'", "", "syntax"),
        ("def f(n): return f(n + 1)\nf(0)", "", "error"),
        ("import re, math, heapq, itertools, collections, datetime, sys, bisect", "", "ok"),
        ("import datetime; datetime.datetime.strptime('2026', '%Y')", "", "ok"),
        ("x = '\ud800'", "", "ok"),
        ("import pathlib", "assert pathlib.PurePath('a/b.txt').suffix == '.txt'", "ok"),
        ("from __future__ import annotations\ndef f(x: Nothing): return x", "f(1)", "ok"),
        (TASKS_AND_TIMERS, "assert f(3) == [0, 1, 2] and f(2) == [0, 1]", "ok"),
    ],
)
def test_programs_that_mean_no_harm(code: str, tests: str, ended: str) -> None:
    assert run_python(code, tests).ended == ended


def test_parts_share_their_names_and_nothing_else() -> None:
    late = "from __future__ import annotations\ndef f(x: Nothing): return N"
    assert run_python(["N = 9", late], "assert f(1) == 9").ended == "ok"
    assert run_python("N = 9\n" + late).ended == "syntax"
    assert run_python([late, "def g(x: Nothing): pass"]).ended == "error"


@pytest.mark.processes
@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "while True: print('x' * 1000)",
        "try:\n  while True: pass\nexcept BaseException:\n  while True: pass",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "while True: pass",
    ],
)
def test_what_computes_for_ever_is_ended_by_its_processor_time(code: str) -> None:
    start = time.monotonic()
    ran = run_python(code, seconds=1, wall=60)
    assert (ran.ended, ran.said) == ("timeout", "it took more than 1 s of processor time")
    assert time.monotonic() - start < 40  # not for ever: no claim of speed


@pytest.mark.processes
@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(60)",
        "import asyncio\nasync def f(): await asyncio.get_running_loop().create_future()\n"
        "asyncio.run(f())",
    ],
)
def test_what_waits_for_ever_is_ended_by_the_clock(code: str) -> None:
    ran = run_python(code, wall=2)
    assert (ran.ended, ran.said) == ("timeout", "it waited, and was not done after 2 s")


def test_the_clock_alone_ends_nothing_soon() -> None:
    """As on a machine that is busy with something else: more time passes than is computed."""
    assert run_python("import time; time.sleep(1.5)", seconds=1).ended == "ok"


def test_memory_has_an_end() -> None:
    ran = run_python("x = bytearray(400 * 1024 * 1024)", memory=300 * MEGABYTE)
    assert ran.ended == "memory"
    assert run_python("x = bytearray(100 * 1024 * 1024)", memory=300 * MEGABYTE).ended == "ok"


@pytest.mark.parametrize(
    "code",
    [
        "import os\nfor _ in range(20): os.fork()",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os\nos.kill(os.getppid(), 9)",
        "import os\nos.setsid()",
        "import os\nos.listdir('/')",
        "import os\nos.stat('/')",
        "import os\nos.chdir('/')",
        "import os\nos.symlink('/a', '/tmp/b')",
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        "import subprocess",
        "import socket",
        "import _socket\n_socket.socket()",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)",
        "import ssl",
        "import asyncio.base_events as b\nb.socket.socket()",
        "import asyncio.base_events as b\nb.subprocess.run(['/bin/true'])",
        "import asyncio\nasyncio.run(asyncio.open_connection('127.0.0.1', 80))",
        "import asyncio\nasyncio.run(asyncio.to_thread(len, 'ab'))",
        "import asyncio\nasyncio.SelectorEventLoop()",
        "import pathlib\npathlib.Path('/etc/passwd').read_text()",
        "import pathlib\npathlib.Path('/tmp/new').mkdir()",
    ],
)
def test_what_reaches_out_is_refused(code: str) -> None:
    ran = run_python(code)
    assert ran.ended == "forbidden", ran


def test_threads_are_refused() -> None:
    assert run_python("import _thread\n_thread.start_new_thread(print, ())").ended == "error"


def test_no_file_is_written_changed_or_removed(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    tmp_path.chmod(0o777)
    kept.chmod(0o666)
    for call in (
        f"open({str(tmp_path / 'new')!r}, 'w').write('x')",
        f"open({str(kept)!r}, 'a').write('x')",
        f"__import__('os').remove({str(kept)!r})",
        f"__import__('os').rename({str(kept)!r}, {str(tmp_path / 'moved')!r})",
        f"__import__('os').truncate({str(kept)!r}, 0)",
        f"__import__('os').chmod({str(kept)!r}, 0)",
        f"__import__('os').mkdir({str(tmp_path / 'folder')!r})",
    ):
        ran = run_python(f"try:\n  {call}\nexcept BaseException: pass")
        assert ran.ended == "ok", ran  # it swallowed the refusal; nothing came of it
        assert list(tmp_path.iterdir()) == [kept]
        assert kept.read_text() == "mine" and kept.stat().st_mode & 0o777 == 0o666


def test_nobody_is_called_and_nobody_is_listened_to() -> None:
    """Raw system calls, past whatever Python's own modules would do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        address = f"b'\\x02\\x00' + ({port}).to_bytes(2, 'big') + bytes([127, 0, 0, 1]) + bytes(8)"
        code = (
            "import ctypes\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "fd = libc.socket(2, 1, 0)\n"
            "assert fd == -1 and ctypes.get_errno() == 1, fd\n"
            f"to = {address}\n"
            "for number in range(64):\n"
            "    libc.connect(number, to, 16); libc.bind(number, to, 16)\n"
        )
        assert run_python(code, "assert True").ended == "ok"
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.processes
def test_nothing_is_left_of_a_program_that_tries_to_stay() -> None:
    mark = f"stay-{os.getpid()}-{time.monotonic_ns()}"
    code = (
        f"import os, ctypes\nmark = {mark!r}\nlibc = ctypes.CDLL(None)\n"
        "for _ in range(5):\n"
        "    if libc.fork() == 0 or libc.syscall(57) == 0: pass\n"
        "while True: pass\n"
    )
    assert run_python(code, seconds=1).ended == "timeout"
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(b"sandbox_child" in line for line in running)


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "import os\nfor fd in range(20):\n  try: os.write(fd, b'ok')\n  except OSError: pass\n"
        "os._exit(0)",
        "import ctypes\nctypes.CDLL(None).exit_group(0)",
        "import ctypes\nctypes.string_at(0)",
    ],
)
def test_to_end_is_not_to_pass(code: str) -> None:
    assert run_python(code, "assert False").ended in ("died", "error", "failed")


@pytest.mark.processes
def test_a_ctrl_c_for_the_command_is_not_the_programs_end() -> None:
    code = (
        "import os, signal, threading, time\n"
        "os.setsid()\n"  # a terminal's group, as of a command in the foreground
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "from pausedata.measure.answers.sandbox import run_python\n"
        "threading.Timer(2.0, lambda: os.killpg(0, signal.SIGINT)).start()\n"
        "print(run_python('import time; time.sleep(4)', seconds=60).ended)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["ok"], done.stderr


def test_the_environment_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code = "import os\nassert 'HF_TOKEN' not in os.environ, 'told'"
    assert run_python(code).ended == "ok"


SYSTEM = Path("/usr/bin/python3")  # which anybody may run, wherever the tests' own lies


@pytest.mark.skipif(
    os.getuid() != 0 or not SYSTEM.is_file(), reason="needs root, and a Python of the system"
)
def test_it_holds_for_an_unprivileged_user_too() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        child = Path(shutil.copy(sandbox.CHILD, folder))
        for code, ended in (("", "ok"), ("open('/etc/passwd')", "forbidden")):
            parts = [part.encode() for part in ("word", str(400 * MEGABYTE), "5", "", code)]
            given = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
            done = subprocess.run(
                [SYSTEM, "-I", "-S", child], input=given, capture_output=True, user=65534, cwd="/"
            )
            assert done.stdout.split()[:2] == [b"word", ended.encode()], done


def test_where_there_is_no_sandbox_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    sandbox.require.cache_clear()
    try:
        with pytest.raises(UsageError, match="generated programs are not run on this machine"):
            answers.get("mbpp")
    finally:
        sandbox.require.cache_clear()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("def f():\n  return 1\n", "def f():\n  return 1\n"),
        ("Here:\n```python\ndef f(): pass\n```\nIt does nothing.", "def f(): pass\n"),
        ("```\nx = 1", "x = 1"),
        ("x = 1\n[DONE]\nmore", "x = 1\n"),
        ("x = 1\nQuestion: next", "x = 1\n"),
    ],
)
def test_the_program_is_taken_out_of_the_text(text: str, code: str) -> None:
    assert program(text) == [code]


def test_what_shows_how_to_call_the_program_is_no_part_of_it() -> None:
    text = "```\nf(1)\n```\n```\nA = 2\n```\n```\ndef f(x): return A\n```\n```\nf(2)\n```"
    assert program(text, ["assert f(1) == 2"]) == ["A = 2\n", "def f(x): return A\n"]


@pytest.mark.parametrize(
    "text",
    ["`" * 10**5, "``` " * 10**5, "```\n" * 10**5, " " * 10**5, "# \n" * 10**5, '"""' * 10**5],
)
def test_no_text_keeps_the_reader(text: str) -> None:
    start = time.process_time()
    program(text, ["assert f(1) == 2"])
    assert time.process_time() - start < 10  # quadratic it would be minutes


def right_and_lenient(outcome: answers.GradedAnswer) -> tuple[bool, bool]:
    return outcome.right, outcome.lenient


def test_a_program_is_right_where_its_tests_pass() -> None:
    task = answers.get("mbpp")
    meta = {"test_list": ["assert f(2) == 4", "assert f(3) == N"], "test_setup_code": "N = 9"}
    reference = task.reference("", meta)
    assert reference == Checks("N = 9", ("assert f(2) == 4", "assert f(3) == N"))
    assert task.score("def f(x): return x * x", reference).right
    wrong = task.score("def f(x): return x + x", reference)
    assert (wrong.right, wrong.reason) == (False, "failed")
    assert right_and_lenient(task.score("def f(x): return x * x", reference)) == (True, True)
    assert right_and_lenient(wrong) == (False, False)
    early = "from __future__ import annotations\ndef f(x: Nothing): return x * x"
    assert task.score(early, reference).right  # the set-up stands before it
    assert task.score("", reference).reason == "no-answer"
    with pytest.raises(DataError, match="keep:"):
        task.reference("def f(): pass", {})


@pytest.mark.skipif(not (SHARED / "mbpp_train.jsonl").is_file(), reason="no shared data")
def test_real_programs_pass_their_own_tests_and_no_others() -> None:
    task = answers.get("mbpp")
    lines = (SHARED / "mbpp_train.jsonl").read_text("utf-8").splitlines()[:12]
    rows = [json.loads(line) for line in lines]
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        assert task.score(row["code"], task.reference("", row)).right, row["task_id"]
        assert not task.score(row["code"], task.reference("", other)).right
