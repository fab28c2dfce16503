"""What a person sees: a result as a table, an example as a heat map."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from pausedata.cli.render.example import load_example
from pausedata.cli.render.heatmap import SCALE, example_json, render_example
from pausedata.cli.render.scale import _on
from pausedata.cli.render.table import number, print_result
from pausedata.cli.render.visible import visible
from pausedata.core.errors import UsageError
from pausedata.query.run import run
from pausedata.query.session import Session
from tests.small_dataset import SHARDS, make_dataset


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("report") / "d")


def printed(renderable, colour=False, width=100):
    stream = io.StringIO()
    Console(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        no_color=not colour,  # whatever NO_COLOR says where the tests run
    ).print(renderable, soft_wrap=not colour)
    return stream.getvalue()


def table(version, sql, width=60, **options):
    stream = io.StringIO()
    print_result(run(Session(version), sql), stream, width, **options)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_numbers_stand_to_the_right_and_data_is_no_markup(version):
    lines = table(version, "SELECT token, logprob, rank FROM tokens WHERE id = 'e4' AND run='base'")
    assert lines == [
        "token     logprob  rank",
        "───────────────────────",
        " The         -1.0     2",
        " [bold]x     -7.0    80",
    ]


def test_long_cells_are_cut_to_the_width_and_newlines_shown(version):
    lines = table(version, "SELECT repeat('long ', 50) AS a, E'x\\ny\\x1b[1m' AS b", width=40)
    assert all(len(line) <= 40 for line in lines)
    assert any("…" in line and "x⏎y␛[1m" in line for line in lines)


def test_rows_that_are_left_out_are_counted(version):
    assert table(version, "FROM range(12)", most_rows=10)[-1].startswith("2 more rows;")
    assert table(version, "FROM range(11)", most_rows=10)[-1].startswith("1 more row;")
    lines = table(version, "FROM range(9000000)", most_rows=1)
    assert lines[-1].startswith("more than 100,000 more rows")


def test_an_explained_plan_is_printed_as_it_is(version):
    assert "│" in "".join(table(version, "EXPLAIN FROM tokens", width=30))


@pytest.mark.parametrize(
    ("value", "text"),
    [(-1.5, "-1.5000"), (0.0, "0.0000"), (0.000012345, "1.234e-05"), (1e12, "1e+12"),
     (float("nan"), "nan")],
)  # fmt: skip
def test_floats_are_readable(value, text):
    assert number(value) == text


def test_control_characters_are_made_visible():
    assert visible("a\x00\x1b[2J\r\x7f\x9b\u202e🙂\n") == "a␀␛[2J␍␡\\u009b\\u202e🙂⏎"


def test_without_colour_each_pause_is_its_token_and_nothing_of_the_text_is_lost(version):
    text = printed(render_example(version, "e1", "three"))
    assert "\x1b" not in text
    assert text.splitlines()[0].split("  ") == [
        "e1", "split train", "run base", "placement three", "tokens 5",
        "mean log-probability -1.0750",
    ]  # fmt: skip
    body = [
        "Q: 2+2?⏎",
        "A: The[PAUSE][PAUSE] sum⏎",
        "  ▂▂▂▂              ▄▄▄▄▁",
        "[PAUSE] 4<eos>",
        "       ▃▃▁▁▁▁▁",
    ]
    assert "\n".join(body) in text
    # The tokens behind the pauses: e to the -3.0 and e to the -1.5.
    assert [line.split() for line in text.splitlines()[-2:]] == [
        ["1", "2", "sum", "-3.0000", "0.0498", "9"], ["3", "1", "4", "-1.5000", "0.2231", "2"],
    ]  # fmt: skip


def test_pauses_after_the_last_token_and_from_no_run(version):
    text = printed(render_example(version, "e1", "fixed"))
    assert "A:[PAUSE][PAUSE][PAUSE] The sum⏎\n" in text
    assert "\n 4<eos>[PAUSE]\n" in text
    assert "(after the last token)" in text
    assert "run base" in text  # the first run, since this placement came from none


def test_no_color_and_no_terminal_both_mean_plain(version):
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, no_color=True).print(render_example(version))
    assert "\x1b" not in stream.getvalue()


def test_with_colour_a_token_is_as_dark_as_it_is_surprising(version):
    text = printed(render_example(version, "e2", "three"), colour=True)
    assert "‖" in text and "[PAUSE]" not in text
    r, g, b = (int(SCALE[-1][1][i : i + 2], 16) for i in (1, 3, 5))
    assert f"\x1b[38;2;255;255;255;48;2;{r};{g};{b}m 🙂\x1b[0m" in text  # 9 nats, white on dark
    assert "\x1b[2mSmile:" in text
    assert "surprisal in nats" in text


def test_the_foreground_is_readable_on_every_colour_of_the_scale():
    names = [_on(colour).color.name for _, colour in SCALE]
    assert names == ["#000000"] * 5 + ["#ffffff"] * 2


@pytest.mark.parametrize("id", [e[0] for *_, examples in SHARDS for e in examples])
def test_the_pieces_of_the_tokens_are_the_response(version, id):
    example = load_example(version, id)
    assert "".join(example.pieces()) == example.response


def test_a_character_of_several_tokens_belongs_to_the_first(version):
    assert load_example(version, "e2").pieces() == [" 🙂", "", ".", ""]


def test_the_first_example_placement_and_run_are_the_default(version):
    example = load_example(version)
    assert (example.id, example.placement, example.run) == ("e1", "three", "base")
    assert load_example(version, placement="three", run="other").tokens[0].logprob == -1.5


def test_an_example_as_json(version):
    got = example_json(version, "e5", "three")
    assert json.loads(json.dumps(got, allow_nan=False)) == {
        "id": "e5", "split": "test", "prompt": "y", "response": " is", "meta": {"level": 1},
        "run": "base", "placement": "three",
        "tokens": [
            {"pos": 0, "token": " is", "char_start": 0, "char_end": 3, "logprob": -0.375,
             "rank": 1, "entropy": 0.75},
            {"pos": 1, "token": "<eos>", "char_start": 3, "char_end": 3, "logprob": -6.5,
             "rank": 33, "entropy": 13.0},
        ],
        "pauses": [{"pos": 1, "count": 1}],
    }  # fmt: skip


def test_a_dataset_without_runs_and_placements_is_shown_too(tmp_path):
    version = make_dataset(tmp_path / "d", runs=False, placements=False)
    text = printed(render_example(version, "e3"))
    assert "run none  placement none" in text
    assert 'It\'s "ok"<eos>' in text
    assert example_json(version, "e3")["tokens"][0]["logprob"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("e11",), "no example 'e11'. Did you mean 'e1'? There: 'e1', 'e2', 'e3' …"),
        (("e1", "thre"), "no placement 'thre'. Did you mean 'three'?"),
        (("e1", None, "bas"), "no run 'bas'. Did you mean 'base'?"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(version, arguments, said):
    with pytest.raises(UsageError) as error:
        render_example(version, *arguments)
    assert said in str(error.value)
