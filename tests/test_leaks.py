"""Nothing of the machine, its user or their secrets is in a dataset, nor in what it was made by."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import Recipe, commands, start

FOLDER = "telling-folder-kx81"
USER = "telling-user-kx82"
HOST = "telling-host-kx83"
HOME = "telling-home-kx84"
SECRETS = {
    "HF_TOKEN": "hf_kx85aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "AWS_SECRET_ACCESS_KEY": "kx86/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "OPENAI_API_KEY": "sk-kx87ccccccccccccccccccc",
}
UNUSED = {
    "source.config": "unused-config-kx88",
    "source.revision": "unused-revision-kx89",
    "model.revision": "unused-revision-kx90",
    "runs.again.model.revision": "unused-revision-kx91",
    "a comment": "comment-kx92",
}
WORDS = [FOLDER, USER, HOST, HOME, *SECRETS.values(), *UNUSED.values()]

# A process that believes that it runs on a telling machine under a telling user.
DISGUISE = f"""
import getpass, os, platform, socket
socket.gethostname = socket.getfqdn = platform.node = lambda *_: {HOST!r}
getpass.getuser = os.getlogin = lambda: {USER!r}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where everything lies: recipe, rows, model, output."""
    folder = tmp_path / FOLDER / "a=b"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / HOME
    home.mkdir()
    return {
        "USER": USER,
        "LOGNAME": USER,
        "USERNAME": USER,
        "HOSTNAME": HOST,
        "HOME": str(home),
        **SECRETS,
    }


@pytest.fixture
def written(recipe: Recipe, model_folder: Path, folder: Path) -> Path:
    """The recipe, with something in every field that nothing reads."""
    shutil.copytree(model_folder, folder / "tiny")
    shutil.copy(recipe.folder / "rows.jsonl", folder / "rows.jsonl")
    recipe.data["source"] |= {
        "files": [str(folder / "rows.jsonl")],
        "config": UNUSED["source.config"],
        "revision": UNUSED["source.revision"],
    }
    recipe.data["model"] = {"id": str(folder / "tiny"), "revision": UNUSED["model.revision"]}
    again = {"id": str(folder / "tiny"), "revision": UNUSED["runs.again.model.revision"]}
    recipe.data["runs"] = {"again": {"model": again}}
    recipe.data["output"] = str(folder / "elsewhere")
    path = folder / "recipe.yaml"
    path.write_text(f"# {UNUSED['a comment']}\n" + yaml.safe_dump(recipe.data), encoding="utf-8")
    return path


def leaks(content: bytes) -> list[str]:
    codes = ("utf-8", "utf-16-le", "utf-16-be")
    return [word for word in WORDS if any(word.encode(code) in content for code in codes)]


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes; of Parquet also all metadata and all values, which are compressed there."""
    yield path.read_bytes()
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        yield repr(file.metadata).encode() + repr(file.metadata.metadata).encode()
        yield repr(file.schema_arrow.metadata).encode()
        yield repr(file.read().to_pylist()).encode()


def leaking(root: Path) -> dict[str, list[str]]:
    """For each file below ``root`` that has one of the words in it, or in its name: the words."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        words = leaks(name.encode())
        if path.is_symlink():
            words += leaks(os.fsencode(path.readlink()))
        elif path.is_file():
            for content in contents(path):
                words += leaks(content)
        if words:
            found[name] = list(dict.fromkeys(words))
    return found


def succeed(*words: object, first: str = "", env: dict[str, str], cwd: Path) -> None:
    process = start(*words, first=DISGUISE + first, env=env, cwd=cwd)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err


@pytest.mark.processes
def test_nothing_of_the_machine_or_its_user_is_in_a_dataset(
    written: Path, folder: Path, environment: dict[str, str], model_folder: Path
) -> None:
    root = folder / "deeper" / "out"
    options: dict[str, Any] = {"env": environment, "cwd": folder.parent}
    rows = folder / "rows.jsonl"
    succeed(
        *("build", written, "--output", root, "--set", f"source.files=[{rows}]"),
        *("--set", f"model.id={folder / 'tiny'}", "--set", f"output={folder / 'other'}"),
        **options,
    )
    succeed(
        *("place", root, "more", "--strategy", "lowest_logprob", "--param", "positions=2"),
        **options,
    )
    succeed("export", root, "--placement", "more", "--format", "tokenized", **options)
    # A path from the recipe's folder, which looks like ORG/NAME.
    shutil.copytree(folder / "tiny", folder / FOLDER / "tiny")
    succeed(
        *("build", written, f"--output={root}", "--set", f"model.id={FOLDER}/tiny"),
        *("--set", f"source={{files: [{rows}]}}", "--set", "placements.x.strategy=none"),
        **options,
    )

    assert leaking(root) == {}
    versions = sorted((root / "versions").iterdir())
    commands = [json.loads((v / "manifest.json").read_text())["command"] for v in versions]
    assert commands == [
        "build recipe.yaml --output out --set 'source.files=[rows.jsonl]' --set model.id=tiny "
        "--set output=other",
        "place out more --strategy lowest_logprob --param positions=2",
        "export out --placement more --format tokenized",
        "build recipe.yaml --output=out --set model.id=tiny --set 'source={files: [rows.jsonl]}' "
        "--set placements.x.strategy=none",
    ]


@pytest.mark.processes
def test_nothing_is_in_the_staging_of_a_build_that_was_killed_either(
    written: Path, folder: Path, environment: dict[str, str]
) -> None:
    """While the second shard is scored; what is scored so far is there."""
    killed = """
