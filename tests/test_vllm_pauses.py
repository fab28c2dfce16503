"""Pauses in what vLLM generates: the real engine and server, on the real SmolLM2 (make test-vllm).

vLLM's second model runner needs a GPU; what it calls is called here in its stead.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, SMOLLM2, problems
from pausing import Pausing, prepared
from test_vllm_real import free_port, serving, wait_until

from pausedata.core.errors import UsageError
from pausedata.inference import Eligibility, PauseParams, strip_pauses

pytestmark = pytest.mark.vllm

PROMPTS = [f"Question: {row['question']}\nAnswer:" for row in problems(2)]
RULE = Eligibility(groups={"sets": "no-pause"})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Pausing:
    return prepared(SMOLLM2, tmp_path_factory.mktemp("paused") / "model")


@pytest.fixture(scope="module")
def tiny(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pausing:
    return prepared(model_folder, tmp_path_factory.mktemp("paused") / "model")


# The engine


def test_the_engine(real: Pausing, tmp_path: Path) -> None:
    """Much at a time: an engine takes half a minute to start."""
    ruled = PauseParams(eligibility=RULE, group="sets").extra_args()["pauses"]
    limited: dict[str, Any] = {"threshold": 0.9, "max_pauses": 2, "cooldown": 3, "tokens": 2}
    entropy: dict[str, Any] = {"threshold": 0, "entropy_threshold": 2.0}
    pauses = [None, {"threshold": 0}, {}, {"threshold": 0.9}, limited, entropy, ruled, False]
    first, second = PROMPTS
    jobs = [
        {
            "prompts": [first] * len(pauses) + [second] * 3,
            "sampling": {"max_tokens": 20},
            "pauses": pauses + pauses[:3],
        },
        {
            "prompts": PROMPTS,
            "sampling": {"max_tokens": 8, "temperature": 1.0, "seed": 1},
            "pauses": [{}, {}],
        },
        {
            "prompts": [first],
            "sampling": {"max_tokens": 6, "skip_special_tokens": True},
            "pauses": [{"threshold": 1}],
        },
        {"prompts": [first], "pauses": [{"threshold": 2}]},
        {"prompts": [first], "pauses": [{"eligibility": "/etc/passwd"}]},
    ]
    (tmp_path / "in").write_text(json.dumps({"model": str(real.folder), "jobs": jobs}))
    run = subprocess.run(
        [sys.executable, ROOT / "tests" / "vllm_pauses.py", tmp_path / "in", tmp_path / "out"],
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    greedy, chance, hidden, *refused = json.loads((tmp_path / "out").read_text())
    ids = [made["ids"] for made in greedy]
    plain, zero, half, most, few, by_entropy, of_a_group, off, *others = ids

    # At threshold 0 it is greedy decoding, token for token.
    assert plain == zero == of_a_group == off and others[0] == others[1]
    assert real.pause not in plain + others[0]

    # Each request of a batch has its own, and pauses just where they are due.
    assert real.check(first, half) > 0 and real.check(second, others[2]) > 0
    assert strip_pauses(greedy[2]["text"]).pauses == half.count(real.pause)
    assert real.check(first, most, threshold=0.9) > 2 == real.check(first, few, **limited)
    assert real.check(first, by_entropy, **entropy) > 0

    # Chance chooses among what is left: the forced pause alone.
    assert sum(real.check(p, m["ids"]) for p, m in zip(PROMPTS, chance, strict=True)) > 0

    # The text may have pauses or not, the ids have them.
    made = strip_pauses(hidden[0]["ids"], real.tokenizer)
    assert made.pauses == 3 and made.text == hidden[0]["text"]

    assert refused[0] == {"refused": "pauses: threshold: should be at most 1, not 2."}
    assert "eligibility is a file's name" in refused[1]["refused"]


# The server

# The untrained model often ends after a pause: it is made to go on.
BODY = {"model": "SmolLM2", "temperature": 0, "return_token_ids": True, "ignore_eos": True}


def ask(port: int, **body: Any) -> Any:
    """What the server answers to a request for a completion; its error, too."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps(BODY | body).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer a-secret"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["choices"][0]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["message"]


