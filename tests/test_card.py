"""The dataset card: found by `datasets`, read by a person, harmless whatever is in the data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from conftest import Recipe
from huggingface_hub import DatasetCard

from pausedata.analysis.verify import verify
from pausedata.core.errors import UsageError
from pausedata.core.progress import Silent
from pausedata.hub.card import full_card, quick_card, write_card
from pausedata.hub.card.header import size_category
from pausedata.hub.card.own import read_own, remember_license
from pausedata.hub.card.page import block, code, escaped, picture
from pausedata.store.dataset import Version, open_version


@pytest.fixture
def version(built: Recipe) -> Version:
    return open_version(built.out)


def front_of(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def test_a_folder_with_its_card_is_loaded_by_config(version: Version, tmp_path: Path) -> None:
    write_card(version, full_card(version))
    folder = str(version.folder)
    names = datasets.get_dataset_config_names(folder)
    assert names == ["examples", "tokens", "scores-base", "placements-dit", "placements-append",
                     "dit-tokenized"]  # fmt: skip
    assert datasets.get_dataset_default_config_name(folder) == "dit-tokenized"
    ids = datasets.List(datasets.Value("int32"))
    wanted = datasets.Features(
        {
            "input_ids": ids,
            "attention_mask": datasets.List(datasets.Value("int8")),
            "labels": ids,
        }
    )
    builder = datasets.load_dataset_builder(folder, "dit-tokenized")
    assert builder.info.features == wanted
    assert builder.info.splits["train"].num_examples == 12
    rows: Any = datasets.load_dataset(folder, "dit-tokenized", split="train", cache_dir=tmp_path)
    streamed: Any = datasets.load_dataset(folder, "dit-tokenized", split="train", streaming=True)
    assert rows.features == streamed.features == wanted
    lines = (version.folder / "exports/dit-tokenized/train.jsonl").read_text().splitlines()
    assert list(rows) == list(streamed) == [json.loads(line) for line in lines]


def test_the_hubs_own_reader_takes_it(version: Version) -> None:
    card = DatasetCard(full_card(version, license="mit").text)
    assert card.data.license == "mit"
    assert card.data.size_categories == ["n<1K"]
    assert card.data.task_categories == ["text-generation"]
    assert {"pausedata", "pause-tokens"} <= set(card.data.tags or [])


def test_what_a_commit_writes_is_the_same_but_for_figures(version: Version) -> None:
    text = quick_card(version.manifest)
    assert (version.folder / "README.md").read_text() == text
    assert front_of(text)["configs"] == front_of(full_card(version).text)["configs"]
    assert "## In figures" not in text and "## How to load it" in text


def test_a_page_says_what_a_person_asks(version: Version) -> None:
    text = full_card(version, repo="org/corpus").text
    for heading in ("Where it comes from", "Scored by", "In figures", "How to load it",
                    "The recipe", "How to cite"):  # fmt: skip
        assert f"\n## {heading}\n" in text
    assert 'load_dataset("org/corpus", "dit-tokenized", split="train")' in text
    assert "pausedata pull org/corpus tiny" in text
    assert "'hf://datasets/org/corpus/exports/dit-tokenized/train-*-of-*.parquet'" in text
    # Twelve examples with three pauses each, and with four that stand together.
    assert re.search(r"\| `dit` \| lowest\\_logprob \| 36 \| 36 \|", text)
    assert re.search(r"\| `append` \| append \| 48 \| 12 \|", text)
    assert "`rows.jsonl` (sha256" in text and "2506.03616" in text
    assert "\n\n\n" not in text


def test_no_path_of_the_machine_is_in_it(version: Version, model_folder: Path) -> None:
    text = full_card(version).text
    assert str(model_folder.parent) not in text and str(version.root.parent) not in text
    assert "base_model" not in front_of(text)  # a folder's name is none


def test_tables_that_are_not_there_are_not_named(version: Version) -> None:
    card = front_of(full_card(version, tables=["examples", "placements/dit"]).text)
    assert [c["config_name"] for c in card["configs"]] == ["examples", "placements-dit"]
    assert [i["config_name"] for i in card["dataset_info"]] == ["examples", "placements-dit"]


def test_an_export_takes_no_other_tables_name(recipe: Recipe) -> None:
    for name in ("examples", "scores-base"):
        recipe.data["exports"][name] = {"placement": "dit", "format": "tokenized"}
    version = recipe.build().version
    names = [c["config_name"] for c in front_of(full_card(version).text)["configs"]]
    assert len(set(names)) == len(names)
    assert {"examples", "scores-base", "exports-examples", "exports-scores-base"} <= set(names)


def test_what_a_person_writes_is_merged(version: Version) -> None:
    own = version.root / "CARD.md"
    own.write_text(
        "---\nlicense: cc-by-4.0\nlanguage: [en]\npretty_name: Problems\ntags: [maths]\n"
        "annotations_creators: [expert-generated]\n---\nWritten by us.\n\n<!-- pausedata -->\n\n"
        "Thanks.\n"
    )
    card = full_card(version)
    front = front_of(card.text)
    assert front["license"] == "cc-by-4.0" and front["language"] == ["en"]
    assert front["pretty_name"] == "Problems"
    assert front["annotations_creators"] == ["expert-generated"]
    assert front["tags"][-1] == "maths" and "pausedata" in front["tags"]
    body = card.text.split("---\n", 2)[2]
    assert body.startswith("Written by us.\n\n# tiny") and body.endswith("Thanks.\n")
    assert card.warnings == [] and "under the licence `cc-by-4.0`" in body
    own.write_text("Only words.\n")
    card = full_card(version)
    assert card.text.split("---\n", 2)[2].startswith("Only words.\n\n# tiny")
    assert "license" in card.warnings[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("---\na: [1\n---\n", "CARD.md, line"),
        ("---\n- a\n---\n", "no mapping"),
        ("---\nlicense: mit\nWords.\n", "not closed"),
        ("---\nlicense: mti\n---\n", "'mit'"),
        ("---\nlicense: {a: b}\n---\n", "license"),
        ("---\ntags: [[a]]\n---\n", "tags"),
        ("\n---\na: 1\nb: [\n---\n", "CARD.md, line 5"),
        ("---\nlicense: mit\n\nWords.\n", "line 1: its front matter is not closed"),
        ("---\r\nlicense: mit\r\n", "line 1: its front matter is not closed"),
        ("---\nlanguage: no\n---\n", "`language` is False: .* in quotes"),
        ("---\n1: a\n---\n", "the key 1"),
    ],
)
def test_front_matter_that_is_wrong_is_told(version: Version, text: str, says: str) -> None:
    (version.root / "CARD.md").write_text(text)
    with pytest.raises(UsageError, match=says):
        full_card(version)


def test_blank_lines_may_stand_before_front_matter(version: Version) -> None:
    """As on the Hub: else the licence would be lost, and the YAML be part of the page."""
    (version.root / "CARD.md").write_text("\n\n---\nlicense: mit\nlanguage: 'no'\n---\nWords.\n")
    card = full_card(version)
    assert card.warnings == [] and front_of(card.text)["language"] == "no"
    assert card.text.split("---\n", 2)[2].startswith("Words.\n\n# tiny")


def test_another_licence_wants_a_name(version: Version) -> None:
    assert "license_name" in full_card(version, license="other").warnings[0]
    (version.root / "CARD.md").write_text("---\nlicense: other\nlicense_name: ours\n---\n")
    card = full_card(version)
    assert card.warnings == [] and front_of(card.text)["license_name"] == "ours"


def test_a_page_says_how_long_examples_are_and_what_became_of_longer_ones(
    recipe: Recipe,
) -> None:
    assert "at most 2,048 tokens together.\n" in quick_card(recipe.build().version.manifest)
    recipe.data["scoring"] = {"max_length": 400, "overlong": "truncate"}
    recipe.out = recipe.folder / "cut"
    text = quick_card(recipe.build().version.manifest)
    assert "400 tokens together; longer examples were cut at the end of the response.\n" in text
    assert "\n\n\n" not in text


def test_a_page_names_exports_whose_pauses_are_trained(version: Version) -> None:
    tables = dict(version.manifest.tables)
    export = tables["exports/dit-tokenized"]
    assert "bear loss" not in quick_card(version.manifest)
    provenance = {**export.provenance, "pause_label_masked": False}
    tables["exports/dit-tokenized"] = export.model_copy(update={"provenance": provenance})
    text = quick_card(version.manifest.model_copy(update={"tables": tables}))
    assert "format `tokenized`; its pauses bear loss too |" in text


def test_a_licence_is_kept_and_the_rest_left_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "CARD.md"
    remember_license(tmp_path, "mit")
    assert own.read_text() == "---\nlicense: mit\n---\n"
    own.write_text("---\n# why\nlanguage: en\n\nlicense: mit # ours\n---\n\nWords,  as they are.\n")
    remember_license(tmp_path, "apache-2.0")
    after = own.read_text()
    assert "# why\nlanguage: en\n" in after and after.endswith("---\n\nWords,  as they are.\n")
    assert read_own(tmp_path).front == {"language": "en", "license": "apache-2.0"}
    own.write_bytes(b"---\r\nlanguage: en\r\n---\r\nWords.\r\n")
    remember_license(tmp_path, "mit")
    assert own.read_bytes() == b"---\r\nlicense: mit\nlanguage: en\r\n---\r\nWords.\r\n"
    several = "---\nlicense:\n- mit\n- apache-2.0\n---\n"
    own.write_text(several)
    with pytest.raises(UsageError, match="names a licence already"):
        remember_license(tmp_path, "mit")
    assert own.read_text() == several
    own.write_text("No front matter.\n")
    remember_license(tmp_path, "mit")
    assert own.read_text() == "---\nlicense: mit\n---\nNo front matter.\n"
    with pytest.raises(UsageError, match=r"Did you mean 'apache-2\.0'"):
        remember_license(tmp_path, "apache2")


def test_text_of_the_data_is_never_markup(recipe: Recipe) -> None:
    name = "# x | `y` <script>alert(1)</script> [a](http://b) ---"
    recipe.data["prompt"] = "```\n---\nlicense: mit\n# {{ question }} ````"
    # A recipe's name is a plain word; a stranger's manifest may say anything.
    text = quick_card(recipe.build().version.manifest.model_copy(update={"name": name}))
    front = front_of(text)
    assert front["pretty_name"] == name and "license" not in front
    body = text.split("---\n", 2)[2]
    assert "<script>" not in re.sub(r"(?s)^`````yaml\n.*?^`````$", "", body, flags=re.M)
    assert re.search(r"(?ms)^`````yaml\n(.*?)^`````$", body)
    assert escaped("&lt;") == r"\&lt;"
    assert escaped("a\n# b <i>`") == r"a \# b \<i\>\`"
    assert code("a`b``c | d") == "``` a`b``c \\| d ```"
    assert block("x\n````\ny", "md") == "`````md\nx\n````\ny\n`````"


def test_the_picture_is_drawn_to_scale() -> None:
    """Of eight tokens half are in the fullest range, whose bar is 40 blocks."""
    drawn = picture([1, 0, 4, 3], [0, 0.001, 0.1, 0.5, 1]).splitlines()[1:]
    assert drawn == [
        "  0 – 0.001   12.5%  " + "█" * 10,
        "0.001 – 0.1    0.0%",
        "  0.1 – 0.5   50.0%  " + "█" * 40,
        "    0.5 – 1   37.5%  " + "█" * 30,
    ]


@pytest.mark.parametrize(
    ("rows", "says"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (123_456, "100K<n<1M"), (2 * 10**9, "n>1B")],
)
def test_sizes_are_the_hubs(rows: int, says: str) -> None:
    assert size_category(rows) == says


def test_a_card_is_no_part_of_its_version(version: Version) -> None:
    (version.folder / "README.md").chmod(0o644)
    (version.folder / "README.md").write_text("another")
    assert verify(open_version(version.root), Silent()) == []
    write_card(version, full_card(version))
    assert verify(open_version(version.root), Silent()) == []


def test_the_command(recipe: Recipe, run: Any) -> None:
    version = recipe.build().version
    done = run("card", recipe.out)
    assert done.status == 0 and "names no licence" in done.err
    assert "## In figures" in (version.folder / "README.md").read_text()
    done = run("card", recipe.out, "--license", "mit", "--repo", "org/x", "-o", "-")
    assert done.status == 0 and "license: mit" in done.out and "org/x" in done.out
    assert "license: mit" in (recipe.out / "CARD.md").read_text()
    done = run("card", recipe.out, "--json")
    assert json.loads(done.out)["warnings"] == []
    assert "license: mit" in (version.folder / "README.md").read_text()
    assert run("card", recipe.out, "--license", "mti").status == 2
    assert run("card", recipe.out, "--repo", "nobody").status == 2
    assert run("card", recipe.out, "-o", recipe.out / "x.md").status == 2
