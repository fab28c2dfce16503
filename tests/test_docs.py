"""What the documentation says is what the code does."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer.main

from pausedata import exporters, strategies
from pausedata.cli.app import app
from pausedata.pipeline.recipe import load_recipe, recipe_schema
from pausedata.store.content import ContentHash
from pausedata.store.manifest import manifest_schema
from pausedata.store.tables import schema_of

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "make_cli_docs.py"
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/**/*.md")])
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What stands under ``heading``, up to the next one that is not below it."""
    level = heading.split(" ")[0]
    _, _, after = text.partition(f"\n{heading}\n")
    return re.split(rf"\n#{{1,{len(level)}}} ", after)[0]


# The command line


def test_cli_page_is_what_the_commands_say_of_themselves() -> None:
    spec = importlib.util.spec_from_file_location("make_cli_docs", SCRIPT)
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert read("docs/cli.md") == script.render(), "run `make docs`"


def test_cli_page_depends_on_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    run = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_an_example_and_is_documented(name: str) -> None:
    examples = re.findall(r"Example: (pausedata .*)", COMMANDS[name].help or "")
    assert examples, f"the help of '{name}' has no 'Example:'"
    for example in examples:
        assert shlex.split(example)[1] == name
        check_command(example.partition(" > ")[0])
    assert f"\n## pausedata {name}\n" in read("docs/cli.md")


@pytest.mark.parametrize(
    ("page", "command"),
    [
        (p.name, c)
        for p in DOCS
        for c in re.findall(r"`pausedata ([a-z][\w-]*)", p.read_text("utf-8"))
    ],
)
def test_command_that_a_page_names_exists(page: str, command: str) -> None:
    assert command in COMMANDS


def fenced_commands(text: str) -> list[str]:
    """The command lines of fenced blocks, prompts and what is printed left out."""
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
        lines = iter(block.splitlines())
        for line in lines:
            command = line.removeprefix("$ ")
            if not command.startswith("pausedata "):
                continue
            while command.count('"') % 2:  # the quoted query goes on
                command += " " + next(lines).strip()
            found.append(command)
    return found


def check_command(line: str) -> None:
    """Fail unless ``line`` names a command that there is, with options and arguments it takes."""
    _, name, *words = shlex.split(line, comments=True)
    assert name in COMMANDS, line
    options = {
        word: param
        for param in COMMANDS[name].params
        if param.param_type_name == "option"
        for word in (*param.opts, *param.secondary_opts)
    }
    arguments = [p for p in COMMANDS[name].params if p.param_type_name == "argument"]
    given = 0
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            given += 1
            continue
        option, equals, _ = word.partition("=")
        assert option in options, f"{line}: no option {option}"
        if not equals and not options[option].is_flag:
            assert next(rest, None) is not None, f"{line}: {option} needs a value"
    needed = sum(argument.required for argument in arguments)
    any_number = any(argument.nargs == -1 for argument in arguments)
    assert needed <= given, f"{line}: {given} arguments"
    assert any_number or given <= len(arguments), f"{line}: {given} arguments"


README_COMMANDS = fenced_commands(read("README.md"))


def test_readme_shows_the_way_from_a_recipe_to_a_training_file() -> None:
    shown = {shlex.split(line, comments=True)[1] for line in README_COMMANDS}
    assert {"init", "plan", "build", "place", "export", "sql", "show"} <= shown


@pytest.mark.parametrize("line", README_COMMANDS)
def test_readme_command_line_is_one_that_the_program_takes(line: str) -> None:
    check_command(line)


@pytest.mark.parametrize("line", fenced_commands(read("docs/strategies.md")))
def test_strategies_page_command_line_is_one_that_the_program_takes(line: str) -> None:
    check_command(line)


