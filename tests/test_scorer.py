"""Scores against an independent float64 log-softmax, and the guards around them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pausedata.core.errors import DataError, UsageError
from pausedata.models.ref import ModelRef
from pausedata.scorers import Example, Scores, check_scores, load_scorer, resolve_backend
from pausedata.scorers.batches import plan_batches

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parent.parent
SMOLLM2 = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
WORD_PROBLEMS = ROOT / "recipes" / "data" / "word_problems.jsonl"
VOCABULARY = 300


@dataclass
class Ref:
    """What a scorer needs of `pausedata.models.ref.ModelRef`."""

    path: Path
    name: str = "tiny"
    kind: str = "folder"

    def from_pretrained_args(self) -> tuple[str, dict[str, Any]]:
        return str(self.path), {}


def _save(config: Any, folder: Path) -> Ref:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # the usual small weights give flat distributions
        if parameter.ndim > 1:
            parameter.data.mul_(8)
    model.save_pretrained(folder)
    return Ref(folder)


def _config(kind: str, **more: Any) -> Any:
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    return getattr(transformers, f"{kind}Config")(**sizes, **more)


CONFIGS = {
    "llama": lambda: _config("Llama"),
    "gemma2": lambda: _config("Gemma2", head_dim=8, final_logit_softcapping=3.0),
    "granite": lambda: _config("Granite", logits_scaling=8.0),
    "cohere": lambda: _config("Cohere", logit_scale=0.25, bos_token_id=1, eos_token_id=2),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ref]:
    return {name: _save(make(), tmp_path_factory.mktemp(name)) for name, make in CONFIGS.items()}


def plain(ref: Ref) -> Any:
    """The model as transformers loads it, untouched by any scorer."""
    where, keywords = ref.from_pretrained_args()
    return transformers.AutoModelForCausalLM.from_pretrained(
        where, dtype=torch.float32, **keywords
    ).eval()


@pytest.fixture(scope="module")
def llama(folders: dict[str, Ref]) -> Any:
    return plain(folders["llama"])


@pytest.fixture(scope="module")
def scorer(folders: dict[str, Ref]) -> Any:
    return load_scorer("auto", folders["llama"], device="cpu", batch_tokens=256)


def make_examples(count: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    return [
        Example(
            rng.integers(0, VOCABULARY, rng.integers(1, 40)).astype(np.int32),
            rng.integers(0, VOCABULARY, rng.integers(1, 40)).astype(np.int32),
        )
        for _ in range(count)
    ]


def reference(model: Any, example: Example) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logprob, entropy (float64) and the logits (n, vocabulary), from one example by itself."""
    ids = [*map(int, example.prompt_ids), *map(int, example.response_ids)]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].numpy()
    logits = logits[len(example.prompt_ids) - 1 : -1]
    x = logits.astype(np.float64)
    logprob = x - x.max(1, keepdims=True)
    logprob -= np.log(np.exp(logprob).sum(1, keepdims=True))
    entropy = -(np.exp(logprob) * logprob).sum(1)
    return logprob[np.arange(len(x)), example.response_ids], entropy, logits


def assert_scores(model: Any, example: Example, scores: Scores, within: float) -> np.ndarray:
    """Compare with the reference, whose log-probabilities are given back."""
    logprob, entropy, logits = reference(model, example)
    assert np.abs(scores.logprob - logprob).max() <= within
    assert scores.entropy is not None and scores.rank is not None
    assert np.abs(scores.entropy - entropy).max() <= 10 * within
    # A rank may differ only by tokens whose logits are as good as equal.
    chosen = np.take_along_axis(logits, example.response_ids[:, None].astype(np.int64), 1)
    least = 1 + (logits > chosen + within).sum(1)
    most = 1 + (logits > chosen - within).sum(1)
    assert ((least <= scores.rank) & (scores.rank <= most)).all()
    return logprob


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("llama", "linear"),
        ("gpt2", "linear"),
        ("gemma2", "model"),
        ("granite", "model"),
        ("cohere", "model"),
    ],
)
def test_scores_equal_float64_log_softmax(folders: dict[str, Ref], name: str, head: str) -> None:
    scorer: Any = load_scorer("transformers", folders[name], device="cpu", batch_tokens=200)
    assert scorer.head == head
    examples, model = make_examples(12), plain(folders[name])
    for example, scores in zip(examples, scorer.score(examples), strict=True):
        assert_scores(model, example, scores, within=1e-5)


