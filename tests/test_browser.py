"""The report's page as a person meets it: in a real Chromium, without a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import FLAGS, program

from pausedata.cli.render.page import write_page
from pausedata.strategies import base, lowest_logprob
from tests.small_dataset import EOS, THE, make_dataset
from tests.test_report_page import hostile, many

pytestmark = pytest.mark.browser

SCREENSHOTS = Path("build/browser")  # kept, to look at
PAUSE = "[PAUSE]"  # what stands in the text for one, for who copies it or hears it


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="session")
def small(folder):
    return write_page(make_dataset(folder / "small"), folder / "small.html").path


@pytest.fixture(scope="session")
def long(folder):
    return write_page(many(folder / "long", 23, tokens=12), folder / "long.html").path


@pytest.fixture
def look(chromium) -> Iterator[Callable[..., Any]]:
    """Open a page; whatever it complains of, or asks of the network, fails the test."""
    wrong: list[str] = []
    contexts = []

    def open_page(path: Path, fragment: str = "", **options: Any) -> Any:
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda r: r.url.startswith("file:") or wrong.append(f"asked: {r.url}"))
        page.goto(path.absolute().as_uri() + fragment)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def responses(page):
    """What the responses on the page say, without the sign for a line's end."""
    texts = page.locator(".response").all_text_contents()
    return [re.sub("×\\d+", "", text).replace("⏎", "") for text in texts]


def ids(page):
    return page.locator(".example h3").all_text_contents()


def status(page):
    return page.locator("#found").text_content()


def slide(page, value):
    page.locator("#m").fill(str(value))


# --- examples -------------------------------------------------------------------------------------


def test_each_example_is_shown_with_the_pauses_of_the_first_placement(look, small):
    page = look(small)
    assert ids(page) == ["e1", "e2", "e3", "e4", "e5"]
    assert responses(page) == [
        f" The{PAUSE * 2} sum\n{PAUSE} 4<eos>",
        f"{PAUSE} 🙂🙂(2).<eos>",
        f'{PAUSE} "ok"<eos>',
        f" The{PAUSE} [bold]x",
        f" is{PAUSE}<eos>",
    ]
    assert status(page) == "5 of 5 examples, 1 to 5 here"


def test_a_token_is_as_dark_as_it_is_surprising(look, small):
    tokens = look(small).locator(".example").first.locator(".response .token")
    classes = [name.split()[1:] for name in tokens.evaluate_all("all => all.map(e => e.className)")]
    # -log p: 0.5, 3, 0.25, 1.5, 0.125; colours from 0.1, 0.5, 1, 2, 4, 6 and 8 nats.
    assert [name[0] for name in classes] == ["h2", "h4", "h1", "h3", "h1"]


def test_pointing_at_a_token_shows_its_scores(look, small):
    page = look(small)
    tip = page.locator("#tip")
    assert tip.is_hidden()
    page.locator(".response .token", has_text=" sum").hover()
    assert tip.is_visible()
    said = tip.inner_text().splitlines()
    assert said == [
        "token  sum",
        "log-probability -3.0000 nats",
        "probability 0.0498",
        "rank 9",
        "entropy 6.000 nats",
        "position 1",
    ]
    page.locator("#look-head").hover()
    assert tip.is_hidden()


def test_the_keyboard_goes_from_token_to_token(look, small):
    page = look(small)
    page.locator(".example h3 a").first.focus()
    page.keyboard.press("Tab")
    focused = lambda: page.evaluate("document.activeElement.textContent")  # noqa: E731
    assert focused() == " The"
    for key, text in [("ArrowRight", " sum"), ("ArrowDown", "⏎\n"), ("ArrowLeft", " sum"),
                      ("End", "<eos>"), ("ArrowRight", "<eos>"), ("Home", " The")]:  # fmt: skip
        page.keyboard.press(key)
        assert focused() == text
    assert "-0.5000 nats" in page.locator("#tip").inner_text()
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("End")
    page.keyboard.press("Tab")  # the whole response is one stop: next is the next example
    assert focused() == "e2"
    page.keyboard.press("Shift+Tab")
    assert focused() == "<eos>"  # where it was left


def test_another_placement_another_run_and_none(look, small):
    page = look(small)
    page.locator("#placement").select_option("fixed")
    assert responses(page)[0] == f"{PAUSE * 3} The sum\n 4<eos>{PAUSE}"
    page.locator("#placement").select_option("no pauses")
    assert PAUSE not in "".join(responses(page))
    page.locator("#run").select_option("other")
    page.locator(".response .token", has_text=" sum").hover()
    said = page.locator("#tip").inner_text()
    assert "-4.0000 nats" in said and "rank" not in said and "entropy" not in said
    assert "mean surprisal 2.075 nats" in page.locator(".facts").first.text_content()


