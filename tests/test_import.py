"""What is not loaded before it is needed, so that `import pausedata` and `--help` stay quick."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
from small_dataset import make_dataset

HEAVY = {"torch", "transformers", "datasets", "duckdb", "pyarrow", "pydantic", "vllm", "numpy"}


def loaded_after(code: str, modules: Collection[str] = HEAVY) -> set[str]:
    """Those of ``modules`` that are in sys.modules of a fresh Python that ran ``code``."""
    printed = printed_by(f"{code}\nprint('loaded', *sys.modules)")
    return set(modules) & set(printed.rpartition("loaded ")[2].split())


def printed_by(code: str) -> str:
    """What a fresh Python prints that runs ``code``."""
    words = [sys.executable, "-X", "utf8", "-c", f"import sys\n{code}"]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_pausedata_loads_nothing_heavy() -> None:
    assert loaded_after("import pausedata; pausedata.PausedataError") == set()


# What models and the network need, what people look at, and what some libraries import by the way.
UNUSED = {
    "torch", "transformers", "tokenizers", "vllm", "datasets", "huggingface_hub", "httpx", "httpx2",
    "requests", "tenacity", "pandas", "polars", "prompt_toolkit", "pygments",
    "pausedata.training", "pausedata.inference", "pausedata.hub.client",
}  # fmt: skip
ARROW = {"pyarrow", "numpy"}
COUNT = "select count(*) from examples"
COMMANDS: dict[str, tuple[list[str], set[str]]] = {
    "--help": (["--help"], {*HEAVY, "rich", "yaml", "jinja2"}),
    "place --help": (["place", "--help"], {*HEAVY, "rich", "yaml", "pausedata.cli.export"}),
    "sql": (["sql", "@D", COUNT], {*ARROW, "pydantic", "rich", "yaml", "jinja2"}),
    "sql, of scores": (
        ["sql", "@D", "select run, avg(mean_logprob) from scores group by run"],
        {*ARROW, "pydantic", "rich", "yaml", "jinja2"},
    ),
    "sql, of tokens": (
        ["sql", "@D", "select count(*) from tokens"],
        {"rich.console", "yaml", "jinja2"},
    ),
    "show": (["show", "@D"], {"duckdb", "pyarrow.dataset", "yaml", "jinja2"}),
    "place": (
        ["place", "@D", "two", "--strategy", "lowest_logprob", "--param", "positions=2"],
        {"duckdb", "pyarrow.dataset", "pausedata.sources.jinja"},
    ),
    "export": (
        ["export", "@D", "--placement", "three", "--format", "tokenized", "-o", "@O"],
        {"duckdb", "pyarrow.dataset", "jinja2"},
    ),
}


def command(words: list[str], folder: Path) -> str:
    """Code that runs a command line; @D is the dataset, @O a folder beside it."""
    places = {"@D": str(folder / "small"), "@O": str(folder / "out")}
    return (
        "from pausedata.cli import main\n"
        f"sys.argv = ['pausedata', *{[places.get(word, word) for word in words]!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_loads_nothing_that_it_does_not_use(tmp_path: Path, name: str) -> None:
    make_dataset(tmp_path / "small")
    words, unused = COMMANDS[name]
    assert loaded_after(command(words, tmp_path), UNUSED | unused) == set()


@pytest.mark.parametrize("name", ["sql", "sql, of tokens", "show", "export"])
def test_pointer_and_manifest_are_read_once(tmp_path: Path, name: str) -> None:
    make_dataset(tmp_path / "small")
    hook = (
        "reads = []\n"
        "def seen(event, args):\n"
        "    if event == 'open' and args[1] is not None:\n"  # but for locks, which read nothing
        "        reads.append(str(args[0]).rpartition('/')[2])\n"
        "sys.addaudithook(seen)\n"
    )
    count = "\nprint('read', *(reads.count(n) for n in ('pausedata.json', 'manifest.json')))"
    code = hook + command(COMMANDS[name][0], tmp_path) + count
    assert "read 1 1" in printed_by(code)


def test_a_utf_8_locale_needs_no_second_start_of_python(tmp_path: Path) -> None:
    make_dataset(tmp_path / "small")
    code = "import os; os.execve = None; from pausedata.__main__ import main\n"
    code += command(COMMANDS["sql"][0], tmp_path)
    assert "count_star()" in printed_by(code.replace("from pausedata.cli import main\n", ""))


@pytest.mark.parametrize(
    "code",
    [
        "import pausedata; pausedata.open",
        "import pausedata; pausedata.connect",
        "import pausedata.query.run",
        "import pausedata.analysis.verify",
    ],
)
def test_reading_a_dataset_needs_neither_torch_nor_transformers(code: str) -> None:
    assert not loaded_after(code) & {"torch", "transformers", "datasets"}


def test_opening_a_dataset_loads_neither_arrow_nor_what_recipes_need(tmp_path: Path) -> None:
    make_dataset(tmp_path / "small")
    code = (
        "from pausedata.store.dataset import open_version\n"
        f"open_version({str(tmp_path / 'small')!r}).table('tokens')"
    )
    not_needed = {"pyarrow", "pyarrow.compute", "numpy", "yaml", "pausedata.pipeline.recipe"}
    assert loaded_after(code, not_needed) == set()
