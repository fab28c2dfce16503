"""File systems without links, modes, locks or fsync of folders: a layer of faults, and real FAT."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from handmade import commit_handmade

from pausedata.analysis.verify import verify
from pausedata.cli.render.gc import size
from pausedata.core.errors import DataError
from pausedata.core.progress import Silent
from pausedata.pipeline.commands import place
from pausedata.pipeline.recipe import Placement
from pausedata.store import files
from pausedata.store.commit import prepare_folder
from pausedata.store.dataset import Version, open_version
from pausedata.store.gc import collect, plan_gc
from pausedata.store.opening import version_numbers


def appended(tokens: int) -> Placement:
    return Placement(strategy="append", tokens=tokens)  # type: ignore[call-arg]


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def poor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What FAT does: no links, no modes, no fsync of a folder."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            failing(errno.EINVAL)()
        real(descriptor)

    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    monkeypatch.setattr(os, "symlink", failing(errno.EPERM))
    monkeypatch.setattr(os, "chmod", failing(errno.EPERM))
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(fcntl, "ioctl", failing(errno.EOPNOTSUPP))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    commit_handmade(tmp_path / "data")
    return tmp_path / "data"


def table_bytes(version: Version) -> int:
    tables = version.manifest.tables.values()
    return sum(file.bytes for table in tables for file in [*table.shards, *table.files])


# A dataset made, changed and cleaned up there


@pytest.mark.usefixtures("poor")
def test_a_dataset_lives_without_links_modes_and_fsync_of_folders(tmp_path: Path) -> None:
    root = tmp_path / "data"
    commit_handmade(root)
    outcome = place(root, {"more": appended(1)})
    assert outcome.copied == table_bytes(outcome.version)
    assert not (root / "current").is_symlink()
    assert sorted(p.name for p in root.iterdir()) == ["pausedata.json", "staging", "versions"]
    for number in (1, 2):
        assert verify(open_version(root, number), Silent()) == []

    first = [p.stat().st_size for p in (root / "versions" / "0001").rglob("*") if p.is_file()]
    result = collect(plan_gc(root, 0))
    assert (result.deleted, result.freed) == (["version 1"], sum(first))  # copies: all of it
    assert verify(open_version(root), Silent()) == []


@pytest.mark.usefixtures("poor")
@pytest.mark.parametrize(
    "words",
    [
        ["place", "more", "--strategy", "append", "--param", "tokens=1"],
        ["export", "--placement", "spare", "--format", "tokenized"],
    ],
)
def test_commands_say_what_room_the_copies_take(
    root: Path, run: Callable[..., Any], words: list[str]
) -> None:
    result = run(words[0], root, *words[1:])
    said = f"no hard links here: the version took copies of {size(table_bytes(open_version(root)))}"
    assert result.status == 0 and said in result.err
    shutil.rmtree(root)
    commit_handmade(root)
    result = run(words[0], root, *words[1:], "--json")
    assert json.loads(result.out)["copied_bytes"] == table_bytes(open_version(root))


def test_where_there_are_links_nothing_is_said_of_room(root: Path, run: Callable[..., Any]) -> None:
    words = ["--placement", "spare", "--format", "tokenized"]
    assert "hard links" not in run("export", root, *words).err


# Links


@pytest.mark.parametrize(
    "number",
    [errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV, errno.EMLINK, errno.ENOSYS],
)
def test_where_a_link_cannot_be_the_file_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    monkeypatch.setattr(os, "link", failing(number))
    monkeypatch.setattr(fcntl, "ioctl", failing(errno.EOPNOTSUPP))
    assert files.link_or_copy(tmp_path / "a", tmp_path / "new" / "b") == 5
    assert (tmp_path / "new" / "b").read_bytes() == b"12345"
    assert (tmp_path / "a").stat().st_nlink == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.ENOENT])
def test_other_errors_stop_the_commit_and_nothing_is_changed(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", failing(number))
        with pytest.raises(OSError) as raised:
            place(root, {"more": appended(1)})
    assert raised.value.errno == number
    assert version_numbers(root) == [1]
    assert not list((root / "staging").glob("commit-*"))
    assert verify(open_version(root), Silent()) == []
    assert place(root, {"more": appended(1)}).version.number == 2


def test_a_copy_that_shares_its_blocks_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Btrfs and XFS do; the ioctl is given the target's descriptor and then the source's."""

    def clone(target: int, request: int, source: int) -> int:
        assert request == 0x40049409
        os.write(target, os.pread(source, 100, 0))
        return 0

    (tmp_path / "a").write_bytes(b"12345")
    monkeypatch.setattr(os, "link", failing(errno.EXDEV))
    monkeypatch.setattr(fcntl, "ioctl", clone)
    monkeypatch.setattr(files.sys, "platform", "linux")
    assert files.link_or_copy(tmp_path / "a", tmp_path / "b") == 0
    assert (tmp_path / "b").read_bytes() == b"12345"


