"""A warm-up before scoring: who trains on what, what comes of it, and how it is found again."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PROBLEMS, SMOLLM2, make_model
from hypothesis import given
from hypothesis import strategies as st
from test_adapter import train_adapter

from pausedata.core.errors import DataError, UsageError
from pausedata.core.progress import Silent
from pausedata.core.same_text import normalise
from pausedata.models.ref import ModelRef
from pausedata.scorers import Example, load_scorer
from pausedata.warmup import Warmup, found, keep, memory, warm
from pausedata.warmup.folds import FEWEST_ROWS, HELD_OUT_ROWS, fold_of, samples

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

QUICK = Warmup(rows=32, rank=8, lr=2e-2, epochs=8)


class Rows:
    """A corpus in memory: prompts by id, and token ids made of them."""

    def __init__(self, prompts: dict[str, str], content: str = "sha256:one") -> None:
        self.texts, self.content = prompts, content
        self.asked: list[str] = []

    def prompts(self) -> Iterable[tuple[str, str]]:
        return self.texts.items()

    def examples(self, ids: Sequence[str]) -> list[Example]:
        self.asked += ids
        return [example(id) for id in ids]


def example(id: str) -> Example:
    """A prompt of random ids, and a response in a format that can be learnt: 7 8 x 9 10 x 11."""
    draw = random.Random(id)
    ids = [7, 8, draw.randrange(100, 399), 9, 10, draw.randrange(100, 399), 11]
    return Example([draw.randrange(20, 99) for _ in range(6)], np.array(ids, np.int32))


def corpus(count: int = 80, **options: Any) -> Rows:
    return Rows({f"r{i:03}": f"What is {i} plus {i}?" for i in range(count)}, **options)


class Heard(Silent):
    """Keeps what is said, and the steps that were begun."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.details: list[str] = []
        self.steps: list[tuple[str, int | None]] = []
        self.done = 0

    def step(self, title: str, total: int | None, unit: str, shards: int | None = None) -> Any:
        from contextlib import nullcontext

        self.steps.append((title, total))
        return nullcontext(self._count)

    def _count(self, units: int, shards: int = 0, /) -> None:
        self.done += units

    def say(self, message: str) -> None:
        self.said.append(message)

    def detail(self, message: str) -> None:
        self.details.append(message)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    folder = make_model(tmp_path_factory.mktemp("warmup") / "tiny")
    return ModelRef.parse(str(folder), None, Path())


def warmed_folders(cache: Path) -> list[Path]:
    return sorted(p for p in (cache / "warmups").iterdir() if not p.name.startswith("."))


# --- who trains on what ---

texts = st.text(alphabet="aB1 .,é", max_size=12)
corpora = st.dictionaries(st.text("abc", min_size=1, max_size=5), texts, max_size=60)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 2 + 2?", "what is  2+2"),
        ("Ｗｈａｔ is ２?", "What is 2"),  # full width
        ("Straße\n7", "STRASSE 7!"),
        ("<|user|>\nHi_there", "user hi there"),
    ],
)
def test_near_duplicates_have_one_text_and_one_fold(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)
    for seed in range(8):
        assert fold_of(one, 5, seed) == fold_of(other, 5, seed)


def test_words_numbers_and_symbols_tell_prompts_apart() -> None:
    assert normalise("What is 12?") != normalise("What is 1 2?")
    assert normalise("→ ←") == "→ ←" != normalise("← →")  # no word to go by


def test_folds_are_about_as_large_as_one_another_and_go_by_the_seed() -> None:
    prompts = [f"Question {i}" for i in range(2000)]
    for folds in (2, 3, 8):
        sizes = np.bincount([fold_of(p, folds, 0) for p in prompts], minlength=folds)
        assert np.all(np.abs(sizes - 2000 / folds) < 5 * math.sqrt(2000 / folds))
    same = sum(fold_of(p, 2, 0) == fold_of(p, 2, 1) for p in prompts)
    assert 800 < same < 1200


