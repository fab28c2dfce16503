"""Sizes that decide how much memory scoring takes; here, so that a plan needs no torch."""

from __future__ import annotations

# Padded tokens a batch: on a CPU more would no longer fit its caches and is slower, a GPU wants
# enough to be busy.
DEFAULT_BATCH_TOKENS = {"cpu": 512, "cuda": 16384}
# Tokens that a step of vLLM takes: on a GPU as many as keep it busy, where the logits of a step are
# made in blocks, as the V2 runner does. The V1 runner makes those of an example at once, vocabulary
# by tokens in float32. On a CPU more are no quicker.
VLLM_STEP_TOKENS = {"cpu": 1024, "v1": 4096, "v2": 16384}
# Logits at a time. On a CPU few enough that malloc keeps the pages and caches hold a part, and
# still enough rows for the matrix product to run at its full speed.
LOGITS_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
# A packed head is a copy, since the embedding mostly shares the weights: too dear beyond this.
PACK_BYTES = 1 << 30
