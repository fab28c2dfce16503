"""Regular expressions match the same under every Python, or are refused."""

from __future__ import annotations

import platform
import re
import unicodedata

import pytest

from pausedata import strategies
from pausedata.core.errors import UsageError
from pausedata.strategies import patterns
from pausedata.strategies.presets import CALCULATION, PRESETS
from pausedata.strategies.sentences import _END


@pytest.fixture(params=[True, False], ids=["3.11.0 to 3.11.4", "a later Python"])
def misreads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(patterns, "MISREADS_POSSESSIVE", request.param)
    return request.param


@pytest.mark.parametrize(
    ("pattern", "has_one"),
    [
        (r"(?:ab)*+", True),
        (r"(a)++", True),  # a group, though of one character
        (r"x|(?=(?:\d+,)?+c)", True),
        (r"((?:a(?:bc){1,3}+)*)", True),
        (r"(?>(?:ab)*)", False),  # the same as the first, and right everywhere
        (r"a*+[bc]++\d?+.{2,3}+", False),
        (r"(?:ab)*?x+a{28,30}", False),
    ],
)
def test_possessive_quantifiers_over_groups_are_found(pattern: str, has_one: bool) -> None:
    assert patterns.possessive_groups(pattern) == has_one


def test_a_pattern_that_this_python_would_match_otherwise_is_refused(misreads: bool) -> None:
    values = {"pattern": r"-?(?:\d+,)*+"}
    strategy = strategies.get("regex")
    if not misreads:
        assert strategies.parse(strategy, values, "here").pattern == values["pattern"]
        return
    with pytest.raises(UsageError, match=r"possessive quantifier over a group.*\(\?>"):
        strategies.parse(strategy, values, "here")


def test_so_is_one_that_says_which_tokens_are_eligible(misreads: bool) -> None:
    values = {"positions": 1, "eligible": {"inside": r"(?:\d+,)*+"}}
    strategy = strategies.get("lowest_logprob")
    if misreads:
        with pytest.raises(UsageError, match="possessive quantifier over a group"):
            strategies.parse(strategy, values, "here")
    else:
        strategies.parse(strategy, values, "here")


def test_one_that_every_python_matches_alike_is_taken(misreads: bool) -> None:
    pattern = r"-?+(?>(?:\d+,)*)"
    assert patterns.checked_pattern(pattern) == pattern
    assert re.findall(pattern, "-1,2,3")[0] == "-1,2,"


@pytest.mark.parametrize("pattern", [*(p.pattern for p in PRESETS.values()), CALCULATION, _END])
def test_our_own_are_such(pattern: str | re.Pattern[str]) -> None:
    text = pattern if isinstance(pattern, str) else pattern.pattern
    assert not patterns.possessive_groups(text)


def test_a_number_does_not_take_the_comma_behind_it() -> None:
    # As Python 3.11.2 did with the possessive form of this pattern: "-3," instead of "-3".
    [match] = re.findall(PRESETS["behind_math_ver2"].pattern, ">>-3, and on")
    assert match == ">>-3"


def test_what_read_the_text_is_recorded_with_placements_that_rest_on_it(recipe) -> None:
    recipe.data["placements"]["digits"] = {"strategy": "regex", "pattern": r"\d+"}
    tables = recipe.build().version.manifest.tables
    assert tables["placements/digits"].provenance["text"] == {
        "python": platform.python_version(),
        "unicode": unicodedata.unidata_version,
    }
    assert "text" not in tables["placements/dit"].provenance
