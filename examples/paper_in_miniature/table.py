"""The results in the form of the paper's Table 1."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

NAMES = {
    "none": "none (plain fine-tuning)",
    "random": "random",
    "append": "append, behind the prompt",
    "every_word": "every word",
    "lowest_logprob": "lowest log-probability (DIT)",
}
HEADS = [
    "pauses", "right answers, %", "gain, nats/token", "after a pause", "elsewhere",
    "pauses/token", "pauses while generating", "gate",
]  # fmt: skip
Results = dict[str, list[dict[str, Any]]]  # way → of each seed what `measure --json` printed


def table(results: Results) -> str:
    """Markdown: a row for each way, with means and standard deviations over the seeds."""
    lines = [_line(HEADS), _line(["---"] * len(HEADS))]
    for way, found in results.items():
        right = [100 * each["generated"]["accuracy_with"] for each in found]
        cells = [NAMES[way], _spread(right, 1)]
        if way != "none":
            verdicts = Counter(each["verdict"] for each in found)
            cells += [
                _spread([each["gain"] for each in found], 4),
                _spread([each["gain_after_pause"] for each in found], 4),
                _spread([each["gain_elsewhere"] for each in found], 4),
                f"{statistics.mean(each['token_overhead'] for each in found):.3f}",
                f"{statistics.mean(each['generated']['pauses'] for each in found):.1f}",
                ", ".join(f"{verdict} ×{count}" for verdict, count in verdicts.items()),
            ]
        lines.append(_line(cells + ["–"] * (len(HEADS) - len(cells))))
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
