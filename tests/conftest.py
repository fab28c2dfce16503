"""A tiny real model and tokenizer, made here, and a recipe that uses them."""

from __future__ import annotations

import functools
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings
from loopback_hub import LoopbackHub
from machine import Machine

ROOT = Path(__file__).resolve().parents[1]
PROBLEMS = ROOT / "recipes" / "data" / "word_problems.jsonl"
SMOLLM2 = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
SHARED = ROOT.parent / "shared" / "data"
# What the recipe below makes, in this order.
TABLES = [
    "examples",
    "vocab",
    "tokens",
    "scores/base",
    "placements/dit",
    "placements/append",
    "exports/dit-tokenized",
]

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# A build fsyncs all that it writes, which takes a disk its time: the tests' files are in memory,
# where there is room for them, unless TMPDIR says where.
IN_MEMORY, ROOM = Path("/dev/shm"), 4 * 10**9


# Examples of Hypothesis: all that a test asks for in CI (CI or HYPOTHESIS_PROFILE=full in the
# environment), at a desk a fifth of them. None has to be quick: a machine may have other work.
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "full" if "CI" in os.environ else "desk")


def in_ci(examples: int) -> int:
    """How many examples a test tries that is to try so many in CI."""
    return examples if PROFILE == "full" else max(10, examples // 5)


settings.register_profile("full", deadline=None)
settings.register_profile("desk", deadline=None, max_examples=in_ci(100))
settings.load_profile(PROFILE)


def pytest_configure(config: pytest.Config) -> None:
    """What the whole session shares, its workers and subprocesses too."""
    if hasattr(config, "workerinput"):  # a worker of xdist has its controller's
        return
    writable = "TMPDIR" not in os.environ and os.access(IN_MEMORY, os.W_OK)
    if writable and shutil.disk_usage(IN_MEMORY).free >= ROOM:
        os.environ["TMPDIR"] = tempfile.tempdir = str(IN_MEMORY)
    # One cache for all: never the user's own.
    os.environ["PAUSEDATA_CACHE"] = tempfile.mkdtemp(prefix="pausedata-tests-")
    # `datasets` counts what it loads at an address of the Hub's, which need not be there.
    os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"
    if getattr(config.option, "numprocesses", None):
        # Side by side, each with a thread for every core, workers' threads wait for one another.
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Delete the cache: the real model takes half a gigabyte there."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop("PAUSEDATA_CACHE"), ignore_errors=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported now stays: the collector need not look through it again in every test."""
    gc.collect()
    gc.freeze()


def make_model(folder: Path, seed: int = 0, context: int = 1024) -> Path:
    """A random Llama of two layers with a byte-level BPE of 400 tokens, saved as a model folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(PROBLEMS.read_text(encoding="utf-8").splitlines(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            initializer_range=0.5,  # else every token is about as likely as every other
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def swap_tokens(model: Path, first: str, second: str) -> None:
    """Give two tokens of the model's tokenizer each other's id."""
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    for token in tokenizer["added_tokens"]:
        token["id"] = vocabulary.get(token["content"], token["id"])
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As in a shell's background: the commands that tests start would ignore Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model."""
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Twelve word problems."""
    return problems(12)


def problems(count: int) -> list[dict[str, Any]]:
    """The first word problems."""
    lines = PROBLEMS.read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line) for line in lines]


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Rows as JSONL."""
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


@pytest.fixture
def recipe(tmp_path: Path, model_folder: Path, rows: list[dict[str, Any]]) -> Recipe:
    """A recipe over the twelve problems, in shards of four."""
    return tiny_recipe(tmp_path, model_folder, rows)


def tiny_recipe(folder: Path, model_folder: Path, rows: list[Any], **keys: Any) -> Recipe:
    """A recipe over ``rows``, for the tiny model; ``keys`` go over what it says."""
    write_rows(folder / "rows.jsonl", rows)
    return Recipe(
        folder,
        {
            "format": "pausedata-recipe/1",
            "name": "tiny",
            "source": {"files": ["rows.jsonl"]},
            "prompt": "Question: {{ question }}\nAnswer:",
            "response": " {{ answer }}",
            "model": {"id": str(model_folder)},
            "placements": {
                "dit": {"strategy": "lowest_logprob", "positions": 3},
                "append": {"strategy": "append", "tokens": 4},
            },
            "exports": {"dit-tokenized": {"placement": "dit", "format": "tokenized"}},
            "shard_rows": 4,
            "output": str(folder / "out"),
        }
        | keys,
    )


class Recipe:
    """A recipe to change and build."""

    def __init__(self, folder: Path, data: dict[str, Any]) -> None:
        self.folder, self.data = folder, data
        self.path = folder / "recipe.yaml"
        self.out = folder / "out"

    def write(self) -> Path:
        """The recipe as a file."""
        self.path.write_text(yaml.safe_dump(self.data, sort_keys=False), encoding="utf-8")
        return self.path

    def build(self, **options: Any) -> Any:
        """Build it in this process."""
        from pausedata.pipeline.build import build
        from pausedata.pipeline.recipe import load_recipe

        overrides = options.pop("overrides", None)
        return build(load_recipe(self.write(), overrides), self.out, **options)


@pytest.fixture(scope="session")
def built_once(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of the recipe above."""
    recipe = tiny_recipe(tmp_path_factory.mktemp("built"), model_folder, problems(12))
    recipe.build()
    return recipe.out


@pytest.fixture
def built(recipe: Recipe, built_once: Path) -> Recipe:
    """The recipe, as if it had just been built here: its dataset is a copy, to change."""
    shutil.copytree(built_once, recipe.out, symlinks=True)
    recipe.write()
    return recipe


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples each call of a model is given, from here on."""
    from pausedata.scorers.transformers import TransformersScorer

    found: list[int] = []
    score = TransformersScorer.score
    monkeypatch.setattr(
        TransformersScorer,
        "score",
        lambda self, examples, *rest: found.append(len(examples)) or score(self, examples, *rest),
    )
    return found


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PAUSEDATA_CACHE", str(folder))
    return folder


class Run:
    """What a command printed and how it ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@functools.cache
def commands(app: Any) -> Any:
    """The program, as Typer makes it of its functions: once, since that takes a while."""
    from typer.main import get_command

    return get_command(app)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run a command of the command line in this process (a start of Python costs a second)."""

    def call(*words: object) -> Run:
        from pausedata.cli import app, main

        program = commands(app)
        monkeypatch.setattr("typer.main.get_command", lambda _: program)
        monkeypatch.setattr(sys, "argv", ["pausedata", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return Run(int(end.value.code or 0), printed.out, printed.err)

    return call


def start(*words: object, first: str = "", **options: Any) -> subprocess.Popen[str]:
    """Start a command in a process of its own, which runs the code ``first`` before."""
    code = f"{first}\nfrom pausedata.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"NO_COLOR": "1"} | options.pop("env", {}),
        **options,
    )


def held_scoring(go: Path, after: int = 0) -> str:
    """Code for ``start``: shards but the first ``after`` are scored when there is a file ``go``.

    Beside it there is a file ``held`` from when the first of them is waiting. It is given up where
    the model is closed, as an engine is that is under way then.
    """
    return (
        "import pathlib, time\n"
        "from pausedata.scorers.transformers import TransformersScorer as S\n"
        f"go, begun, closed = pathlib.Path({str(go)!r}), [], []\n"
        "def held(*a, score=S.score, **k):\n"
        "    begun.append(1)\n"
        f"    while len(begun) > {after} and not go.exists():\n"
        "        go.with_name('held').touch(); time.sleep(0.02)\n"
        "        if closed: raise RuntimeError('closed')\n"
        "    return score(*a, **k)\n"
        "S.score, S.close = held, lambda *_: closed.append(1)\n"
    )


def wait_until(happened: Callable[[], Any], process: Any = None, seconds: float = 300) -> Any:
    """What ``happened`` gives, once that is something; a failure where ``process`` ends before."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        if process is not None and process.poll() is not None and not happened():
            raise AssertionError(f"it ended with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
    return found


def until_busy(pid: int, seconds: float = 0.5) -> None:
    """Return when a process has computed for so long from now, however little it gets to."""

    def computed() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = computed()
    wait_until(lambda: computed() - before >= seconds)


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """A Hugging Face Hub of our own."""
    with LoopbackHub() as running:
        yield running


@pytest.fixture
def machine(hub: LoopbackHub, tmp_path: Path) -> Machine:
    """A computer with a login to it."""
    return Machine(hub, tmp_path)