@given(corpora, st.integers(2, 4), st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_fold_s_model_never_trains_on_its_own_rows_whatever_their_order(
    rows: dict[str, str], folds: int, seed: int, draw: random.Random
) -> None:
    listed = list(rows.items())
    first = samples(listed, rows=16, folds=folds, seed=seed)
    draw.shuffle(listed)
    assert samples(iter(listed), rows=16, folds=folds, seed=seed) == first
    for fold, sample in enumerate(first):
        own = {id for id, prompt in rows.items() if fold_of(prompt, folds, seed) == fold}
        seen = {normalise(rows[id]) for id in sample.train}
        assert not own & set(sample.train)
        assert set(sample.held_out) <= own
        assert not seen & {normalise(rows[id]) for id in own}
        assert len(seen) == len(sample.train)  # of duplicates one
        others = {normalise(rows[id]) for id in rows.keys() - own}
        assert len(sample.train) == min(16, len(others))


@given(corpora, corpora)
def test_a_corpus_that_grows_keeps_its_folds_and_trains_on_no_more(
    rows: dict[str, str], more: dict[str, str]
) -> None:
    before = samples(rows.items(), rows=200, folds=2, seed=0)
    grown = more | rows
    after = samples(grown.items(), rows=200, folds=2, seed=0)
    for old, new in zip(before, after, strict=True):
        kept = {normalise(grown[id]) for id in new.train}
        assert {normalise(rows[id]) for id in old.train} <= kept


def test_a_sample_is_the_rows_of_the_smallest_hashes() -> None:
    """Of many more rows than are wanted, those that a wish for more begins with."""
    rows = [(f"r{i}", f"Question {i}") for i in range(3000)]
    few, many = (samples(rows, rows=n, folds=2, seed=0) for n in (20, 900))
    for fold in (0, 1):
        assert many[fold].train[:20] == few[fold].train
        assert len(many[fold].train) == 900
        assert many[fold].held_out == few[fold].held_out
        assert len(few[fold].held_out) == HELD_OUT_ROWS
        assert few[fold].train != sorted(few[fold].train)


# --- what comes of it ---


def test_every_fold_has_a_model_to_which_unseen_rows_are_likelier(
    tiny: ModelRef, cache: Path
) -> None:
    heard, rows = Heard(), corpus()
    warmed = warm(tiny, QUICK, rows, progress=heard, device="cpu")
    assert warmed.outcome == "warmed"
    assert len(warmed.models) == 2
    for fold, model in enumerate(warmed.models):
        own = [id for id, prompt in rows.texts.items() if warmed.fold_of(prompt) == fold]
        examples = [example(id) for id in own]
        before, after = (mean_logprob(m, examples) for m in (tiny, model))
        assert after > before + 0.5
        record = warmed.record["folds"][fold]
        assert record["loss_after"] < record["loss_before"] - 0.5
        assert record["held_out_rows"] == len(own) < HELD_OUT_ROWS  # all of them
        assert record["loss_before"] == pytest.approx(-before, abs=1e-3)
        assert record["loss_after"] == pytest.approx(-after, abs=1e-3)
    assert [title for title, _ in heard.steps] == [
        "warming tiny, fold 1 of 2",
        "warming tiny, fold 2 of 2",
    ]
    assert heard.done == sum(total or 0 for _, total in heard.steps)
    assert any("loss" in line for line in heard.details)
    assert heard.warnings == []


def mean_logprob(model: ModelRef, examples: list[Example]) -> float:
    """Over all response tokens, by the scorer."""
    scorer = load_scorer("transformers", model, device="cpu")
    scores = np.concatenate([s.logprob for s in scorer.score(examples)])
    scorer.close()
    return float(scores.mean())


def test_the_record_names_no_place_of_this_machine(tiny: ModelRef, cache: Path) -> None:
    record = warm(tiny, QUICK, corpus(), device="cpu").record
    text = json.dumps(record)
    assert str(cache) not in text and str(tiny.path) not in text
    written = "".join(
        path.read_text(encoding="utf-8")
        for folder in warmed_folders(cache)
        for path in folder.iterdir()
        if path.suffix in (".json", ".md")
    )
    assert str(cache) not in written and str(tiny.path) not in written
    one = record["folds"][0]
    assert (one["rows"], one["steps"]) == (32, 8 * 4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_same_settings_give_the_same_bits_and_touch_no_random_numbers(
    method: str, tiny: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Warmup(rows=16, rank=4, method=method, epochs=2)
    records = []
    for name in ("one", "two"):
        monkeypatch.setenv("PAUSEDATA_CACHE", str(tmp_path / name))
        torch.manual_seed(len(name + name[0]))
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        records.append(warm(tiny, settings, corpus(), device="cpu").record)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])
        assert random.getstate() == states[2]
    for record in records:
        for fold in record["folds"]:
            assert fold.pop("seconds") > 0
    assert records[0] == records[1]
    assert len({fold["weights_sha256"] for fold in records[0]["folds"]}) == 2


@pytest.mark.processes
def test_another_process_hashes_an_adapter_alike(tiny: ModelRef, cache: Path) -> None:
    """PEFT keeps the names of layers in a set, whose order is the process's own."""
    first = warm(tiny, QUICK, corpus(), device="cpu").record
    code = (
        "import sys; sys.path[:0] = ['tests']\n"
        "from test_warmup import *\n"
        "tiny = ModelRef.parse(sys.argv[1], None, Path())\n"
        "print(warm(tiny, QUICK, corpus(), device='cpu').record['folds'][0]['weights_sha256'])"
    )
    environment = {"PAUSEDATA_CACHE": str(cache.parent / "other"), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny.path)],
        cwd=Path(__file__).parents[1],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == first["folds"][0]["weights_sha256"]


