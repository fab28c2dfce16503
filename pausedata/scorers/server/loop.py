"""An event loop in a thread of its own, for callers in other threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from pausedata.core.errors import DataError

Result = TypeVar("Result")


class Loop:
    """Runs coroutines until it is closed, which cancels those under way."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # Each error reaches who waits for the future; nobody does for one that was cancelled.
        self._loop.set_exception_handler(lambda loop, context: None)
        self._thread = threading.Thread(target=self._loop.run_forever, name="server", daemon=True)
        self._lock = threading.Lock()
        self._open = True
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Start ``coroutine``; its future is cancelled if the loop is closed before it is done."""
        with self._lock:
            if self._open:
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        raise DataError("the scorer was closed.")

    def close(self, finish: Callable[[], Awaitable[None]]) -> None:
        """Cancel what is under way, run ``finish`` and end the thread."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        asyncio.run_coroutine_threadsafe(self._end(finish), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self, finish: Callable[[], Awaitable[None]]) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await finish()
