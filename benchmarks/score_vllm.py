"""Tokens per second of vLLM as users write it, of vLLM alone, and of pausedata around it.

(a) `LLM.generate` with `prompt_logprobs=1` and its dictionaries read token by token; (b) bare
`LLM.generate` on the flat path, results thrown away; (c) pausedata, from the tokens of a dataset to
a committed version with their scores. The same examples on one engine in one process, in turns.

Then Python's time for each token apart from the model, on answers that were recorded: how long vLLM
takes to make them of the arrays that it has, and whoever asked to read them; and all that (c) does
with an engine that answers at once, over 4,096 synthetic examples.

    make test-vllm       # once: it makes an environment with vLLM for the CPU
    .venv-vllm/bin/python benchmarks/score_vllm.py
With a GPU, in an environment with `pip install -e '.[vllm]'`:
    python benchmarks/score_vllm.py --model HuggingFaceTB/SmolLM2-135M-Instruct --n 4096 --repeats 3
"""

from __future__ import annotations

import argparse
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one process, on a CPU at least
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

import numpy as np
from common import machine, scoring_arguments
from store import finish, portions, stage_shard

from pausedata.core.progress import Silent
from pausedata.models import cache as model_cache
from pausedata.models.ref import ModelRef
from pausedata.pipeline.build import build
from pausedata.pipeline.recipe import LoadedRecipe, parse_recipe
from pausedata.pipeline.steps import score as score_step
from pausedata.pipeline.steps.reuse import examples_of
from pausedata.pipeline.steps.score import CheckedPass
from pausedata.pipeline.transaction import Transaction
from pausedata.scorers import Example
from pausedata.scorers.sizes import VLLM_STEP_TOKENS
from pausedata.scorers.vllm import VllmScorer
from pausedata.scorers.vllm.engine import Engine, EngineScores
from pausedata.scorers.vllm.loop import Message, serve
from pausedata.scorers.vllm.outputs import Flat, ScoreReader, ids_of
from pausedata.store.commit import prepare_folder
from pausedata.store.dataset import Version, open_version
from pausedata.store.shards import shard_name, write_shard
from pausedata.store.staging import Staging

KEPT = 64  # answers that are recorded


def arguments() -> argparse.Namespace:
    parser = scoring_arguments(__doc__, 64)
    add = parser.add_argument
    add("--repeats", type=int, default=2, help="times that all examples are scored each way")
    add("--dtype", default="float32")
    add(
        "--step-tokens", type=int, default=None, help="tokens a step; vLLM's max_num_batched_tokens"
    )
    return parser.parse_args()


class HereEngine:
    """An engine in this process, driven by a thread: what `EngineProcess` is in another."""

    alive = True

    def __init__(self, engine: Engine) -> None:
        self.facts: dict[str, Any] = {
            "versions": {},
            "rank_ties": engine.way.rank_ties,
            "settings": {"path": engine.way.name},
        }
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._answers: dict[int, queue.SimpleQueue[Message]] = {}
        self._keys = iter(range(1 << 30))
        self._thread = threading.Thread(
            target=serve, args=(engine, self._receive, self._send, dict), daemon=True
        )
        self._thread.start()

    def score(self, examples: Sequence[Example], on_tokens: Callable[[int], None]) -> EngineScores:
        """As `EngineProcess.score`."""
        key = next(self._keys)
        answers = self._answers[key] = queue.SimpleQueue()
        self._inbox.put(("score", key, examples))
        while (message := answers.get())[0] != "scores":
            on_tokens(message[2])
        return EngineScores(key, message[2], message[3], self.facts)

    def stop(self) -> None:
        """Stop the thread; the engine stays."""
        self._inbox.put(("stop",))

    def close(self) -> None:
        """Wait until it has."""
        self._thread.join()

    def _receive(self, wait: bool) -> Message | None:
        try:
            return self._inbox.get(wait)
        except queue.Empty:
            return None

    def _send(self, message: Message) -> None:
        if message[0] == "failed":
            raise SystemExit(message[1])
        self._answers[message[1]].put(message)


class Recorded:
    """In place of an ``LLM``: answers that are there already, all at the next step."""

    def __init__(self, outputs: Sequence[Any]) -> None:
        self._outputs = {tuple(output.prompt_token_ids): output for output in outputs}
        self._asked: list[tuple[str, Any]] = []
        self._sent = 0
        self.llm_engine = SimpleNamespace(step=self._step)

    def enqueue(self, prompts: Any, sampling_params: Any, use_tqdm: bool) -> list[str]:
        """As ``LLM.enqueue``."""
        names = [str(self._sent + k) for k in range(len(prompts))]
        self._sent += len(prompts)
        for name, prompt in zip(names, prompts, strict=True):
            self._asked.append((name, self._outputs[tuple(prompt["prompt_token_ids"])]))
        return names

    def _step(self) -> list[Any]:
        asked, self._asked = self._asked, []
        return [
            SimpleNamespace(
                request_id=name,
                finished=True,
                prompt_logprobs=output.prompt_logprobs,
                prompt_token_id_logprobs=getattr(output, "prompt_token_id_logprobs", None),
            )
            for name, output in asked
        ]