def test_the_server(real: Pausing, tmp_path: Path) -> None:
    """Loaded by name; what the operator set goes for all requests, and his rule is obeyed."""
    rule = tmp_path / "rule.json"
    RULE.write(rule)
    port, log = free_port(), tmp_path / "serve.log"
    words = ("--logits-processors", "pausedata.inference.vllm:PausesForVLLM")
    defaults = json.dumps({"threshold": 0.6, "max_pauses": 4, "eligibility": str(rule)})
    with serving(real.folder, port, log, *words, PAUSEDATA_PAUSES=defaults):
        wait_until(lambda: b"startup complete" in log.read_bytes(), 300)

        def pauses(**asked: Any) -> Any:
            more = {"vllm_xargs": {"pauses": json.dumps(asked)}} if asked else {}
            made = ask(port, prompt=PROMPTS[0], max_tokens=12, **more)
            if isinstance(made, tuple):
                return made
            params = {"threshold": 0.6, "max_pauses": 4} | asked
            assert real.check(PROMPTS[0], made["token_ids"], eligibility=RULE, **params) > 0
            return made["token_ids"].count(real.pause)

        assert 0 < pauses() <= 4
        assert pauses(threshold=0.9, max_pauses=2) == 2
        plain = ask(port, prompt=PROMPTS[0], max_tokens=12, vllm_xargs={"pauses": "false"})
        ruled = ask(
            port, prompt=PROMPTS[0], max_tokens=12, vllm_xargs={"pauses": '{"group": "sets"}'}
        )
        assert plain["token_ids"] == ruled["token_ids"] and real.pause not in plain["token_ids"]
        assert pauses(cooldown=-1) == (400, "pauses: cooldown: should be at least 0, not -1.")
        assert "eligibility is the server's" in pauses(eligibility=RULE.model_dump())[1]
        assert ask(port, prompt="x", vllm_xargs={"pauses": "{"})[0] == 400


# Without an engine


class Model:
    """Logits that depend on all tokens before, and on nothing else."""

    def __init__(self, tiny: Pausing) -> None:
        self.size, self.tiny = tiny.pause + 1, tiny

    def logits(self, ids: list[int]) -> torch.Tensor:
        seed = torch.Generator().manual_seed(hash(tuple(ids)) % 2**31)
        return torch.randn(self.size, generator=seed) * 3

    def expected(self, prompt: list[int], params: dict[str, Any] | None, length: int) -> list[int]:
        """Greedy decoding under transformers' processor."""
        processor = self.tiny.processor(**params) if params is not None else None
        ids = list(prompt)
        for _ in range(length):
            scores = self.logits(ids)[None]
            if processor:
                scores = processor(torch.tensor([ids]), scores)
            ids.append(int(scores.argmax()))
        return ids[len(prompt) :]


REQUESTS: list[dict[str, Any] | None] = [
    {"threshold": 0.9, "max_pauses": 3},
    {"threshold": 0.9, "max_pauses": 7, "cooldown": 2},
    None,
    {"threshold": 0.9, "tokens": 2, "never_after": ["a"]},
    {"threshold": 0, "entropy_threshold": 2.0},
]


def asking(params: dict[str, Any] | None) -> Any:
    """Sampling parameters that ask for these pauses."""
    from vllm import SamplingParams

    return SamplingParams(extra_args=None if params is None else {"pauses": params})


def config(tiny: Pausing) -> Any:
    """What the processor reads of vLLM's configuration."""
    model = SimpleNamespace(tokenizer=str(tiny.folder), tokenizer_revision=None)
    return SimpleNamespace(model_config=model, speculative_config=None)


def prompts_of(tiny: Pausing) -> list[list[int]]:
    return [[5 + k, 6, tiny.pause if k == 0 else 7] for k in range(len(REQUESTS))]