def test_whole_forward_gives_the_same(folders: dict[str, Ref]) -> None:
    scorer: Any = load_scorer("transformers", folders["gemma2"], device="cpu")
    scorer._head = None
    assert scorer.head == "whole"
    examples, model = make_examples(6), plain(folders["gemma2"])
    for example, scores in zip(examples, scorer.score(examples), strict=True):
        assert_scores(model, example, scores, within=1e-5)


def test_rank_and_entropy_by_brute_force(scorer: Any, llama: Any) -> None:
    examples = make_examples(4)
    for example, scores in zip(examples, scorer.score(examples), strict=True):
        _, entropy, logits = reference(llama, example)
        for k, token in enumerate(example.response_ids):
            assert scores.rank[k] == 1 + sum(x > logits[k, token] for x in logits[k])
        np.testing.assert_allclose(scores.entropy, entropy, atol=1e-5)


def test_equal_logits_do_not_raise_the_rank() -> None:
    from pausedata.scorers.statistics import TokenStatistics

    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0], [-torch.inf, 0.0, 0.0, -torch.inf]])
    out = torch.empty(3, 2)
    TokenStatistics(4, torch.device("cpu"), 2)(logits, torch.tensor([2, 1]), out)
    assert out[1].tolist() == [1, 1]
    assert out[:, 1].tolist() == pytest.approx([-np.log(2), 1, np.log(2)])


def test_many_chunks_give_the_same(folders: dict[str, Ref], scorer: Any) -> None:
    examples = make_examples(10)
    small: Any = load_scorer("transformers", folders["llama"], device="cpu", batch_tokens=256)
    small._rows = 7
    for one, other in zip(small.score(examples), scorer.score(examples), strict=True):
        np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-5)
        assert (one.rank == other.rank).all()


def test_other_rows_and_padding_hardly_move_a_score(scorer: Any) -> None:
    examples = make_examples(20)
    together = scorer.score(examples)
    for example, scores in zip(examples, together, strict=True):
        alone = scorer.score([example])[0]
        assert np.abs(alone.logprob - scores.logprob).max() < 1e-5
        assert np.abs(alone.entropy - scores.entropy).max() < 1e-5


def test_order_is_kept_and_progress_counts_every_token(scorer: Any) -> None:
    examples = make_examples(15)
    heard: list[int] = []
    forward = scorer.score(examples, heard.append)
    backward = scorer.score(examples[::-1])[::-1]
    for example, one, other in zip(examples, forward, backward, strict=True):
        assert len(one.logprob) == len(example.response_ids)
        np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-5)
    assert sum(heard) == sum(map(len, examples))
    assert scorer.score([]) == []


def test_the_same_batch_gives_the_same_bits(scorer: Any) -> None:
    examples = make_examples(15)
    for one, other in zip(scorer.score(examples), scorer.score(examples), strict=True):
        assert one.logprob.tobytes() == other.logprob.tobytes()
        assert one.rank.tobytes() == other.rank.tobytes()
        assert one.entropy.tobytes() == other.entropy.tobytes()
        assert (one.logprob.dtype, one.rank.dtype) == (np.float32, np.int32)


def test_an_empty_response_has_no_scores(scorer: Any) -> None:
    empty = Example([5], np.empty(0, np.int32))
    first, second = scorer.score([empty, make_examples(1)[0]])
    assert len(first.logprob) == len(first.rank) == len(first.entropy) == 0
    assert len(second.logprob)


