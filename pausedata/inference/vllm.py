"""`PausesForVLLM`: pauses in what vLLM generates, with parameters for each request.

Named to vLLM as `pausedata.inference.vllm:PausesForVLLM`, in `LLM(logits_processors=[…])` or
`vllm serve --logits-processors …`. A request asks for pauses by `extra_args={"pauses": {…}}`
(over HTTP `"vllm_xargs": {"pauses": "{…}"}`, whose values cannot be objects); the environment
variable `PAUSEDATA_PAUSES` holds what goes for requests that say nothing.

vLLM has two model runners, with an interface for processors each; this class has both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pausedata.core.errors import UsageError, missing_extra

# Not `import vllm`: type checkers run where it is not installed.
try:
    _first: Any = import_module("vllm.v1.sample.logits_processor")
    _updates: Any = import_module("vllm.v1.sample.logits_processor.builtin")
except ImportError as error:
    raise missing_extra("vllm 0.18 or newer", "vllm", "PausesForVLLM") from error
try:
    _second: Any = import_module("vllm.v1.worker.gpu.sample.logits_processor").LogitsProcessor
except ImportError:  # an older vLLM, which has one runner
    _second = object

from pausedata.inference.decide import PauseState
from pausedata.inference.params import PauseParams, parse_params
from pausedata.inference.tensors import put_pauses
from pausedata.inference.token import check_rows, find_pause, pieces_of

if TYPE_CHECKING:
    import torch

VARIABLE = "PAUSEDATA_PAUSES"
_HINT = """an object such as {"threshold": 0.5}, or false"""


@dataclass
class Request:
    """A request that gets pauses, and its answer so far."""

    params: PauseParams
    prompt: list[int] | None
    output: list[int]  # vLLM's own list, which grows
    answer: PauseState
    seen: int = 0  # how much of it the answer has


class PausesForVLLM(_first.LogitsProcessor, _second):
    """Forces a pause where the model is unsure; requests that do not ask are left alone."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """ValueError, of one line, where a request's parameters are wrong: HTTP 400."""
        try:
            _read(sampling_params)
        except UsageError as error:
            raise ValueError(str(error)) from None

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        """vLLM calls it: with device and pinning (first runner), or with its states (second)."""
        if vllm_config.speculative_config:
            raise UsageError("pauses and speculative decoding do not go together: leave one out.")
        self._pause_token, _ = _defaults(os.environ.get(VARIABLE, ""))
        tokenizer = _tokenizer(vllm_config)
        self._pause = find_pause(tokenizer, self._pause_token)
        self._piece = pieces_of(tokenizer)
        self._requests: dict[int, Request] = {}
        self._states: Any = rest[0] if len(rest) == 1 else None

    def is_argmax_invariant(self) -> bool:
        """A forced pause is what greedy decoding takes."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """First runner: requests that came, went and moved."""
        _updates.process_dict_updates(self._requests, batch_update, self._begin)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Second runner: a request in the slot ``req_idx``. Whether it gets pauses."""
        self._requests.pop(req_idx, None)
        request = self._begin(sampling_params, None, [])
        if request is not None:
            self._requests[req_idx] = request
        return request is not None

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """The logits [rows, vocabulary], changed in place; ``ctx`` comes from the second runner."""
        if not self._requests:
            return logits
        check_rows(self._pause, logits.shape[-1], self._pause_token)
        there = dict(self._requests) if ctx is None else self._rows(ctx)
        for request in there.values():
            self._catch_up(request)
        put_pauses(
            logits,
            self._pause,
            list(there),
            [request.params for request in there.values()],
            [request.answer.verdict for request in there.values()],
        )
        return logits

    def _begin(
        self, sampling_params: Any, prompt: list[int] | None, output: list[int]
    ) -> Request | None:
        """A request that gets pauses; None for others."""
        params = _read(sampling_params)
        if params is None:
            return None
        return Request(params, prompt, output, self._answer(params, prompt))

    def _answer(self, params: PauseParams, prompt: list[int] | None) -> PauseState:
        return PauseState(params, after_pause=(prompt or [])[-1:] == [self._pause])

    def _catch_up(self, request: Request) -> None:
        """Give the answer what was generated since the last call."""
        output = request.output
        known = len(output)
        while known and output[known - 1] < 0:  # vLLM's place for one that is not known yet
            known -= 1
        if known < request.seen:  # tokens were taken back
            request.answer, request.seen = self._answer(request.params, request.prompt), 0
        for token in output[request.seen : known]:
            if token == self._pause:
                request.answer.add_pause()
            else:
                request.answer.add_token(self._piece(token))
        request.seen = known

    def _rows(self, ctx: Any) -> dict[int, Request]:
        """Second runner: the requests of this step by their rows, with what they were fed."""
        states = self._states
        slots = ctx.idx_mapping_np.tolist()
        fed: list[int] = ctx.input_ids.tolist()
        there = {}
        for row, slot in enumerate(slots):
            request = self._requests.get(slot)
            length = int(ctx.seq_lens_upper_bound_np[row])  # exact without speculative decoding
            if request is None or length < int(states.prefill_len.np[slot]):
                continue  # of a prompt that is read in parts, nothing is sampled before the last
            there[row] = request
            if request.prompt is None:
                # Its prompt's end, and after a preemption what it had generated before.
                first = int(states.prompt_len.np[slot]) - 1
                ids = states.all_token_ids.gpu[slot, first:length].tolist()
                request.prompt, request.output = ids[:1], ids[1:]
                request.answer = self._answer(request.params, request.prompt)
            else:
                request.output.append(fed[row])
        return there


