"""``gc``: what it deletes, what it never deletes, what it says, and a kill in the midst of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from filelock import FileLock
from handmade import SHARDS, commit_handmade, placement_table

from pausedata.analysis.verify import verify
from pausedata.cli.render.gc import size
from pausedata.core.errors import DataError
from pausedata.core.progress import Silent
from pausedata.pipeline.commands import place
from pausedata.pipeline.recipe import Placement
from pausedata.store import gc as gc_module
from pausedata.store.commit import commit_lock
from pausedata.store.dataset import open_version
from pausedata.store.gc import collect, parse_age, plan_gc
from pausedata.store.opening import version_numbers
from pausedata.store.staging import Staging, stage_folder

DAY = 86400.0


def appended(tokens: int) -> Placement:
    return Placement(strategy="append", tokens=tokens)  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gc") / "data"
    commit_handmade(root)
    place(root, {"two": appended(2)})
    place(root, {"three": appended(3)})
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """A dataset with the versions 1 to 3, a test's own; links between them are kept."""
    return copied(original, tmp_path / "data")


def copied(root: Path, target: Path) -> Path:
    """A copy in which versions share files as they do in ``root``."""
    first: dict[int, str] = {}

    def copy(source: str, to: str) -> None:
        same = first.setdefault(os.stat(source).st_ino, to)  # noqa: PTH116
        if same is to:
            shutil.copy2(source, to)
        else:
            os.link(same, to)

    return shutil.copytree(root, target, symlinks=True, copy_function=copy)


def old(path: Path, days: float) -> Path:
    """As if everything in ``path`` had last been written ``days`` ago."""
    then = path.stat().st_mtime - days * DAY
    for each in [*path.rglob("*"), path]:
        os.utime(each, (then, then))
    return path


def created(root: Path, number: int, when: str) -> None:
    """As if the version had been made at ``when`` (of one that is not current)."""
    path = root / "versions" / f"{number:04d}" / "manifest.json"
    data = json.loads(path.read_bytes()) | {"created": when}
    path.chmod(0o644)
    path.write_text(json.dumps(data))


def unfinished(root: Path, step: str, shards: int = 2, days: float = 0) -> Path:
    """The staging of a step that was killed after so many shards."""
    with closing(Staging(root)) as staging:
        stage = staging.stage(step, {"made": "here"})
        rows = placement_table([("a", {0: 1})])
        for split, file, _ in SHARDS[:shards]:
            stage.write(f"{step}/{file}", rows, {"split": split})
    return old(stage_folder(root, step, {"made": "here"}), days)


def own_files(root: Path, *numbers: int) -> list[Path]:
    """What versions never share."""
    folders = [root / "versions" / f"{number:04d}" for number in numbers]
    return [folder / name for folder in folders for name in ("manifest.json", "README.md")]


def names(root: Path, older_than: float | None = None) -> list[str]:
    return [item.name for item in plan_gc(root, older_than).items]


def point_at(root: Path, number: int) -> None:
    manifest = root / "versions" / f"{number:04d}" / "manifest.json"
    (root / "pausedata.json").write_text(
        json.dumps(
            {
                "format": "pausedata/1",
                "current": number,
                "sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
            }
        )
    )


def whole(root: Path) -> bool:
    return verify(open_version(root), Silent()) == []


# Versions


def test_old_versions_go_and_the_current_one_stays_whole(root: Path) -> None:
    assert names(root, 0) == ["version 1", "version 2"]
    result = collect(plan_gc(root, 0))
    assert result.deleted == ["version 1", "version 2"]
    assert version_numbers(root) == [3]
    assert [p.name for p in (root / "staging").iterdir()] == ["commit.lock"]
    assert whole(root)
    assert open_version(root).placements == ["low", "spare", "two", "three"]


def test_numbers_are_never_used_twice(root: Path) -> None:
    collect(plan_gc(root, 0))
    assert place(root, {"four": appended(4)}).version.number == 4


