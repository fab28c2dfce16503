"""The rule of which groups may have pauses: a file that the gate writes and processors obey."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pausedata.core.errors import UsageError
from pausedata.inference import Eligibility
from pausedata.inference.eligibility import read_eligibility

RULE: dict[str, Any] = {
    "format": "pausedata-eligibility/1",
    "group_by": "subject",
    "default": "pause",
    "groups": {"algebra": "pause", "sets": "no-pause"},
    "made_by": {"dataset": "gsm8k", "version": 4},
}


def written(folder: Path, data: Any) -> Path:
    path = folder / "eligibility.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_a_group_is_allowed_what_the_rule_says_and_others_the_default(tmp_path: Path) -> None:
    rule = read_eligibility(written(tmp_path, RULE))
    assert [rule.allows(g) for g in ("algebra", "sets", "geometry", None)] == [
        True,
        False,
        True,
        True,
    ]
    closed = read_eligibility(written(tmp_path, RULE | {"default": "no-pause"}))
    assert [closed.allows(g) for g in ("algebra", "sets", "geometry", None)] == [
        True,
        False,
        False,
        False,
    ]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rule = Eligibility(
        group_by="Fach", default="no-pause", groups={"Größen": "pause"}, made_by={"gain": 0.02}
    )
    rule.write(tmp_path / "rule.json")
    assert read_eligibility(tmp_path / "rule.json") == rule
    assert [p.name for p in tmp_path.iterdir()] == ["rule.json"]
    assert json.loads((tmp_path / "rule.json").read_text("utf-8")) == {
        "format": "pausedata-eligibility/1",
        "group_by": "Fach",
        "default": "no-pause",
        "groups": {"Größen": "pause"},
        "made_by": {"gain": 0.02},
    }


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("{", "not JSON"),
        (b"\xff".decode("latin-1"), "not JSON"),
        ([1], "is a JSON object"),
        ({}, "format is None. It has to be 'pausedata-eligibility/1'"),
        (RULE | {"format": "pausedata/1"}, "It has to be"),
        (RULE | {"format": "pausedata-eligibility/2"}, "A newer pausedata wrote it: update"),
        (RULE | {"groups": {"sets": "no"}}, "groups.sets: should be 'pause' or 'no-pause'"),
        (RULE | {"groups": {"sets": False}}, "groups.sets: should be"),
        (RULE | {"groups": ["sets"]}, "groups: should be a mapping"),
        (RULE | {"default": "pauses"}, "Did you mean 'pause'"),
        (RULE | {"group": {}}, "unknown key 'group'. Did you mean 'groups'"),
    ],
)
def test_a_malformed_rule_is_told_in_one_line(tmp_path: Path, data: Any, says: str) -> None:
    path = written(tmp_path, data)
    with pytest.raises(UsageError) as told:
        read_eligibility(path)
    assert str(told.value).startswith(f"{path}: ") and says in str(told.value)
    assert "\n" not in str(told.value)


def test_a_rule_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such eligibility rule"):
        read_eligibility(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_eligibility(tmp_path)
