"""``card``: the page that a dataset has on the Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pausedata.cli.common import AsJson, DatasetPath, answer, command, print_json, progress, say
from pausedata.core.errors import UsageError

License = Annotated[
    str | None,
    typer.Option("--license", metavar="ID", help="The source's licence; it is kept in CARD.md."),
]


@command
def card(
    dataset: DatasetPath,
    license: License = None,
    repo: Annotated[
        str | None,
        typer.Option("--repo", metavar="ORG/NAME", help="Where it will be, for its examples."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write it there; `-` prints it."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Write the dataset card, as README.md of the current version: configs and features for the
    Hub and `datasets`, and a page with figures. What CARD.md in the dataset's folder says stands
    in it, and its front matter goes over what is generated.

    Example: pausedata card build/gsm8k --license mit --repo my-org/gsm8k-dit
    """
    from pausedata.hub.card import full_card, write_card
    from pausedata.hub.reference import checked_repo
    from pausedata.store.dataset import check_output, open_version

    if json and output == "-":
        raise UsageError("--json and `-o -` print to the same place: give one.")
    version = open_version(dataset)
    name = checked_repo(repo) if repo is not None else None
    settle_license(dataset, license)
    made = full_card(version, repo=name, progress=progress())
    if output == "-":
        typer.echo(made.text, nl=False)
        return
    if output is not None:
        path = Path(output)
        check_output(path)
        path.write_text(made.text, encoding="utf-8")
    else:
        path = write_card(version, made)
    if json:
        print_json({"path": str(path), "warnings": made.warnings})
    else:
        say(f"wrote {path}")


def settle_license(dataset: Path, license: str | None) -> None:
    """Keep ``license`` in CARD.md; where neither has one, ask, if there is somebody to ask."""
    from pausedata.hub.card.own import read_own, remember_license

    if license is None and "license" not in read_own(dataset).front:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return
        asked = "The source's licence, as the Hub names it (mit, cc-by-4.0 …; empty: leave it out)"
        while license is None:
            given = typer.prompt(asked, default="", show_default=False, err=True).strip()
            if not given:
                return
            try:
                read_own(dataset, given)
                license = given
            except UsageError as error:
                answer(str(error))
    if license is not None:
        remember_license(dataset, license)


COMMANDS = {"card": card}