@pytest.mark.parametrize("late", [False, True])
def test_requests_that_come_go_and_move_under_the_first_runner(tiny: Pausing, late: bool) -> None:
    """``late``: the newest token is told as -1 when the batch changes, as in async scheduling."""
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    from pausedata.inference.vllm import PausesForVLLM

    model, chance = Model(tiny), random.Random(0)
    processor = PausesForVLLM(config(tiny), torch.device("cpu"), False)
    prompts, made = prompts_of(tiny), [[] for _ in REQUESTS]
    waiting, batch, length = list(range(len(REQUESTS))), [], 24
    preempted = False
    while waiting or batch:
        added, removed, moved = [], [], []
        if batch and not preempted and len(made[batch[0]]) == 9:
            waiting.append(batch[0])  # goes out, and comes back with what it had
            preempted = True
            gone = [0]
        else:
            gone = [k for k, r in enumerate(batch) if len(made[r]) == length]
        for k in reversed(gone):
            removed.append(k)
            last = batch.pop()
            if k < len(batch):
                batch[k] = last
                moved.append((len(batch), k, MoveDirectionality.UNIDIRECTIONAL))
        if waiting and not removed:
            request = waiting.pop(0)
            added.append((len(batch), asking(REQUESTS[request]), prompts[request], made[request]))
            batch.append(request)
        if len(batch) > 2 and not removed and chance.random() < 0.3:
            moved.append((0, len(batch) - 1, MoveDirectionality.SWAP))
            batch[0], batch[-1] = batch[-1], batch[0]
        newest = {r: made[r][-1] for r in batch if made[r] and late}
        for r in newest:
            made[r][-1] = -1
        changed = added or removed or moved
        update = BatchUpdate(len(batch), removed, added, moved) if changed else None
        processor.update_state(update)
        for r, token in newest.items():
            made[r][-1] = token
        if not batch:
            continue
        logits = torch.stack([model.logits(prompts[r] + made[r]) for r in batch])
        for r, token in zip(batch, processor.apply(logits).argmax(-1).tolist(), strict=True):
            made[r].append(token)
    assert preempted
    for prompt, params, ids in zip(prompts, REQUESTS, made, strict=True):
        assert ids == model.expected(prompt, params, length)
        assert (params is None) == (tiny.pause not in ids)


def test_tokens_that_are_taken_back_were_never_there(tiny: Pausing) -> None:
    """As after a failed transfer of the cache."""
    from vllm.v1.sample.logits_processor import BatchUpdate

    from pausedata.inference.vllm import PausesForVLLM

    def forced() -> bool:
        return int(processor.apply(torch.zeros(1, tiny.pause + 1)).argmax()) == tiny.pause

    processor = PausesForVLLM(config(tiny), torch.device("cpu"), False)
    made = [5, tiny.pause, 6]
    params = asking({"threshold": 1, "max_pauses": 1})
    processor.update_state(BatchUpdate(1, [], [(0, params, [5], made)], []))
    assert not forced()
    del made[1:]
    assert forced()
    made.append(-1)  # vLLM does not know it yet
    assert forced()


