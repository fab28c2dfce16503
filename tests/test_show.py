"""``pausedata show``: which examples, several placements, two runs, and any terminal."""

from __future__ import annotations

import io
import json
import unicodedata
from typing import Any

import pytest
import wcwidth
from conftest import start
from rich.color import ColorSystem
from rich.console import Console

from pausedata.cli.render.layout import StyledText, lay_out, texts
from pausedata.cli.render.scale import SCALE, Theme
from pausedata.cli.render.show import Choice, show
from pausedata.cli.render.visible import visible
from pausedata.query.choose import choose
from pausedata.store.dataset import Table, Version
from tests.small_dataset import make_dataset


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return make_dataset(tmp_path_factory.mktemp("show") / "d")


def ids(version: Version, **choice: Any) -> list[str]:
    return [id for _, id in choose(version, "base", **choice).places]


def printed(shown: Any, width: int = 100, **options: Any) -> list[str]:
    """The lines on a terminal of this width, without colour unless ``options`` say so."""
    stream = io.StringIO()
    options = {"force_terminal": True, "no_color": True} | options
    console = Console(file=stream, width=width, highlight=False, **options)
    for rendered in shown.renderables():
        console.print(rendered)
    return stream.getvalue().splitlines()


# Which examples


def test_hardest_and_easiest_are_by_the_runs_mean_log_probability(version: Version) -> None:
    # Means by hand: e1 -1.075, e2 -3.141, e3 -2.625, e4 -4, e5 -3.438.
    assert ids(version, sort="hardest", n=5) == ["e4", "e5", "e2", "e3", "e1"]
    assert ids(version, sort="easiest", n=2) == ["e1", "e3"]


def test_random_is_the_same_for_a_seed_and_another_for_others(version: Version) -> None:
    orders = [ids(version, sort="random", n=5, seed=seed) for seed in range(6)]
    assert orders == [ids(version, sort="random", n=5, seed=seed) for seed in range(6)]
    assert all(sorted(order) == ["e1", "e2", "e3", "e4", "e5"] for order in orders)
    assert len(set(map(tuple, orders))) > 1


@pytest.mark.parametrize(
    ("where", "matching"),
    [
        ("n_response > 2", ["e1", "e2"]),
        ("min_logprob < -6.75 -- a comment", ["e2", "e4"]),
        ("split = 'test' or response like '%ok%'", ["e3", "e5"]),
        ("meta->>'$.level' = '1' and\n n_prompt = 3", ["e1", "e2", "e3", "e4", "e5"]),
        ("id in (select id from tokens where token = '.')", ["e2"]),
        ("examples.mean_logprob between -3 and -2", ["e3"]),
        ("false", []),
    ],
)
def test_a_condition_chooses(version: Version, where: str, matching: list[str]) -> None:
    chosen = choose(version, "base", where, n=10)
    assert ([id for _, id in chosen.places], chosen.matching) == (matching, len(matching))


def test_how_many_match_is_told_where_fewer_are_shown(version: Version, run: Any) -> None:
    out = run("show", version.root, "--where", "n_response = 2", "--sort", "hardest").out
    assert out.startswith("1 of 3 examples that match, of 5, hardest first")
    found = json.loads(run("show", version.root, "--where", "n_response = 2", "--json").out)
    assert (found["matching"], [e["id"] for e in found["examples"]]) == (3, ["e3"])


def test_no_match_says_so(version: Version, run: Any) -> None:
    ended = run("show", version.root, "--where", "split = 'trian'")
    assert (ended.status, ended.out) == (0, "no example matches, of 5\n")
    assert "There is no split 'trian'. Did you mean 'train'?" in ended.err
    found = json.loads(run("show", version.root, "--where", "false", "--json").out)
    assert (found["matching"], found["examples"]) == (0, [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--where", "n_respnse > 2"], "Did you mean 'n_response'?\nLINE 1: n_respnse > 2\n"),
        (["--where", "true and\nlogprob < 1"], "No column 'logprob' here; it is in tokens"),
        (["--where", "meta.level = 1"], "meta is JSON: meta->>'$.level'"),
        (["--where", "n_response >"], "syntax error"),
        (["--where", "n_response > 2)"], "syntax error"),
        (["--where", " "], "--where is empty"),
        (["--where", "true order by id"], "a condition alone, without ORDER BY"),
        (["--where", "true limit 2"], "a condition alone, without LIMIT"),
        (["--where", "true union select '1'"], "a condition alone"),
        (["--where", "true) union select (1"], "error: "),
        (["--where", "true; drop view tokens"], "one statement"),
        (["--where", "id in (from read_csv('/etc/passwd'))"], "a query sees the dataset alone"),
        (["--where", "getenv('HOME') = 'x'"], "a query sees the dataset alone"),
        (["--sort", "hard"], "Did you mean 'hardest'?"),
        (["--seed", "1"], "--seed is for --sort random"),
        (["e1", "--sort", "random", "--n", "2"], "leave it out, or --sort and --n"),
        (["--run", "base", "--run", "bose"], "no run 'bose'. Did you mean 'base'?"),
        (["--run", "base", "--run", "other", "--run", "third"], "Two runs are compared at a time"),
        (["--run", "base", "--run", "base"], "--run base is given twice"),
        (["--placement", "three", "--placement", "three"], "--placement three is given twice"),
    ],
)
def test_what_is_wrong_is_told(version: Version, run: Any, words: list[str], said: str) -> None:
    ended = run("show", version.root, *words)
    assert ended.status == 2
    assert said in ended.err
    assert "--unsafe" not in ended.err
    assert ended.out == ""


