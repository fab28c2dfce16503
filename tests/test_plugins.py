"""Strategies and formats of other distributions: a real one is installed, used, uninstalled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import Recipe

import pausedata
from pausedata import exporters
from pausedata.core.errors import UsageError
from pausedata.core.plugins import PluginWarning
from pausedata.core.registry import Registry
from pausedata.exporters.base import Format
from pausedata.strategies import Parameters, Strategy, lowest_logprob

PLUGIN = Path(__file__).resolve().parent / "plugin"
ROOT = PLUGIN.parent.parent


# A real package


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip installed the plug-in of ``tests/plugin`` into."""
    source = tmp_path_factory.mktemp("plugin") / "source"
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("__pycache__"))
    target = source.parent / "installed"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    offline = ["--no-index", "--no-build-isolation", "--no-deps"]
    ended = subprocess.run(
        [*pip, *offline, "--target", target, source], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return target


def pausedata_in(site: Path | None, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that finds what is installed in ``site``."""
    paths = [str(ROOT), *([str(site)] if site else [])]
    return subprocess.run(
        [sys.executable, "-c", "from pausedata.cli import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "NO_COLOR": "1", "COLUMNS": "100"},
    )


def done(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def steepest(logprob: list[float], most: int, least: float) -> list[int]:
    """The plug-in's rule, slow and obvious."""
    drops = [(logprob[k - 1] - logprob[k], -k) for k in range(1, len(logprob))]
    return sorted(-k for drop, k in sorted(drops, reverse=True)[:most] if drop >= least)


@pytest.mark.processes
def test_a_plug_in_is_used_from_a_recipe_and_its_dataset_outlives_it(
    recipe: Recipe, installed: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    shutil.copytree(installed, site)
    recipe.data["placements"]["drop"] = {"strategy": "steepest_drop", "positions": 2, "tokens": 3}
    recipe.data["exports"]["drop-t"] = {"placement": "drop", "format": "tokenized"}
    done(pausedata_in(site, "build", recipe.write()))
    placing = ["place", recipe.out, "steeper", "--strategy", "steepest_drop"]
    done(pausedata_in(site, *placing, "--param", "positions=3", "--param", "least=2"))

    listed = json.loads(done(pausedata_in(site, "strategies", "--json")))
    described = {entry["name"]: entry for entry in listed}["steepest_drop"]
    assert described["origin"] == {"distribution": "pausedata-steepest-drop", "version": "1.2.3"}
    assert described["reads"] == ["logprob"]
    least = next(option for option in described["options"] if option["name"] == "least")
    assert (least["default"], least["minimum"], least["common"]) == (0.5, 0, False)
    told = done(pausedata_in(site, "strategies", "steepest_drop"))
    assert "steepest_drop  from pausedata-steepest-drop 1.2.3" in told
    assert "eggs.[PAUSE] That leaves 12 -[PAUSE] 5" in told
    doctor = json.loads(done(pausedata_in(site, "doctor", "--json")))
    assert doctor["plugins"] == [
        {"kind": "strategy", "name": "steepest_drop", "distribution": "pausedata-steepest-drop",
         "version": "1.2.3", "usable": True, "state": "usable"}
    ]  # fmt: skip

    misspelled = pausedata_in(site, *placing, "--replace", "--param", "leest=2")
    assert misspelled.returncode == 2 and "Did you mean 'least'?" in misspelled.stderr

    shutil.rmtree(site)  # as `pip uninstall` leaves it
    version = pausedata.open(recipe.out)
    scores = {row["id"]: row["logprob"] for row in rows(version, "scores/base")}
    for name, most, limit in (("drop", 2, 0.5), ("steeper", 3, 2.0)):
        for row in rows(version, f"placements/{name}"):
            assert row["position"] == steepest(scores[row["id"]], most, limit)
    assert any(row["position"] for row in rows(version, "placements/steeper"))
    done(pausedata_in(None, "verify", recipe.out))
    out = tmp_path / "drop.jsonl"
    exporting = ["export", recipe.out, "--placement", "drop", "--format", "tokenized"]
    done(pausedata_in(None, *exporting, "-o", out))
    assert len(out.read_text(encoding="utf-8").splitlines()) == 12
    done(pausedata_in(None, "place", recipe.out, "more", "--strategy", "append", "--param",
                      "tokens=1"))  # fmt: skip
    kept = {path.name for path in (pausedata.open(recipe.out).folder / "placements").iterdir()}
    assert {"drop", "steeper", "more"} <= kept

    again = pausedata_in(None, "build", recipe.path)
    assert again.returncode == 2
    assert "placements.drop.strategy: unknown strategy 'steepest_drop'" in again.stderr


def rows(version: Any, table: str) -> list[dict[str, Any]]:
    return [row for path in sorted(version.folder.glob(f"{table}/*.parquet")) for row in read(path)]


def read(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


# What a plug-in may do wrong

BROKEN = {
    "gone": ("no_such_module_anywhere:STRATEGY", "loading it fails: ModuleNotFoundError: "),
    "absent": ("broken_plugin:NOTHING", "loading it fails: AttributeError: "),
    "quits": ("quitting_plugin:STRATEGY", "loading it fails: SystemExit: no licence"),
    "text": ("broken_plugin:TEXT", "its object is no Strategy, but of type str"),
    "other": ("broken_plugin:RENAMED", "its Strategy is called 'renamed', its entry point 'other'"),
    "bare": ("broken_plugin:BARE", "the options of its Strategy are no class derived from"),
    "lowest_logprob": ("broken_plugin:GOOD", "is the name of a strategy of pausedata's own"),
}
BROKEN_MODULE = """
from pausedata.strategies import Parameters, Strategy

class Options(Parameters):
    pass  # and no docstring

def make(name, options=Options):
    return Strategy(name, options, lambda batch, parameters: None)

TEXT, RENAMED, BARE, GOOD = "a", make("renamed"), make("bare", dict), make("good")
"""


def distribution(site: Path, name: str, version: str, group: str, points: dict[str, str]) -> None:
    """What pip leaves of a package that has these entry points."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"[{group}]", *(f"{key} = {value}" for key, value in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python finds packages in."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "broken_plugin.py").write_text(BROKEN_MODULE)
    (folder / "quitting_plugin.py").write_text("import sys\nsys.exit('no licence')\n")
    monkeypatch.syspath_prepend(str(folder))
    for module in ("broken_plugin", "quitting_plugin"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return folder


def registry() -> Registry[Strategy, Parameters]:
    return Registry(
        "strategy",
        [lowest_logprob.STRATEGY],
        group="pausedata.strategies",
        accepts=Strategy,
        base=Parameters,
    )


def test_broken_plug_ins_are_left_out_with_a_warning_each_and_break_nothing(site: Path) -> None:
    points = {"good": "broken_plugin:GOOD"} | {name: point for name, (point, _) in BROKEN.items()}
    distribution(site, "some-plug-ins", "0.3", "pausedata.strategies", points)
    there = registry()
    with pytest.warns(PluginWarning) as caught:
        assert there.names() == ["lowest_logprob", "good"]
    told = {str(warning.message) for warning in caught}
    assert len(told) == len(BROKEN)
    for name, (_, problem) in BROKEN.items():
        start = f"plug-in '{name}' of some-plug-ins 0.3 is left out: "
        (message,) = [text for text in told if text.startswith(start)]
        assert problem in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # each is told once
        assert there.names() == ["lowest_logprob", "good"]
        assert there.get("lowest_logprob") is lowest_logprob.STRATEGY
        assert there.get("good").name == "good"
        assert there.describe("good")["summary"] == ""
        assert there.describe("good")["origin"] == there.origin("good")
    assert there.origin("good") == {"distribution": "some-plug-ins", "version": "0.3"}
    assert there.origin("lowest_logprob") is None


@pytest.mark.filterwarnings("ignore::pausedata.core.plugins.PluginWarning")
@pytest.mark.parametrize("name", [name for name in BROKEN if name != "lowest_logprob"])
def test_asking_for_a_broken_plug_in_gives_the_reason(site: Path, name: str) -> None:
    point, problem = BROKEN[name]
    distribution(site, "some-plug-ins", "0.3", "pausedata.strategies", {name: point})
    with pytest.raises(UsageError) as caught:
        registry().get(name, "r.yaml: placements.p.strategy")
    start = f"r.yaml: placements.p.strategy: strategy '{name}' of some-plug-ins 0.3 cannot be used"
    assert str(caught.value).startswith(start) and problem in str(caught.value)


@pytest.mark.filterwarnings("ignore::pausedata.core.plugins.PluginWarning")
def test_a_name_of_two_distributions_is_neither_s(site: Path) -> None:
    for name in ("one", "two"):
        points = {"good": "broken_plugin:GOOD"}
        distribution(site, name, "1.0", "pausedata.strategies", points)
    with pytest.raises(UsageError, match="one, two each have one of this name; uninstall all but"):
        registry().get("good")


def test_nothing_is_imported_before_it_is_asked_for(site: Path) -> None:
    points = {"quits": "quitting_plugin:STRATEGY", "good": "broken_plugin:GOOD"}
    distribution(site, "some-plug-ins", "0.3", "pausedata.strategies", points)
    there = registry()
    there.get("lowest_logprob")
    assert "broken_plugin" not in sys.modules
    assert there.get("good").name == "good"  # the other one would end the process
    with pytest.raises(UsageError, match=r"unknown strategy 'goode'\. Did you mean 'good'\?"):
        there.get("goode")


@pytest.mark.processes
def test_a_strategy_whose_worked_examples_are_wrong_is_left_out(site: Path) -> None:
    code = BROKEN_MODULE + 'BAD = Strategy("bad", Options, print, worked=({"typo": 1},))\n'
    (site / "broken_plugin.py").write_text(code)
    distribution(site, "some-plug-ins", "0.3", "pausedata.strategies", {"bad": "broken_plugin:BAD"})
    ended = pausedata_in(site, "strategies", "--json")
    assert "bad" not in [entry["name"] for entry in json.loads(done(ended))]
    assert "has no key 'typo'" in ended.stderr


@pytest.mark.processes
def test_commands_tell_of_a_broken_plug_in_and_go_on(site: Path) -> None:
    distribution(site, "some-plug-ins", "0.3", "pausedata.strategies", {"gone": BROKEN["gone"][0]})
    distribution(site, "a-format", "2.0", "pausedata.exporters", {"text": "broken_plugin:TEXT"})
    for command in ("strategies", "formats"):
        ended = pausedata_in(site, command, "--json")
        listed = [entry["name"] for entry in json.loads(done(ended))]
        assert "gone" not in listed and "text" not in listed and len(listed) >= 2
        (warning,) = ended.stderr.splitlines()
        assert warning.startswith("warning: plug-in '")
    ended = pausedata_in(site, "doctor")
    assert not ended.stderr
    assert "plug-in        strategy gone, some-plug-ins 0.3: loading it fails" in ended.stdout
    assert "plug-in        format text, a-format 2.0: its object is no Format" in ended.stdout
    assert "advice: plug-in gone is left out" in ended.stdout
    refused = pausedata_in(site, "strategies", "gone")
    assert refused.returncode == 2 and "cannot be used: loading it fails" in refused.stderr


@pytest.mark.processes
def test_a_format_is_added_likewise(site: Path) -> None:
    code = (
        "import dataclasses\nfrom pausedata.exporters import get\n"
        "FORMAT = dataclasses.replace(get('tokenized'), name='mine', readers='nobody')\n"
    )
    (site / "format_plugin.py").write_text(code)
    points = {"mine": "format_plugin:FORMAT"}
    distribution(site, "a-format", "2.0", "pausedata.exporters", points)
    (entry,) = [e for e in json.loads(done(pausedata_in(site, "formats", "--json")))
                if e["name"] == "mine"]  # fmt: skip
    assert entry["readers"] == "nobody"
    assert entry["origin"] == {"distribution": "a-format", "version": "2.0"}
    assert isinstance(exporters.get("tokenized"), Format)


# What costs nothing


@pytest.mark.processes
@pytest.mark.parametrize(
    "code",
    [
        "import pausedata; pausedata.open",
        "from pausedata.pipeline.recipe import recipe_schema; recipe_schema()",
        "from pausedata import strategies, exporters\n"
        "strategies.get('random'); exporters.get('tokenized')",
        "from pausedata.cli import main\nsys.argv = ['pausedata', '--help']\n"
        "try: main()\nexcept SystemExit: pass",
    ],
)
def test_entry_points_are_not_looked_for_without_need(code: str) -> None:
    watch = (
        "import sys, importlib.metadata as m\n"
        "def refuse(**k):\n"
        "    if k.get('group', '').startswith('pausedata.'): sys.exit('looked for ' + k['group'])\n"
        "    return real(**k)\n"
        "real, m.entry_points = m.entry_points, refuse\n"
    )
    ended = subprocess.run([sys.executable, "-c", watch + code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    looking = "from pausedata import strategies; strategies.names()"  # the watch does see it
    ended = subprocess.run([sys.executable, "-c", watch + looking], capture_output=True, text=True)
    assert "looked for pausedata.strategies" in ended.stderr
