"""Scoring through the OpenAI-compatible API of a vLLM server that somebody runs already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, as_completed
from typing import Any

import numpy as np

from pausedata.core.errors import DataError, UsageError
from pausedata.scorers import Example, Job, Scores, ignore_progress
from pausedata.scorers.address import server_address
from pausedata.scorers.server.answers import read_scores
from pausedata.scorers.server.client import Client, Times
from pausedata.scorers.server.loop import Loop

TIMES = Times()


def load(job: Job) -> ServerScorer:
    """Reach the server at ``job.url``.

    UsageError where none answers there, or where it does not serve what is wanted.
    """
    if job.engine:
        raise UsageError(
            "scoring.engine is for an engine that pausedata starts, backend server has one that "
            "runs: remove it, and give such options to `vllm serve`."
        )
    if job.url is None:
        raise UsageError("backend server: give the server's address as scoring.url (--url).")
    return ServerScorer(job, server_address(job.url, "scoring.url"), TIMES)


class ServerScorer:
    """Scores with a model that a server has loaded, one request an example.

    The server's dtype, device and settings are its own business: nothing tells them.
    """

    name = "server"
    rank_ties = "included"
    # The next unit's requests fill the gap that the last ones of a unit leave.
    workers = 2
    engines = 1

    def __init__(self, job: Job, address: str, times: Times) -> None:
        self._loop = Loop()
        self._client: Client | None = None
        try:
            client = self._client = Client(address, times, job.say, job.warn)
            self._served = self._loop.start(client.connect(job.model.name)).result()
            limit = self.context_length
            if limit is not None and job.longest is not None and job.longest > limit:
                raise UsageError(
                    f"the longest example has {job.longest} tokens, the server takes {limit} and "
                    f"one more to generate: serve with --max-model-len {job.longest + 1} or more, "
                    "or lower scoring.max_length."
                )
        except BaseException:
            self.close()
            raise
        if not self._served.is_called(job.model.name):
            job.warn(
                f"the server calls its model '{self._served.id}', not '{job.model.name}': see that "
                "it is the same one."
            )

    @property
    def context_length(self) -> int | None:
        """The most tokens an example may have: one less than the server's, which generates one."""
        length = self._served.max_model_len
        return None if length is None else length - 1

    def score(
        self, examples: Sequence[Example], on_tokens: Callable[[int], None] = ignore_progress
    ) -> list[Scores]:
        """Scores in the order given; see `pausedata.scorers.Scorer`."""
        self._check(examples)
        client = self._client
        assert client is not None
        results = [Scores(np.empty(0, np.float32), np.empty(0, np.int32)) for _ in examples]
        futures = {}
        try:
            for number, example in enumerate(examples):
                if len(example.response_ids):
                    future = self._loop.start(_score(client, number, example))
                    futures[future] = number
            for future in as_completed(list(futures)):
                number = futures[future]
                results[number] = future.result()
                on_tokens(len(examples[number]))
            # Another model under the same name would give scores that look as right.
            self._loop.start(client.look()).result()
        except CancelledError:
            raise DataError("the scorer was closed.") from None
        finally:
            for future in futures:
                future.cancel()
        return results

    def versions(self) -> dict[str, str]:
        """The version of vLLM, where the server tells it."""
        version = self._client.version if self._client is not None else None
        return {} if version is None else {"vllm": version}

    def settings(self) -> dict[str, Any]:
        """What the server calls the model, and its context."""
        return {
            "path": "server",
            "served_model": self._served.short,
            "max_model_len": self._served.max_model_len,
        }

    def close(self) -> None:
        """Cancel the requests under way; the server runs on."""
        client = self._client
        self._loop.close(_nothing if client is None else client.close)

    def _check(self, examples: Sequence[Example]) -> None:
        """DataError for an example that cannot be sent."""
        for number, example in enumerate(examples):
            if not len(example.prompt_ids):
                raise DataError(
                    f"example {number} of the batch has an empty prompt: the first token of a "
                    "response needs one before it."
                )


async def _score(client: Client, number: int, example: Example) -> Scores:
    ids = [*map(int, example.prompt_ids), *map(int, example.response_ids)]
    where = f"example {number} of the batch"
    return read_scores(ids, len(example.prompt_ids), await client.complete(ids, where), where)


async def _nothing() -> None:
    pass
