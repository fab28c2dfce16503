"""What the benchmarks share: where things are, the machine they ran on, memory at the peak."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # this checkout's pausedata, whatever is installed

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
OWN_DATA = ROOT / "recipes" / "data" / "word_problems.jsonl"
_GSM8K = ROOT.parent / "shared" / "data" / "gsm8k_train.jsonl"
DATA = _GSM8K if _GSM8K.is_file() else OWN_DATA  # JSONL with question and answer


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """A parser that says what a benchmark is for; ``about`` is its module's docstring."""
    return argparse.ArgumentParser(
        description=(about or "").partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def scoring_arguments(about: str | None, n: int) -> argparse.ArgumentParser:
    """A parser of what every benchmark of scoring takes; ``about`` is its module's docstring."""
    parser = parser_of(about)
    parser.add_argument("--model", default=str(MODEL), help="a folder, a .gguf file or a Hub id")
    parser.add_argument("--data", type=Path, default=DATA, help="JSONL with question and answer")
    parser.add_argument("--n", type=int, default=n, help="examples")
    return parser


def tables_of(columns: dict[str, list[Any]]) -> dict[str, Any]:
    """Tables of the format from their columns, in order."""
    import pyarrow as pa

    from pausedata.store.tables import schema_of

    return {
        name: pa.Table.from_arrays(
            [
                each.cast(field.type) if isinstance(each, pa.Array) else pa.array(each, field.type)
                for each, field in zip(arrays, schema_of(name), strict=True)
            ],
            schema=schema_of(name),
        )
        for name, arrays in columns.items()
    }


def machine() -> str:
    """The processor, its cores, and how busy they are now."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        name = next(
            (x.partition(":")[2].strip() for x in lines if x.startswith("model name")), name
        )
    return f"{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


# On Linux, ru_maxrss of a process that was just started is its parent's: VmHWM begins anew.
_PEAK = """
import resource, sys
from pathlib import Path
status = Path("/proc/self/status")
if status.is_file():
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    print(int(lines["VmHWM"].split()[0]) * 1024)
else:
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""


def peak_mib(code: str, *words: object) -> float:
    """MiB at the peak of a process of its own that runs ``code`` with ``words``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{_PEAK}", *map(str, words)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"},
    )
    return int(done.stdout.split()[-1]) / 2**20