def test_what_is_younger_stays_by_the_time_in_its_manifest(root: Path) -> None:
    assert names(root) == []  # all made just now, and the default is an hour
    created(root, 1, "2020-01-01T00:00:00Z")
    assert names(root) == ["version 1"]
    assert names(root, 100 * 366 * DAY) == []
    assert plan_gc(root).kept == {"version 2": "younger than --older-than"}


def test_a_damaged_version_goes_by_the_age_of_its_folder(root: Path) -> None:
    manifest = root / "versions" / "0001" / "manifest.json"
    manifest.unlink()
    assert names(root) == []
    old(manifest.parent, 2)
    plan = plan_gc(root)
    assert [(i.name, i.what) for i in plan.items] == [
        ("version 1", "damaged: its manifest cannot be read")
    ]
    assert collect(plan).deleted == ["version 1"]
    assert version_numbers(root) == [2, 3]


def test_where_the_current_version_is_damaged_nothing_is_deleted(root: Path) -> None:
    manifest = root / "versions" / "0003" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{}")
    with pytest.raises(DataError, match="its sha256 is not the one"):
        plan_gc(root, 0)


def test_a_version_that_a_reader_holds_stays(root: Path) -> None:
    reader = open_version(root, 1)
    plan = plan_gc(root, 0)
    assert [item.name for item in plan.items] == ["version 2"]
    assert plan.kept == {"version 1": "held by a pausedata reader or writer"}
    del reader
    assert names(root, 0) == ["version 1", "version 2"]


def test_a_version_that_is_opened_after_it_was_shown_stays(root: Path) -> None:
    plan = plan_gc(root, 0)
    reader = open_version(root, 1)
    result = collect(plan)
    assert result.deleted == ["version 2"]
    assert result.kept == {"version 1": "held by a pausedata reader or writer"}
    assert verify(reader, Silent()) == []


def test_a_version_that_became_current_after_it_was_shown_stays(root: Path) -> None:
    plan = plan_gc(root, 0)
    shutil.rmtree(root / "versions" / "0003")
    point_at(root, 2)
    assert collect(plan).deleted == ["version 1"]
    assert whole(root)


def test_a_number_above_the_current_one_is_not_freed_for_another_version(root: Path) -> None:
    """As after a pointer that was put back by hand: 0003 is a version, or a damaged folder."""
    foreign = root / "versions" / "0003" / "manifest.json"
    foreign.chmod(0o644)
    foreign.write_text("{")
    point_at(root, 2)
    plan = plan_gc(root, 0)
    assert [item.name for item in plan.items] == ["version 1"]
    assert list(plan.kept) == ["version 3"]
    collect(plan)
    assert place(root, {"four": appended(4)}).version.number == 4
    assert names(root, 0) == ["version 2", "version 3"]
    collect(plan_gc(root, 0))
    assert place(root, {"five": appended(5)}).version.number == 5


def test_a_commit_that_was_cut_off_before_the_pointer_is_finished_first(root: Path) -> None:
    point_at(root, 2)
    plan = plan_gc(root, 0)
    assert [item.name for item in plan.items] == ["version 1"]
    assert collect(plan).deleted == ["version 1"]
    assert open_version(root).number == 3
    assert names(root, 0) == ["version 2"]


def test_bytes_are_counted_where_the_last_link_goes(root: Path) -> None:
    """Versions 1 and 2 share all with 3 but their own manifest and README."""
    plan = plan_gc(root, 0)
    own = own_files(root, 1, 2)
    assert plan.frees == sum(path.stat().st_size for path in own)
    first = sum(p.stat().st_size for p in (root / "versions" / "0001").rglob("*") if p.is_file())
    assert plan.items[0].bytes == first > plan.frees
    assert collect(plan).freed == plan.frees


