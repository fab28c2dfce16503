"""What a person sees who got something wrong: one clear message, the right status, no damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Recipe, Run, make_model, write_rows

from pausedata.analysis.verify import verify
from pausedata.core.progress import Silent
from pausedata.store.dataset import open_version

Command = Callable[..., Run]


def refused(ended: Run, status: int, *said: str) -> None:
    """The command ended with ``status`` and said all this, in few lines and without a traceback."""
    assert ended.status == status, ended.err
    assert "Traceback" not in ended.err
    for text in said:
        assert text in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"promt": "x"}, ["'promt'", "Did you mean 'prompt'?"]),
        ({"source.limt": 3}, ["'source.limt'", "Did you mean 'limit'?"]),
        ({"scoring.backend": "transformer"}, ["'transformer'", "Did you mean 'transformers'?"]),
        ({"placements.dit.strategy": "lowest_logprop"}, ["Did you mean 'lowest_logprob'?"]),
        ({"placements.dit.position": 3}, ["'position'", "Did you mean 'positions'?"]),
        ({"placements.dit.positions": "many"}, ["placements.dit.positions", "'many'"]),
        ({"exports.dit-tokenized.format": "tokenised"}, ["Did you mean 'tokenized'?"]),
        ({"exports.dit-tokenized.placement": "dot"}, ["no placement 'dot'", "'dit'"]),
        ({"model.dtype": "float23"}, ["model.dtype", "'float23'"]),
        ({"name": "a b"}, ["name", "'a b'"]),
        ({"source.split": "a-b"}, ["source.split"]),
        ({"source.max_bad_rows": -1}, ["source.max_bad_rows"]),
        ({"response": None}, ["response"]),
        ({"source.hub": "openai/gsm8k"}, ["either hub or files"]),
        ({"pause.token": ["PAUSE"]}, ["pause.token", "Quote it"]),
        ({"scoring": None}, ["placements.dit", "needs scores"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_recipe_names_the_file_the_key_and_the_nearest(
    recipe: Recipe, run: Command, change: dict[str, Any], said: list[str]
) -> None:
    for key, value in change.items():
        holder: Any = recipe.data
        *path, last = key.split(".")
        for step in path:
            holder = holder.setdefault(step, {})
        holder[last] = value
    ended = run("build", recipe.write())
    refused(ended, 2, str(recipe.path), *said)
    assert ended.err.count("\n") <= 2
    assert not recipe.out.exists()


def test_a_bare_pause_says_to_quote_it_in_the_file_and_on_the_command_line(
    recipe: Recipe, run: Command
) -> None:
    text = recipe.write().read_text() + "pause: {token: [PAUSE]}\n"
    recipe.path.write_text(text)
    refused(run("plan", recipe.path), 2, "pause.token", 'token: "[PAUSE]"')
    recipe.write()
    refused(run("plan", recipe.path, "--set", "pause.token=[PAUSE]"), 2, "Quote it")


def test_a_key_given_twice_and_yaml_that_is_none(recipe: Recipe, run: Command) -> None:
    recipe.path.write_text("name: a\nname: b\n")
    refused(run("build", recipe.path), 2, "'name' is given twice")
    recipe.path.write_text("name: [a\n")
    refused(run("build", recipe.path), 2, "not YAML")
    recipe.path.write_text("- a\n")
    refused(run("build", recipe.path), 2, "mapping")
    refused(run("build", recipe.folder / "recipy.yaml"), 2, "recipy.yaml", "no such recipe")


def test_missing_files_columns_and_variables_name_what_there_is(
    recipe: Recipe, run: Command
) -> None:
    recipe.data["source"]["files"] = ["row.jsonl"]
    refused(run("build", recipe.write()), 2, "row.jsonl", "Did you mean 'rows.jsonl'?")
    recipe.data["source"]["files"] = ["rows.jsonl"]
    recipe.data["prompt"] = "{{ qestion }}"
    refused(run("build", recipe.write()), 2, "qestion", "question", "answer")
    recipe.data["prompt"] = "{{ question }}"
    recipe.data["source"]["id"] = "idd"
    refused(run("build", recipe.write()), 2, "'idd'", "id")
    recipe.data["source"]["id"] = None
    recipe.data["prompt"] = "{{ question "
    refused(run("build", recipe.write()), 2, "prompt")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"question": "q", "answer": "a"\n', "bad_json"),
        (b'{"question": "\xff\xfe", "answer": "a"}\n', "bad_utf8"),
        (b'["q", "a"]\n', "not_an_object"),
        (b'{"question": "q", "answer": ""}\n', "empty_response"),
        (b'{"question": "q", "answer": null}\n', "null"),
        (b'{"question": "q", "answer": 42}\n', "not_text"),
        (b'{"question": "q", "answer": "so [PAUSE] it is"}\n', "has_pause"),
        (b'{"question": "q"}\n', "missing_column"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_that_cannot_be_used_is_named_before_any_scoring(
    recipe: Recipe, run: Command, line: bytes, reason: str
) -> None:
    path = recipe.folder / "rows.jsonl"
    good = path.read_bytes()
    path.write_bytes(good + line)
    ended = run("build", recipe.write())
    refused(ended, 1, "1 of 13 rows cannot be used", reason, "max_bad_rows")
    assert "rows.jsonl:13" in ended.err
    assert not list(recipe.out.glob("staging/scores-*"))
    # Mended, it goes through; or left out on purpose.
    ended = run("build", recipe.path, "--set", "source.max_bad_rows=1")
    assert ended.status == 0, ended.err
    assert open_version(recipe.out).manifest.rows["train"].dropped == {reason: 1}


def test_model_folders_that_are_none(recipe: Recipe, run: Command, tmp_path: Path) -> None:
    recipe.data["model"]["id"] = str(tmp_path / "nowhere")
    refused(run("build", recipe.write()), 2, "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    recipe.data["model"]["id"] = str(empty)
    refused(run("build", recipe.write()), 2, "config.json")
    recipe.data["model"]["id"] = "../models/SmolLM2.gguf"
    refused(run("build", recipe.write()), 2, "SmolLM2.gguf", "make model")


def test_a_tokenizer_without_eos(recipe: Recipe, run: Command, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "no-eos")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.exists():
            path.write_text(
                json.dumps(
                    {k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}
                )
            )
    recipe.data["model"]["id"] = str(folder)
    refused(run("build", recipe.write()), 2, "end-of-sequence", "scoring.append_eos: false")
    ended = run("build", recipe.path, "--set", "scoring.append_eos=false")
    assert ended.status == 0, ended.err


def test_output_folders_that_cannot_be_used(recipe: Recipe, run: Command, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    refused(run("build", recipe.write(), "--output", other), 2, "something else", "thesis.tex")
    assert sorted(p.name for p in other.iterdir()) == ["thesis.tex"]
    refused(run("build", recipe.path, "--output", other / "thesis.tex"), 2, "is a file")


def test_a_read_only_folder(recipe: Recipe, run: Command, tmp_path: Path) -> None:
    """Root may write anywhere, so the refusal is a file system's."""
    import os

    mount = tmp_path / "mount"
    mount.mkdir()
    if os.system(f"mount -t tmpfs -o ro tmpfs {mount} 2>/dev/null") != 0:
        pytest.skip("mounting a file system needs root, and to be allowed")
    try:
        refused(run("build", recipe.write(), "--output", mount / "out"), 1, "Read-only", "--output")
    finally:
        os.system(f"umount {mount}")


