"""Run every query of docs/sql.md, and write its output below it.

python scripts/make_sql_docs.py            write it
python scripts/make_sql_docs.py --check    exit 1 where an output differs by more than scores do

The queries are asked of a copy of the quickstart dataset that has a second run, `tuned`, which is
made first (some minutes, once); the dataset itself is attached as `before`.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from sql_docs_run import with_second_run

from pausedata.cli.render.table import print_result
from pausedata.query.run import run
from pausedata.query.session import Session
from pausedata.store.dataset import open_version

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "sql.md"
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
WIDTH = 100
# A query, and the output that may follow it.
BLOCK = re.compile(r"(?m)^```sql\n(?P<sql>.*?)^```\n(?:```text\n(?P<output>.*?)^```\n)?", re.DOTALL)
NUMBER = re.compile(r"(?<!\S)-?\d[\d,]*(?:\.\d+)?(?!\S)")  # `wp-017` holds none
# Scores of another machine differ in their last bits, and training makes more of that.
ABSOLUTE, RELATIVE = 0.02, 0.03

Ask = Callable[[str], str]


def render(page: str, ask: Ask) -> str:
    """The page with the output that each query has now."""
    return BLOCK.sub(lambda m: f"```sql\n{m['sql']}```\n```text\n{ask(m['sql'])}```\n", page)


def differences(page: str, ask: Ask) -> Iterator[str]:
    """What a query gives that is not what the page shows, a message for each query."""
    for number, block in enumerate(BLOCK.finditer(page), 1):
        shown, now = block["output"] or "", ask(block["sql"])
        if not alike(shown, now):
            yield f"query {number} gives\n{now}and docs/{TARGET.name} shows\n{shown}"


def alike(shown: str, now: str) -> bool:
    """Whether two outputs have the same words, and numbers that are near: by 0.02, or by 3 %.

    How wide the columns are is not compared.
    """
    if _words(shown) != _words(now):
        return False
    pairs = zip(_numbers(shown), _numbers(now), strict=True)
    return all(abs(a - b) <= ABSOLUTE + RELATIVE * max(abs(a), abs(b)) for a, b in pairs)


def _words(output: str) -> str:
    return " ".join(NUMBER.sub("0", output).replace("─", " ").split())


def _numbers(output: str) -> list[float]:
    return [float(number.replace(",", "")) for number in NUMBER.findall(output)]


def asking(session: Session) -> Ask:
    """What gives a query's output as the command prints it, 100 columns wide."""

    def ask(sql: str) -> str:
        stream = io.StringIO()
        print_result(run(session, sql), stream, WIDTH)
        return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())

    return ask


def main() -> int:
    """Write, or check, docs/sql.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it differs")
    parser.add_argument("--dataset", type=Path, default=Path("build/quickstart"))
    parser.add_argument("--work", type=Path, default=Path("build/sql-docs"))
    parser.add_argument("--model", type=Path, default=MODEL, help="what scored it")
    given = parser.parse_args()
    version = with_second_run(given.dataset, given.model, given.work)
    session = Session(version, attached={"before": open_version(given.dataset)})
    page = TARGET.read_text(encoding="utf-8")
    try:
        if not given.check:
            TARGET.write_text(render(page, asking(session)), encoding="utf-8")
            return 0
        wrong = list(differences(page, asking(session)))
    finally:
        session.close()
    print("\n".join(wrong), file=sys.stderr, end="")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