def test_bytes_that_only_the_deleted_versions_share_are_freed(root: Path) -> None:
    """`two` is made anew in version 4: the old one has links in 2 and 3, and both go."""
    place(root, {"two": appended(9)}, replace=True)
    lost = sum(p.stat().st_size for p in (root / "versions/0002/placements/two").iterdir())
    own = own_files(root, 1, 2, 3)
    plan = plan_gc(root, 0)
    assert plan.frees == lost + sum(path.stat().st_size for path in own)
    assert collect(plan).freed == plan.frees


def test_a_current_link_that_lags_does_not_lead_nowhere(root: Path) -> None:
    (root / "current").unlink()
    (root / "current").symlink_to("versions/0002")
    collect(plan_gc(root, 0))
    assert not (root / "current").is_symlink()
    place(root, {"four": appended(4)})
    assert (root / "current").readlink() == Path("versions/0004")


def test_read_only_folders_are_deleted_too(original: Path) -> None:
    """Root may do anything: there, a child does it that gave up being root."""
    nobody = 65534
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from pausedata.store.gc import collect, plan_gc\n"
        f"if os.getuid() == 0: os.setuid({nobody})\n"
        "plan = plan_gc(Path(sys.argv[1]), 0)\n"
        "result = collect(plan)\n"
        "assert result.deleted == ['version 1', 'version 2'], result\n"
    )
    # Not under tmp_path, which only its owner may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = copied(original, Path(folder) / "data")
        for path in [*(root / "versions" / "0001").rglob("*"), root / "versions" / "0001"]:
            if path.is_dir():
                path.chmod(0o555)
        for path in [root, *root.rglob("*")] if os.getuid() == 0 else []:
            os.chown(path, nobody, nobody, follow_symlinks=False)
        subprocess.run([sys.executable, "-c", code, str(root)], check=True)
        assert version_numbers(root) == [3]
        kept = root / "versions" / "0003" / "vocab.parquet"
        assert kept.stat().st_mode & 0o222 == 0  # it shared its mode with what went
        assert whole(root)


def test_a_file_that_can_not_be_deleted_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    real = Path.unlink

    def stuck(path: Path, missing_ok: bool = False) -> None:
        if path.name == "vocab.parquet" and "gc-0001" in str(path):
            raise OSError(5, "Input/output error")
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stuck)
        result = run("gc", root, "--older-than", "0", "--yes")
    assert result.status == 1
    assert "could not delete version 1:" in result.err and "Input/output error" in result.err
    assert version_numbers(root) == [3]
    assert [i.kind for i in plan_gc(root).items] == ["gc"]  # and the next gc finishes it
    collect(plan_gc(root))
    assert names(root, 0) == []


# Staging


def test_unfinished_work_goes_when_it_is_old(root: Path) -> None:
    folder = unfinished(root, "placements/new", shards=2, days=0.5)
    plan = plan_gc(root)
    assert [(i.kind, i.name, i.what) for i in plan.items] == [
        ("step", f"staging/{folder.name}", "unfinished placements/new, 2 shards finished")
    ]
    assert plan.frees == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    result = collect(plan)
    assert (result.deleted, result.freed) == ([f"staging/{folder.name}"], plan.frees)
    assert [p.name for p in (root / "staging").iterdir()] == ["commit.lock"]


def test_unfinished_work_counts_from_its_newest_file(root: Path) -> None:
    folder = unfinished(root, "placements/new", days=0.5)
    (folder / "placements" / "new" / "train-00001-of-00002.parquet").touch()
    assert names(root) == []
    assert plan_gc(root).kept[f"staging/{folder.name}"] == (
        "unfinished placements/new, 2 shards finished: younger than --older-than"
    )


