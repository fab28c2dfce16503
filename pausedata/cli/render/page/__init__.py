"""``pausedata report``: one self-contained page to look at, which needs no network and no server.

``page.html.j2`` is the page, ``page.css`` its looks, ``page.js`` draws the examples in the browser
from the data that the page holds. Text of a dataset reaches it escaped or as JSON, and the page
forbids itself every script but its own: no text can become markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pausedata.cli.render.page import charts
from pausedata.cli.render.page.examples import packed
from pausedata.cli.render.page.summary import Summary, summary
from pausedata.cli.render.scale import MORE, SCALE
from pausedata.cli.render.visible import visible
from pausedata.core.errors import UsageError
from pausedata.core.progress import Progress, Silent
from pausedata.query.choose import choose
from pausedata.store.dataset import Version, check_output
from pausedata.store.files import replacing

if TYPE_CHECKING:
    from jinja2 import Environment

EXAMPLES = 200  # by default
MOST_BYTES = 3_000_000  # of a page: what can be sent in a mail
_CHANGES = [least for least, _ in MORE]  # nats from which each colour of a difference holds


@dataclass(frozen=True)
class Page:
    """The page that was written."""

    path: Path
    bytes: int
    shown: int  # examples on it
    matching: int  # that meet the condition, or all
    examples: int  # in the dataset
    notes: list[str]  # names in the condition that are not there


@dataclass(frozen=True)
class PageExamples:
    """Which examples the page has, as it says itself."""

    where: str | None
    sort: str
    shown: int
    matching: int


def write_page(
    version: Version,
    path: Path,
    *,
    most: int = EXAMPLES,
    where: str | None = None,
    sort: str = "spread",
    seed: int = 0,
    most_bytes: int = MOST_BYTES,
    progress: Progress | None = None,
) -> Page:
    """Write the page about ``version`` to ``path``, in the place of what is there.

    ``most`` examples at most, chosen by ``where``, ``sort`` and ``seed`` as ``query.choose`` says,
    and fewer where the page would have more than ``most_bytes`` (one at least). UsageError where
    ``path`` is inside a dataset or the condition is wrong; DataError where what is read does not
    fit together.
    """
    check_output(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder. Name a file: {path / 'report.html'}")
    path.parent.mkdir(parents=True, exist_ok=True)  # fails, if it must, before everything is read
    chosen = choose(version, version.default_run, where, sort, most, seed)
    found = summary(version, progress or Silent())
    while True:
        examples = packed(version, sorted(chosen.rows))
        about = PageExamples(where, sort, len(examples), chosen.matching)
        page = _render(version, found, about, examples).encode()
        if len(page) <= most_bytes or len(examples) <= 1:
            break
        data = sum(len(_json(example).encode()) for example in examples)
        room = max(0, most_bytes - (len(page) - data))
        fewer = max(1, min(len(examples) - 1, int(len(examples) * room / data)))
        chosen = choose(version, version.default_run, where, sort, fewer, seed)
    with replacing(path) as temporary:
        temporary.write_bytes(page)
    return Page(
        path, len(page), len(examples), chosen.matching, found.figures.examples, chosen.notes
    )


def _render(
    version: Version, found: Summary, chosen: PageExamples, examples: list[dict[str, Any]]
) -> str:
    style, script = _text("page.css"), _text("page.js")
    scale = [least for least, _ in SCALE]
    data = {
        "pause": visible(version.manifest.pause.token),
        "dataset": shlex.quote(version.root.resolve().name),  # the page says nothing of the machine
        "scale": scale,
        "changes": _CHANGES,
        "runs": [{"name": name} for name in version.runs],
        "placements": [
            {"name": name, "positions": placed.parameters.get("positions")}
            for name, placed in found.placements.placements.items()
        ],
        "examples": examples,
    }
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            version=version,
            manifest=version.manifest,
            found=found,
            figures=found.figures,
            chosen=chosen,
            scale=scale,
            changes=_CHANGES,
            most=_largest_m(data["placements"]),
            style=style,
            script=script,
            data=_json(data),
            style_hash=_csp_hash(style),
            script_hash=_csp_hash(script),
        )
    )


def _largest_m(placements: list[dict[str, Any]]) -> int:
    """How far the slider goes."""
    given = [p["positions"] for p in placements if isinstance(p["positions"], int)]
    return max([10, *(2 * m for m in given)])


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pausedata.cli.render.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    environment.globals["bar"] = charts.bar
    return environment


def _text(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that ends no script element, whatever strings are in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


__all__ = ["EXAMPLES", "Page", "write_page"]
