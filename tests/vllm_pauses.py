"""A vLLM engine that generates with pauses, as a process of its own: JSON in, JSON out.

`python vllm_pauses.py IN OUT`. IN holds ``{"model": folder, "jobs": [{"prompts": […], "sampling":
{…}, "pauses": [one for each prompt]}]}``. OUT gets for each job, for each prompt, the generated ids
and text; or what it was refused with. What vLLM prints goes to the standard streams.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# The untrained model often ends after a pause: it is made to go on.
SAMPLING = {"temperature": 0.0, "skip_special_tokens": False, "ignore_eos": True}


def generate(engine: Any, job: dict[str, Any]) -> Any:
    """What one job gives."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    asked = job.get("pauses", [None] * len(job["prompts"]))
    params = [
        SamplingParams(
            **(SAMPLING | job.get("sampling", {})),
            extra_args=None if pauses is None else {"pauses": pauses},
        )
        for pauses in asked
    ]
    try:
        outputs = engine.generate(job["prompts"], params, use_tqdm=False)
    except VLLMValidationError as error:
        return {"refused": str(error)}
    return [{"ids": list(o.outputs[0].token_ids), "text": o.outputs[0].text} for o in outputs]


def main() -> None:
    """Start the engine, do the jobs, and end."""
    from vllm import LLM

    work = json.loads(Path(sys.argv[1]).read_text())
    engine = LLM(
        model=work["model"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        enable_prefix_caching=False,
        disable_log_stats=True,
        distributed_executor_backend="uni",
        logits_processors=["pausedata.inference.vllm:PausesForVLLM"],
    )
    Path(sys.argv[2]).write_text(json.dumps([generate(engine, job) for job in work["jobs"]]))


if __name__ == "__main__":
    main()