def _read(sampling_params: Any) -> PauseParams | None:
    """The parameters of a request; None where it gets no pauses. UsageError says what is wrong."""
    _, defaults = _defaults(os.environ.get(VARIABLE, ""))
    given = (sampling_params.extra_args or {}).get("pauses")
    if given is None:
        return parse_params(defaults, VARIABLE) if defaults is not None else None
    given = _object(given, "pauses")
    if given is None:
        return None
    rule = given.get("eligibility")
    if isinstance(rule, str):
        # A request may come from anyone who reaches the server.
        raise UsageError(
            "pauses: eligibility is a file's name: a request gives the rule itself "
            f"(PauseParams(…).extra_args() does), and the server's file stands in {VARIABLE}."
        )
    if rule is not None and defaults and "eligibility" in defaults:
        raise UsageError(f"pauses: eligibility is the server's, which {VARIABLE} names: leave it.")
    return parse_params((defaults or {}) | given, "pauses")


@lru_cache(maxsize=8)
def _defaults(text: str) -> tuple[str, dict[str, Any] | None]:
    """What the environment variable says: the pause token, and the parameters without requests'.

    An eligibility file is read once, when the engine starts.
    """
    values = _object(text, VARIABLE) if text else None
    if values is None:
        return "[PAUSE]", None
    token = values.pop("pause_token", "[PAUSE]")
    if not isinstance(token, str):
        raise UsageError(f"{VARIABLE}: pause_token is {token!r}: give a text such as '[PAUSE]'.")
    # A group is checked with the request; the rule for it stands here.
    params = parse_params(values, VARIABLE)
    if params.eligibility is not None:
        values["eligibility"] = params.eligibility
    return token, values


def _object(given: Any, where: str) -> dict[str, Any] | None:
    """An object, or its JSON; None for false."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise UsageError(f"{where}: not JSON: {error}. Give {_HINT}.") from None
    if given is False:
        return None
    if not isinstance(given, Mapping):
        raise UsageError(f"{where}: should be {_HINT}, not {given!r}.")
    return dict(given)


def _tokenizer(vllm_config: Any) -> Any:
    """The engine's tokenizer, also where the engine itself does without one."""
    from transformers import AutoTokenizer

    config = vllm_config.model_config
    return AutoTokenizer.from_pretrained(
        config.tokenizer,
        revision=config.tokenizer_revision,
        trust_remote_code=False,  # as everywhere in pausedata
    )