def test_a_failed_replace_leaves_the_committed_version_whole(built: Recipe, run: Command) -> None:
    path = built.folder / "rows.jsonl"
    path.write_bytes(path.read_bytes() + b"broken\n")
    refused(run("build", built.write(), "--replace"), 1, "bad_json")
    assert open_version(built.out).number == 1
    assert verify(open_version(built.out), Silent()) == []


def test_wrong_arguments_of_the_other_commands(built: Recipe, run: Command) -> None:
    out = built.out
    refused(run("place", out, "x", "--strategy", "lowest"), 2, "lowest_logprob")
    refused(
        run("place", out, "x", "--strategy", "lowest_logprob"), 2, "either positions or fraction"
    )
    three = ["--strategy", "lowest_logprob", "--param", "positions=3"]
    refused(run("place", out, "a/b", *three), 2, "'a/b'")
    refused(run("place", out, "x", *three, "--run", "bose"), 2, "'bose'", "Did you mean 'base'?")
    one = ["--strategy", "lowest_logprob", "--param", "positions=1"]
    refused(run("place", out, "dit", *one), 2, "there already", "--replace")
    refused(run("export", out, "--placement", "dot", "--format", "tokenized"), 2, "'dot'", "'dit'")
    refused(run("export", out, "--placement", "dit", "--format", "jsonl"), 2, "'jsonl'")
    refused(run("sql", out, "select lgprob from tokens"), 2, "logprob")
    refused(run("sql", out, "drop view tokens"), 2)
    refused(run("show", out, "nobody"), 2, "nobody")
    refused(run("verify", built.folder / "nothing"), 2, "no such folder")
    refused(run("verify", out, "--version", "7"), 2, "no version 7")
    assert open_version(out).number == 1


