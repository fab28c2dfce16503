"""``push`` and ``pull``: datasets on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pausedata.cli import complete
from pausedata.cli.card import License, settle_license
from pausedata.cli.common import AsJson, DatasetPath, command, if_stopped, print_json, progress, say
from pausedata.core.errors import UsageError

Repo = Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository on the Hub.")]
Only = Annotated[
    str | None,
    typer.Option(
        "--only",
        metavar="TABLE,…",
        help="These tables alone: examples,tokens,scores/base; `scores` is all of that kind.",
        autocompletion=complete.tables,
    ),
]


@command
def push(
    dataset: DatasetPath,
    repo: Repo,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public", help="Who sees a new repository; without either, you alone."
        ),
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TAG", help="Name of the version (default: vN).")
    ] = None,
    only: Only = None,
    pr: Annotated[bool, typer.Option("--pr", help="Open a pull request instead.")] = False,
    message: Annotated[
        str | None, typer.Option("--message", metavar="TEXT", help="The commit's message.")
    ] = None,
    license: License = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="TEXT", help="Text that may be published after all."),
    ] = None,
    replace_card: Annotated[
        bool, typer.Option("--replace-card", help="Replace a card that was edited on the Hub.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be sent, and send nothing.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Publish the current version on the Hugging Face Hub: one commit, with a card, and a tag.
    Files that are there already are not sent again, also after a break. What would be sent is
    searched for keys, tokens, and names and paths of this machine: a hit stops it.

    A new repository is private. The login is that of `hf auth login`, or HF_TOKEN.

    Example: pausedata push build/gsm8k my-org/gsm8k-dit --license mit --dry-run

    Example: pausedata push build/gsm8k my-org/gsm8k-dit --public --tag v1
    """
    from pausedata.cli.render.hub import describe_push, push_json
    from pausedata.hub.push import PushOptions
    from pausedata.hub.push import push as publish
    from pausedata.hub.reference import checked_repo

    asked = PushOptions(
        repo,
        only=_tables(only),
        public=None if private is None else not private,
        tag=tag,
        pr=pr,
        message=message,
        license=license,
        allow=allow or (),
        replace_card=replace_card,
    )
    checked_repo(repo)
    if not dry_run:
        settle_license(dataset, license)
    if_stopped("the dataset is unharmed, and what was sent is kept")
    pushed = publish(dataset, asked, progress(), dry_run=dry_run)
    if json:
        print_json(push_json(pushed))
        return
    for line in describe_push(pushed):
        typer.echo(line)


@command
def pull(
    repo: Repo,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The dataset's folder, new or pulled before.")
    ],
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="REV", help="A tag, branch or commit (default: main)."),
    ] = None,
    only: Only = None,
    json: AsJson = False,
) -> None:
    """Fetch a dataset from the Hugging Face Hub, or some of its tables, and check every file
    against the manifest. Run again after a break it goes on; into a folder that has an earlier
    version it fetches what is new.

    Example: pausedata pull my-org/gsm8k-dit data/gsm8k --revision v1

    Example: pausedata pull my-org/gsm8k-dit data/gsm8k --only examples,tokens,scores/base,vocab
    """
    from pausedata.cli.render.hub import describe_pull, pull_json
    from pausedata.hub.pull import pull as fetch
    from pausedata.hub.reference import HubReference, checked_repo, checked_revision, reference

    named = reference(repo) or HubReference(checked_repo(repo))
    if revision is not None:
        if named.revision not in (None, revision):
            raise UsageError(f"{repo} names a revision, and --revision another. Give one.")
        named = HubReference(named.repo, checked_revision(revision))
    if_stopped("files that were fetched are kept")
    pulled = fetch(named, folder, progress(), _tables(only))
    if json:
        print_json(pull_json(pulled))
        return
    for line in describe_pull(pulled, folder):
        say(line)


def _tables(only: str | None) -> list[str] | None:
    if only is None:
        return None
    names = [name.strip() for name in only.split(",") if name.strip()]
    if not names:
        raise UsageError("--only: name tables, as in --only examples,tokens,scores/base.")
    return names


COMMANDS = {"push": push, "pull": pull}
