"""What Tab completes in a real bash, with the script that the program itself prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_dataset import make_dataset

pytestmark = pytest.mark.processes

MAIN = "import sys; sys.argv[0] = 'pausedata'; from pausedata.cli import main; main()"
# Typer itself imports pydantic, to read what stands on the line.
HEAVY = ["torch", "datasets", "duckdb", "transformers", "huggingface_hub", "pyarrow", "numpy"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("completion") / "small"
    make_dataset(root)
    return root


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `pausedata` that runs this checkout."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "pausedata"
    script.write_text(f"#!{sys.executable}\n{MAIN}\n", encoding="utf-8")
    script.chmod(0o755)
    return folder


def tab(program: Path, *words: str, **more: str) -> list[str]:
    """What bash offers where the last of ``words`` is being typed; nothing may go to stderr."""
    script = """
        eval "$(pausedata --show-completion bash)"
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _pausedata_completion pausedata
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = f"{program}{os.pathsep}{os.environ['PATH']}"
    where = str(Path(__file__).resolve().parents[1])
    env = (
        os.environ
        | more
        | {
            "PATH": path,
            "PYTHONPATH": where,
            "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        }
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", "pausedata", *words],
        capture_output=True, text=True, env=env,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_commands_and_flags_are_completed(program: Path) -> None:
    assert tab(program, "st") == ["stats", "strategies"]
    assert tab(program, "show", "--pl") == ["--placement"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["show", "DATASET", "--run", ""], ["base", "other"]),
        (["show", "DATASET", "--placement", "t"], ["three"]),
        (["show", "--placement", "three", "DATASET", "e"], ["e1", "e2", "e3", "e4", "e5"]),
        (["show", "DATASET", "--version", ""], ["1"]),
        (["export", "DATASET", "--split", "te"], ["test"]),
        (["rm", "DATASET", "scores/b"], ["scores/base"]),
        (["diff", "DATASET", "placements/three", ""], ["placements/fixed"]),
        (["push", "DATASET", "org/name", "--only", "vocab,scores/b"], ["vocab,scores/base"]),
    ],
)
def test_names_inside_the_dataset_are_completed(
    program: Path, dataset: Path, words: list[str], offered: list[str]
) -> None:
    given = [str(dataset) if word == "DATASET" else word for word in words]
    assert tab(program, *given) == offered


def test_strategies_their_parameters_and_what_exports_need_are_completed(
    program: Path, dataset: Path
) -> None:
    place = ["place", str(dataset), "new", "--strategy"]
    assert "lowest_logprob" in tab(program, *place, "low")
    assert tab(program, *place, "lowest_logprob", "--param", "tok") == ["tokens=1"]
    export = ["export", str(dataset), "--format"]
    assert tab(program, *export, "hf-") == ["hf-disk"]
    assert tab(program, *export, "tokenized", "--check", "tr") == ["trl"]


def test_a_dataset_below_the_home_folder_is_found_behind_its_tilde(
    program: Path, dataset: Path
) -> None:
    home = str(dataset.parent)
    assert tab(program, "show", "~/small", "--placement", "t", HOME=home) == ["three"]


@pytest.mark.parametrize("where", ["nowhere", "damaged", "hf://org/name"])
def test_where_there_is_nothing_to_complete_nothing_is_said(
    program: Path, tmp_path: Path, where: str
) -> None:
    make_dataset(tmp_path / "damaged")
    manifest = tmp_path / "damaged" / "versions" / "0001" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text('{"tables": [', encoding="utf-8")
    given = where if ":" in where else str(tmp_path / where)
    assert tab(program, "show", given, "--run", "") == []
    assert tab(program, "show", given, "") == []


def test_a_completion_of_a_name_imports_little(dataset: Path) -> None:
    code = f"""
import sys
sys.argv[0] = 'pausedata'
from pausedata.cli import main
try:
    main()
except SystemExit:
    print([name for name in {HEAVY} if name in sys.modules])
"""
    line = f"pausedata show {dataset} --placement t"
    where = str(Path(__file__).resolve().parents[1])
    env = os.environ | {
        "PYTHONPATH": where,
        "_PAUSEDATA_COMPLETE": "complete_bash",
        "COMP_WORDS": line.replace(" ", "\n"),
        "COMP_CWORD": "4",
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.split("\n")[:2] == ["three", "[]"]


def test_what_is_listed_here_is_what_there_is() -> None:
    """The lists that completion has by itself, so that it imports less."""
    from pausedata.cli import complete
    from pausedata.query.choose import SORTS

    assert tuple(complete.sorts()) == SORTS