@pytest.mark.parametrize(
    ("example", "says"),
    [
        (Example([1] * 100, np.ones(29, np.int32)), "129 tokens, the model takes 128"),
        (Example([], np.ones(3, np.int32)), "empty prompt"),
        (Example([1, 300], np.ones(3, np.int32)), "token id 300"),
        (Example([1], np.array([-1], np.int32)), "token id -1"),
    ],
)
def test_examples_that_the_model_cannot_take(scorer: Any, example: Example, says: str) -> None:
    assert scorer.context_length == 128
    with pytest.raises(DataError, match=says):
        scorer.score([example])


def test_a_full_context_fits(scorer: Any) -> None:
    assert len(scorer.score([Example([1] * 99, np.ones(29, np.int32))])[0].logprob) == 29


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine": {"max_num_seqs": 4}}, "scoring.engine belongs to vLLM"),
        ({"dtype": "float23"}, "Did you mean 'float32'"),
        ({"device": "cdua"}, "no device 'cdua'.*Did you mean 'cuda'"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1"),
    ],
)
def test_wrong_options(folders: dict[str, Ref], options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_scorer("transformers", folders["llama"], **options)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tiny cannot be loaded as a causal language model") as e:
        load_scorer("transformers", Ref(tmp_path))
    assert "\n" not in str(e.value)


def test_a_model_that_reads_ahead_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64,
    )  # fmt: skip
    with pytest.raises(UsageError, match="no causal language model"):
        load_scorer("transformers", _save(config, tmp_path), device="cpu")


def test_a_head_that_cannot_be_packed_gives_the_same(
    folders: dict[str, Ref], llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pausedata.scorers import packed

    monkeypatch.setattr(packed, "_known", [False])
    unpacked: Any = load_scorer("transformers", folders["llama"], device="cpu")
    assert unpacked.head == "linear"
    examples = make_examples(6)
    for example, scores in zip(examples, unpacked.score(examples), strict=True):
        assert_scores(llama, example, scores, within=1e-5)


def test_out_of_memory_says_what_to_lower(scorer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(scorer, "_predict", fail)
    with pytest.raises(DataError, match=r"lower `scoring.batch_tokens` \(now 256\)"):
        scorer.score(make_examples(3))


def test_backends() -> None:
    assert resolve_backend("auto") == resolve_backend("transformers") == "transformers"
    with pytest.raises(UsageError, match=r"unknown backend 'transfomers'\. Did you mean 'tr"):
        resolve_backend("transfomers")


def test_half_precision_is_near(folders: dict[str, Ref], scorer: Any) -> None:
    examples = make_examples(3)
    half: Any = load_scorer("transformers", folders["llama"], dtype="bfloat16", device="cpu")
    assert half.head == "linear"
    for one, other in zip(half.score(examples), scorer.score(examples), strict=True):
        assert np.abs(one.logprob - other.logprob).max() < 1


def test_a_forward_that_something_else_put_on_the_model_is_there_afterwards(
    folders: dict[str, Ref],
) -> None:
    """As the hooks of accelerate do."""
    model = plain(folders["llama"])
    own = model.base_model.forward

    def hooked(*args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs)

    model.base_model.forward = hooked
    from pausedata.scorers.transformers import TransformersScorer

    TransformersScorer(model, 512).close()
    assert model.base_model.forward is hooked


def test_loading_is_silent(folders: dict[str, Ref], capfd: pytest.CaptureFixture[str]) -> None:
    load_scorer("transformers", folders["llama"], device="cpu").close()
    assert capfd.readouterr() == ("", "")


def test_the_interface_loads_no_torch() -> None:
    code = "import sys, pausedata.scorers; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def make_scores(n: int = 3, **changes: Any) -> Scores:
    values: dict[str, Any] = {
        "logprob": np.full(n, -1, np.float32),
        "rank": np.ones(n, np.int32),
        "entropy": np.ones(n, np.float32),
    }
    return Scores(**{**values, **changes})


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_roundings_past_zero_become_zero() -> None:
    example = Example([1], np.ones(3, np.int32))
    given_scores = make_scores(logprob=floats(5e-5, -1, 0), entropy=floats(-5e-5, 1, 0))
    checked = check_scores(example, given_scores, "row 1")
    assert checked.logprob.tolist() == [0, -1, 0]
    assert checked.entropy is not None and checked.entropy.tolist() == [0, 1, 0]
    assert check_scores(example, make_scores(rank=None, entropy=None), "row 1").rank is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"logprob": floats(-1, -1)}, "row 7: the backend returned 2 values of logprob for 3"),
        ({"rank": np.ones(4, np.int32)}, "4 values of rank for 3"),
        ({"entropy": floats()}, "0 values of entropy for 3"),
        ({"logprob": floats(-1, np.nan, -1)}, "logprob nan at response token 1"),
        ({"logprob": floats(-1, -1, -np.inf)}, "logprob -inf at response token 2"),
        ({"logprob": floats(-1, 0.1, -1)}, "at response token 1 has the wrong sign"),
        ({"rank": np.array([1, 0, 1], np.int32)}, "rank 0 at response token 1"),
        ({"entropy": floats(-0.1, 1, 1)}, "entropy -0.1.* at response token 0"),
        ({"entropy": floats(np.inf, 1, 1)}, "entropy inf at response token 0"),
    ],
)
def test_scores_that_cannot_be_right(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        check_scores(Example([1], np.ones(3, np.int32)), make_scores(**changes), "row 7")


@given(st.lists(st.integers(1, 500)), st.integers(1, 2000))
def test_batches_hold_everything_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, budget)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert order == sorted(order, key=lambda k: (-lengths[k], k))  # longest first, ties as given
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[k] for k in batch) <= budget
    # No batch has room for the first example of the next.
    for batch in batches[:-1]:
        assert (len(batch) + 1) * lengths[batch[0]] > budget
    assert plan_batches(list(lengths), budget) == batches