def test_without_a_run_nothing_is_hard(tmp_path: Any, run: Any) -> None:
    make_dataset(tmp_path / "d", runs=False)
    ended = run("show", tmp_path / "d", "--sort", "hardest")
    assert (ended.status, "has no scoring run" in ended.err) == (2, True)
    ended = run("show", tmp_path / "d", "--where", "mean_logprob < 0")
    assert "No column 'mean_logprob' here" in ended.err
    assert run("show", tmp_path / "d", "--sort", "random").status == 0


def test_choosing_reads_no_texts_and_no_scores_of_tokens(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    original = Table.read

    def spy(self: Table, shard: Any, columns: Any = None, threads: bool = True) -> Any:
        read.update(f"{self.name}.{name}" for name in columns)
        return original(self, shard, columns, threads)

    monkeypatch.setattr(Table, "read", spy)
    assert ids(version, where="n_response > 2", sort="hardest", n=2) == ["e2", "e1"]
    assert read == {
        "examples.id", "tokens.id", "tokens.response_ids", "scores/base.id",
        "scores/base.mean_logprob",
    }  # fmt: skip


# Several placements, two runs


def test_placements_stand_one_under_the_other_each_with_its_name(
    version: Version, run: Any
) -> None:
    out = run("show", version.root, "e1", "--placement", "three", "--placement", "fixed").out
    lines = out.splitlines()
    assert lines.count("Q: 2+2?⏎") == 1
    assert lines.index(" The[PAUSE][PAUSE] sum⏎") > lines.index(
        "run base  placement three  mean log-probability -1.0750"
    )
    assert lines.index("[PAUSE][PAUSE][PAUSE] The sum⏎") > lines.index(
        "run base  placement fixed  mean log-probability -1.0750"
    )
    assert out.count("[PAUSE]") == 3 + 4


def test_several_placements_as_json_add_to_the_document(version: Version, run: Any) -> None:
    both = ("--placement", "three", "--placement", "fixed", "--json")
    found = json.loads(run("show", version.root, "e1", *both).out)
    alone = json.loads(run("show", version.root, "e1", *both[:2], "--json").out)
    placements = found.pop("placements")
    assert found == alone
    assert [p["placement"] for p in placements] == ["three", "fixed"]
    assert placements[1]["pauses"] == [{"pos": 0, "count": 3}, {"pos": 5, "count": 1}]


def test_two_runs_are_a_difference(version: Version) -> None:
    """In `other` every log-probability is one less: one nat more of surprisal."""
    lines = printed(show(version, Choice("e1"), runs=["base", "other"]))
    assert "run other  mean log-probability -2.0750" in lines
    assert any(line.startswith("more surprised under other:") for line in lines)
    assert lines[lines.index("A: The sum⏎") + 1] == "  ▓▓▓▓▓▓▓▓▓"
    assert "[PAUSE]" not in "".join(lines)
    assert ["1", "sum", "3.0000", "4.0000", "1.0000"] in [line.split() for line in lines]
    back = printed(show(version, Choice("e1"), runs=["other", "base"]))
    assert back[back.index("A: The sum⏎") + 1] == "  ≡≡≡≡≡≡≡≡≡"


def test_a_difference_stands_once_for_each_placement(version: Version) -> None:
    shown = show(version, Choice("e1"), ["three", "fixed"], ["base", "other"])
    lines = printed(shown)
    assert [line for line in lines if "placement" in line] == ["placement three", "placement fixed"]
    assert "".join(lines).count("[PAUSE]") == 3 + 4
    difference = shown.as_json()["difference"]
    assert (difference["a"], difference["b"]) == ("base", "other")
    assert [token["more"] for token in difference["tokens"]] == [1.0] * 5


# Any terminal


def look(**options: Any) -> Theme:
    console = Console(file=io.StringIO(), force_terminal=True, no_color=False, **options)
    return Theme(console, console.options)


@pytest.mark.parametrize(
    ("name", "system"), [("standard", ColorSystem.STANDARD), ("256", ColorSystem.EIGHT_BIT)]
)
def test_with_few_colours_every_step_looks_otherwise(name: str, system: ColorSystem) -> None:
    seen = look(color_system=name)
    pause = [piece.style for piece in seen.pauses(1, "[PAUSE]")]
    for arms in ([seen.scale], [seen.more, seen.less]):
        styles = [*pause, *(style for arm in arms for style in arm.styles)]
        codes = [style.render("x", color_system=system) for style in styles if style is not None]
        assert len(set(codes)) == len(codes) == 1 + sum(len(arm.least) for arm in arms)
        assert all(style is not None and style.color and style.bgcolor for style in styles)


def test_sixteen_colours_are_all_that_a_terminal_of_sixteen_gets(version: Version) -> None:
    lines = printed(show(version, Choice("e2")), no_color=False, color_system="standard")
    text = "\n".join(lines)
    assert "38;2;" not in text and "38;5;" not in text
    assert "\x1b[1;4;97;45m 🙂\x1b[0m" in text  # 9 nats: the last step
    assert "\x1b[1;97;44m‖\x1b[0m" in text


@pytest.mark.parametrize(("least", "number"), [(least, k) for k, (least, _) in enumerate(SCALE)])
def test_a_step_begins_where_the_scale_says(least: float, number: int) -> None:
    scale = look(color_system="truecolor").scale
    assert scale.step(least) == number
    assert scale.step(least - 0.001) == number - 1


@pytest.mark.parametrize("width", [16, 40, 80])
def test_lines_fit_and_pause_tokens_stay_whole(version: Version, width: int) -> None:
    lines = printed(show(version, Choice("e1"), ["three", "fixed"]), width)
    assert max(map(wcwidth.wcswidth, lines)) <= width
    assert sum(line.count("[PAUSE]") for line in lines) == 3 + 4


FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
TEXTS = [
    "数学の答え", "한국어", f"{FAMILY} ok", "🇩🇪🇫🇷!", "👍\U0001f3fd.", "❤\ufe0f.", "1\ufe0f\u20e3 2",
    "e\u0301a\u0323", "a\tb\r\n", "\x1b[31mred\x9b2J", "שלום עולם", "\u202etxt.exe",
    "a\u200bb\u200dc", "\u0301alone", "\ufeffx\u00ad", f"{ENGLAND}.",
    "नमस्ते क्षि", "ক্ষ্ম", "ខ្មែរ", "မြန်မာ", "กำ", "🇺.", "a\U0001f3fd",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
@pytest.mark.parametrize("width", [None, 6])
def test_marks_stand_under_what_they_are_of(text: str, width: int | None) -> None:
    """Every code point is a token of its own here; widths are those that wcwidth knows."""
    pieces = [StyledText(character, mark="12"[k % 2], weight=k) for k, character in enumerate(text)]
    lines = [line.plain for line in texts(lay_out(pieces, width), marks=True)]
    for shown, marks in zip(lines[::2], lines[1::2], strict=True):
        assert wcwidth.wcswidth(shown) == len(marks)
        assert width is None or len(marks) <= width or shown.startswith("\\")
        assert not any(unicodedata.category(c) in ("Cc", "Zl") for c in shown)
    assert "".join(lines[::2]).replace("◌", "") == visible(text)


def test_lines_break_between_words_where_they_can() -> None:
    pieces = [
        StyledText("one"),
        StyledText(" two"),
        StyledText("[PAUSE]", whole=True),
        StyledText(" three数数"),
    ]
    lines = ["".join(cell.text for cell in line) for line in lay_out(pieces, 8)]
    assert lines == ["one two", "[PAUSE] ", "three数", "数"]


def test_a_character_of_several_tokens_has_the_look_of_the_most_surprising() -> None:
    [[cell]] = lay_out(
        [StyledText("e", mark="1", weight=0.5), StyledText("\u0301", mark="5", weight=4.0)]
    )
    assert (cell.text, cell.width, cell.piece.mark) == ("e\u0301", 1, "5")


def test_a_combining_character_behind_a_pause_does_not_join_it() -> None:
    pieces = [StyledText("e"), StyledText("[PAUSE]", whole=True), StyledText("\u0301x")]
    [line] = lay_out(pieces)
    assert [cell.text for cell in line] == ["e", "[PAUSE]", "◌\u0301", "x"]


def test_an_output_that_takes_ascii_alone_gets_that(version: Version) -> None:
    words = ("show", version.root, "e2", "--placement", "three")
    process = start(*words, env={"PYTHONIOENCODING": "ascii"})
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.isascii() and out.count("[PAUSE]") == 1
    assert "Smile:[PAUSE] \\U0001f642.<eos>" in out
    # 9 nats, then 2.5 for the full stop and 1 for the end: the steps 7, 4 and 3.
    assert "\n             777777777774" + "3" * 5 + "\n" in out