def test_unfinished_scores_are_kept_for_seven_days_unless_told_otherwise(root: Path) -> None:
    folder = unfinished(root, "scores/epoch-1", shards=1, days=6)
    assert names(root) == []
    assert plan_gc(root).kept[f"staging/{folder.name}"] == (
        "unfinished scores/epoch-1, 1 shard finished: scores are kept for seven days, unless "
        "--older-than is given"
    )
    assert f"staging/{folder.name}" in names(root, 5 * DAY)
    old(folder, 2)
    assert names(root) == [f"staging/{folder.name}"]


def test_work_that_a_process_is_at_stays_however_old(root: Path) -> None:
    unfinished(root, "placements/new", days=30)
    with closing(Staging(root)) as staging:
        stage = staging.stage("placements/new", {"made": "here"})
        plan = plan_gc(root)
        assert (plan.items, list(plan.kept.values())[-1]) == (
            [],
            "unfinished placements/new, 2 shards finished: being worked on",
        )
    plan = plan_gc(root)
    assert len(plan.items) == 1
    with closing(Staging(root)) as staging:
        stage = staging.stage("placements/new", {"made": "here"})
        assert collect(plan).kept == {f"staging/{stage.folder.name}": "worked on meanwhile"}
    assert stage.finished("placements/new/train-00000-of-00002.parquet")


def test_work_that_was_taken_up_after_it_was_shown_stays(root: Path) -> None:
    folder = unfinished(root, "placements/new", days=30)
    plan = plan_gc(root)
    (folder / "placements" / "new" / "train-00001-of-00002.parquet").touch()
    assert collect(plan).deleted == []
    assert folder.is_dir()


def test_what_kills_left_goes_and_what_others_put_there_stays(root: Path) -> None:
    staging = root / "staging"
    for name in ("commit-abcd", "gc-0009-12345678"):
        (staging / name / "tokens").mkdir(parents=True)
        (staging / name / "tokens" / "x.parquet").write_bytes(b"12345")
    (staging / "current-123").symlink_to("versions/0001")
    (root / ".pausedata.json.123.tmp").write_text("{")
    (staging / "tokens-0123456789abcdef.lock").touch()
    unfinished(root, "placements/new")  # with a lock of its own
    (staging / "pins.json").write_text("{}")
    (staging / "notes").mkdir()
    (staging / ".pins.json.77.tmp").write_text("{")

    plan = plan_gc(root)
    assert [(i.kind, i.name) for i in plan.items] == [
        ("commit", ".pausedata.json.123.tmp"),
        ("commit", "staging/commit-abcd"),
        ("commit", "staging/current-123"),
        ("gc", "staging/gc-0009-12345678"),
        ("lock", "staging/tokens-0123456789abcdef.lock"),
    ]
    assert len(collect(plan).deleted) == 5
    kept = {p.name for p in staging.iterdir() if "placements-new" not in p.name}
    assert kept == {"commit.lock", "pins.json", "notes", ".pins.json.77.tmp"}
    old(staging / ".pins.json.77.tmp", 1)
    assert names(root) == ["staging/.pins.json.77.tmp"]


def test_the_folder_of_a_commit_that_is_being_made_is_not_for_gc(root: Path) -> None:
    (root / "staging" / "commit-now").mkdir()
    with commit_lock(root):
        assert names(root) == []
    assert names(root) == ["staging/commit-now"]


def test_a_lock_that_is_held_stays(root: Path) -> None:
    with FileLock(root / "staging" / "tokens-0123456789abcdef.lock"):
        assert names(root) == []


def test_a_writer_that_waited_for_the_lock_begins_anew(root: Path) -> None:
    """The lock's file is removed with the folder: what is locked after that is another file."""
    unfinished(root, "placements/new", days=1)
    collect(plan_gc(root))
    with closing(Staging(root)) as staging:
        stage = staging.stage("placements/new", {"made": "here"})
        path = "placements/new/train-00000-of-00002.parquet"
        assert stage.finished(path) is None
        stage.write(path, pa.table({"a": [1]}))
        assert stage.finished(path)


# Kills


