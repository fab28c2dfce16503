"""What commands make is open to those whom the umask lets in, in the folder of a group too."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from conftest import ROOT, Run, make_model, problems, tiny_recipe
from loopback_hub import LoopbackHub
from test_model_cache import write_gguf

import pausedata
from pausedata.analysis.verify import verify
from pausedata.core.progress import Silent
from pausedata.store.dataset import open_version
from pausedata.store.files import usual_modes
from pausedata.store.known_damage import marks
from pausedata.store.opening import version_numbers

pytest.importorskip("fcntl")
pytestmark = pytest.mark.processes

FIRST, SECOND, GROUP = 61_001, 61_002, 61_000  # ids that need no account
# Where commands are killed: in a function, and the how manieth call of it.
CONVERTING = ("pausedata.models.cache", "save_tokenizer", 2)  # its weights are there already
SCORING = ("pausedata.pipeline.steps.scoring", "ScoringWork._keep", 2)
EXPORTING = ("pausedata.store.staging", "Stage.write", 2)
COMMITTING = ("pausedata.store.files", "sync_tree", 1)
COMMITTED = ("pausedata.store.commit", "point_at", 1)
FETCHING = ("pausedata.hub.client", "Repository.download", 6)

Do = Callable[..., Run]


class Place:
    """A folder that all may enter, and the process of ``as_user.py``, which runs commands in it."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.given = folder / "given"  # the recipe and the models
        self._folder, self._process = folder, process

    def folder(self, name: str, owner: int, group: int, mode: int) -> Path:
        """A new folder to work in."""
        made = self._folder / name
        made.mkdir()
        if os.getuid() == 0:
            os.chown(made, owner, group)
        made.chmod(mode)
        return made

    def run(self, work: Path, *words: object, here: bool = False, **job: Any) -> Run:
        """Run a command with its log and caches in ``work``; for a job see ``as_user.py``."""
        out, err = self._folder / "out", self._folder / "err"
        asked = ["--log-file", *map(str, (work / "log", *words))]
        job = {"user": None, "umask": 0o022, "kill": None, "refuse_links": False} | job
        job |= {"words": asked, "here": here, "cache": str(work / "cache")}
        job |= {"out": str(out), "err": str(err)}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        return Run(status, out.read_text(), err.read_text())


def doer(place: Place, work: Path, check: Callable[[], None], **job: Any) -> Do:
    """What runs commands and looks at what they made: they end well, or are killed if asked to."""

    def do(*words: object, kill: Any = None, status: int = 0) -> Run:
        done = place.run(work, *words, kill=kill, **job)
        assert done.status == (-signal.SIGKILL if kill else status), (words, done.err)
        assert "Traceback" not in done.err, done.err
        check()
        return done

    return do


@pytest.fixture(scope="module")
def place(model_folder: Path) -> Iterator[Place]:
    # Not under tmp_path, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="pausedata-modes-"))
    folder.chmod(0o755)
    temporary = folder / "tmp"  # children leave what is tidied up at the end of a process
    temporary.mkdir()
    temporary.chmod(0o1777)
    given = folder / "given"
    given.mkdir()
    write_gguf(model_folder, given / "tiny.gguf")
    make_model(given / "second", seed=1)
    recipe = tiny_recipe(given, given / "tiny.gguf", problems(12), name="corpus")
    recipe.data["source"]["id"] = "id"
    recipe.write()
    for path in [given, *given.rglob("*")]:  # safetensors makes its files for their owner alone
        path.chmod(0o755 if path.is_dir() else 0o644)
    with LoopbackHub() as hub:
        # One thread: a child has none of its parent's, and would wait for them.
        own = {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "HOME": str(folder / "home")}
        # Not the user's own name, which may be a word of the card: `push` would ask about it.
        own |= {"LOGNAME": "an-account", "USER": "an-account", "TMPDIR": str(temporary)}
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "as_user.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | hub.env(folder) | own,
        )
        try:
            made = Place(folder, process)
            work = made.folder("imports", os.getuid(), os.getgid(), 0o755)

            def do(*words: object, kill: Any = None, status: int = 0) -> Run:
                done = made.run(work, *words, here=True)
                assert done.status == status, (words, done.err)
                return done

            everything(do, do, given, work)
            yield made
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
            shutil.rmtree(folder)