def test_the_difference_of_two_runs(look, small):
    page = look(small)
    page.locator("#run").select_option("other minus base")
    tokens = page.locator(".example").first.locator(".response .token")
    assert {*tokens.evaluate_all("all => all.map(e => e.className)")} <= {
        "token up3", "token up3 unseen"
    }  # fmt: skip
    assert page.locator("#changes").is_visible() and page.locator("#scale").is_hidden()
    tokens.nth(1).hover()
    said = page.locator("#tip").inner_text()
    assert "log-probability (other) -4.0000" in said and "log-probability (base) -3.0000" in said
    page.locator("#run").select_option("base minus other")
    assert tokens.first.get_attribute("class") == "token down3"


def test_the_slider_moves_the_pauses_live(look, small):
    page = look(small)
    expected = {
        0: [" The sum\n 4<eos>", " 🙂🙂(2).<eos>"],
        1: [f" The{PAUSE} sum\n 4<eos>", f"{PAUSE} 🙂🙂(2).<eos>"],
        2: [f" The{PAUSE} sum\n{PAUSE} 4<eos>", f"{PAUSE} 🙂🙂(2){PAUSE}.<eos>"],
        # The emoji's second token begins inside it: no pause may stand there.
        9: [f"{PAUSE} The{PAUSE} sum{PAUSE}\n{PAUSE} 4{PAUSE}<eos>",
            f"{PAUSE} 🙂🙂(2){PAUSE}.{PAUSE}<eos>"],
    }  # fmt: skip
    for m, first_two in expected.items():
        slide(page, m)
        assert responses(page)[:2] == first_two
        assert page.locator("#m-value").text_content() == str(m)
    assert page.locator("#live").text_content().startswith("Live: pauses before the 9 least likely")
    assert page.locator("#make").text_content() == (
        "pausedata place small least-9 --strategy lowest_logprob --param positions=9 --run base"
    )
    page.get_by_role("button", name="Reset").click()
    assert responses(page)[0] == f" The{PAUSE * 2} sum\n{PAUSE} 4<eos>"
    assert page.locator("#make").text_content() == ""


def test_the_slider_chooses_as_the_strategy_does(look, small):
    """Many ties, tokens inside characters, any M: the page's choice is `lowest_logprob`'s."""
    page = look(small)
    rng = np.random.default_rng(0)
    for trial in range(30):
        length = int(rng.integers(1, 30))
        logprob = -rng.integers(0, 6, length).astype(np.float32) / 3
        begins = rng.random(length) > 0.2
        m = int(rng.integers(0, 12))
        there = page.evaluate(
            """([logprob, inside, m]) => [...leastLikely({
                pieces: [], inside: new Set(inside), scores: [{logprob: new Float32Array(logprob)}],
            }, 0, m).keys()]""",
            [logprob.tolist(), np.flatnonzero(~begins).tolist(), m],
        )
        assert there == here(logprob, begins, m), trial


def here(logprob, begins, m):
    """The positions that the strategy chooses in one response."""
    if m == 0:
        return []
    batch = base.Batch(
        ids=["one"],
        offsets=np.array([0, len(logprob)]),
        begins_character=begins,
        logprob=logprob,
    )  # fmt: skip
    placed = lowest_logprob.place(batch, lowest_logprob.LowestLogprob(positions=m))
    return placed.positions.tolist()


def test_search_finds_text_of_prompts_responses_and_ids(look, small):
    page = look(small)
    for words, found in [("SMILE", ["e2"]), ("[bold]", ["e4"]), ("e3", ["e3"]), ("zzz", [])]:
        page.get_by_label("Search").fill(words)
        assert ids(page) == found
    assert status(page) == "0 of 5 examples"


def test_examples_are_sorted_by_difficulty_in_the_run_shown(look, small):
    page = look(small)
    # Means of -log p: e1 1.075, e2 3.14, e3 2.625, e4 4, e5 3.4375.
    page.get_by_label("Order").select_option("hardest first")
    assert ids(page) == ["e4", "e5", "e2", "e3", "e1"]
    page.get_by_label("Order").select_option("easiest first")
    assert ids(page) == ["e1", "e3", "e2", "e5", "e4"]


def test_placements_are_compared_and_only_differing_examples_kept(look, folder):
    same = {"e1": [(0, 3), (5, 1)], "e2": [(0, 1)], "e3": [(2, 4)], "e4": [], "e5": [(1, 1)]}
    path = folder / "differ.html"
    page = look(write_page(make_dataset(folder / "differ", three=same), path).path)
    differ = page.get_by_label("only where they differ")
    assert differ.is_disabled()
    page.get_by_label("Compare with").select_option("fixed")
    assert page.locator(".example").first.locator(".pause.both").count() == 2
    assert page.locator(".example").nth(4).locator(".pause.b").count() == 1
    differ.check()
    assert ids(page) == ["e2", "e5"]
    page.get_by_label("Compare with").select_option("nothing")
    assert ids(page) == ["e1", "e2", "e3", "e4", "e5"] and differ.is_disabled()


