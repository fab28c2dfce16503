"""Make the pictures of README.md and docs/: the report in Chromium, the terminal as Rich draws it.

    python scripts/make_pictures.py --dataset build/quickstart

They show what the programs show of the quickstart's dataset: run it after a change of their looks.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from chromium import FLAGS, program
from rich.console import Console
from rich.text import Text

from pausedata.cli.render.heatmap import render_example
from pausedata.cli.render.page import write_page
from pausedata.store.dataset import Version, open_version

PICTURES = Path("docs/pictures")
EXAMPLE = "wp-017"
COMMAND = f"pausedata show build/quickstart {EXAMPLE} --placement dit"


def main() -> None:
    """Write docs/pictures/*."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, required=True)
    version = open_version(parser.parse_args().dataset)
    PICTURES.mkdir(parents=True, exist_ok=True)
    terminal(version, PICTURES / "show.svg")
    report(version, PICTURES)


def terminal(version: Version, path: Path) -> None:
    """``show`` in a terminal, with the command that was typed."""
    console = Console(
        record=True,
        width=100,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(Text(f"$ {COMMAND}", "bold"))
    console.print(render_example(version, EXAMPLE, "dit"))
    svg = console.export_svg(title="pausedata show", unique_id="show")
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


def report(version: Version, folder: Path) -> None:
    """The report's examples, light and dark, a token pointed at."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        page_file = write_page(version, Path(scratch) / "report.html").path
        browser = playwright.chromium.launch(executable_path=program(), args=FLAGS)
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": 1100, "height": 760},
                color_scheme=scheme,
            )
            page.goto(f"{page_file.as_uri()}#example={EXAMPLE}")
            page.locator("#search").fill(EXAMPLE)
            page.locator("#look").evaluate("section => section.scrollIntoView()")
            page.locator(".response .token.h7").nth(1).hover()
            page.screenshot(path=folder / f"report-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main()
