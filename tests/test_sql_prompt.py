"""The prompt of `pausedata sql`, driven through a real pseudo-terminal."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time

import pytest
from conftest import until_busy, wait_until
from prompt_toolkit.document import Document

from pausedata.query.session import Session
from tests.small_dataset import make_dataset

pty = pytest.importorskip("pty")  # Windows has none
termios = pytest.importorskip("termios")

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\b]")
_WHERE = b"\x1b[6n"  # a program asks where the cursor is


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("d") / "d")


class Terminal:
    """`pausedata sql` in a terminal of its own."""

    def __init__(self, root, cache, *options, **env):
        self.said, self.heard = b"", 0  # all that was printed; up to where `until` has read
        self.process, self.fd = pty.fork()
        if not self.process:
            fixed = {"TERM": "xterm", "PAUSEDATA_CACHE": str(cache), "NO_COLOR": "1"}
            code = "from pausedata.cli import main; main()"
            words = [sys.executable, "-c", code, "sql", str(root), *options]
            os.execve(sys.executable, words, os.environ | fixed | env)
        self.until("sql>")

    def type(self, keys):
        """Type at the prompt, once it reads keys itself: before, the kernel takes some of them."""
        wait_until(lambda: not self.cooked())
        os.write(self.fd, keys.encode())

    def cooked(self):
        """Whether lines are edited by the kernel and Ctrl-C is a signal, as outside the prompt."""
        return termios.tcgetattr(self.fd)[3] & termios.ICANON

    def until(self, wanted, seconds=60):
        """What comes next, up to ``wanted``, without escapes; a failure where it never comes."""
        end = time.monotonic() + seconds
        while (text := self.text()).find(wanted, self.heard) < 0:
            assert self.read(end), f"no {wanted!r} in {text[self.heard :]!r}"
        start, self.heard = self.heard, text.index(wanted, self.heard) + len(wanted)
        return text[start : self.heard]

    def text(self):
        return _ESCAPES.sub("", self.said.decode(errors="replace"))

    def read(self, end):
        """Wait for more to be printed; false where nothing more comes."""
        if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
            return False
        try:
            piece = os.read(self.fd, 65536)
        except OSError:  # Linux, once the other side has closed
            return False
        asked = self.said.count(_WHERE)
        self.said += piece
        if self.said.count(_WHERE) > asked:
            os.write(self.fd, b"\x1b[1;1R")
        return bool(piece)

    def leave(self):
        """Ctrl-D, at the next prompt."""
        self.until("sql>")
        self.type("\x04")
        return self.status()

    def status(self):
        """How the process ended; it is killed where it does not within a while."""
        end = time.monotonic() + 60
        while self.read(end):
            pass
        try:
            _, status = wait_until(lambda: ended(self.process), seconds=60)
        except AssertionError:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            raise AssertionError(f"it goes on: {self.text()!r}") from None
        return os.waitstatus_to_exitcode(status)


def ended(process):
    found, status = os.waitpid(process, os.WNOHANG)
    return (found, status) if found else None


@pytest.mark.processes
def test_a_conversation(version, tmp_path):
    terminal = Terminal(version.root, tmp_path, "--attach", f"other={version.root}")
    terminal.type("select count(*) as n\rfrom examples;\r")
    terminal.until("...>")
    terminal.until("\n5\n1 row in ")
    terminal.type("select logprop from tokens;\r")
    terminal.until("Did you mean 'logprob'?")
    terminal.type(".tables\r")
    terminal.until("vocab\nother.examples\n")
    terminal.type(".schema other.vocab\r")
    terminal.until("other.vocab(token_id INTEGER, token VARCHAR, bytes BLOB, special BOOLEAN)")
    terminal.type(".timing off\r")
    terminal.until("\ntiming off\n")
    terminal.type(".format csv\r")
    terminal.until("\ncsv\n")
    terminal.type("select 1 as a, 'x' as b;\r")
    terminal.until("a,b\n1,x\n")
    terminal.type(".tabels\r")
    terminal.until("Did you mean '.tables'?")
    assert terminal.leave() == 0
    history = tmp_path / "sql_history"
    assert "from examples;" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


@pytest.mark.processes
def test_tab_completes_and_ctrl_c_stops_a_query_or_clears_the_line(version, tmp_path):
    terminal = Terminal(version.root, tmp_path)
    terminal.type("select count(*) as n from tokens where run = 'o\t")
    terminal.until("ther")
    terminal.type("';\r")
    terminal.until("\n15\n1 row in ")
    terminal.until("sql>")
    terminal.type("select sum(a.range * b.range % 7)\rfrom range(9000000) a, range(9000000) b;\r")
    terminal.until("b;\n")
    wait_until(terminal.cooked)
    until_busy(terminal.process)
    os.write(terminal.fd, b"\x03")
    terminal.until("stopped")
    terminal.until("sql>")
    terminal.type("select wrong\x03")
    terminal.until("sql>")
    terminal.type("select 7 * 6 as n;\r")
    terminal.until("\n42\n1 row in ")
    terminal.type(".quit\r")
    assert terminal.status() == 0


@pytest.mark.processes
@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"PAUSEDATA_CACHE": "/dev/null/none"}])
def test_it_needs_neither_a_clever_terminal_nor_a_history(version, tmp_path, env):
    terminal = Terminal(version.root, tmp_path, **env)
    terminal.type("select 7 * 6 as n;\r")
    terminal.until("42\n1 row in ")
    assert terminal.leave() == 0


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("from tok", ["tokens", "tokens_nested"]), ("from o", ["other."]),
        ("select * from other.pa", ["other.pauses"]), ("from vocab select by", ["bytes", "by"]),
        ("from tokens where run = '", ["base", "other"]),
        ("from tokens where run in ('o", ["other"]),
        ("from pauses where placement <> 't", ["three"]),
        ("from examples where split='tr", ["train"]),
        ("select tokens.char", ["tokens.char_start", "tokens.char_end"]),
        ("select pp", ["ppl("]), ("select 'it is fro", []), (".ta", [".tables"]),
        ("SELE", ["SELECT"]),
        (".schema pl", ["placements"]), (".format j", ["json", "jsonl"]),
    ],
)  # fmt: skip
def test_what_can_stand_at_the_cursor_is_completed(version, text, first):
    from pausedata.cli.prompt import NameCompleter

    session = Session(version, {"other": version})
    found = [c.text.strip() for c in NameCompleter(session).get_completions(Document(text), None)]
    assert found[: len(first)] == first
    assert first or not found
    assert not [word for word in found if word.startswith("_")]
    session.close()