# Modes and fsync


def test_what_else_is_wrong_with_a_mode_or_an_fsync_is_not_passed_over(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for holder, name, number in (
        (os, "chmod", errno.EIO),
        (os, "chmod", errno.ENOENT),
        (os, "fsync", errno.EIO),
        (os, "fsync", errno.ENOSPC),
        (os, "fsync", errno.EINVAL),  # of a file: nothing would be on the disk
    ):
        with monkeypatch.context() as patch:
            patch.setattr(holder, name, failing(number))
            with pytest.raises(OSError) as raised:
                place(root, {"more": appended(1)})
        assert raised.value.errno == number
        assert version_numbers(root) == [1]


# Locks


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS])
def test_without_locks_a_dataset_can_be_read_and_a_writer_is_told(
    root: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    place(root, {"more": appended(1)})
    monkeypatch.setattr(fcntl, "flock", failing(number))
    assert run("verify", root).status == 0
    count = run("sql", root, "select count(*) n from examples", "--json")
    assert json.loads(count.out) == [{"n": 4}]
    assert run("gc", root, "--older-than", "0", "--dry-run").status == 0
    for words in (
        ["place", root, "again", "--strategy", "append", "--param", "tokens=1"],
        ["gc", root, "--older-than", "0", "--yes"],
    ):
        result = run(*words)
        assert (result.status, result.err.splitlines()[-1]) == (
            1,
            f"error: {root}/staging/commit.lock: this file system keeps no locks "
            f"({os.strerror(number)}). A dataset can be read here, but not written: choose a "
            "folder on another, or mount it with locks.",
        )
    assert version_numbers(root) == [1, 2]


def test_without_locks_a_build_ends_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOSYS))
    with pytest.raises(DataError, match="this file system keeps no locks"):
        prepare_folder(tmp_path / "new")


# The real thing


@pytest.fixture
def fat(tmp_path: Path) -> Iterator[Path]:
    """A FAT file system of 32 MB, where this machine lets us make and mount one."""
    image, mounted = tmp_path / "fat.img", tmp_path / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(32_000_000)
    try:
        subprocess.run(["mkfs.vfat", image], check=True, capture_output=True)
        subprocess.run(
            ["mount", "-o", "loop", "-t", "vfat", image, mounted], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a FAT image needs root, mkfs.vfat, and to be allowed")
    yield mounted
    subprocess.run(["umount", mounted], check=True)


def test_a_dataset_lives_on_fat(fat: Path) -> None:
    root = fat / "data"
    commit_handmade(root)
    outcome = place(root, {"more": appended(1)})
    assert outcome.copied == table_bytes(outcome.version)
    for number in (1, 2):
        assert verify(open_version(root, number), Silent()) == []
    assert collect(plan_gc(root, 0)).deleted == ["version 1"]
    assert verify(open_version(root), Silent()) == []


# Whole copies


@pytest.mark.parametrize(
    "command",
    ["cp -r data copy", "cp -rL data copy", "mkdir copy && tar c -C data . | tar x -C copy"],
)
@pytest.mark.parametrize("without", [[], ["staging"], ["current"], ["staging", "current"]])
def test_a_copy_of_a_dataset_is_whole(root: Path, command: str, without: list[str]) -> None:
    place(root, {"more": appended(1)})
    copy = root.parent / "copy"
    subprocess.run(command, shell=True, cwd=root.parent, check=True)
    for name in without:
        gone = copy / name
        shutil.rmtree(gone) if gone.is_dir() and not gone.is_symlink() else gone.unlink()
    shutil.rmtree(root)  # nothing of the copy rests on it

    assert open_version(copy).placements == ["low", "spare", "more"]
    for number in (1, 2):
        assert verify(open_version(copy, number), Silent()) == []
    outcome = place(copy, {"third": appended(3)})
    assert (outcome.version.number, outcome.copied) == (3, 0)
    assert verify(outcome.version, Silent()) == []
    assert collect(plan_gc(copy, 0)).deleted == ["version 1", "version 2"]
    assert verify(open_version(copy), Silent()) == []