def everything(one: Do, other: Do, given: Path, work: Path) -> None:
    """Every command that writes, by two users in turns."""
    make(one, other, given, work)
    write(one, given, work, "a", "mit")
    write(other, given, work, "dit", "cc0-1.0")
    publish(one, other, work)
    mend(one, other, given, work)
    collect(one, other, given, work)


def add(do: Do, data: Path, name: str, kill: Any = None) -> None:
    """A placement, and so a version."""
    do("place", data, name, "--strategy", "append", "--param", "tokens=2", kill=kill)


def make(one: Do, other: Do, given: Path, work: Path) -> list[str]:
    """Tables, each begun by one and gone on with by the other; what two of the others said."""
    data = work / "data"
    build = ("build", given / "recipe.yaml", "--output", data)
    score = ("score", data, "--run", "second", "--model", given / "second")
    one(*build, kill=CONVERTING)
    other(*build, kill=SCORING)
    built = one(*build)
    other(*score, kill=SCORING)
    scored = one(*score)
    add(other, data, "a")
    add(one, data, "b", kill=COMMITTED)  # the next to write moves the pointer
    add(other, data, "c", kill=COMMITTING)  # the next to write clears it away
    add(one, data, "c")
    return [built.err, scored.err]


def write(do: Do, given: Path, work: Path, name: str, license: str) -> None:
    """All that is written beside a dataset, over what is there."""
    data = work / "data"
    export = ("export", data, "--placement", name, "--format")
    do(*export, "hf-disk")
    for target in ("rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet"):
        do(*export, "tokenized", "-o", work / target)
    do(*export, "tokenized", "-o", work / "shards", "--shard-rows", 5)
    do(*export, "hf-disk", "-o", work / "packed")
    do("card", data, "--license", license)
    do("card", data, "-o", work / "card.md")
    do("report", data, "-o", work / "report.html")
    do("sql", data, "select * from tokens", "--flat", "-o", work / "tokens.parquet")
    do("sql", data, "select * from examples", "-o", work / "examples.csv")
    do("calibrate", data, "--budget", "3/100", "--run", "base", "-o", work / "curve.svg")
    do("schema", "--write", work / "schemas")
    do("init", work / f"recipe-{name}.yaml")
    do("prepare-model", given / "tiny.gguf", work / f"model-{name}")
    do(
        *("measure", data, "--model", work / f"model-{name}", "--placement", name),
        "--allow-trained",
        *("--gate", "min_examples=2", "--gate", "max_token_overhead=0"),
        *("--eligibility", work / "eligible.json"),
        status=1,  # no-go
    )


def mend(one: Do, other: Do, given: Path, work: Path) -> None:
    """What was damaged, and an export of text, whose rows are staged while they are read back."""
    data = work / "data"
    build = ("build", given / "recipe.yaml", "--output", data)
    text = ("--format", "axolotl-segments", "--tokenizer", given / "tiny.gguf")
    export = ("export", data, "--placement", "dit", *text, "-o", work / "text")
    one(*export, kill=EXPORTING)
    other(*export)
    for do, name in ((one, "b"), (other, "c")):
        spoil(data, "versions/*/scores/base/train-00001*")  # which is made again
        spoil(open_version(data).folder, "examples/train-00000*")
        do(*build)
        do("rm", data, f"placements/{name}")
        spoil(data, f"versions/*/placements/{name}/*")  # which is lost, and marked
        do(*build)
        assert marks(data)


def spoil(folder: Path, pattern: str) -> None:
    """Write over files that are read-only, as a disk might."""
    for path in folder.glob(pattern):
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(0o600)
        path.write_bytes(b"damaged")
        path.chmod(mode)


