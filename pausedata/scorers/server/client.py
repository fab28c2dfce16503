"""Requests to a vLLM server, tried again for as long as it may need to come back."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    wait_exponential,
    wait_random,
)

from pausedata.core.errors import DataError, PausedataError, UsageError, listing, reason
from pausedata.scorers.server.answers import Served, read_entries, read_models

# As `vllm serve` itself reads it.
KEY = "VLLM_API_KEY"
# Requests in flight, of all workers together. vLLM works at 256 sequences or more side by side, but
# of long prompts a step takes few, and 64 keep its queue filled.
MOST_IN_FLIGHT = 64
# An example may have had the bad luck of some restarts; one that fails so often is the culprit.
MOST_FAILURES = 8
# What may have changed when it is asked again; the server does nothing twice that matters.
_PASSING = {408, 429, 500, 502, 503, 504}
# Says nothing of the request: the server, or what stands before it, wants to be left alone.
_BUSY = {429, 503}


@dataclass(frozen=True)
class Times:
    """How long is waited for what, in seconds.

    ``answer``: a request's turn may come after `MOST_IN_FLIGHT` long examples on a slow CPU.
    ``notice``: without any answer, before a person hears of it; ``patience``: before it is given
    up, a large model takes many minutes to load. ``idle``: how long a connection is kept, less
    than the 5 s after which the server closes it.
    """

    connect: float = 10.0
    answer: float = 1800.0
    look: float = 60.0
    first_wait: float = 1.0
    longest_wait: float = 30.0
    notice: float = 5.0
    patience: float = 1800.0
    idle: float = 4.0


class RetryableError(Exception):
    """No answer, or one that may be another the next time."""

    def __init__(self, message: str, *, busy: bool = False, wait: float = 0.0) -> None:
        super().__init__(message)
        self.busy, self.wait = busy, wait


class Client:
    """What is asked of a server at ``address``; all within one event loop.

    Calls raise DataError for an answer that refuses, UsageError where a key is wanted.
    """

    def __init__(
        self, address: str, times: Times, say: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        self.served: Served | None = None
        self.version: str | None = None
        self._address, self._times, self._say, self._warn = address, times, say, warn
        self._key = _key()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(times.answer, connect=times.connect, pool=None),
            limits=httpx2.Limits(keepalive_expiry=times.idle),
        )
        self._in_flight = asyncio.Semaphore(MOST_IN_FLIGHT)
        self._looking = asyncio.Lock()
        self._away = False
        self._failing_since: float | None = None
        self._told = False

    async def connect(self, name: str) -> Served:
        """Find out which of the models there is ``name``, and that it gives log-probabilities.

        UsageError where nothing is there, or not what is wanted: nothing is tried twice.
        """
        try:
            served = self.served = _choose(await self._models(), name)
            await self._find_version()
            ids = [0, 0]
            read_entries(ids, _json(await self._post(self._body(ids))), "a trial")
        except (RetryableError, DataError) as error:
            raise UsageError(
                f"{self._address}: {_sentence(error)} Start a server (vllm serve MODEL), wait "
                "until it is up, or name another with scoring.url (--url)."
            ) from error
        return served

    async def complete(self, ids: list[int], where: str) -> Any:
        """The answer for ``ids`` as a prompt; ``where`` names the example in a DataError.

        At most `MOST_IN_FLIGHT` are under way, the others wait.
        """
        body, failures = self._body(ids), 0

        def is_enough(state: RetryCallState) -> bool:
            nonlocal failures
            failures += not _error(state).busy
            return failures >= MOST_FAILURES or self._is_given_up()

        async with self._in_flight:
            try:
                response = await self._again(self._complete, is_enough, body, where)
            except RetryableError as error:
                raise DataError(
                    f"{where}: the server gives no answer for it, the last time: "
                    f"{_sentence(error)} {_GOES_ON}"
                ) from error
            return _json(response)

    async def look(self, *, if_away: bool = False) -> None:
        """See that the server is there and serves what it did before; wait until it is there.

        DataError where it is not back in time, or serves another model now.
        """
        async with self._looking:  # one asks for all
            if if_away and not self._away:
                return
            was_away = False

            def is_enough(state: RetryCallState) -> bool:
                nonlocal was_away
                was_away = True
                self._failed(_error(state))
                return self._is_given_up()

            try:
                await self._again(self._compare, is_enough)
            except RetryableError as error:
                raise DataError(
                    f"the server did not come back in {self._times.patience / 60:.0f} minutes: "
                    f"{_sentence(error)} {_GOES_ON}"
                ) from error
            self._away = False
            if was_away:
                self._answered()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _again(
        self,
        act: Callable[..., Awaitable[Any]],
        is_enough: Callable[[RetryCallState], bool],
        *arguments: Any,
    ) -> Any:
        """What ``act`` gives, tried until it raises no `RetryableError` or it ``is_enough``."""
        first = self._times.first_wait
        backoff = wait_exponential(first, self._times.longest_wait) + wait_random(0, first)

        def wait(state: RetryCallState) -> float:
            return max(backoff(state), min(_error(state).wait, self._times.patience))

        retry = retry_if_exception_type(RetryableError)
        retrying = AsyncRetrying(retry=retry, wait=wait, stop=is_enough, reraise=True)
        return await retrying(act, *arguments)

    async def _complete(self, body: dict[str, Any], where: str) -> httpx2.Response:
        if self._away:
            await self.look(if_away=True)
        try:
            response = await self._post(body)
        except RetryableError as error:
            self._away = True
            self._failed(error)
            raise
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        self._answered()
        return response

    def _failed(self, error: RetryableError) -> None:
        """Note that there was no answer; a person hears of it once, not for each request."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if not self._told and now - self._failing_since >= self._times.notice:
            self._told = True
            self._warn(
                f"{_sentence(error)} Trying again for up to {self._times.patience / 60:.0f} minutes"
            )

    def _answered(self) -> None:
        self._failing_since = None
        if self._told:
            self._told = False
            self._say("the server answers again")

    def _is_given_up(self) -> bool:
        since = self._failing_since
        return since is not None and time.monotonic() - since > self._times.patience

    async def _compare(self) -> None:
        there = await self._models()
        if self.served not in there:
            assert self.served is not None
            raise DataError(
                f"the server does not serve '{self.served.id}' as it did when scoring began (there "
                f"now: {listing(model.id for model in there)}). {_GOES_ON}"
            )
        await self._find_version()

    async def _models(self) -> list[Served]:
        return read_models(_json(await self._request("GET", "/v1/models", self._times.look)))

    async def _find_version(self) -> None:
        try:
            answer = _json(await self._request("GET", "/version", self._times.look))
            self.version = str(answer["version"])
        except (PausedataError, LookupError, TypeError):  # something before it lets /v1 pass alone
            self.version = None

    def _body(self, ids: list[int]) -> dict[str, Any]:
        assert self.served is not None
        return {
            "model": self.served.id,
            "prompt": ids,
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }

    async def _post(self, body: dict[str, Any]) -> httpx2.Response:
        return await self._request("POST", "/v1/completions", self._times.answer, json=body)

    async def _request(
        self, method: str, path: str, answer: float, json: dict[str, Any] | None = None
    ) -> httpx2.Response:
        timeout = httpx2.Timeout(answer, connect=self._times.connect, pool=None)
        try:
            response = await self._http.request(
                method, self._address + path, json=json, timeout=timeout
            )
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
            raise UsageError(f"scoring.url: '{self._address}' cannot be asked: {error}") from error
        except httpx2.RequestError as error:
            raise RetryableError(f"no answer ({reason(error)})") from error
        status = response.status_code
        if status == 200:
            return response
        if status in (401, 403):
            asked = "does not take the key in" if self._key else "wants a key: set"
            raise UsageError(f"the server {asked} {KEY} (it answers {status}).")
        if status == 404 and response.url.path.endswith("/models"):
            raise DataError(
                "what answers there is no vLLM server, or the path is wrong: the address is "
                "http://HOST:PORT."
            )
        message = f"the server answers {status}: {self._first_line(response)}"
        if status in _PASSING:
            raise RetryableError(message, busy=status in _BUSY, wait=_asked_wait(response))
        raise DataError(message)

    def _first_line(self, response: httpx2.Response) -> str:
        """What the server says is wrong, without the key, should it be in there."""
        text: Any = response.text
        try:
            document = response.json()
            error = document.get("error") or document
            text = error if isinstance(error, str) else error.get("message") or error.get("detail")
        except (ValueError, AttributeError):
            pass
        lines = str(text or "").strip().splitlines() or [response.reason_phrase]
        line = lines[0].replace(self._key, "…") if self._key else lines[0]
        return line if len(line) <= 300 else line[:299] + "…"


_GOES_ON = "Finished shards are kept, the same command goes on."


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"{KEY} holds characters that no key has: set it anew.")
    return key


def _choose(there: list[Served], name: str) -> Served:
    """The one model that is served, else the one that is called ``name``."""
    if len(there) == 1:
        return there[0]
    if not there:
        raise DataError("the server has no model.")
    found = [model for model in there if model.id == name]
    found = found or [model for model in there if model.is_called(name)]
    if len(found) == 1:
        return found[0]
    raise UsageError(
        f"the server has several models, and {'none' if not found else 'more than one'} is "
        f"'{name}': {listing(model.id for model in there)}. Serve it under its own name "
        "(--served-model-name), or name one of those as the model."
    )


def _json(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise DataError("what answers there gives no JSON: is it a vLLM server?") from None


def _error(state: RetryCallState) -> RetryableError:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, RetryableError)
    return error


def _sentence(error: Exception | PausedataError) -> str:
    text = str(error)
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _asked_wait(response: httpx2.Response) -> float:
    """Seconds to wait, as ``Retry-After`` asks for in seconds or by a date; 0 where it is not."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0