def dataset(args: argparse.Namespace, root: Path) -> Version:
    """A dataset of the examples' tokens, without scores."""
    recipe = {
        "name": "benchmark",
        "source": {"files": [str(args.data.resolve())], "limit": args.n},
        "prompt": "Question: {{ question }}\nAnswer:",
        "response": " {{ answer }}",
        "model": {"id": args.model},
        "scoring": None,
        "output": str(root),
    }
    parsed = parse_recipe(recipe, "benchmark")
    build(LoadedRecipe(recipe=parsed, folder=Path.cwd(), label="benchmark"), root)
    return open_version(root)


def sampling(way: ScoreReader, example: Example) -> Any:
    from vllm import SamplingParams

    return SamplingParams(max_tokens=1, temperature=0, detokenize=False, **way.parameters(example))


def plain(llm: Any, examples: Sequence[Example]) -> list[Any]:
    """(a) What anyone would write."""
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": ids_of(e).tolist()} for e in examples]
    asked = SamplingParams(max_tokens=1, temperature=0, detokenize=False, prompt_logprobs=1)
    outputs = llm.generate(prompts, asked, use_tqdm=False)
    for example, output in zip(examples, outputs, strict=True):
        read_plainly(example, output)
    return outputs


def read_plainly(example: Example, output: Any) -> list[float]:
    start = len(example.prompt_ids)
    ids = output.prompt_token_ids
    return [output.prompt_logprobs[k][ids[k]].logprob for k in range(start, len(ids))]


def bare(llm: Any, examples: Sequence[Example], way: ScoreReader) -> list[Any]:
    """(b) What vLLM does for us, by itself."""
    prompts = [{"prompt_token_ids": ids_of(e).tolist()} for e in examples]
    return llm.generate(prompts, [sampling(way, e) for e in examples], use_tqdm=False)


def whole(base: Version, run: str, scorer: VllmScorer) -> None:
    """(c) Another run of the dataset, scored, staged and committed."""
    tokens = base.table("tokens")
    with Transaction(base.root, base, Silent()) as work:
        table = score_step.score(
            *(work.staging, run, {"run": run}, tokens, [CheckedPass(lambda _: scorer)]),
            *(None, Silent(), {}),
        )
        work.put(table)
        work.commit(f"benchmark {run}")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def fastest(work: Callable[[], Any], repeats: int = 5) -> float:
    return min(timed(work)[0] for _ in range(repeats))


def making(output: Any, flat: bool) -> Callable[[], Any]:
    """vLLM's own making of an answer's log-probabilities, of the arrays that its engine gives."""
    from vllm.logprobs import append_logprobs_for_next_position, create_prompt_logprobs

    entries = output.prompt_logprobs[1:]
    ids = [list(entry) for entry in entries]
    values = [[x.logprob for x in entry.values()] for entry in entries]
    ranks = [next(iter(entry.values())).rank for entry in entries]
    nothing = [None] * max(map(len, ids))

    def make() -> None:
        made = create_prompt_logprobs(flat)
        for k in range(len(ids)):
            width = 1 if flat else len(ids[k])
            append_logprobs_for_next_position(
                made, ids[k][:width], values[k][:width], nothing, ranks[k], width - 1
            )

    return make


def python_time(
    examples: list[Example], plainly: list[Any], ours: list[Any], way: ScoreReader
) -> None:
    """Print what Python costs for each token apart from the model."""
    examples = examples[: len(ours)]
    tokens = sum(map(len, examples))

    def microseconds(work: Callable[[], Any]) -> float:
        return fastest(work) / tokens * 1e6

    def each(works: list[Callable[[], Any]]) -> Callable[[], Any]:
        return lambda: [work() for work in works]

    pairs = list(zip(examples, plainly, strict=True))
    a_made = microseconds(each([making(output, flat=False) for output in plainly]))
    a_read = microseconds(lambda: [read_plainly(*pair) for pair in pairs])
    flat = isinstance(way, Flat)
    made = microseconds(each([making(output, flat=True) for output in plainly])) if flat else 0.0
    read = microseconds(lambda: [way.read(o, e) for o, e in zip(ours, examples, strict=True)])
    print("Python's time apart from the model, microseconds a token:")
    print(f"(a) dictionaries: made by vLLM {a_made:.2f}, read {a_read:.2f}")
    of_a = [each / (a_made + a_read) for each in (made + read, read)]
    print(f"(c) {way.name}: made by vLLM {made:.2f}, read {read:.3f}: {of_a[0]:.2f} of (a)'s, "
          f"our reading {of_a[1]:.3f}")  # fmt: skip