def publish(one: Do, other: Do, work: Path) -> None:
    """A dataset on the Hub, and a copy of it that both fetch into one folder."""
    repo, copy = f"org/{work.name}", work / "copy"
    pull = ("pull", repo, copy)
    one("push", work / "data", repo)
    one(*pull, "--only", "examples,tokens")
    other(*pull, kill=FETCHING)
    one(*pull)
    add(other, copy, "d")
    one("push", copy, repo)
    add(one, work / "data", "e")
    other("gc", copy, "--older-than", "0", "--yes")


def collect(one: Do, other: Do, given: Path, work: Path) -> None:
    """Both users' versions, and what kills left in staging."""
    data = work / "data"
    for do in (one, other):
        do("score", data, "--run", "third", "--model", given / "second", kill=SCORING)
    add(one, data, "f", kill=COMMITTING)
    add(one, data, "g", kill=COMMITTED)
    for do in (other, one):  # the first finishes a commit, and keeps what was current before
        do("gc", data, "--older-than", "0", "--yes")


def check_collected(work: Path) -> None:
    """AssertionError unless one version is left, and it is whole."""
    version = open_version(work / "data")
    assert version_numbers(version.root) == [version.number]
    assert not verify(version, Silent())
    left = {path.name for path in (version.root / "staging").iterdir()}
    assert left == {"commit.lock", "pins.json"}


def modes(work: Path) -> Iterator[tuple[Path, os.stat_result, str]]:
    """All that is in ``work``, and what it is: a folder, a read-only file or one to write to."""
    for path in [work, *work.rglob("*")]:
        parts, status = path.relative_to(work).parts, path.lstat()
        # Not what a kill left of a conversion, nor the locks of huggingface_hub, which takes no
        # notice of the umask: they are empty, in folders that do, and gone after a pull.
        left = any(part.startswith(".") and part.endswith(".tmp") for part in parts)
        if left or path.is_symlink() or (path.suffix == ".lock" and ".cache" in parts):
            continue
        kind = "open"
        if path.is_dir():
            kind = "folder"
        elif "versions" in parts or ("staging" in parts and not status.st_mode & 0o222):
            kind = "shard"  # a step may have taken one from a version
        yield path, status, kind


def closed() -> Path | None:
    """A folder that keeps other users from pausedata, from what it imports or from these files."""
    needed = [Path(pausedata.__file__), Path(pyarrow.__file__), ROOT, Path(tempfile.gettempdir())]
    above = {folder for path in needed for folder in [path.resolve(), *path.resolve().parents]}
    return next((f for f in sorted(above) if f.is_dir() and not f.stat().st_mode & 0o001), None)


CLOSED = closed()
two_users = pytest.mark.skipif(
    os.getuid() != 0 or CLOSED is not None,
    reason=f"others may not enter {CLOSED}" if CLOSED else "needs root, to become two other users",
)


def of_group(work: Path) -> None:
    """AssertionError unless all in ``work`` is the group's, with the modes of umask 002."""
    expected = {"folder": 0o2775, "shard": 0o444, "open": 0o664}
    for path, status, kind in modes(work):
        assert stat.S_IMODE(status.st_mode) == expected[kind], (path, oct(status.st_mode))
        assert status.st_gid == GROUP, path


@two_users
def test_two_users_of_a_group_write_carry_on_mend_and_collect_by_turns(place: Place) -> None:
    work = place.folder("group", FIRST, GROUP, 0o2775)
    one, other = (
        doer(place, work, lambda: of_group(work), user=[uid, GROUP], umask=0o002)
        for uid in (FIRST, SECOND)
    )
    everything(one, other, place.given, work)
    check_collected(work)
    assert {status.st_uid for _, status, _ in modes(work)} == {FIRST, SECOND}


