"""`pausedata report`: what is in the page, read without a browser (test_browser.py uses one)."""

from __future__ import annotations

import base64
import itertools
import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pausedata.analysis.stats import by_place
from pausedata.cli.render.page import write_page
from pausedata.cli.render.page.charts import bars, lines
from pausedata.query.choose import choose
from tests.small_dataset import EOS, IS, make_dataset


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("page") / "small")


@pytest.fixture
def page(version, tmp_path):
    return Page(write_page(version, tmp_path / "r.html").path)


class Page(HTMLParser):
    """The page as a parser of HTML sees it: its elements, and the data in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.scripts: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag == "script":
            self.inside.pop()

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def test_the_page_holds_the_scores_as_they_are_stored(page):
    first = page.data["examples"][0]
    assert (first["id"], first["response"], first["len"]) == ("e1", " The sum\n 4", "4,4,1,2,0")
    base, other = first["runs"]
    assert struct.unpack("<5f", base64.b64decode(base["l"])) == (-0.5, -3.0, -0.25, -1.5, -0.125)
    assert struct.unpack("<5H", base64.b64decode(base["e"])) == (1000, 6000, 500, 3000, 250)
    assert base["r"] == "1,9,1,2,1"
    assert (other["r"], other["e"]) == (None, None)
    assert first["places"] == [[1, 2, 3, 1], [0, 3, 5, 1]]  # three, fixed: (position, pauses)


def test_tokens_inside_a_character_are_marked_and_an_emoji_counts_as_javascript_counts(page):
    smile = page.data["examples"][1]
    assert smile["response"] == " 🙂."
    assert smile["len"] == "3,0,1,0"  # the emoji is two units of UTF-16
    assert smile["no"] == [1]
    assert smile["names"] == {"0": " 🙂", "1": "🙂(2)", "3": "<eos>"} or smile["names"] == {
        "1": "🙂(2)",
        "3": "<eos>",
    }


def test_the_page_asks_for_nothing_from_outside(page):
    for tag, attributes in page.elements:
        assert not attributes.keys() & {"src", "action", "formaction", "ping", "srcset", "style"}
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        if "href" in attributes:
            assert attributes["href"].startswith("#")
    rules = next(a["content"] for _, a in page.elements if a.get("http-equiv"))
    assert "default-src 'none'" in rules and "unsafe" not in rules


HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)><!--"


def hostile(root):
    text = HOSTILE + "\u202e\u2028\x1b[31m"
    example = (
        "<b>&id",
        text,
        text,
        [(99, 0, len(text), -1.0, 1), (EOS, len(text), len(text), -2.0, 2)],
    )
    placed = {"<b>&id": [(1, 1)]}
    return make_dataset(root, shards=[("train", 0, 1, [example]), ("test", 0, 1, [])], three=placed)


def test_text_of_the_data_never_becomes_markup(version, page, tmp_path):
    found = Page(write_page(hostile(tmp_path / "h"), tmp_path / "h.html").path)
    tags = lambda p: [tag for tag, _ in p.elements if tag in ("script", "img", "b")]  # noqa: E731
    assert tags(found) == tags(page) == ["script", "script"]
    assert found.data["examples"][0]["prompt"].startswith(HOSTILE)
    assert "\u202e" not in found.source and "\x1b" not in found.source


def test_the_page_names_no_folder_of_the_machine(page, version):
    assert str(version.root.parent) not in page.source
    assert page.data["dataset"] == "small"


def many(root, count, tokens=1):
    """`count` examples, of which number k has surprisal k."""
    examples = [
        (
            f"n{k}",
            "x",
            " is" * tokens,
            [(IS, 3 * i, 3 * i + 3, -float(k), 1) for i in range(tokens)],
        )
        for k in range(count)
    ]
    shards = [("train", n, 2, examples[n::2]) for n in range(2)]
    return make_dataset(root, shards=shards, three={e[0]: [(0, 1)] for e in examples})


def test_examples_are_spread_from_the_hardest_to_the_easiest(tmp_path):
    version = many(tmp_path / "d", 101)
    chosen = choose(version, "base", None, "spread", 5)
    assert [id for _, id in chosen.places] == ["n100", "n75", "n50", "n25", "n0"]
    ids = [f"n{k}" for k in [*range(0, 101, 2), *range(1, 101, 2)]]  # as they stand in two shards
    in_first = 51
    found = [ids[row if shard == 0 else in_first + row] for shard, row in chosen.rows]
    assert found == [id for _, id in chosen.places]
    page = Page(write_page(version, tmp_path / "r.html", most=5).path)
    assert [e["id"] for e in page.data["examples"]] == ["n0", "n50", "n100", "n25", "n75"]


@pytest.mark.parametrize("most", [1, 2, 3, 7, 99, 100, 101, 200])
def test_so_many_examples_as_there_are_or_as_were_asked_for(tmp_path, most):
    chosen = choose(many(tmp_path / "d", 101), "base", None, "spread", most)
    steps = [id for _, id in chosen.places]
    assert len({*steps}) == min(most, 101)
    gaps = [int(a[1:]) - int(b[1:]) for a, b in itertools.pairwise(steps)]
    assert max(gaps, default=1) - min(gaps, default=1) <= 1  # even steps


def test_without_a_run_examples_are_spread_over_the_corpus(tmp_path):
    version = make_dataset(tmp_path / "d", runs=False)
    assert choose(version, None, None, "spread", 2).rows == [(0, 0), (3, 0)]
    page = Page(write_page(version, tmp_path / "r.html").path)
    assert [e["runs"] for e in page.data["examples"]] == [[]] * 5


def test_a_dataset_without_runs_and_placements_has_a_page_too(tmp_path):
    version = make_dataset(tmp_path / "d", runs=False, placements=False)
    page = Page(write_page(version, tmp_path / "r.html").path)
    assert len(page.data["examples"]) == 5
    assert not {"run", "placement", "m"} & {a.get("id") for _, a in page.elements}


def test_a_page_that_would_be_too_large_has_fewer_examples(tmp_path):
    version = many(tmp_path / "d", 60, tokens=400)
    whole = write_page(version, tmp_path / "whole.html")
    assert whole.shown == 60 and whole.bytes > 150_000
    cut = write_page(version, tmp_path / "cut.html", most_bytes=100_000)
    assert 1 <= cut.shown < 60 and cut.bytes <= 100_000
    assert cut.bytes == (tmp_path / "cut.html").stat().st_size
    tiny = write_page(version, tmp_path / "tiny.html", most_bytes=1)
    assert tiny.shown == 1  # a page without any example would say nothing


def test_the_same_version_gives_the_same_page(version, tmp_path):
    pages = [write_page(version, tmp_path / f"{k}.html").path.read_bytes() for k in range(2)]
    assert pages[0] == pages[1]


def test_the_command_says_what_it_wrote(run, version, tmp_path):
    path = tmp_path / "r.html"
    done = run("report", version.root, "-o", path, "--n", 2)
    assert done.status == 0 and done.out == ""
    assert f"wrote {path}: 2 of 5 examples" in done.err
    told = json.loads(run("report", version.root, "-o", path, "--json").out)
    assert told == {
        "path": str(path),
        "bytes": path.stat().st_size,
        "shown": 5,
        "matching": 5,
        "examples": 5,
    }


def test_the_examples_are_those_that_meet_a_condition(run, version, tmp_path):
    path = tmp_path / "r.html"
    chosen = ["--where", "n_response >= 4 or split = 'test'", "--sort", "hardest", "--n", 2]
    done = run("report", version.root, "-o", path, *chosen)
    assert done.status == 0
    # Of e1, e2 and e5 with means of 1.075, 3.14 and 3.44 nats.
    page = Page(path)
    assert [e["id"] for e in page.data["examples"]] == ["e2", "e5"]
    assert "2 of 3 examples that meet" in page.source and "the hardest" in page.source
    wrong = run("report", version.root, "-o", tmp_path / "no.html", "--where", "n_respons > 3")
    assert wrong.status == 2 and "n_response" in wrong.err
    assert not (tmp_path / "no.html").exists()
    none = run("report", version.root, "-o", path, "--where", "n_response > 99")
    assert none.status == 0 and "0 of 5 examples" in none.err


def test_a_page_is_not_written_into_a_dataset(run, version):
    done = run("report", version.root, "-o", version.root / "report.html")
    assert done.status == 2
    assert "is inside the dataset" in done.err


@pytest.mark.parametrize("path", ["missing/r.html", "."])
def test_where_the_page_cannot_be_written_is_told(run, version, tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("missing").touch()
    done = run("report", version.root, "-o", path)
    assert done.status in (1, 2)
    assert done.err.count("error:") == 1 and "Traceback" not in done.err


# --- figures by place ---------------------------------------------------------------------------


def test_surprisal_and_pauses_by_place(version):
    found = by_place(version)
    # First tokens: e1 0.5, e2 9, e3 4.5, e4 1, e5 0.375; second: 3, 0.0625, 0.75, 7, 6.5.
    assert found.first_surprisal["base"][:2] == pytest.approx([3.075, 3.4625])
    assert found.first_surprisal["other"][:2] == pytest.approx([4.075, 4.4625])
    assert found.first_surprisal["base"][5] is None  # no response has six tokens
    # three: e1 two at 1 of 5 and one at 3 of 5, e2 0 of 4, e3 0 of 2, e4 and e5 1 of 2: 7 pauses.
    # Parts of twenty: 1/5 → 4, 3/5 → 12, 0 → 0, 1/2 → 10.
    expected = {0: 2 / 7, 4: 2 / 7, 10: 2 / 7, 12: 1 / 7}
    assert found.pauses["three"] == pytest.approx([expected.get(k, 0) for k in range(20)])
    # fixed: 3 at 0 of 5 and one after the last, e3 4 after the last of 2, e5 3 at 0: 11 pauses.
    expected = {0: 6 / 11, 19: 5 / 11}
    assert found.pauses["fixed"] == pytest.approx([expected.get(k, 0) for k in range(20)])
    assert found.first_pauses["fixed"][:6] == pytest.approx([6 / 11, 0, 4 / 11, 0, 0, 1 / 11])


def test_a_paused_token_has_its_share_of_all_its_occurrences(page):
    """three stands before e5's end, of four that there are, and fixed before e1's " The", of two;
    and each placement is told with the run that it was made from.
    """
    rows = page.source.replace("</td><td", "</td> <td").splitlines()
    [end] = [row for row in rows if "&lt;eos&gt;</code></th>" in row]
    assert '<td class="n">1</td> <td class="n">4, 25%</td>' in end
    the = [row for row in rows if "␣The</code></th>" in row]
    assert ['<td class="n">1</td> <td class="n">2, 50%</td>' in row for row in the] == [True]
    assert any("<td>lowest_logprob</td> <td>base</td>" in row for row in rows)


def test_a_chart_has_its_numbers_beside_it_and_drops_no_series_silently():
    series = {f"run{k}": [0.1 * k, None] for k in range(8)}
    chart = lines("Title", "note", "place", ["a", "b"], series)
    assert list(chart.figures) == list(series)
    assert chart.figures["run3"] == ["0.3", "–"]
    assert chart.left_out == 2
    assert chart.svg.count('class="line') == 2 * 6  # lines, and their keys


def test_the_bars_of_a_chart_are_as_tall_as_their_values():
    chart = bars("Title", "note", "p", ["a", "b"], {"<r>": [0.5, 0.25]}, percent=True)
    tall = [float(h) for h in re.findall(r'height="([\d.]+)"><title', chart.svg)]
    assert tall[0] == pytest.approx(2 * tall[1], rel=0.01)
    assert "<r>" not in chart.svg and "&lt;r&gt;, a: 50%" in chart.svg