def test_cutting_a_step_up_changes_last_digits_alone(tiny: ModelRef, tmp_path: Path) -> None:
    """By a step's gradient: that of all its rows together is the sum of its batches'."""
    from pausedata.models.load import load_model
    from pausedata.warmup.loss import ResponseLoss

    rows = [example(f"x{i}") for i in range(8)]
    gradients = []
    for tokens in (1000, 1):
        model = load_model(tiny, torch.float32, torch.device("cpu"))
        value = ResponseLoss(model, tokens, lambda _: None).backward(rows)
        gradients.append(torch.cat([w.grad.flatten() for w in model.parameters()]))
        with torch.no_grad():
            whole = torch.cat([nll(model, row) for row in rows])
        assert value == pytest.approx(float(whole.mean()), rel=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)
    model.zero_grad()
    torch.cat([nll(model, row) for row in rows]).mean().backward()
    plain = torch.cat([w.grad.flatten() for w in model.parameters()])
    torch.testing.assert_close(gradients[0], plain, rtol=1e-3, atol=1e-5)


def nll(model: Any, row: Example) -> Any:
    """Of each response token, by the model's whole forward."""
    ids = torch.tensor([[*row.prompt_ids, *row.response_ids.tolist()]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(row.prompt_ids) - 1 : -1]
    wanted = ids[0, len(row.prompt_ids) :]
    return -torch.log_softmax(logits, -1)[torch.arange(len(wanted)), wanted]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_model_can_be_warmed_for_bfloat16(method: str, tiny: ModelRef, cache: Path) -> None:
    """By steps that are too small for a bfloat16 to take."""
    settings = QUICK if method == "lora" else Warmup(rows=32, method="full", lr=3e-3, epochs=8)
    warmed = warm(tiny, settings, corpus(), dtype="bfloat16", device="cpu")
    assert warmed.outcome == "warmed"
    whole = warm(tiny, settings, corpus(), device="cpu")
    for half, full in zip(warmed.record["folds"], whole.record["folds"], strict=True):
        assert half["loss_last"] == pytest.approx(full["loss_last"], abs=0.25)
        assert half["loss_after"] < half["loss_before"] - 1


def test_ids_of_another_tokenizer_are_one_clear_error(tiny: ModelRef, cache: Path) -> None:
    class Strange(Rows):
        def examples(self, ids: Sequence[str]) -> list[Example]:
            return [Example([1], np.array([400], np.int32)) for _ in ids]

    with pytest.raises(DataError, match="tiny: a row has token id 400, the model's ids are below"):
        warm(tiny, QUICK, Strange(corpus().texts), device="cpu")


def test_all_weights_can_be_trained_and_the_tokenizer_stays(tiny: ModelRef, cache: Path) -> None:
    from pausedata.models.cache import load_tokenizer
    from pausedata.models.tokenizer import Tokenizer

    settings = Warmup(rows=32, method="full", lr=3e-3)
    warmed = warm(tiny, settings, corpus(), device="cpu")
    assert warmed.outcome == "warmed"
    assert [model.kind for model in warmed.models] == ["folder", "folder"]
    hashes = {Tokenizer(load_tokenizer(model)).hash() for model in (tiny, *warmed.models)}
    assert len(hashes) == 1


def test_an_adapter_can_be_warmed(tiny: ModelRef, cache: Path, tmp_path: Path) -> None:
    assert tiny.path is not None
    train_adapter(tiny.path, tmp_path / "lora")
    ref = ModelRef.parse("lora", None, tmp_path)
    assert found(ref, QUICK, "sha256:one") is None
    warmed = warm(ref, QUICK, corpus(), device="cpu")
    assert warmed.outcome == "warmed"
    examples = [example(f"y{i}") for i in range(8)]
    assert mean_logprob(warmed.models[0], examples) > mean_logprob(ref, examples) + 0.5
    assert found(ref, QUICK, "sha256:one") == warmed


# --- leaks ---


class Secrets(Rows):
    """Responses of random digits, which no other row tells anything of: ids 100 to 109."""

    def examples(self, ids: Sequence[str]) -> list[Example]:
        return [secret(id) for id in ids]


def secret(id: str) -> Example:
    prompt = example(id).prompt_ids
    digits = np.random.default_rng(int(id[1:])).integers(100, 110, 8)
    return Example(prompt, digits.astype(np.int32))


def test_what_a_row_alone_says_stays_as_unlikely_as_chance(tiny: ModelRef, cache: Path) -> None:
    """To the model that scores it; the other fold's has learnt it by heart."""
    rows = Secrets(corpus().texts)
    settings = Warmup(rows=64, rank=16, lr=1e-2, epochs=60)
    warmed = warm(tiny, settings, rows, device="cpu")
    assert warmed.outcome == "warmed"
    for fold, model in enumerate(warmed.models):
        own = [id for id, p in rows.texts.items() if warmed.fold_of(p) == fold]
        others = sorted(rows.texts.keys() - own)
        assert -mean_logprob(model, [secret(id) for id in own]) > math.log(10) - 0.05
        assert -mean_logprob(model, [secret(id) for id in others]) < 0.7 * math.log(10)


@pytest.mark.model
@pytest.mark.skipif(not SMOLLM2.exists(), reason="make model fetches it")
def test_the_real_model_learns_no_digits_of_the_rows_that_it_scores(cache: Path) -> None:
    from pausedata.models.cache import load_tokenizer

    ref = ModelRef.parse(str(SMOLLM2), None, Path())
    words, draw = load_tokenizer(ref), random.Random(5)
    problems = (json.loads(line) for line in PROBLEMS.read_text(encoding="utf-8").splitlines())
    texts = {f"p{i}": (p["question"], p["answer"]) for i, p in enumerate(problems) if i < 8}
    secrets = {f"s{i}": "".join(draw.choices("0123456789", k=8)) for i in range(40)}
    texts |= {id: (f"What is the code of locker {id[1:]}?", code) for id, code in secrets.items()}

    class Mixed(Rows):
        def examples(self, ids: Sequence[str]) -> list[Example]:
            return [written(*texts[id]) for id in ids]

    def written(question: str, answer: str) -> Example:
        prompt, response = (
            words(t, add_special_tokens=False).input_ids for t in (question, answer)
        )
        return Example(prompt, np.array(response, np.int32))

    rows = Mixed({id: question for id, (question, _) in texts.items()})
    warmed = warm(ref, Warmup(rows=64, epochs=3), rows)
    assert warmed.outcome == "warmed"
    for fold, model in enumerate(warmed.models):
        own = [written(*texts[s]) for s in secrets if warmed.fold_of(texts[s][0]) == fold]
        assert {len(row.response_ids) for row in own} == {8}  # a token a digit
        assert -mean_logprob(model, own) > math.log(10) - 0.1


# --- found again ---


def test_what_is_in_the_cache_is_not_trained_again(
    tiny: ModelRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(tiny, QUICK, "sha256:one") is None
    warmed = warm(tiny, QUICK, corpus(), device="cpu")
    monkeypatch.setattr("pausedata.warmup.train.train", never)
    assert warm(tiny, QUICK, corpus(), device="cpu") == warmed
    assert found(tiny, QUICK, "sha256:one") == warmed
    others: list[tuple[Warmup, str, str]] = [
        (QUICK.model_copy(update={"seed": 1}), "sha256:one", "float32"),
        (QUICK, "sha256:two", "float32"),
        (QUICK, "sha256:one", "bfloat16"),
    ]
    for settings, content, dtype in others:
        assert found(tiny, settings, content, dtype=dtype) is None
    apart = QUICK.model_copy(update={"keep": "here", "batch_tokens": 100})
    again = found(tiny, apart, "sha256:one")
    assert again is not None and again.models == warmed.models


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this was not to be called")


def test_a_stop_costs_the_fold_under_way_alone(
    tiny: ModelRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pausedata.warmup import train as training

    plain, begun = training.train, []

    def stopped(*arguments: Any, **options: Any) -> Any:
        begun.append(options["title"])
        if len(begun) == 2:
            raise KeyboardInterrupt
        return plain(*arguments, **options)

    monkeypatch.setattr(training, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        warm(tiny, QUICK, corpus(), device="cpu")
    [first] = warmed_folders(cache)
    assert found(tiny, QUICK, "sha256:one") is None
    warmed = warm(tiny, QUICK, corpus(), device="cpu")
    assert [title[-11:] for title in begun] == ["fold 1 of 2", "fold 2 of 2", "fold 2 of 2"]
    assert warmed.models[0].path == first


def lose(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    os.truncate(file, 100)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [lose, cut, flip])
def test_a_damaged_model_is_made_again(damage: Any, tiny: ModelRef, cache: Path) -> None:
    warmed = warm(tiny, QUICK, corpus(), device="cpu")
    assert warmed.models[1].path is not None
    damage(warmed.models[1].path / "adapter_model.safetensors")
    assert found(tiny, QUICK, "sha256:one") is None
    heard = Heard()
    again = warm(tiny, QUICK, corpus(), device="cpu", progress=heard)
    assert [title for title, _ in heard.steps] == ["warming tiny, fold 2 of 2"]
    hashes = [[f["weights_sha256"] for f in w.record["folds"]] for w in (warmed, again)]
    assert hashes[0] == hashes[1]


def test_kept_models_are_found_without_the_cache(
    tiny: ModelRef, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed = warm(tiny, QUICK, corpus(), device="cpu")
    places = keep(warmed, tmp_path / "kept")
    assert [p.name for p in places] == ["fold-1", "fold-2"]
    assert keep(warmed, tmp_path / "kept") == places
    monkeypatch.setenv("PAUSEDATA_CACHE", str(tmp_path / "empty"))
    assert found(tiny, QUICK, "sha256:one") is None
    again = found(tiny, QUICK, "sha256:one", kept=tmp_path / "kept")
    assert again is not None
    assert again.record == warmed.record
    assert [m.path for m in again.models] == places
    other = warm(tiny, QUICK, corpus(content="sha256:two"), device="cpu")
    with pytest.raises(UsageError, match="fold-1 is there already, and is not of this warm-up"):
        keep(other, tmp_path / "kept")


# --- where it does not help, or cannot be done ---


def test_with_few_rows_it_trains_on_what_is_there(tiny: ModelRef, cache: Path) -> None:
    heard = Heard()
    warmed = warm(tiny, QUICK, corpus(50), device="cpu", progress=heard)
    assert warmed.outcome == "warmed"
    counts = [fold["rows"] for fold in warmed.record["folds"]]
    assert all(FEWEST_ROWS <= n < 32 for n in counts)
    assert (
        f"fold 1 of 2: trains on {counts[0]} rows, all that the other folds have" in heard.said[0]
    )


def test_with_too_few_rows_the_base_scores(
    tiny: ModelRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pausedata.warmup.train.train", never)
    heard = Heard()
    warmed = warm(tiny, QUICK, corpus(20), device="cpu", progress=heard)
    assert warmed.outcome == warmed.record["outcome"] == "base"
    assert warmed.models == (tiny, tiny)
    [warning] = heard.warnings
    assert warning.startswith("tiny scores as it is, without a warm-up: fold ")
    assert warning.endswith("rows to train on, and 16 are needed.")
    assert found(tiny, QUICK, "sha256:one") == warmed


def test_where_the_loss_does_not_fall_the_base_scores(tmp_path: Path, cache: Path) -> None:
    """To the model all tokens are about alike, and each fold's rows say the opposite."""
    ref = changed(tmp_path / "even", lambda model: model.model.embed_tokens.weight.mul_(0.03))

    class Opposed(Rows):
        def examples(self, ids: Sequence[str]) -> list[Example]:
            folds = [fold_of(self.texts[id], 2, 0) for id in ids]
            return [Example([1, 2], np.full(12, 100 + f, np.int32)) for f in folds]

    heard, settings = Heard(), QUICK
    warmed = warm(ref, settings, Opposed(corpus().texts), device="cpu", progress=heard)
    assert warmed.outcome == "base"
    assert warmed.models == (ref, ref)
    assert warmed.reason is not None
    number = len(heard.steps)  # after the first that says so, none is trained
    assert warmed.reason.startswith(f"the loss of fold {number} of 2 on ")
    assert "did not fall" in warmed.reason
    assert found(ref, settings, "sha256:one") == warmed


def changed(folder: Path, change: Callable[[Any], Any]) -> ModelRef:
    """The tiny model, altered in place."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(make_model(folder))
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    return ModelRef.parse(str(folder), None, Path())


def test_a_loss_that_is_not_finite_is_one_clear_error(tmp_path: Path, cache: Path) -> None:
    ref = changed(tmp_path / "broken", lambda m: m.model.norm.weight.fill_(float("nan")))
    with pytest.raises(DataError, match=r"broken: the loss is nan before the warm-up: lower `warm"):
        warm(ref, QUICK, corpus(), device="cpu")
    assert warmed_folders(cache) == []


def test_a_rate_that_overflows_is_one_clear_error(tiny: ModelRef, cache: Path) -> None:
    """What a step breaks, the next one's loss or the last measurement tells."""
    from pausedata.warmup import train as training

    settings = QUICK.model_copy(update={"lr": 1e30})
    with pytest.raises(DataError, match=r"tiny: the .* is (nan|inf) at step \d+.*now 1e\+30"):
        training.train(
            *(tiny, settings, [example(f"z{i}") for i in range(32)], [example("h")]),
            *([cache],),
            dtype="float32",
            device="cpu",
            title="x",
            progress=Silent(),
        )


def test_without_peft_an_adapter_cannot_be_trained(
    tiny: ModelRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "peft" else plain(name, *a)
    )
    with pytest.raises(UsageError, match=r"needs peft. Install it: pip install 'pausedata\[tra"):
        warm(tiny, QUICK, corpus(), device="cpu")


def test_a_quantised_model_cannot_be_trained(tmp_path: Path, cache: Path) -> None:
    folder = make_model(tmp_path / "small")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(config))
    ref = ModelRef.parse(str(folder), None, Path())
    with pytest.raises(UsageError, match="small is quantised, and its weights cannot be trained"):
        warm(ref, QUICK, corpus(), device="cpu")


def test_a_model_without_linear_layers_cannot_have_an_adapter(
    tiny: ModelRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pausedata.warmup.train._is_linear", lambda module: False)
    with pytest.raises(UsageError, match="tiny has no linear layers, which LoRA is put on"):
        warm(tiny, QUICK, corpus(), device="cpu")


def test_memory_that_does_not_suffice_is_told_before(
    tiny: ModelRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pausedata.scorers.memory.available", lambda: 100 << 20)
    with pytest.raises(UsageError, match=r"tiny: its warm-up takes .* and 100\.0 MiB are there"):
        warm(tiny, QUICK, corpus(), device="cpu")


def test_what_a_warm_up_holds_is_counted(tiny: ModelRef) -> None:
    from pausedata.models.shape import Shape

    # Two matrices of 4 by 4, two of 4 by 2, three of 4 by 8, in each of 3 layers.
    shape = Shape(1000, 10, 4, 8, 2 * 3 * 2, 3, certain=True)
    lora, full = Warmup(rank=2), Warmup(method="full")
    trained = 2 * 3 * (2 * 8 + 2 * 6 + 3 * 12)
    assert memory.trained_parameters(shape, lora) == trained
    parts = memory.bytes_needed(shape, lora, "bfloat16", batch_tokens=10, longest=20, device="cpu")
    assert parts["weights"] == 2 * 1000 + 4 * trained
    assert parts["gradients and optimizer"] == 12 * trained
    assert parts["activations"] == 2 * 20 * 3 * (9 * 4 + 4 * 8)
    parts = memory.bytes_needed(shape, full, "bfloat16", batch_tokens=10, longest=2, device="cpu")
    assert parts["weights"] == 4 * 1000
    assert parts["gradients and optimizer"] == 12 * 1000


@pytest.mark.parametrize(
    "wrong", [{"folds": 1}, {"rows": 15}, {"method": "dora"}, {"lr": 0}, {"epoch": 2}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Warmup.model_validate(wrong)


def test_importing_the_room_loads_no_torch() -> None:
    code = "import sys, pausedata.warmup; print({'torch', 'peft', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