@pytest.mark.parametrize(
    "line",
    [
        "pausedata biuld recipe.yaml",
        "pausedata build recipe.yaml --no-such-option",
        "pausedata build",
        "pausedata build one.yaml two.yaml",
        "pausedata build recipe.yaml --output",
    ],
)
def test_a_wrong_command_line_would_be_found(line: str) -> None:
    with pytest.raises(AssertionError):
        check_command(line)


def test_readme_loads_an_export_as_export_says() -> None:
    lines = exporters.get("tokenized").layout.usage("train.jsonl", "train")
    assert "\n".join(lines) in read("README.md")


# Strategies, formats, recipes


@pytest.mark.parametrize("name", strategies.own())
def test_strategy_is_documented_with_its_parameters(name: str) -> None:
    page = read("docs/strategies.md")
    text = section(page, f"## `{name}`")
    assert text, "no section"
    for option in strategies.about(name)["options"]:
        where = section(page, "## Common options") if option["common"] else text
        value = "required" if option["required"] else json.dumps(option["default"])
        assert f"\n| `{option['name']}` | {value} |" in where, option["name"]


def test_strategies_page_shows_a_plug_in_that_the_tests_install() -> None:
    text = section(read("docs/strategies.md"), "## Your own strategy")
    assert (ROOT / "tests" / "plugin" / "steepest_drop.py").read_text("utf-8") in text
    assert '[project.entry-points."pausedata.strategies"]' in text


@pytest.mark.parametrize("name", exporters.own())
def test_format_is_documented(name: str) -> None:
    page = read("docs/formats.md")
    text = section(page, f"## {name}")
    assert f"| [`{name}`](#{name}) |" in page and "**Loss:**" in text


def test_formats_page_is_what_the_formats_say() -> None:
    script = ROOT / "scripts" / "make_format_docs.py"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def keys_of(schema: dict[str, Any], definition: str | None) -> list[str]:
    return list((schema["$defs"][definition] if definition else schema)["properties"])


@pytest.mark.parametrize(
    ("definition", "heading"),
    [
        ("Source", "### `source`"),
        ("Model", "### `model`"),
        ("Scoring", "### `scoring`"),
        ("Warmup", "### `scoring.warmup`"),
    ],
)
def test_recipe_page_has_every_key_of_a_part(definition: str, heading: str) -> None:
    text = section(read("docs/recipe.md"), heading)
    for key in keys_of(recipe_schema(), definition):
        assert f"\n| `{key}` |" in text, key


def test_recipe_page_has_every_key() -> None:
    text = read("docs/recipe.md")
    for key in keys_of(recipe_schema(), None):
        assert re.search(rf"(^\| |^### .*)`{key}`", text, re.M), key


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("recipes/*.yaml")), ids=lambda p: p.name)
def test_recipe_that_ships_is_right(recipe: Path) -> None:
    assert load_recipe(recipe).recipe.name


def test_readme_recipe_is_right(tmp_path: Path) -> None:
    block = re.search(r"^```yaml\n(.*?)^```", read("README.md"), re.M | re.S)
    assert block
    (tmp_path / "my-recipe.yaml").write_text(block[1], encoding="utf-8")
    assert load_recipe(tmp_path / "my-recipe.yaml").recipe.name == "my-recipe"


# The format


@pytest.mark.parametrize(
    ("name", "make"), [("recipe", recipe_schema), ("manifest", manifest_schema)]
)
def test_schema_file_is_what_the_code_says(name: str, make: Any) -> None:
    assert json.loads(read(f"schemas/{name}.schema.json")) == make(), "run `make schemas`"


@pytest.mark.parametrize(
    "definition", [None, "TableEntry", "ShardEntry", "SplitRows", "PauseEntry"]
)
def test_format_page_has_every_key_of_the_manifest(definition: str | None) -> None:
    text = section(read("docs/format.md"), "## Manifest")
    for key in keys_of(manifest_schema(), definition):
        assert f"`{key}`" in text, key