def test_many_examples_have_pages(look, long):
    page = look(long)
    assert len(ids(page)) == 10
    assert status(page) == "23 of 23 examples, 1 to 10 here"
    before, after = (page.get_by_role("button", name=name) for name in ("Previous", "Next"))
    assert before.is_disabled()
    after.click()
    after.click()
    assert status(page) == "23 of 23 examples, 21 to 23 here" and after.is_disabled()
    assert len(ids(page)) == 3
    page.get_by_label("Search").fill("n7")  # what is found begins at its first page
    assert ids(page) == ["n7"]
    assert before.is_hidden()


def test_an_example_has_a_link_that_brings_back_what_was_seen(look, long, small):
    page = look(long)
    page.locator("#run").select_option("other")
    page.locator("#placement").select_option("fixed")
    page.get_by_role("button", name="Next").click()
    anchor = page.locator(".example h3 a").nth(4)
    name, href = anchor.text_content(), anchor.get_attribute("href")
    again = look(long, href)
    assert name in ids(again)
    assert again.evaluate("document.activeElement.textContent") == name
    assert again.locator("#run").evaluate("e => e.selectedOptions[0].text") == "other"
    assert again.locator("#placement").evaluate("e => e.selectedOptions[0].text") == "fixed"
    elsewhere = look(small, "#example=nobody")
    assert status(elsewhere) == "no example nobody on this page"


# --- whoever looks, and whatever is looked at -----------------------------------------------------


def test_text_of_a_hostile_corpus_is_only_text(look, folder):
    page = look(write_page(hostile(folder / "hostile"), folder / "hostile.html").path)
    assert page.title() == "small, version 1: pauses"
    assert page.locator("img").count() == page.locator("article b").count() == 0
    assert "<script>document.title='owned'</script>" in page.locator(".prompt").inner_text()
    page.locator(".response .token").first.hover()
    assert "onerror" in page.locator("#tip").inner_text()
    assert page.locator("#tip img").count() == 0
    href = page.locator(".example h3 a").get_attribute("href")
    again = look(folder / "hostile.html", href)
    assert ids(again) == ["<b>&id"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_serious_is_found_by_an_audit_of_accessibility(look, small, long, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    for name, path in (("small", small), ("long", long)):
        page = look(
            path, color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True
        )
        if name == "small":
            page.get_by_label("Compare with").select_option("fixed")
            page.locator(".response .token").nth(1).focus()
        for details in page.locator("details").all():
            details.evaluate("e => { e.open = true }")
        found = Axe().run(page).response["violations"]
        assert [f"{v['id']}: {v['nodes'][0]['html']}" for v in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}-{width}.png", full_page=True)


def test_the_page_runs_no_script_but_its_own(chromium, small):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(small.as_uri())
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'owned'";
            document.body.append(script);
        }"""
    )
    assert page.title() == "small, version 1: pauses"
    context.close()


def test_it_prints_without_its_controls(look, small):
    page = look(small)
    page.emulate_media(media="print")
    assert page.locator("#controls").is_hidden() and page.locator("#pages").is_hidden()
    assert page.locator(".example").count() == 5
    (SCREENSHOTS / "print.pdf").parent.mkdir(parents=True, exist_ok=True)
    assert len(page.pdf(path=SCREENSHOTS / "print.pdf")) > 10_000


def test_without_a_script_the_summary_is_there_and_the_rest_is_told(chromium, small):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(small.as_uri())
    assert page.get_by_role("heading", name="Summary").is_visible()
    assert "which is turned off here" in page.locator("noscript").inner_text()
    context.close()


def test_datasets_without_runs_or_placements_have_what_there_is(look, folder):
    bare = make_dataset(folder / "bare", runs=False, placements=False)
    page = look(write_page(bare, folder / "bare.html").path)
    assert responses(page)[0] == " The sum\n 4<eos>"
    page.locator(".response .token").first.hover()
    assert page.locator("#tip").inner_text().splitlines() == ["token  The", "position 0"]
    placed = make_dataset(folder / "placed", runs=False)
    page = look(write_page(placed, folder / "placed.html").path)
    page.get_by_label("Compare with").select_option("fixed")
    page.get_by_label("only where they differ").check()
    assert len(ids(page)) == 5


def test_a_truncated_response_is_shown_to_its_end(look, folder):
    """Tokens need not cover the text: what was cut from the ids is in `examples` all the same."""
    cut = ("cut", "x", " The rest", [(THE, 0, 4, -1.0, 2)])
    empty = ("empty", "y", "", [(EOS, 0, 0, -1.0, 1)])
    data = make_dataset(
        folder / "cut", shards=[("train", 0, 1, [cut, empty]), ("test", 0, 1, [])],
        three={"cut": [(0, 1)], "empty": []},
    )  # fmt: skip
    page = look(write_page(data, folder / "cut.html").path)
    assert responses(page) == [f"{PAUSE} The rest", "<eos>"]
