"""Tokens per second on a CPU: a plain loop, pausedata's scorer, and lm-evaluation-harness.

    python benchmarks/score_cpu.py --n 256

All score the same examples with the same model in this process. They take turns, block by block,
so that whatever else the machine does slows them alike. A model's first forward is not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import machine, scoring_arguments

from pausedata.models.cache import load_tokenizer
from pausedata.models.load import load_model
from pausedata.models.ref import ModelRef
from pausedata.scorers import Example, Job, check_scores
from pausedata.scorers.sizes import DEFAULT_BATCH_TOKENS
from pausedata.scorers.transformers import load


def arguments() -> argparse.Namespace:
    parser = scoring_arguments(__doc__, 256)
    add = parser.add_argument
    add("--repeats", type=int, default=1, help="times that all examples are scored")
    add("--block", type=int, default=64, help="examples each scores before the next's turn")
    add("--batch-tokens", type=int, default=DEFAULT_BATCH_TOKENS["cpu"], help="padded tokens")
    add("--threads", type=int, default=0, help="0 leaves torch's own choice")
    return parser.parse_args()


def engine() -> str:
    return (
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


def read_examples(path: Path, n: int, tokenizer: Any) -> list[Example]:
    """The first ``n`` rows; prompt and response are tokenised apart."""
    examples = []
    with path.open(encoding="utf-8") as lines:
        for _, line in zip(range(n), lines, strict=False):
            row = json.loads(line)
            prompt = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
            response = tokenizer(f" {row['answer']}", add_special_tokens=False)["input_ids"]
            response = np.asarray([*response, tokenizer.eos_token_id], dtype=np.int32)
            examples.append(Example(prompt, response))
    return examples


def plain_loop(model: Any, examples: list[Example]) -> list[np.ndarray]:
    """What anyone would write: one example at a time, log_softmax of all the logits."""
    results = []
    with torch.no_grad():
        for example in examples:
            prompt, response = list(example.prompt_ids), example.response_ids.tolist()
            ids = torch.tensor([prompt + response])
            logprobs = torch.log_softmax(model(input_ids=ids).logits.float(), dim=-1)
            predicted = logprobs[0, len(prompt) - 1 : -1]
            chosen = predicted.gather(1, torch.tensor(response)[:, None])
            results.append(chosen[:, 0].numpy())
    return results


def harness(model: Any, tokenizer: Any) -> Callable[[list[Example]], list[float]] | None:
    """lm-evaluation-harness' sums of log-probabilities for examples; None where not installed."""
    try:
        from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=2048)

    def score(examples: list[Example]) -> list[float]:
        # `loglikelihood` minus its tokenising, so that the tokens are the same for all three.
        requests = [
            (("", str(k)), list(e.prompt_ids), e.response_ids.tolist())
            for k, e in enumerate(examples)
        ]
        return [value for value, _ in lm._loglikelihood_tokens(requests, disable_tqdm=True)]

    return score


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"{machine()}; {engine()}")
    ref = ModelRef.parse(args.model, None, Path.cwd())
    tokenizer = load_tokenizer(ref)
    scorer = load(Job(ref, device="cpu", batch_tokens=args.batch_tokens))
    model = load_model(ref, torch.float32, torch.device("cpu"))  # the scorer's own is altered
    examples = read_examples(args.data, args.n, tokenizer)
    tokens = sum(map(len, examples))
    responses = sum(len(e.response_ids) for e in examples)
    print(f"{ref.name}, {args.data.name}: {len(examples)} examples, {tokens:,} tokens, "
          f"of which responses {responses:,}")  # fmt: skip

    third = harness(model, tokenizer)
    plain_loop(model, examples[:2])
    scorer.score(examples[:16])
    scorer.timings.total = scorer.timings.forward = 0.0
    seconds = {"a": 0.0, "b": 0.0, "c": 0.0}
    largest = largest_sum = 0.0

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        seconds[name] += time.perf_counter() - start
        return result

    for repeat in range(args.repeats):
        for start in range(0, len(examples), args.block):
            block = examples[start : start + args.block]
            if (repeat + start // args.block) % 2:  # neither is always the one to go first
                b = timed("b", lambda block=block: scorer.score(block))
                a = timed("a", lambda block=block: plain_loop(model, block))
            else:
                a = timed("a", lambda block=block: plain_loop(model, block))
                b = timed("b", lambda block=block: scorer.score(block))
            b = [check_scores(e, s, "benchmark") for e, s in zip(block, b, strict=True)]
            pairs = list(zip(a, b, strict=True))
            largest = max(largest, *(float(np.abs(x - y.logprob).max()) for x, y in pairs))
            if third is not None:
                c = timed("c", lambda block=block: third(block))
                sums = [float(y.logprob.sum(dtype=np.float64)) for _, y in pairs]
                largest_sum = max(largest_sum, *(abs(x - y) for x, y in zip(c, sums, strict=True)))

    rate = {name: tokens * args.repeats / spent for name, spent in seconds.items() if spent}
    outside = 1 - scorer.timings.forward / scorer.timings.total
    print(f"(a) plain loop, one example at a time   {rate['a']:8.1f} tokens/s")
    print(f"(b) pausedata, head: {scorer.head:<7}            {rate['b']:8.1f} tokens/s"
          f"   b/a {rate['b'] / rate['a']:.2f}")  # fmt: skip
    if third is None:
        print("(c) lm-evaluation-harness is not installed (pip install lm-eval)")
    else:
        print(f"(c) lm-evaluation-harness loglikelihood {rate['c']:8.1f} tokens/s"
              f"   b/c {rate['b'] / rate['c']:.2f}, largest difference of a response's sum "
              f"{largest_sum:.1e}")  # fmt: skip
    print(f"time of (b) outside the model's forward pass: {outside:.1%}")
    print(f"largest difference between (a) and (b): {largest:.1e} nats")


if __name__ == "__main__":
    main()