@two_users
def test_where_links_to_anothers_files_are_refused_they_are_copied(place: Place) -> None:
    work, data = place.folder("copied", FIRST, GROUP, 0o2775), "data"
    one, other = (
        doer(place, work, lambda: of_group(work), user=[u, GROUP], umask=0o002, refuse_links=True)
        for u in (FIRST, SECOND)
    )
    for said in make(one, other, place.given, work):  # of what the other began
        assert "1 of 3 shards were scored before and are kept" in said
    by = [FIRST, FIRST, SECOND, FIRST, FIRST]
    for number, uid in enumerate(by, 1):
        folder = work / data / "versions" / f"{number:04}"
        assert {path.stat().st_uid for path in folder.rglob("*")} == {uid}
    mend(one, other, place.given, work)
    collect(one, other, place.given, work)
    check_collected(work)


@two_users
def test_what_anothers_umask_keeps_from_gc_stays_and_the_rest_goes(place: Place) -> None:
    work = place.folder("kept", FIRST, GROUP, 0o2775)
    data = work / "data"
    one, other, alone = (
        doer(place, work, lambda: None, user=[uid, GROUP], umask=umask)
        for uid, umask in ((FIRST, 0o002), (SECOND, 0o002), (FIRST, 0o022))
    )
    one("build", place.given / "recipe.yaml", "--output", data)
    add(alone, data, "a")
    add(other, data, "b")
    done = other("gc", data, "--older-than", "0", "--yes")
    assert "version 2: another user's, and closed to you" in done.err
    assert version_numbers(data) == [2, 3]
    alone("gc", data, "--older-than", "0", "--yes")
    assert version_numbers(data) == [3]


@two_users
def test_a_tight_umask_closes_what_is_made_under_it_and_nothing_that_was_there(
    place: Place,
) -> None:
    work = place.folder("tight", FIRST, GROUP, 0o2775)
    data = work / "data"
    one, tight, other = (
        doer(place, work, lambda: None, user=[uid, GROUP], umask=umask, refuse_links=True)
        for uid, umask in ((FIRST, 0o002), (SECOND, 0o077), (SECOND, 0o002))
    )
    one("build", place.given / "recipe.yaml", "--output", data)
    add(tight, data, "a")
    assert stat.S_IMODE((data / "pausedata.json").stat().st_mode) == 0o664
    said = one("show", data, status=1)
    assert "versions/0002" in said.err
    add(other, data, "b")
    # What the first user made is still theirs to read, also where the version has copies of it.
    assert "mean log-probability" in one("show", data).out
    one("show", data, "--placement", "b")
    assert "closed to you" in one("show", data, "--placement", "a", status=1).err
    done = one("gc", data, "--older-than", "0", "--yes")
    assert "version 2: another user's, and closed to you" in done.err
    assert version_numbers(data) == [2, 3]


def test_what_the_umask_shuts_others_out_of_nobody_else_may_read(place: Place) -> None:
    user = [FIRST, GROUP] if os.getuid() == 0 and CLOSED is None else None
    work = place.folder("private", FIRST, FIRST, 0o700)

    def check() -> None:
        expected = {"folder": 0o700, "shard": 0o400, "open": 0o600}
        for path, status, kind in modes(work):
            assert stat.S_IMODE(status.st_mode) == expected[kind], (path, oct(status.st_mode))

    do = doer(place, work, check, user=user, umask=0o077)
    make(do, do, place.given, work)
    write(do, place.given, work, "a", "mit")
    publish(do, do, work)
    mend(do, do, place.given, work)
    collect(do, do, place.given, work)
    check_collected(work)


def test_files_of_a_library_that_makes_them_for_their_owner_alone_are_opened(
    tmp_path: Path,
) -> None:
    (tmp_path / "templates").mkdir()
    files = [tmp_path / "weights", tmp_path / "templates" / "tools"]
    for path in files:
        path.touch(mode=0o600)
    (tmp_path / "usual").touch()
    before = [p.stat().st_mode for p in (tmp_path / "templates", tmp_path / "usual")]
    usual_modes(tmp_path)
    assert {path.stat().st_mode for path in files} == {before[1]}
    assert (tmp_path / "templates").stat().st_mode == before[0]
    assert len(list(tmp_path.iterdir())) == 3
