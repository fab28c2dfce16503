"""One statement of `sql`, run and its rows written: for the command and for its prompt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pausedata.cli.common import (
    say,
)

if TYPE_CHECKING:
    from pausedata.query.direct import Direct
    from pausedata.query.output import Format
    from pausedata.query.session import Session
    from pausedata.query.statements import Statement


def run_statement(
    asker: Session | Direct,
    statement: Statement,
    format: Format,
    output: Path | None,
    limit: int | None,
) -> tuple[int, bool]:
    """Run one statement and write its rows; how many were counted, and whether those are all."""
    from pausedata.cli.render.table import print_result
    from pausedata.query.notes import missing_names
    from pausedata.query.output import write
    from pausedata.query.run import run
    from pausedata.query.session import Session

    if isinstance(asker, Session):
        result = run(asker, statement, limit)
    else:
        result = asker.run(statement, limit)
    rows = 0
    if result.relation is not None or output is not None:
        rows = write(result, format, output, sys.stdout, print_result)
        sys.stdout.flush()
    if output is not None:
        say(f"wrote {output}: {rows:,} row{'' if rows == 1 else 's'}")
    if result.more:
        say(f"There are more rows: --limit {limit} left them out.")
    for note in missing_names(statement, asker.versions()):
        say(f"note: {note}")
    return rows, result.done
