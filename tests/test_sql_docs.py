"""docs/sql.md is what there is, its queries run, and its outputs are compared as it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import make_sql_docs as docs
import pytest
import sql_docs_run

from pausedata.query.macros import FUNCTIONS
from pausedata.query.run import run as ask_one
from pausedata.query.session import Session
from pausedata.query.views import VIEWS
from pausedata.store.dataset import open_version
from tests.small_dataset import make_dataset

PAGE = docs.TARGET.read_text(encoding="utf-8")
BLOCKS = list(docs.BLOCK.finditer(PAGE))
SHOWN = """\
id      bits
────────────
wp-055  7.25
wp-046  5.50
"""


def test_the_cookbook_answers_at_least_twenty_questions_each_with_its_output():
    questions = re.findall(r"(?m)^### .*\?$", PAGE)
    assert len(questions) == len(BLOCKS) >= 20
    assert all(block["output"] for block in BLOCKS)
    assert not re.search(r"(?m)^.{101,}$", "".join(block["sql"] for block in BLOCKS))


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    version = make_dataset(tmp_path_factory.mktemp("docs") / "d")
    return Session(version, attached={"before": version})


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_query_runs_on_any_dataset(session, number):
    result = ask_one(session, BLOCKS[number]["sql"])
    rows = [row for batch in result.batches() for row in batch]
    assert all(len(row) == len(result.columns) for row in rows)


def test_views_and_functions_are_those_that_there_are():
    table, _, rest = PAGE.partition("## Functions")
    for view in ("examples", "tokens", "pauses"):
        [row] = re.findall(rf"(?m)^\| `{view}` \|.*$", table)
        assert re.findall(r"`(\w+)`", row) == [view, *VIEWS[view]]
    assert all(f"`{view}`" in table for view in VIEWS)
    listed = re.findall(r"(?m)^\| `(\w+)\((.*?)\)` \|", rest)
    assert dict(listed) == {name: function.parameters for name, function in FUNCTIONS.items()}


def test_render_writes_below_each_query_what_it_gives():
    page = "Why?\n```sql\nselect 1\n```\nThen.\n```sql\nselect 2\n```\n```text\nold\n```\nEnd.\n"
    made = docs.render(page, lambda sql: f"of {sql}")
    assert made == (
        "Why?\n```sql\nselect 1\n```\n```text\nof select 1\n```\nThen.\n"
        "```sql\nselect 2\n```\n```text\nof select 2\n```\nEnd.\n"
    )
    assert docs.render(made, lambda sql: f"of {sql}") == made
    assert list(docs.differences(made, lambda sql: f"of {sql}")) == []
    [message] = docs.differences(made, lambda sql: "of select 1\n")
    assert message.startswith("query 2 gives\nof select 1\n")


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (SHOWN, True),
        (SHOWN.replace("7.25", "7.26").replace("5.50", "5.4"), True),
        (SHOWN.replace("  ", "    ").replace("──", "────"), True),  # wider columns
        (SHOWN.replace("7.25", "7.60"), False),
        (SHOWN.replace("7.25", "-7.25"), False),
        (SHOWN.replace("wp-046", "wp-047"), False),  # a name, not a number
        (SHOWN + "wp-001  5.10\n", False),
        (SHOWN.replace("bits", "nats"), False),
        ("", False),
    ],
)
def test_numbers_may_differ_a_little_and_words_not_at_all(now, same):
    assert docs.alike(SHOWN, now) is same


@pytest.mark.processes
def test_the_second_run_has_learned(recipe: Any, run: Any, tmp_path: Path, monkeypatch: Any):
    """On the tiny model: the examples that it was trained on became likelier."""
    monkeypatch.setitem(sql_docs_run.SETTINGS, "learning_rate", 0.01)
    recipe.build()
    model = Path(recipe.data["model"]["id"])
    made = sql_docs_run.with_second_run(recipe.out, model, tmp_path / "work")
    assert made.runs == ["base", "tuned"]
    assert open_version(recipe.out).runs == ["base"]
    sql = (
        "SELECT count(*), count(*) FILTER (t.mean_logprob > b.mean_logprob + 0.1) FROM scores b "
        "JOIN scores t USING (id) JOIN examples e USING (id) "
        "WHERE b.run = 'base' AND t.run = 'tuned' AND e.row % 3 = 0"
    )
    assert Session(made).connection.execute(sql).fetchall() == [(4, 4)]
    monkeypatch.setattr(sql_docs_run, "fine_tune", None)  # nor is it made twice
    again = sql_docs_run.with_second_run(recipe.out, model, tmp_path / "work")
    assert again.sha256 == made.sha256