def simulated(examples: Sequence[Example]) -> list[Any]:
    """Answers by the flat path as vLLM gives them, with numbers that were drawn."""
    draw, outputs = np.random.default_rng(0), []
    for example in examples:
        ids = ids_of(example).tolist()
        answer = SimpleNamespace(
            token_ids=ids[1:],
            logprobs=(-8 * draw.random(len(ids) - 1) ** 6).tolist(),
            ranks=draw.integers(1, 100, len(ids) - 1).tolist(),
        )
        outputs.append(SimpleNamespace(prompt_token_ids=ids, prompt_logprobs=answer))
    return outputs


def around_the_engine(dtype: str, examples: int = 4096) -> None:
    """Print what all that pausedata does costs a token, with an engine that answers at once."""
    with tempfile.TemporaryDirectory() as folder:
        root, names, shards = Path(folder), ("examples", "tokens"), list[str]()
        prepare_folder(root)
        with closing(Staging(root)) as staging:
            stage = staging.stage("tokens", {})
            for number, count, part in portions(examples):
                shards.append(shard_name("train", number, count))
                stage_shard(stage, names, shards[-1], part)
            finish(root, stage, names, shards)
        base = open_version(root)
        table = base.table("tokens")
        given = [e for shard in table.shards for e in examples_of(table.read(shard))]
        tokens = sum(map(len, given))
        engine = Engine(Recorded(simulated(given)), dtype, print, Flat())
        whole_time, _ = timed(
            lambda: whole(base, "simulated", VllmScorer([HereEngine(engine)], print))
        )
        scores = open_version(base.root).table("scores/simulated")
        rows = [scores.read(shard) for shard in scores.shards]
        path = root / "rows.parquet"
        writing, _ = timed(lambda: [write_shard(path, part) for part in rows])
    print(f"(c) with an engine that answers at once, {tokens:,} tokens: "
          f"{whole_time / tokens * 1e6:.2f} microseconds a token to a committed version, of which "
          f"writing Parquet {writing / tokens * 1e6:.2f}")  # fmt: skip


def main() -> None:
    args = arguments()
    import torch
    import vllm
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    step = args.step_tokens or VLLM_STEP_TOKENS["cpu" if on_cpu else "v2"]
    device = f"{torch.get_num_threads()} threads" if on_cpu else current_platform.get_device_name()
    print(f"{machine()}; {device}, vLLM {vllm.__version__}, torch {torch.__version__}")
    ref = ModelRef.parse(args.model, None, Path.cwd())
    folder, revision = model_cache.folder_for_engine(ref)
    with tempfile.TemporaryDirectory() as temporary:
        base = dataset(args, Path(temporary) / "dataset")
        tokens_table = base.table("tokens")
        rows = [tokens_table.read(shard) for shard in tokens_table.shards]
        examples = [example for part in rows for example in examples_of(part)]
        tokens = sum(map(len, examples))
        llm: Any = vllm.LLM(
            folder,
            revision=revision,
            dtype=args.dtype,
            skip_tokenizer_init=True,
            enable_prefix_caching=False,
            max_model_len=max(map(len, examples)) + 1,
            max_num_batched_tokens=step,
            disable_log_stats=True,
            enforce_eager=on_cpu,
            **({"kv_cache_memory_bytes": 1 << 30} if on_cpu else {}),
        )
        engine = Engine(llm, args.dtype, print)
        engine.choose_way(examples)
        way = engine.way
        print(f"{ref.name}, {args.dtype}, {args.data.name}: {len(examples)} examples, "
              f"{tokens:,} tokens, {step} a step; {way.name}")  # fmt: skip
        spent = {"a": 0.0, "b": 0.0, "c": 0.0}
        plainly: list[Any] = []
        ours: list[Any] = []
        for repeat in range(args.repeats):
            for letter in "abc" if repeat % 2 == 0 else "cba":
                if letter == "a":
                    seconds, plainly = timed(lambda: plain(llm, examples))
                elif letter == "b":
                    seconds, ours = timed(lambda: bare(llm, examples, way))
                else:
                    scorer = VllmScorer([HereEngine(engine)], print)
                    version, run = open_version(base.root), f"run-{repeat}"
                    seconds, _ = timed(lambda v=version, r=run, s=scorer: whole(v, r, s))
                spent[letter] += seconds
        rate = {letter: tokens * args.repeats / seconds for letter, seconds in spent.items()}
        print(f"(a) LLM.generate, prompt_logprobs=1, read by token {rate['a']:10.1f} tokens/s")
        print(f"(b) LLM.generate, {way.name + ', thrown away':<31} {rate['b']:10.1f} tokens/s")
        print(f"(c) pausedata, committed                           {rate['c']:10.1f} tokens/s"
              f"   c/b {rate['c'] / rate['b']:.3f}, c/a {rate['c'] / rate['a']:.2f}")  # fmt: skip
        python_time(examples, plainly[:KEPT], ours[:KEPT], way)
    around_the_engine(args.dtype)


if __name__ == "__main__":
    main()
