"""What is not loaded before it is needed, so that `import pausedata` and `--help` stay quick."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
from small_dataset import make_dataset

HEAVY = {"torch", "transformers", "datasets", "duckdb", "pyarrow", "pydantic", "vllm", "numpy"}


def loaded_after(code: str, modules: Collection[str] = HEAVY) -> set[str]:
    """Those of ``modules`` that are in sys.modules of a fresh Python that ran ``code``."""
    printed = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(modules) & set(printed.split())


def test_importing_pausedata_loads_nothing_heavy() -> None:
    assert loaded_after("import pausedata; pausedata.PausedataError") == set()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "from pausedata.cli import main\n"
        "sys.argv = ['pausedata', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass"
    )
    assert loaded_after(code) == set()


@pytest.mark.parametrize(
    "code",
    [
        "import pausedata; pausedata.open",
        "import pausedata; pausedata.connect",
        "import pausedata.query.run",
        "import pausedata.analysis.verify",
    ],
)
def test_reading_a_dataset_needs_neither_torch_nor_transformers(code: str) -> None:
    assert not loaded_after(code) & {"torch", "transformers", "datasets"}


def test_opening_a_dataset_loads_neither_arrow_nor_what_recipes_need(tmp_path: Path) -> None:
    make_dataset(tmp_path / "small")
    code = (
        "from pausedata.store.dataset import open_version\n"
        f"open_version({str(tmp_path / 'small')!r}).table('tokens')"
    )
    not_needed = {"pyarrow", "pyarrow.compute", "numpy", "yaml", "pausedata.pipeline.recipe"}
    assert loaded_after(code, not_needed) == set()
