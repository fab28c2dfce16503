"""Holds: a version that a reader or writer of pausedata works from is kept from ``gc``."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from handmade import add_placement, commit_handmade

from pausedata.core.errors import UsageError
from pausedata.core.progress import Silent
from pausedata.pipeline.commands import place
from pausedata.pipeline.recipe import Placement
from pausedata.pipeline.transaction import Transaction
from pausedata.store import opening, read_locks
from pausedata.store.commit import current_version
from pausedata.store.dataset import open_version
from pausedata.store.gc import collect, plan_gc


def appended(tokens: int) -> Placement:
    return Placement(strategy="append", tokens=tokens)  # type: ignore[call-arg]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset with the versions 1 and 2."""
    root = tmp_path / "data"
    commit_handmade(root)
    place(root, {"more": appended(1)})
    return root


def manifest(root: Path, number: int) -> Path:
    return root / "versions" / f"{number:04d}" / "manifest.json"


def state(root: Path, number: int) -> read_locks.State:
    """What ``gc`` finds."""
    gc.collect()
    with read_locks.excluding(manifest(root, number)) as found:
        return found


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/dev/fd").iterdir()))


def test_a_version_is_held_for_as_long_as_it_is_open(root: Path) -> None:
    assert state(root, 1) == "free"
    version = open_version(root, 1)
    assert (state(root, 1), state(root, 2)) == ("held", "free")
    del version
    assert state(root, 1) == "free"


def test_a_table_holds_its_version(root: Path) -> None:
    tokens = open_version(root, 1).table("tokens")
    assert state(root, 1) == "held"
    assert tokens.read(tokens.shards[0]).num_rows == 2
    del tokens
    assert state(root, 1) == "free"


def test_a_writer_holds_the_version_that_it_works_from(root: Path) -> None:
    work = Transaction(root, current_version(root), Silent())
    place(root, {"other": appended(2)})
    assert open_version(root).number == 3
    assert state(root, 2) == "held"
    add_placement(work, "mine", appended(3))
    assert work.commit("place mine").version.number == 4
    del work
    assert state(root, 2) == "free"


def test_another_process_holds_until_it_ends_however_it_ends(root: Path) -> None:
    code = "import sys, pausedata; v = pausedata.open(sys.argv[1], 1); print('open', flush=True); "
    reader = subprocess.Popen(
        [sys.executable, "-c", code + "sys.stdin.read()", str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "open\n"
    assert state(root, 1) == "held"
    reader.kill()
    reader.wait()
    assert state(root, 1) == "free"


def test_many_versions_of_one_process_share_a_descriptor(root: Path) -> None:
    before = descriptors()
    versions = [open_version(root, 1) for _ in range(100)] + [open_version(root) for _ in range(9)]
    assert descriptors() == before + 2
    assert versions[0] == versions[1]
    assert "hold=" not in repr(versions[0])
    del versions[1:]
    assert state(root, 1) == "held"
    versions.clear()
    assert descriptors() == before


def test_a_version_that_is_sent_to_another_process_is_held_there_too(root: Path) -> None:
    version = open_version(root, 1)
    sent = pickle.dumps(version)
    del version
    assert state(root, 1) == "free"
    received = pickle.loads(sent)
    assert received == open_version(root, 1)
    assert state(root, 1) == "held"


def test_threads_that_open_at_once_share_a_hold(root: Path) -> None:
    before, opened = descriptors(), []
    threads = [
        threading.Thread(target=lambda: opened.append(open_version(root, 1))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(version.hold) for version in opened}) == 1
    assert descriptors() == before + 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_locks_are_not_to_be_had_readers_go_on_without(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        version = open_version(root, 1)
        assert (version.number, version.hold) == (1, None)
        assert state(root, 1) == "unknown"
    assert descriptors() == before


def test_where_there_is_no_fcntl_readers_go_on_without(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_locks, "fcntl", None)
    assert open_version(root, 1).hold is None
    assert state(root, 1) == "unknown"


def test_a_lock_that_another_keeps_does_not_stop_a_reader(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a backup program's own."""
    monkeypatch.setattr(read_locks, "_TRIES", 3)
    with read_locks.excluding(manifest(root, 1)) as found:
        assert found == "free"
        version = open_version(root, 1)
    assert (version.number, version.hold) == (1, None)


def test_a_reader_waits_for_the_moment_that_gc_takes(root: Path) -> None:
    opened = []
    with read_locks.excluding(manifest(root, 1)):
        reader = threading.Thread(target=lambda: opened.append(open_version(root, 1)))
        reader.start()
        time.sleep(0.05)
    reader.join()
    assert opened[0].hold is not None
    assert state(root, 1) == "held"


def test_a_version_that_was_deleted_before_the_reader_had_its_lock_is_not_held(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is on what was the manifest; the one at its path now is another."""
    first, real = manifest(root, 1), fcntl.flock

    def replaced(descriptor: int, operation: int) -> None:
        real(descriptor, operation)
        monkeypatch.setattr(fcntl, "flock", real)
        content = first.read_bytes()
        first.rename(first.with_suffix(".old"))
        first.write_bytes(content)

    monkeypatch.setattr(fcntl, "flock", replaced)
    hold = read_locks.take(first)
    assert hold is not None
    assert os.fstat(hold._descriptor).st_ino == first.stat().st_ino


def moved_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``gc`` delete the current version right after the next reader resolved the pointer."""
    real = opening.pointer_data

    def slow(root: Path) -> Any:
        pointer = real(root)
        monkeypatch.setattr(opening, "pointer_data", real)
        place(root, {"next": appended(5)})
        assert "version 2" in collect(plan_gc(root, 0)).deleted
        return pointer

    monkeypatch.setattr(opening, "pointer_data", slow)


def test_a_reader_that_loses_its_version_to_gc_takes_the_current_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved_on(root, monkeypatch)
    version = open_version(root)
    assert (version.number, version.placements) == (3, ["low", "spare", "more", "next"])


def test_a_reader_that_asked_for_a_version_that_is_gone_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved_on(root, monkeypatch)
    with pytest.raises(UsageError, match=r"no version 2\. There: 3\."):
        open_version(root, 2)