@pytest.mark.parametrize(
    ("holder", "step", "every"),
    [(Path, "rename", 1), (Path, "unlink", 7), (Path, "rmdir", 6), (os, "fsync", 1)],
)
def test_a_kill_anywhere_leaves_whole_versions_and_the_next_gc_finishes(
    original: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    holder: Any,
    step: str,
    every: int,
) -> None:
    """Killed before the first such step, before a later one, and so on until gc gets through."""

    class Killed(BaseException):
        pass

    for nth in itertools.count(1, every):
        root = copied(original, tmp_path / str(nth))
        unfinished(root, "placements/new", shards=1)
        real, calls = getattr(holder, step), itertools.count(1)

        def kill(*args: Any, real: Any = real, calls: Any = calls, nth: int = nth, **k: Any) -> Any:
            if next(calls) == nth:
                raise Killed
            return real(*args, **k)

        with monkeypatch.context() as patch:
            patch.setattr(holder, step, kill)
            try:
                collect(plan_gc(root, 0))
            except Killed:
                killed = True
            else:
                killed = False
        for number in version_numbers(root):
            assert verify(open_version(root, number), Silent()) == []
        assert open_version(root).number == 3
        collect(plan_gc(root, 0))
        assert version_numbers(root) == [3] and names(root, 0) == []
        assert [p.name for p in (root / "staging").iterdir()] == ["commit.lock"]
        shutil.rmtree(root)
        if not killed:
            assert nth > 1
            return


def test_two_gcs_at_once_do_not_stumble(root: Path) -> None:
    first, second = plan_gc(root, 0), plan_gc(root, 0)
    assert collect(first).deleted == ["version 1", "version 2"]
    result = collect(second)
    assert (result.deleted, result.freed, result.failed) == ([], 0, {})


@pytest.mark.processes
def test_readers_go_on_while_versions_are_made_and_deleted(root: Path) -> None:
    code = (
        "import sys, threading\n"
        "from pausedata.store.dataset import open_version\n"
        "ended = threading.Event()\n"
        "threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()\n"
        "seen = set()\n"
        "while not ended.is_set():\n"
        "    version = open_version(sys.argv[1])\n"
        "    for table in version.tables.values():\n"
        "        assert sum(table.read(s).num_rows for s in table.shards) == table.entry.rows\n"
        "    seen.add(version.number)\n"
        "    if len(seen) == 1: print('begun', flush=True)\n"
        "print(len(seen))\n"
    )
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for reader in readers:
        assert reader.stdout is not None and reader.stdout.readline() == "begun\n"
    deleted = 0
    for number in range(8):
        place(root, {"more": appended(number + 5)}, replace=True)
        deleted += len(collect(plan_gc(root, 0)).deleted)
    outs = [reader.communicate(timeout=120)[0] for reader in readers]
    assert [reader.returncode for reader in readers] == [0, 0]
    assert all(int(out.split()[-1]) > 1 for out in outs)
    collect(plan_gc(root, 0))
    assert deleted > 1 and version_numbers(root) == [11] and whole(root)


# The command


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("30s", 30), ("90m", 5400), ("12h", 43_200), ("7d", 604_800), ("0d", 0)],
)
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "-1d", "1w", "d", "1.5h", "1h30m", "\u0663d"])
def test_what_is_no_age_is_refused(text: str, root: Path, run: Callable[..., Any]) -> None:
    result = run("gc", root, f"--older-than={text}", "--yes")
    assert result.status == 2
    assert "give an age such as 0, 30s, 90m, 12h or 7d" in result.err


