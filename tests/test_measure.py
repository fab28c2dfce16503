"""``measure``: whether pauses help a trained model, on held-out examples, and the gate's record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aligned import aligned
from conftest import Run, make_model, problems, swap_tokens, tiny_recipe

from pausedata.inference.eligibility import read_eligibility
from pausedata.measure import run as measuring
from pausedata.models.prepare import prepare_model
from pausedata.models.ref import ModelRef
from pausedata.store.dataset import open_version

Start = Callable[..., Run]
ROWS = 150  # a fifth of which, thirty, is held out


def prepared(model: Path, out: Path) -> Path:
    """The model with the pause token."""
    prepare_model(ModelRef.parse(str(model), None, Path()), out)
    return out


@pytest.fixture(scope="module")
def trained(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, which has the pause token and was never trained with it."""
    return prepared(model_folder, tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="module")
def built(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Problems, each of one of three subjects or none, in shards of seven."""
    folder = tmp_path_factory.mktemp("built")
    subjects = ["sums"] * 9 + ["shares", "sets", None]
    some = problems(50)
    rows = [
        {
            "question": f"({k}) {some[k % 50]['question']}",
            "answer": some[k % 50]["answer"],
            "subject": subjects[k % 12],
        }
        for k in range(ROWS)
    ]
    # No export: what one was written of, to train on, is not measured.
    recipe = tiny_recipe(folder, model_folder, rows, shard_rows=7, exports={})
    recipe.build()
    return recipe.out


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return Path(shutil.copytree(built, tmp_path / "dataset", symlinks=True))


@pytest.fixture
def measure(run: Start, dataset: Path, trained: Path) -> Start:
    """Measure the placement `dit`, unless told otherwise."""

    def call(*words: object, placement: str = "dit", model: Path | None = None) -> Run:
        return run(
            *("measure", dataset, "--model", model or trained, "--placement", placement), *words
        )

    return call


def by_hand(
    model: Path, dataset: Path, placement: str, pauses: bool = True
) -> Iterator[dict[str, Any]]:
    """Log-likelihoods of the examples, one forward pass of transformers for each."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    version = open_version(dataset)
    pause = version.manifest.pause.id

    def logprobs(prompt: list[int], response: list[int]) -> np.ndarray:
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            logits = loaded(ids).logits[0].double()
        found = logits.log_softmax(-1)[torch.arange(len(ids[0]) - 1), ids[0, 1:]]
        return found[len(prompt) - 1 :].numpy()

    for _, tables in aligned(version, "tokens", f"placements/{placement}"):
        for row, placed in zip(*(table.to_pylist() for table in tables), strict=True):
            prompt, response = row["prompt_ids"], row["response_ids"]
            with_pauses: list[int] = []
            counts = dict(zip(placed["position"], placed["count"], strict=True))
            for position, id in enumerate(response):
                with_pauses += [pause] * counts.get(position, 0) + [id]
            real = [id != pause for id in with_pauses]
            yield {
                "id": row["id"],
                "tokens": len(response),
                "pauses": sum(counts.values()),
                "without": logprobs(prompt, response),
                "with": logprobs(prompt, with_pauses)[real] if pauses else None,
                "after": np.array([position in counts for position in range(len(response))]),
            }


@pytest.mark.parametrize("placement", ["dit", "append"])
def test_figures_are_those_of_a_plain_forward_pass(
    measure: Start, dataset: Path, trained: Path, placement: str
) -> None:
    done = measure("--json", "--name", "seen", placement=placement)
    assert done.status == 0
    told = json.loads(done.out)
    rows = open_version(dataset).table("gates/seen")
    ids = set(rows.read(rows.shards[0])["id"].to_pylist())
    own = [row for row in by_hand(trained, dataset, placement) if row["id"] in ids]
    assert len(own) == told["examples"] == ROWS // 5

    tokens = sum(row["tokens"] for row in own)
    gains = [row["with"] - row["without"] for row in own]
    after = [gain[row["after"]] for gain, row in zip(gains, own, strict=True)]
    elsewhere = [gain[~row["after"]] for gain, row in zip(gains, own, strict=True)]
    assert told["gain"] == pytest.approx(np.concatenate(gains).sum() / tokens, abs=1e-5)
    assert told["gain_after_pause"] == pytest.approx(np.concatenate(after).mean(), abs=1e-5)
    assert told["gain_elsewhere"] == pytest.approx(np.concatenate(elsewhere).mean(), abs=1e-5)
    assert told["token_overhead"] == sum(row["pauses"] for row in own) / tokens
    low, high = told["gain_interval"]
    assert low < told["gain"] < high
    assert told["seconds_with"] > 0 and told["latency_overhead"] > -1
    assert told["verdict"] is None and told["groups"] == {}
    assert told["fifth_of_split"] is True and "one split: a fifth" in done.err


def test_a_model_that_is_its_own_baseline_gains_the_same(measure: Start, trained: Path) -> None:
    alone, beside = measure("--json"), measure("--json", "--baseline", trained)
    ours, theirs = json.loads(alone.out), json.loads(beside.out)
    assert theirs["gain"] == ours["gain"] and theirs["gain_interval"] == ours["gain_interval"]
    assert ours["baseline"] is None and theirs["baseline"] == theirs["model"]


def test_a_baseline_needs_no_pause_token_and_is_read_without_pauses(
    measure: Start, dataset: Path, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "other", seed=5)
    told = json.loads(measure("--json", "--baseline", other, "--name", "x").out)
    version = open_version(dataset)
    rows = version.table("gates/x").read(version.table("gates/x").shards[0]).to_pylist()
    reference = {row["id"]: row for row in by_hand(other, dataset, "dit", pauses=False)}
    for row in rows:
        assert row["logprob_without"] == pytest.approx(
            reference[row["id"]]["without"].sum(), abs=1e-3
        )
    assert told["baseline"]["id"] == "other"


def test_without_rules_nothing_is_judged_nor_recorded(measure: Start, dataset: Path) -> None:
    done = measure()
    assert done.status == 0 and "gain, nats for each real token" in done.out
    assert open_version(dataset).number == 1
    assert not list((dataset / "staging").glob("measure-*"))


GATE = ("--gate", "min_examples=10")


def test_a_verdict_is_kept_in_a_new_version_and_can_be_asked_for(
    measure: Start, run: Start, dataset: Path
) -> None:
    done = measure("--json", *GATE, "--gate", "max_token_overhead=0")
    told = json.loads(done.out)
    assert done.status == 1 and told["verdict"] == "no-go"
    assert "more than 0" in " ".join(told["reasons"])
    version = open_version(dataset)
    assert version.number == 2
    facts = version.table("gates/dit").entry.provenance
    assert facts["result"] == told
    assert facts["made_from"] == ["tokens", "placements/dit"]
    assert run("verify", dataset).status == 0
    assert "no-go: dit with model" in run("log", dataset).out
    asked = "select count(*) n, sum(tokens)::int t from gates where gate = 'dit'"
    found = json.loads(run("sql", dataset, asked, "--format", "json").out)
    assert found == [{"n": told["examples"], "t": told["tokens"]}]
    assert str(dataset.parent) not in (version.folder / "manifest.json").read_text()
    assert run("rm", dataset, "gates/dit").status == 0
    assert "gates/dit" not in open_version(dataset).tables


def test_go_ends_with_status_0(measure: Start) -> None:
    done = measure("--json", *GATE, "--gate", "min_gain=-50")
    assert (done.status, json.loads(done.out)["verdict"]) == (0, "go")


def test_a_record_goes_with_the_placement_that_it_judged(
    measure: Start, run: Start, dataset: Path
) -> None:
    measure(*GATE)
    again = ("--strategy", "lowest_logprob", "--param", "positions=1", "--replace")
    done = run("place", dataset, "dit", *again)
    assert "gates/dit: made from placements/dit, which changed" in done.err
    assert "gates/dit" not in open_version(dataset).tables


def test_rules_come_from_the_recipe_and_the_command_line_goes_over_them(
    run: Start, model_folder: Path, trained: Path, tmp_path: Path
) -> None:
    gate = {"min_gain": -50, "min_examples": 2, "max_token_overhead": 9}
    rows = [
        row | {"question": f"({k}) {row['question']}"} for k in range(3) for row in problems(50)
    ]
    recipe = tiny_recipe(tmp_path, model_folder, rows, gate=gate, exports={})
    assert run("build", recipe.write()).status == 0
    words = ("measure", recipe.out, "--model", trained, "--placement", "dit", "--json")
    told = json.loads(run(*words).out)
    assert told["gate"]["min_examples"] == 2 and told["verdict"] == "go"
    over = json.loads(run(*words, "--gate", "max_token_overhead=0").out)
    assert over["gate"]["min_gain"] == -50 and over["verdict"] == "no-go"
    recipe.data["gate"]["min_gain"] = 50
    other = json.loads(run(*words, "--recipe", recipe.write()).out)
    assert other["gate"]["min_gain"] == 50


def test_groups_are_told_and_judged_each_and_written_as_an_eligibility_rule(
    measure: Start, dataset: Path, tmp_path: Path
) -> None:
    file = tmp_path / "eligible.json"
    gate = ("--gate", "per_group=true", "--gate", "min_examples=18", "--gate", "min_gain=-50")
    done = measure("--json", "--group-by", "subject", *gate, "--eligibility", file)
    told = json.loads(done.out)
    meta = {
        row["id"]: json.loads(row["meta"])["subject"]
        for _, (table,) in aligned(open_version(dataset), "examples")
        for row in table.to_pylist()
    }
    rows = open_version(dataset).table("gates/dit")
    kept = rows.read(rows.shards[0]).to_pylist()
    assert all(row["group_name"] == (meta[row["id"]] or "(none)") for row in kept)
    sizes = {name: part["examples"] for name, part in told["groups"].items()}
    assert sum(sizes.values()) == told["examples"]
    for name, part in told["groups"].items():
        assert part["verdict"] == ("go" if sizes[name] >= 18 else "not-enough-data"), name
    assert max(sizes.values()) >= 18 > min(sizes.values())
    rule = read_eligibility(file)
    assert (rule.group_by, rule.default) == ("subject", "pause")
    assert rule.groups == dict.fromkeys(sizes, "pause")
    assert rule.made_by["verdict"] == "go"


def test_a_group_that_does_not_gain_is_told_to_go_without() -> None:
    from pausedata.core.held_out import HeldOut
    from pausedata.measure.judge import Judged
    from pausedata.measure.result import MeasuredPart, Measurement

    def part(verdict: Any) -> MeasuredPart:
        return MeasuredPart(figures=None, judged=Judged(verdict, []))  # type: ignore[arg-type]

    groups = {"sets": part("no-go"), "sums": part("go"), "few": part("not-enough-data")}
    found = Measurement(
        *("d", 1, "dit", [{"id": "m"}], [], [], HeldOut("test", None), 9, 0, 0, 0.95, "subject"),
        cluster=None,
        rules=None,
        whole=part("go"),
        groups=groups,
    )
    rule = found.eligibility()
    assert rule.default == "pause"
    assert rule.groups == {"sets": "no-pause", "sums": "pause", "few": "pause"}
    assert [rule.allows(name) for name in ("sets", "sums", "other", None)] == [False, *[True] * 3]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parts of four examples; what is measured, part by part, is counted here."""
    monkeypatch.setattr(measuring, "PART", 4)
    measured: list[int] = []
    really = measuring.measure_pairs

    def counted(pairs: Any, first: int, *scorers: Any) -> Any:
        if len(pairs) > 1:  # one: the first pass, which warms up
            measured.append(first)
        return really(pairs, first, *scorers)

    monkeypatch.setattr(measuring, "measure_pairs", counted)
    return measured


def test_what_was_measured_before_a_stop_is_not_measured_again(
    measure: Start, small_parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    really = measuring.measure_pairs

    def stopped(pairs: Any, first: int, *scorers: Any) -> Any:
        if first == 8:
            raise KeyboardInterrupt
        return really(pairs, first, *scorers)

    monkeypatch.setattr(measuring, "measure_pairs", stopped)
    done = measure()
    assert done.status == 130 and "what was measured is kept. To go on:" in done.err
    monkeypatch.setattr(measuring, "measure_pairs", really)
    assert measure().status == 0
    assert small_parts == list(range(0, 30, 4))


def test_help_that_is_ruled_out_ends_the_measuring(measure: Start, small_parts: list[int]) -> None:
    # Nothing gains so much.
    gate = ("--gate", "min_gain=50", "--gate", "min_examples=20")
    told = json.loads(measure("--json", *gate).out)
    # Of thirty, in parts of four: not before the twentieth example, the least that is judged.
    assert told["stopped_early"] is True and 20 <= told["ruled_out_after"] <= told["examples"] < 30
    assert small_parts == list(range(0, told["examples"], 4))
    assert f"is ruled out, after {told['ruled_out_after']} examples" in told["reasons"][0]
    told = json.loads(measure("--json", *gate, "--to-the-end").out)
    assert told["examples"] == 30 and told["stopped_early"] is False
    assert told["verdict"] == "no-go"


def test_a_group_that_may_still_gain_keeps_the_measuring_going(
    measure: Start, small_parts: list[int]
) -> None:
    gate = ("--gate", "min_gain=50", "--gate", "min_examples=18")
    words = ("--json", "--no-record", *gate, "--group-by", "subject")
    alone = json.loads(measure(*words).out)
    assert alone["stopped_early"] is True
    # Of "sums" alone there are enough to judge: it goes on until that group is ruled out too.
    told = json.loads(measure(*words, "--gate", "per_group=true").out)
    assert told["groups"]["sums"]["ruled_out_after"] is not None
    assert told["examples"] > alone["examples"]
    assert told["groups"]["shares"]["verdict"] == "not-enough-data"


def test_examples_that_are_too_long_with_their_pauses_are_left_out_and_counted(
    measure: Start, dataset: Path, tmp_path: Path, trained: Path
) -> None:
    lengths = sorted(
        len(row["prompt_ids"]) + len(row["response_ids"]) + 3
        for _, (table,) in aligned(open_version(dataset), "tokens")
        for row in table.to_pylist()
    )
    short = Path(shutil.copytree(trained, tmp_path / "short"))
    config = json.loads((short / "config.json").read_text())
    config["max_position_embeddings"] = lengths[ROWS // 2]
    (short / "config.json").write_text(json.dumps(config))
    done = measure("--json", model=short)
    told = json.loads(done.out)
    assert 0 < told["overlong"] < 30 and told["examples"] + told["overlong"] == 30
    assert f"{told['overlong']} of 30 examples are left out" in done.err


def test_bad_input_is_told_in_a_line(
    measure: Start, model_folder: Path, tmp_path: Path, trained: Path, dataset: Path
) -> None:
    swapped = Path(shutil.copytree(trained, tmp_path / "swapped"))
    swap_tokens(swapped, "a", "e")
    # As one that was trained on a dataset whose tokenizer has a token more.
    raw = make_model(tmp_path / "raw")
    from transformers import AutoTokenizer

    longer = AutoTokenizer.from_pretrained(raw)
    longer.add_tokens(["<more>"], special_tokens=True)
    longer.save_pretrained(raw)
    other = prepared(raw, tmp_path / "other")
    gate = ("--gate", "min_gain=0")
    for done, said in [
        (measure(model=model_folder), "has no token [PAUSE], so that it was not trained with"),
        (measure(model=swapped), "--model: swapped has another tokenizer than the stored tokens'"),
        (
            measure(model=other),
            "other has [PAUSE] as id 401, the dataset as id 400: it was trained",
        ),
        (measure(placement="../x/placements/dit"), "no placement '../x/placements/dit'"),
        (measure("--baseline", swapped), "--baseline: swapped has another tokenizer"),
        (measure(model=tmp_path / "nowhere"), "--model: "),
        (measure(placement="dti"), "no placement 'dti'. Did you mean 'dit'?"),
        (measure("--split", "tset"), "no split 'tset'"),
        (measure("--group-by", "subjetc"), "no column 'subjetc' was kept. Did you mean 'subject'?"),
        (measure("--gate", "min_gian=1"), "unknown key 'min_gian'. Did you mean 'min_gain'?"),
        (measure("--gate", "min_gain"), "write it as key=value"),
        (measure("--eligibility", tmp_path / "e.json"), "without gate rules nothing is judged"),
        (measure(*gate, "--name", "a/b"), "cannot name a gate"),
        (measure(*gate, "--name", "a", "--no-record"), "--no-record makes none"),
        (measure("--dtype", "float23"), "--dtype: no 'float23'. Did you mean"),
        (measure("--recipe", dataset.parent / "none.yaml"), "no such recipe"),
    ]:
        assert done.status == 2, done.err
        assert said in done.err
        assert "Traceback" not in done.err
    assert open_version(dataset).number == 1


def test_several_trainings_are_averaged_and_their_spread_makes_the_gain_less_sure(
    measure: Start, trained: Path, tmp_path: Path
) -> None:
    other = prepared(make_model(tmp_path / "raw", seed=5), tmp_path / "other")
    gate = ("--gate", "min_examples=20", "--gate", "min_gain=-9", "--no-record", "--json")
    one = json.loads(measure(*gate).out)
    assert one["seeds"]["margin"] is None and "one training of each" in one["not_covered"][0]
    both = json.loads(measure(*gate, "--model", other).out)
    assert [model["id"] for model in both["models"]] == ["model", "other"]
    # Each is its own baseline, so that the gain is the mean of what each gains by the pauses.
    alone = json.loads(measure(*gate, model=other).out)
    assert both["seeds"]["models"] == pytest.approx([one["gain"], alone["gain"]])
    assert both["gain"] == pytest.approx(np.mean(both["seeds"]["models"]))
    # Student's t of one degree of freedom: 12.706 standard errors of the mean of two.
    error = np.std(both["seeds"]["models"], ddof=1) / np.sqrt(2)
    assert both["seeds"]["margin"] == pytest.approx(12.7062 * error, rel=1e-4)
    assert both["not_covered"] == [] and "other seeds of 2 trainings" in both["reasons"][0]


def test_weights_that_are_given_twice_are_no_second_seed(
    measure: Start, trained: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    for words in (("--model", copy), ("--baseline", trained, "--same-as", copy)):
        done = measure(*words)
        assert done.status == 2 and "copy has the weights of another that is given" in done.err
    # Against its own weights without pauses it may be measured.
    assert measure("--baseline", copy).status == 0


def test_what_two_models_differ_by_that_were_trained_alike_is_no_gain(
    measure: Start, dataset: Path, trained: Path, tmp_path: Path
) -> None:
    other = prepared(make_model(tmp_path / "raw", seed=5), tmp_path / "other")
    words = ("--gate", "min_examples=20", "--gate", "min_gain=-9", "--json", "--baseline", trained)
    told = json.loads(measure(*words, "--no-record").out)
    assert told["verdict"] == "go"  # far more than -9
    told = json.loads(measure(*words, "--name", "seen", "--same-as", other).out)
    rows = open_version(dataset).table("gates/seen")
    ids = set(rows.read(rows.shards[0])["id"].to_pylist())
    plain, same = (
        {r["id"]: r for r in by_hand(model, dataset, "dit", pauses=False) if r["id"] in ids}
        for model in (trained, other)
    )
    by_luck = sum(same[id]["without"].sum() - plain[id]["without"].sum() for id in ids)
    by_luck /= sum(row["tokens"] for row in plain.values())
    assert told["seeds"]["same_as"] == pytest.approx([by_luck], abs=1e-5)
    assert told["verdict"] == "not-enough-data"
    assert "models differ that were trained alike (--same-as)" in told["reasons"][0]
    done = measure("--same-as", other)
    assert done.status == 2 and "compared with --baseline, which is not given" in done.err


def test_examples_of_a_cluster_are_one_draw(measure: Start, dataset: Path) -> None:
    words = ("--json", "--no-record", "--gate", "min_examples=20")
    alone = json.loads(measure(*words).out)
    told = json.loads(measure(*words, "--cluster", "subject").out)
    assert told["gain"] == pytest.approx(alone["gain"]) and told["examples"] == 30
    assert told["units"] == 4 and alone["units"] == 30
    assert told["gain_interval"] is None  # of four draws nothing is ruled out
    assert "4 clusters of examples were measured, and 20 are needed" in told["reasons"][0]
    done = measure("--cluster", "subjetc")
    assert done.status == 2 and "--cluster: no column 'subjetc' was kept" in done.err


def test_a_model_that_gives_no_numbers_is_an_error_that_names_the_example(
    measure: Start, trained: Path, dataset: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(trained, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if "mlp" in name)
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    done = measure("--json", *GATE, model=broken)
    assert done.status == 1 and done.out == ""
    assert "example " in done.err and "a log-probability of nan" in done.err
    assert open_version(dataset).number == 1


def test_a_groupless_gate_per_group_is_warned_of(measure: Start) -> None:
    done = measure("--gate", "per_group=true", "--no-record")
    assert "--group-by COLUMN" in done.err