@pytest.fixture(scope="module")
def real() -> tuple[Any, Any, list[Example]]:
    if not SMOLLM2.is_file():
        pytest.skip(f"no {SMOLLM2.name} (make model)")
    if not WORD_PROBLEMS.is_file():
        pytest.skip(f"no {WORD_PROBLEMS.name}")
    ref = ModelRef("gguf", SMOLLM2.name, SMOLLM2)
    scorer = load_scorer("transformers", ref, device="cpu")
    where, keywords = ref.from_pretrained_args()
    tokenizer = transformers.AutoTokenizer.from_pretrained(where, **keywords)
    examples = []
    for line in WORD_PROBLEMS.read_text(encoding="utf-8").splitlines()[:24]:
        row = json.loads(line)
        prompt = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
        response = [*tokenizer(f" {row['answer']}")["input_ids"], tokenizer.eos_token_id]
        examples.append(Example(prompt, np.asarray(response, np.int32)))
    return scorer, plain(ref), examples


@pytest.mark.model
def test_real_model_equals_float64_log_softmax(real: tuple[Any, Any, list[Example]]) -> None:
    scorer, model, examples = real
    assert len(examples) == 24 and scorer.head == "linear"
    for number, (example, scores) in enumerate(zip(examples, scorer.score(examples), strict=True)):
        scores = check_scores(example, scores, f"example {number}")
        logprob = assert_scores(model, example, scores, within=1e-4)
        # The five lowest are the same, but for ties: none left out is lower by more than 1e-4.
        lowest = np.argsort(scores.logprob, kind="stable")[:5]
        others = np.delete(logprob, lowest)
        assert not others.size or logprob[lowest].max() <= others.min() + 1e-4
