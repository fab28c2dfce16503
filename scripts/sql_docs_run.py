"""The second run of docs/sql.md: the quickstart's model, trained on every third example."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from pausedata.store.dataset import Version, open_version

RUN = "tuned"
# Part of what a copy is recognised by: change one, and the run is made again.
SETTINGS = {"every": 3, "examples_a_step": 2, "layers": 8, "learning_rate": 2e-4, "seed": 0}


def with_second_run(dataset: Path, model: Path, work: Path) -> Version:
    """A copy of ``dataset`` in ``work`` with a run `tuned` besides; some minutes, the first time.

    ``model``, a GGUF file or a folder, is what scored ``dataset``.
    """
    from pausedata.store.files import sha256_of

    stamp, copy = work / "made-from.json", work / "dataset"
    made_from = SETTINGS | {"dataset": sha256_of(dataset / "pausedata.json")}
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == made_from:
        return open_version(copy)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    shutil.copytree(dataset, copy, symlinks=True)
    fine_tune(open_version(copy), model, work / "model")
    command = ["score", str(copy), "--run", RUN, "--model", str(work / "model")]
    start = "from pausedata.cli import main; main()"
    subprocess.run([sys.executable, "-c", start, *command], check=True)
    stamp.write_text(json.dumps(made_from), encoding="utf-8")
    return open_version(copy)


def fine_tune(version: Version, model: Path, output: Path) -> None:
    """Train ``model`` on every third example's response, as it is tokenised, and save it.

    Its last layers alone, which takes half as long as all.
    """
    import torch

    from pausedata.models.cache import in_cache, load_tokenizer
    from pausedata.models.load import load_model
    from pausedata.models.ref import ModelRef

    torch.manual_seed(SETTINGS["seed"])
    ref = in_cache(ModelRef.parse(str(model), None, Path.cwd()))
    network = load_model(ref, torch.float32, torch.device("cpu")).train()
    network.requires_grad_(False)
    trained = network.model.layers[-SETTINGS["layers"] :].requires_grad_(True)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=SETTINGS["learning_rate"])
    tokens = version.table("tokens")
    rows = [row for shard in tokens.shards for row in tokens.read(shard).to_pylist()]
    chosen = rows[:: SETTINGS["every"]]
    together = SETTINGS["examples_a_step"]
    for start in range(0, len(chosen), together):
        for row in chosen[start : start + together]:
            prompt, response = row["prompt_ids"], row["response_ids"]
            ids = torch.tensor([prompt + response])
            labels = torch.tensor([[-100] * len(prompt) + response])
            (network(input_ids=ids, labels=labels).loss / together).backward()
        print(f"trained on {start + together} of {len(chosen)} examples", file=sys.stderr)
        optimizer.step()
        optimizer.zero_grad()
    network.save_pretrained(output)
    load_tokenizer(ref).save_pretrained(output)
