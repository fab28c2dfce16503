"""The commented recipe that ``pausedata init`` writes."""

from __future__ import annotations

import json
from pathlib import Path

from pausedata.core.errors import UsageError
from pausedata.core.names import NAME_PATTERN

TEMPLATE = """\
# A pausedata recipe. Every key that is commented out shows its default.
# What build would do:  pausedata plan {file}
# Do it:                pausedata build {file}
format: pausedata-recipe/1
name: {name}

source:
  files: [rows.jsonl]        # JSONL, JSON, CSV or Parquet, .gz too; relative to this file
  # hub: openai/gsm8k        # or a dataset of the Hugging Face Hub, with its config and revision
  # config: main
  # revision: null           # null is resolved to a commit, which is recorded
  split: train               # with files: the name that the rows get
  holdout: 0.2               # a fifth is not trained on: `pausedata measure` takes it
  # limit: null              # the first N rows of each split
  # id: null                 # the column that holds an id; null makes one from the text
  # keep: null               # columns kept in `meta`; null: those that no template uses
  # max_bad_rows: 0          # rows that may be unusable before it is an error

# Jinja2 templates over the source's columns. Begin the response with the space: a prompt that
# ends in one makes the first token unlikely in every example.
prompt: "Question: {{{{ question }}}}\\nAnswer:"
response: " {{{{ answer }}}}"
# Or through the model's chat template:
# prompt: {{messages: [{{role: user, content: "{{{{ question }}}}"}}]}}
# Or a column that holds whole conversations (then leave response out):
# prompt: {{messages_column: messages, turns: last}}

model:
  id: HuggingFaceTB/SmolLM2-135M-Instruct   # a Hub id, a folder, or a .gguf file
  # revision: null
  # dtype: float32

scoring:                     # null where no placement needs scores
  # The model trains on some of the rows first, and scores the others: so pauses go where the
  # reasoning is hard, not where the format is new. false for a model that knows the format.
  warmup: true
#   backend: auto
#   run: base
#   max_length: 2048         # prompt, response and EOS
#   overlong: error          # or skip, or truncate
#   append_eos: true

# pause: {{token: "[PAUSE]"}}  # quoted: YAML reads a bare [PAUSE] as a list

placements:                  # `pausedata strategies` lists them with their parameters
  dit: {{strategy: lowest_logprob, positions: 5, tokens: 1}}
  random: {{strategy: random, positions: 5, tokens: 1, seed: 0}}

exports:                     # `pausedata formats` lists them
  dit-tokenized: {{placement: dit, format: tokenized}}

output: build/{name}
"""


def write_template(path: Path) -> None:
    """Write the template to ``path``; UsageError where something is there already."""
    import re

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")
    if not re.match(NAME_PATTERN, name):
        name = "my-dataset"
    shown = json.dumps(str(path)) if " " in str(path) else str(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=name, file=shown))
    except FileExistsError:
        raise UsageError(f"{path} is there already. Give another name.") from None