def test_files_are_split_by_name_with_o(built: Recipe, run: Command, tmp_path: Path) -> None:
    export = ["export", built.out, "--placement", "dit", "--format", "tokenized"]
    refused(run(*export, "-o", tmp_path / "x.jsonl", "--split", "test"), 2, "'test'", "'train'")
    refused(run(*export, "--split", "test"), 2, "'test'", "'train'")
    refused(run(*export, "-o", tmp_path / "x.csv"), 2, ".jsonl")
    ended = run(*export, "-o", tmp_path / "folder")
    assert ended.status == 0
    inside = built.out / "current" / "exports" / "dit-tokenized" / "train.jsonl"
    assert (tmp_path / "folder" / "train.jsonl").read_bytes() == inside.read_bytes()
    assert (tmp_path / "folder" / "train.meta.json").exists()


def test_init_writes_a_recipe_that_parses_and_overwrites_nothing(
    run: Command, tmp_path: Path
) -> None:
    from pausedata.pipeline.recipe import load_recipe

    path = tmp_path / "mine.yaml"
    assert run("init", path).status == 0
    assert load_recipe(path).recipe.name == "mine"
    before = path.read_text()
    refused(run("init", path), 2, "there already")
    assert path.read_text() == before


def test_json_is_all_there_is_on_standard_output(recipe: Recipe, run: Command) -> None:
    built = run("build", recipe.write(), "--json")
    assert json.loads(built.out)["version"] == 1
    for words in (
        ["plan", recipe.path],
        ["verify", recipe.out],
        ["show", recipe.out],
        ["sql", recipe.out, "select count(*) as n from tokens"],
        ["export", recipe.out, "--placement", "append", "--format", "tokenized"],
        ["strategies"],
        ["formats"],
        ["doctor"],
    ):
        ended = run(*words, "--json")
        assert ended.status == 0, (words, ended.err)
        assert json.loads(ended.out) is not None


def test_commands_record_no_folder_in_the_manifest(recipe: Recipe, run: Command) -> None:
    home = recipe.folder / "jane doe"
    home.mkdir()
    write_rows(home / "a.jsonl", [{"question": "q", "answer": "a"}])
    ended = run(
        "build",
        recipe.write(),
        "--set",
        f"source.files=[{home / 'a.jsonl'}, rows.jsonl]",
        "--output",
        home / "out",
    )
    assert ended.status == 0, ended.err
    manifest = open_version(home / "out").manifest
    assert "jane" not in manifest.model_dump_json()
    assert "a.jsonl" in manifest.command


def test_a_template_that_is_not_quoted_says_to_quote_it(recipe: Recipe, run: Command) -> None:
    del recipe.data["prompt"]
    text = recipe.write().read_text()
    recipe.path.write_text(text + "prompt: {{ question }}\n")
    refused(run("build", recipe.path), 2, "not YAML", "quote")
    recipe.data["prompt"] = "{{ question }}"
    recipe.write()
    refused(run("build", recipe.path, "--set", "prompt={{ question }}"), 2, "quote")


def test_nothing_is_written_into_a_dataset_from_outside(built: Recipe, run: Command) -> None:
    inside = built.out / "versions/0001/exports/dit-tokenized/train.jsonl"
    before = inside.read_bytes()
    export = ["export", built.out, "--placement", "append", "--format", "tokenized", "-o"]
    for path in (inside, built.out / "current/exports/x.jsonl", built.out / "x.jsonl"):
        refused(run(*export, path), 2, "inside the dataset")
        refused(run("sql", built.out, "select 1", "-o", path), 2, "inside the dataset")
    refused(run(*export, "-"), 2, "name of a file")
    refused(run("sql", built.out, "select 1", "-o", built.folder / "no/x.csv"), 2, "no folder")
    assert inside.read_bytes() == before
    assert sorted(p.name for p in built.out.iterdir()) == [
        "current",
        "pausedata.json",
        "staging",
        "versions",
    ]


def test_a_run_that_is_not_there_is_refused_by_any_strategy(built: Recipe, run: Command) -> None:
    place = ["place", built.out, "x", "--strategy", "random", "--param", "positions=2"]
    refused(run(*place, "--run", "nope"), 2, "no run 'nope'", "'base'")


def test_a_prompt_that_ends_in_a_space_is_warned_of_before_scoring(
    recipe: Recipe, run: Command
) -> None:
    recipe.data["prompt"] = "Question: {{ question }}\nAnswer: "
    recipe.data["response"] = "{{ answer }}"
    ended = run("build", recipe.write())
    assert ended.status == 0, ended.err
    warned = ended.err.index("warning: prompts end in a space")
    assert warned < ended.err.index("scoring base")