@pytest.mark.parametrize(
    ("table", "heading"),
    [
        ("examples", "### `examples`"),
        ("vocab", "### `vocab`"),
        ("tokens", "### `tokens`"),
        ("scores/base", "### `scores/RUN`"),
        ("placements/dit", "### `placements/NAME`"),
        ("exports/tokenized", "## The `tokenized` export"),
    ],
)
def test_format_page_has_every_column_with_its_field_id_and_type(table: str, heading: str) -> None:
    kind, _, name = table.partition("/")
    schema = schema_of(table) if kind != "exports" else _schema_of_export(name)
    text = section(read("docs/format.md"), heading)
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (\S+) \|", text, re.M)
    assert [(int(number), column, kind) for number, column, kind in rows] == [
        (int(field.metadata[b"PARQUET:field_id"]), field.name, type_name(field.type))
        for field in schema
    ]


def _schema_of_export(name: str) -> pa.Schema:
    format = exporters.get(name)
    return format.schema(exporters.parse(format, {}, "test"))


def type_name(kind: pa.DataType) -> str:
    return f"list&lt;{kind.value_type}&gt;" if pa.types.is_list(kind) else str(kind)


def test_format_page_works_out_a_content_hash_as_the_code_does() -> None:
    """The example's rows; its streams are put together here by hand, as the page says."""
    text = section(read("docs/format.md"), "### An example, worked out")
    lengths = struct.pack("<2q", 2, 0)
    streams = {
        "id": ("string", struct.pack("<2q", 1, 3), b"ab\xc3\xa9"),
        "position": ("list<int32>", lengths, struct.pack("<2i", 0, 2)),
        "count": ("list<int16>", lengths, struct.pack("<2h", 1, 1)),
    }
    columns: dict[str, Any] = {}
    for name, (kind, length, values) in streams.items():
        columns[name] = {"type": kind}
        for stream, data in (("valid", b"\x01\x01"), ("lengths", length), ("values", values)):
            digest = hashlib.sha256(data).hexdigest()
            columns[name][stream] = digest
            assert f"| `{name}` | {stream} | `{data.hex(' ')}` | `{digest}` |" in text
    canonical = json.dumps(
        {"train": {"rows": 2, "columns": columns}}, sort_keys=True, separators=(",", ":")
    )
    by_hand = "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
    assert canonical in text
    assert by_hand in text

    content = ContentHash(schema_of("placements"))
    rows = [
        {"id": "a", "position": [0, 2], "count": [1, 1]},
        {"id": "bé", "position": [], "count": []},
    ]
    for row in rows:  # in portions, since shards decide nothing
        content.update("train", pa.Table.from_pylist([row], schema=schema_of("placements")))
    assert content.hexdigest() == by_hand


def test_content_hash_takes_nulls_as_the_format_page_says() -> None:
    """Of a type without lengths, a null is zero bytes; of one with lengths, nothing."""
    schema = pa.schema([("n", pa.int32()), ("ranks", pa.list_(pa.int32()))])
    content = ContentHash(schema)
    content.update("", pa.table({"n": [7, None], "ranks": [[5], None]}, schema=schema))

    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    valid = digest(b"\x01\x00")
    expected = {
        "": {
            "rows": 2,
            "columns": {
                "n": {"type": "int32", "valid": valid, "values": digest(struct.pack("<2i", 7, 0))},
                "ranks": {
                    "type": "list<int32>",
                    "valid": valid,
                    "lengths": digest(struct.pack("<2q", 1, 0)),
                    "values": digest(struct.pack("<i", 5)),
                },
            },
        }
    }
    canonical = json.dumps(expected, sort_keys=True, separators=(",", ":"))
    assert content.hexdigest() == "sha256:" + digest(canonical.encode())


def test_format_page_example_id_is_the_hash_it_describes() -> None:
    assert hashlib.sha256(b"1 + 1 =\0 2").hexdigest()[:32] in read("docs/format.md")


# Links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", DOCS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target