def test_requests_in_slots_under_the_second_runner(tiny: Pausing) -> None:
    """Rows in another order at every step, prompts read in two parts, and a preemption."""
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext

    from pausedata.inference.vllm import PausesForVLLM

    assert issubclass(PausesForVLLM, LogitsProcessor)
    model, chance, length = Model(tiny), random.Random(0), 24
    slots = [3, 0, 4, 1, 2]  # of the requests
    prompts, made = prompts_of(tiny), [[] for _ in REQUESTS]
    zeros = [SimpleNamespace(np=np.zeros(5, np.int32)) for _ in range(2)]
    ids = torch.zeros(5, 64, dtype=torch.int32)
    states = SimpleNamespace(
        prompt_len=zeros[0], prefill_len=zeros[1], all_token_ids=SimpleNamespace(gpu=ids)
    )
    processor = PausesForVLLM(config(tiny), states)

    def enter(r: int) -> None:
        whole = prompts[r] + made[r]
        states.prompt_len.np[slots[r]], states.prefill_len.np[slots[r]] = 3, len(whole)
        ids[slots[r]] = 0
        ids[slots[r], : len(whole)] = torch.tensor(whole)
        wanted = REQUESTS[r] is not None
        assert processor.add_request(slots[r], asking(REQUESTS[r])) is wanted

    for r in range(len(REQUESTS)):
        enter(r)
    for step in range(-1, length):
        if step == 9:
            slots[1], slots[2] = slots[2], slots[1]
            enter(1)
            enter(2)
        order = chance.sample(range(len(REQUESTS)), len(REQUESTS))
        lengths = [2 if step < 0 else 3 + len(made[r]) for r in order]
        rows = [(prompts[r] + made[r])[:n] for r, n in zip(order, lengths, strict=True)]
        mapping = np.array([slots[r] for r in order])
        context = LogitsContext(
            expanded_idx_mapping=torch.from_numpy(mapping),
            idx_mapping=torch.from_numpy(mapping),
            idx_mapping_np=mapping,
            expanded_local_pos=torch.zeros(len(order)),
            input_ids=torch.tensor([row[-1] for row in rows]),
            pos=torch.tensor(lengths) - 1,
            seq_lens_upper_bound_np=np.array(lengths),
        )
        chosen = processor.apply(torch.stack([model.logits(row) for row in rows]), context)
        for r, token in zip(order, chosen.argmax(-1).tolist(), strict=True):
            if step >= 0:  # before that the prompt is not read to its end
                ids[slots[r], 3 + len(made[r])] = token
                made[r].append(token)
    for prompt, params, row in zip(prompts, REQUESTS, made, strict=True):
        assert row == model.expected(prompt, params, length)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"threshold": -1}, "pauses: threshold: should be at least 0, not -1."),
        ({"treshold": 1}, "pauses: unknown key 'treshold'. Did you mean 'threshold'?"),
        ("{", "pauses: not JSON"),
        ("0.5", "pauses: should be an object such as"),
        (7, "pauses: should be an object such as"),
        ({"group": "sets"}, "a group says nothing without eligibility"),
        ({"pause_token": "x"}, "unknown key 'pause_token'"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(given: Any, says: str) -> None:
    from pausedata.inference.vllm import PausesForVLLM

    with pytest.raises(ValueError) as told:
        PausesForVLLM.validate_params(asking(given))
    assert says in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("given", [None, False, {}, "{}", '{"threshold": 0.2}', "false"])
def test_a_right_request(given: Any) -> None:
    from pausedata.inference.vllm import PausesForVLLM

    PausesForVLLM.validate_params(asking(given))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "PAUSEDATA_PAUSES: not JSON"),
        ("3", "PAUSEDATA_PAUSES: should be an object"),
        ('{"threshold": 3}', "PAUSEDATA_PAUSES: threshold: should be at most 1"),
        ('{"pause_token": "[WAIT]"}', r"no token '[WAIT]'"),
        ('{"eligibility": "none.json"}', "none.json: no such eligibility rule"),
    ],
)
def test_what_the_operator_set_is_checked_at_the_start(
    tiny: Pausing, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    from pausedata.inference.vllm import PausesForVLLM

    monkeypatch.setenv("PAUSEDATA_PAUSES", text)
    with pytest.raises(UsageError) as told:
        PausesForVLLM(config(tiny), torch.device("cpu"), False)
    assert says in str(told.value)


def test_a_model_without_the_pause_or_with_speculative_decoding(
    tiny: Pausing, model_folder: Path
) -> None:
    from pausedata.inference.vllm import PausesForVLLM

    plain = config(tiny)
    plain.model_config.tokenizer = str(model_folder)
    with pytest.raises(UsageError, match="pausedata prepare-model"):
        PausesForVLLM(plain, torch.device("cpu"), False)
    guessing = config(tiny)
    guessing.speculative_config = object()
    with pytest.raises(UsageError, match="speculative decoding"):
        PausesForVLLM(guessing, torch.device("cpu"), False)