import os
from pausedata.store.staging import Stage
write = Stage.write
def kill(self, path, *more):
    if path.startswith("scores/") and "-00001-" in path:
        os._exit(9)
    write(self, path, *more)
Stage.write = kill
"""
    root = folder / "out"
    process = start(
        *("build", written, "--output", root), first=DISGUISE + killed, env=environment, cwd=folder
    )
    process.communicate(timeout=300)
    assert process.returncode == 9
    assert list(root.glob("staging/scores-base-*/scores/base/*.parquet"))
    assert leaking(root) == {}


def test_what_leaks_is_found(tmp_path: Path) -> None:
    """The search itself finds words in bytes, in Parquet's values and footers, and in names."""
    import pyarrow as pa

    (tmp_path / HOST).mkdir()
    (tmp_path / "plain").write_text(f"made by {USER}")
    (tmp_path / "wide").write_bytes(f"made by {USER}".encode("utf-16"))
    table = pa.table({"a": [f"x {SECRETS['HF_TOKEN']}"] * 3})
    pq.write_table(table, tmp_path / "values.parquet", compression="zstd", use_dictionary=False)
    footer = pa.table({"a": [1]}).replace_schema_metadata({"k": FOLDER})
    pq.write_table(footer, tmp_path / "footer.parquet")
    (tmp_path / "link").symlink_to(f"/{HOME}/x")
    assert leaking(tmp_path) == {
        HOST: [HOST],
        "plain": [USER],
        "wide": [USER],
        "values.parquet": [SECRETS["HF_TOKEN"]],
        "footer.parquet": [FOLDER],
        "link": [HOME],
    }


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ("build /a/b/r.yaml", "build r.yaml"),
        ("build r.yaml --output a/b", "build r.yaml --output b"),
        ("build r.yaml --output=a/b", "build r.yaml --output=b"),
        ("build /a=b/c/r.yaml", "build r.yaml"),
        ("build ~/a/r.yaml --set model.id=../m", "build r.yaml --set model.id=m"),
        ("build r.yaml --set model.id=ORG/NAME", "build r.yaml --set model.id=ORG/NAME"),
        ("build r.yaml --set source.files=a/b.csv", "build r.yaml --set source.files=b.csv"),
        ("x --set 'source.files=[a/b.csv, c]'", "x --set 'source.files=[b.csv, c]'"),
        ("x --set 'model={id: /a/b, k: v}'", "x --set 'model={id: b, k: v}'"),
        ("--debug place a/b/d x --param k=1", "place d x --param k=1"),
    ],
)
def test_commands_are_recorded_without_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, recorded: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert typed(monkeypatch, shlex.split(given)) == recorded


def typed(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> str:
    """What is recorded of a command that was typed so."""
    from pausedata.cli import app, common

    monkeypatch.setattr(common.settings, "commands", commands(app))  # as where one runs
    monkeypatch.setattr("sys.argv", ["pausedata", *words])
    return common.command_line()


def test_a_path_that_starts_from_the_recipe_is_known_by_the_files_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "recipes" / "mine" / "tiny").mkdir(parents=True)
    (tmp_path / "recipes" / "r.yaml").touch()
    monkeypatch.chdir(tmp_path)
    words = ["build", "recipes/r.yaml", "--set", "model.id=mine/tiny"]
    assert typed(monkeypatch, words) == "build r.yaml --set model.id=tiny"


def test_a_local_folder_of_the_hub_has_no_revision(recipe: Recipe, run: Callable[..., Any]) -> None:
    (recipe.folder / "mine").mkdir()
    shutil.copy(recipe.folder / "rows.jsonl", recipe.folder / "mine" / "train.jsonl")
    recipe.data["source"] = {"hub": "./mine", "revision": "unused-revision-kx93"}
    recipe.data["scoring"] = None
    recipe.data["placements"] = {"append": {"strategy": "append", "tokens": 4}}
    recipe.data["exports"] = {}
    result = run("build", recipe.write())
    assert result.status == 0, result.err
    manifest = json.loads((recipe.out / "versions" / "0001" / "manifest.json").read_text())
    assert manifest["recipe"]["source"]["hub"] == "mine"
    assert "kx93" not in json.dumps(manifest)
