"""docs/strategies.md, `pausedata strategies`, the recipe's schema and the errors: one source."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pausedata import strategies
from pausedata.core.errors import UsageError
from pausedata.core.options import default_of, describe_options, summary_of, values_of
from pausedata.core.registry import Registry
from pausedata.pipeline.recipe import parse_recipe, recipe_schema
from pausedata.strategies import Choosing, Parameters, Strategy
from pausedata.strategies.example import EXAMPLES, example_batch, worked

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "make_strategy_docs.py"
OWN = strategies.own()
Command = Callable[..., Any]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("make_strategy_docs", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The page


def test_page_is_what_the_script_makes() -> None:
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    assert page == script().render(), "run `make docs`"


def test_check_writes_nothing_and_says_what_to_do(tmp_path: Path) -> None:
    """A copy of the script beside an empty docs folder, since it writes where it stands."""
    copy = tmp_path / "scripts" / SCRIPT.name
    copy.parent.mkdir()
    (tmp_path / "docs").mkdir()
    for name in (SCRIPT.name, "generated.py"):
        (copy.parent / name).write_bytes((SCRIPT.parent / name).read_bytes())
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    command = [sys.executable, copy]
    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, cwd=ROOT)
    assert checked.returncode == 1 and "run `make docs`" in checked.stderr
    assert not list((tmp_path / "docs").iterdir())
    subprocess.run(command, check=True, cwd=ROOT)
    assert (tmp_path / "docs" / "strategies.md").stat().st_size > 5_000
    assert subprocess.run([*command, "--check"], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("name", OWN)
def test_every_strategy_has_a_formula_and_works_out_an_example(name: str) -> None:
    about = strategies.about(name)
    assert about["summary"] and about["formula"]
    assert worked(name)


@pytest.mark.parametrize("name", OWN)
def test_worked_examples_are_what_the_strategy_does(name: str) -> None:
    """The pauses in the text stand at the positions, and without them it is the response."""
    tokens = [[token.text for token in example] for example in EXAMPLES.values()]
    for example in worked(name):
        shown = len(example.texts)
        assert shown == (2 if strategies.get(name).fit else 1)
        for text, positions, pieces in zip(example.texts, example.positions, tokens, strict=False):
            parts = re.split(r"(?:\[PAUSE\])+(?:×\d+)?", text)
            assert "".join(parts) == "".join(pieces)
            before = [sum(map(len, parts[: k + 1])) for k in range(len(parts) - 1)]
            assert before == [len("".join(pieces[:position])) for position in positions]


def test_the_example_s_tokens_cover_its_responses() -> None:
    batch = example_batch()
    assert batch.text is not None and batch.logprob is not None
    for k, response in enumerate(batch.text.responses):
        a, b = batch.offsets[k : k + 2]
        starts, ends = batch.text.char_start[a:b], batch.text.char_end[a:b]
        assert starts[0] == 0 and ends[-1] == len(response)
        assert (starts[1:] == ends[:-1]).all()
    assert (batch.logprob < 0).all()


# The command


def test_list_fits_80_columns_and_has_the_common_options_once(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = run("strategies").out
    assert max(map(len, out.splitlines())) <= 80
    names = [line for line in out.splitlines() if line in OWN]
    assert names == OWN
    assert len(re.findall(r"^  min_gap ", out, re.M)) == 1
    assert re.search(r"^common to all \(but not append, none\)$", out, re.M)
    assert "reads log-probabilities" in out
    own, _, common = out.partition("common to all")
    assert "M: how many tokens" in own and "M: how many tokens" not in common


def test_one_strategy_is_told_in_full(run: Command) -> None:
    out = run("strategies", "append").out
    for said in ("Goyal", "Position 0 of every response", "whole number, ≥ 0, ≤ 32767"):
        assert said in out
    assert "example {tokens: 3}" in out and "[PAUSE][PAUSE][PAUSE] She" in out
    assert "common parameters" not in out
    assert "SplitMix64" in run("strategies", "random").out


def test_unknown_strategy_is_told_the_nearest(run: Command) -> None:
    ended = run("strategies", "randm")
    assert ended.status == 2 and "Did you mean 'random'?" in ended.err


def test_json_has_all_of_every_strategy(run: Command) -> None:
    described = {entry["name"]: entry for entry in json.loads(run("strategies", "--json").out)}
    assert list(described)[: len(OWN)] == OWN
    lowest = described["lowest_logprob"]
    assert lowest["reads"] == ["logprob"] and lowest["origin"] == "pausedata"
    assert "Kim" in lowest["source"] and "smallest" in lowest["formula"]
    options = {option["name"]: option for option in lowest["options"]}
    assert options["fraction"] | {"description": ""} == {
        "name": "fraction", "type": "number", "required": False, "default": None,
        "description": "", "choices": None, "minimum": 0, "maximum": 1,
        "exclusive_minimum": None, "exclusive_maximum": None, "keys": [], "common": False,
    }  # fmt: skip
    assert options["tokens"]["common"] and options["tokens"]["default"] == 1
    without, inside = options["eligible"]["keys"]
    assert (without["type"], without["default"]) == ("list of string", [])
    assert without["choices"] == ["special", "eos", "whitespace", "punctuation", "first"]
    assert inside["name"] == "inside"
    seed = next(o for o in described["random"]["options"] if o["name"] == "seed")
    assert not seed["common"], "random has a seed of its own, with a default"
    one = json.loads(run("strategies", "append", "--json").out)
    assert one["name"] == "append" and one["worked"][0]["positions"] == [[0]]


# Options in words


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    kinds: list[Literal["red", "green"]] = Field(default_factory=list)
    pattern: str | None = None

    @field_validator("pattern")
    @classmethod
    def _short(cls, pattern: str | None) -> str | None:
        if pattern is not None and len(pattern) > 3:
            raise ValueError("a pattern has at most 3 characters")
        return pattern


class Outer(Choosing):
    """Does
    something.

    At length."""

    inner: Inner | None = None
    many: list[Inner] = Field(default_factory=list)
    where: Literal["before", "after"] = "before"
    top: int | Literal["all"] = Field(default="all")
    share: float | None = Field(default=None, gt=0, le=1)
    names: str | list[str] | None = None
    flag: bool = False
    needed: int


def test_options_are_worded() -> None:
    options = {option["name"]: option for option in describe_options(Outer, Choosing)}
    words = {name: (default_of(option), values_of(option)) for name, option in options.items()}
    assert {k: v for k, v in words.items() if not options[k]["common"]} == {
        "inner": ("null", "mapping"),
        "many": ("[]", "list of mapping"),
        "where": ('"before"', "before or after"),
        "top": ('"all"', "whole number or all"),
        "share": ("null", "number, > 0, ≤ 1"),
        "names": ("null", "text or list of text"),
        "flag": ("false", "true or false"),
        "needed": ("required", "whole number"),
    }
    assert [key["name"] for key in options["inner"]["keys"]] == ["kinds", "pattern"]
    assert summary_of(Outer) == "Does something."


# Errors

OUTER: Registry[Strategy, Parameters] = Registry(
    "strategy",
    [Strategy("outer", Outer, lambda batch, parameters: None)],  # type: ignore[arg-type]
    group="pausedata.tests.none",
    accepts=Strategy,
    base=Parameters,
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"kind": []}}, "r: strategy 'outer' has no key 'inner.kind'. "
         "Did you mean 'kinds'?"),
        ({"inner": {"zzz": 1}}, "r: strategy 'outer' has no key 'inner.zzz'. "
         "Keys there: kinds, pattern."),
        ({"many": [{}, {"patern": "x"}]}, "r: strategy 'outer' has no key 'many.1.patern'. "
         "Did you mean 'pattern'?"),
        ({"eligible": {"witout": ["first"]}}, "r: strategy 'outer' has no key 'eligible.witout'. "
         "Did you mean 'without'?"),
        ({"eligible": {"without": ["first", "whitespce"]}}, "r.eligible.without.1: should be "
         "'special', 'eos', 'whitespace', 'punctuation' or 'first', not 'whitespce'. "
         "Did you mean 'whitespace'?"),
        ({"eligible": {"without": "first"}}, "r.eligible.without: should be a list, "
         "not 'first'."),
        ({"eligible": ["first"]}, "r.eligible: should be a mapping of keys, not ['first']."),
        ({"eligible": {"inside": "("}}, "r.eligible.inside: not a regular expression: missing ), "
         "unterminated subpattern, at character 0 (given: '(')."),
        ({"inner": {"pattern": "long"}}, "r.inner.pattern: a pattern has at most 3 characters "
         "(given: 'long')."),
        ({"where": "befor"}, "r.where: should be 'before' or 'after', not 'befor'. "
         "Did you mean 'before'?"),
        ({"where": 3}, "r.where: should be 'before' or 'after', not 3."),
        ({"top": "al"}, "r.top: should be a whole number or 'all', not 'al'. Did you mean 'all'?"),
        ({"share": 0}, "r.share: should be more than 0, not 0."),
        ({"share": 1.5}, "r.share: should be at most 1, not 1.5."),
        ({"tokens": 40_000}, "r.tokens: should be at most 32767, not 40000."),
        ({"names": [1]}, "r.names.0: should be text, not 1."),
        ({"names": 1}, "r.names: should be text or a list, not 1."),
        ({"flag": "yes"}, "r.flag: should be true or false, not 'yes'."),
        ({"needed": 1.5}, "r.needed: should be a whole number, not 1.5."),
    ],
)  # fmt: skip
def test_an_error_names_the_key_what_belongs_there_and_the_nearest(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        OUTER.parse(OUTER.get("outer"), {"needed": 1} | values, "r")
    assert str(caught.value) == message


def test_a_key_that_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match=r"^r: strategy 'outer' needs 'needed'\.$"):
        OUTER.parse(OUTER.get("outer"), {}, "r")


# Recipes


def a_recipe(**changes: Any) -> dict[str, Any]:
    return {
        "format": "pausedata-recipe/1",
        "name": "x",
        "source": {"files": ["rows.jsonl"]},
        "prompt": "{{ q }}",
        "response": " {{ a }}",
        "model": {"id": "m"},
        "output": "out",
        **changes,
    }


def placing(**placement: Any) -> dict[str, Any]:
    return a_recipe(placements={"p": placement})


SCHEMA = recipe_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_recipe_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    references = re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(SCHEMA))
    assert references and set(references) <= set(SCHEMA["$defs"])
    assert "Eligible" in SCHEMA["$defs"]


@pytest.mark.parametrize(
    "placement",
    [
        {"strategy": "lowest_logprob", "positions": 3},
        {"strategy": "lowest_logprob", "run": "base", "fraction": 0.5, "min_gap": 2},
        {"strategy": "random", "positions": 3, "eligible": {"without": ["first"]}},
        {"strategy": "random", "positions": 3, "eligible": None},
        {"strategy": "append", "tokens": 2},
        {"strategy": "none"},
    ],
)
def test_schema_and_code_accept_the_same_placements(placement: dict[str, Any]) -> None:
    assert VALIDATOR.is_valid(placing(**placement))
    parse_recipe(placing(**placement), "r")


@pytest.mark.parametrize(
    "placement",
    [
        {"strategy": "lowest_logprob", "postions": 3},
        {"strategy": "lowest_logprob", "positions": -1},
        {"strategy": "random", "positions": 3, "eligible": {"witout": ["first"]}},
        {"strategy": "random", "positions": 3, "eligible": {"without": ["whitespce"]}},
        {"strategy": "random", "positions": 3, "run": "no/name"},
        {"strategy": "append"},
        {"strategy": "none", "tokens": 1},
        {"positions": 1},
    ],
)
def test_schema_and_code_refuse_the_same_placements(placement: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(placing(**placement))
    with pytest.raises(UsageError):
        parse_recipe(placing(**placement), "r")


def test_schema_lets_a_plug_in_say_what_it_likes() -> None:
    assert VALIDATOR.is_valid(placing(strategy="of-a-plug-in", run="base", anything=[1]))
    assert not VALIDATOR.is_valid(placing(strategy="of-a-plug-in", run="no/name"))
    exports = {"e": {"placement": "p", "format": "of-a-plug-in", "anything": 1}}
    assert VALIDATOR.is_valid(placing(strategy="none") | {"exports": exports})
    exports["e"]["format"] = "tokenized"
    assert not VALIDATOR.is_valid(placing(strategy="none") | {"exports": exports})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": {"files": ["x"], "limt": 3}}, "r: unknown key 'source.limt'. "
         "Did you mean 'limit'?"),
        ({"source": {"files": 3}}, "r: source.files: should be a list, not 3."),
        ({"source": {"files": ["x"], "split": "a b"}}, "r: source.split: a split name is letters, "
         "digits and '_', with single dots between (given: 'a b')."),
        ({"prompt": {"messages_column": "m", "turns": "lst"}, "response": None},
         "r: prompt.turns: should be 'last' or 'each', not 'lst'. Did you mean 'last'?"),
        ({"prompt": {"messages": [{"role": "user", "contnt": "x"}]}},
         "r: unknown key 'prompt.messages.0.contnt'. Did you mean 'content'? "),
        ({"prompt": {}}, "r: 'prompt.messages' is missing."),
        ({"scoring": {"overlong": "skp"}}, "r: scoring.overlong: should be 'error', 'skip' or "
         "'truncate', not 'skp'. Did you mean 'skip'?"),
        ({"pause": {"token": " x"}}, "r: pause.token: give a text in one line that neither begins "
         "nor ends with a space (given: ' x')."),
        ({"placements": {"p": {"strategy": "random", "positions": 1, "eligible": {"x": 1}}}},
         "r: placements.p: strategy 'random' has no key 'eligible.x'. "
         "Keys there: without, inside."),
    ],
)  # fmt: skip
def test_an_error_in_a_recipe_is_told_likewise(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_recipe(a_recipe(**changes), "r")
    assert str(caught.value).strip() == message.strip()


def test_the_example_on_arrays_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    code = page.partition("## On arrays of your own")[2].split("```python\n")[1].split("```")[0]
    exec(compile(code, "strategies.md", "exec"), {})
    assert capsys.readouterr().out.strip() == code.rpartition("#")[2].strip()