def test_it_shows_what_and_how_much_and_needs_yes_where_there_is_no_terminal(
    root: Path, run: Callable[..., Any]
) -> None:
    result = run("gc", root, "--older-than", "0")
    assert result.status == 2
    plan = plan_gc(root, 0)
    assert re.sub(r"(less than a|[0-9]+) minutes? old", "… old", result.err).splitlines() == [
        f"{root}: to delete",
        f"  version 1: {size(plan.items[0].bytes)}, … old; build handmade.yaml",
        f"  version 2: {size(plan.items[1].bytes)}, … old; place",
        f"  frees {size(plan.frees)} "
        f"({size(sum(i.bytes for i in plan.items) - plan.frees)} stay, shared with what stays)",
        "Other tools (DuckDB, Polars, a trainer …) hold no version: make sure that none of them "
        "reads these.",
        "error: there is no terminal to ask on: give --yes to delete, or --dry-run.",
    ]
    assert version_numbers(root) == [1, 2, 3]


def test_it_asks_on_a_terminal(
    root: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        def __init__(self, answer: str) -> None:
            self.answer = answer

        def isatty(self) -> bool:
            return True

        def readline(self, *_: Any) -> str:
            return self.answer + "\n"

    monkeypatch.setattr(sys, "stdin", Terminal("n"))
    result = run("gc", root, "--older-than", "0")
    assert (result.status, version_numbers(root)) == (0, [1, 2, 3])
    assert result.err.endswith("nothing was deleted\n")
    assert result.out.strip() == ""
    monkeypatch.setattr(sys, "stdin", Terminal("y"))
    result = run("gc", root, "--older-than", "0")
    assert (result.status, version_numbers(root)) == (0, [3])
    assert "deleted 2 things, freed " in result.err


def test_a_dry_run_deletes_nothing_and_leaves_no_trace(root: Path, run: Callable[..., Any]) -> None:
    def entries() -> list[tuple[Path, float]]:
        return sorted((p, p.lstat().st_mtime) for p in root.rglob("*"))

    unfinished(root, "placements/new")
    (root / "staging" / "commit-x").mkdir()
    (root / "staging" / "commit.lock").unlink()
    before = entries()
    result = run("gc", root, "--older-than", "0", "--dry-run", "--yes")
    assert result.status == 0 and "version 1" in result.err
    assert entries() == before


def test_as_json(root: Path, run: Callable[..., Any]) -> None:
    reader = open_version(root, 2)
    result = run("gc", root, "--older-than", "0", "--yes", "--json")
    printed = json.loads(result.out)
    assert (result.status, result.err) == (0, "")
    assert [(d["kind"], d["name"]) for d in printed["delete"]] == [("version", "version 1")]
    assert printed["deleted"] == ["version 1"]
    assert printed["kept"] == {"version 2": "held by a pausedata reader or writer"}
    assert printed["frees_bytes"] == printed["freed_bytes"] > 0
    assert (printed["current"], printed["failed"], printed["sees_holds"]) == (3, {}, True)
    del reader


def test_where_nothing_is_to_be_done_it_says_so(root: Path, run: Callable[..., Any]) -> None:
    result = run("gc", root)
    assert result.status == 0
    assert result.err.splitlines() == [
        f"{root}: nothing to delete",
        "kept",
        "  version 1: younger than --older-than",
        "  version 2: younger than --older-than",
    ]


def test_what_is_no_dataset_is_left_alone(tmp_path: Path, run: Callable[..., Any]) -> None:
    (tmp_path / "staging" / "commit-mine").mkdir(parents=True)
    result = run("gc", tmp_path, "--older-than", "0", "--yes")
    assert result.status == 2 and "not a pausedata dataset" in result.err
    assert (tmp_path / "staging" / "commit-mine").is_dir()


def test_where_holds_cannot_be_seen_it_says_so(
    root: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc_module.read_locks, "fcntl", None)
    result = run("gc", root, "--older-than", "0", "--dry-run")
    assert "This file system does not say which versions pausedata itself is reading" in result.err


@pytest.mark.parametrize(
    ("bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_250_000, "1.2 MB"), (999_700_000, "1.0 GB")],
)
def test_sizes(bytes: int, text: str) -> None:
    assert size(bytes) == text
