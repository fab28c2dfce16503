"""A server that answers as `vllm serve` does, over a real tiny model, on loopback.

Its answers have the shape of vLLM 0.32's; tests may put others in their place.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What is sent back; text goes out as it is."""

    status: int
    content: Any
    headers: dict[str, str] = {}


class Drop(Exception):
    """Close the connection without an answer."""


def vllm_error(status: int, message: str) -> Answer:
    """As vLLM says that something is wrong."""
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return Answer(status, {"error": error})


class FakeVllm:
    """Serves ``model`` (a folder); ``answer(number, ids, honest)`` may answer otherwise.

    ``number`` counts the completions asked for, those refused too, but not the trial that a
    client makes with two zeros; ``honest`` makes the right answer for ``ids``.
    """

    def __init__(self, model: Path, context: int = 1024) -> None:
        from transformers import AutoModelForCausalLM

        self._model: Any = AutoModelForCausalLM.from_pretrained(model).eval()
        self.cards = [card("tiny", str(model), context)]
        self.version: str | None = "0.32.0"
        self.key: str | None = None
        self.answer: Callable[[int, list[int], Callable[[], Answer]], Answer] = (
            lambda number, ids, honest: honest()
        )
        self.bodies: list[dict[str, Any]] = []  # of all completions
        self.port = 0
        self.in_flight = self.most_in_flight = 0
        self.changed = threading.Condition()
        self._counting, self._computing = threading.Lock(), threading.Lock()
        self._number = 0
        self._server: ThreadingHTTPServer | None = None
        self._sockets: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def asked(self) -> list[list[int]]:
        """The prompts of all completions but for trials."""
        return [body["prompt"] for body in self.bodies if body["prompt"] != [0, 0]]

    def start(self) -> FakeVllm:
        """Listen, on the port that it had before if it had one."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening and drop all connections, as when the process is killed."""
        with self._counting:
            server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for connection in list(self._sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def respond(self, path: str, body: dict[str, Any] | None, key: str | None) -> Answer:
        """The answer to a request."""
        if path.startswith("/v1") and self.key is not None and key != f"Bearer {self.key}":
            return Answer(401, {"error": "Unauthorized"})
        if path == "/v1/models":
            return Answer(200, {"object": "list", "data": self.cards})
        if path == "/version" and self.version is not None:
            return Answer(200, {"version": self.version})
        if path != "/v1/completions" or body is None:
            return Answer(404, {"detail": "Not Found"})
        with self._counting:
            self.bodies.append(body)
        if body["model"] not in [card["id"] for card in self.cards]:
            return vllm_error(404, f"The model `{body['model']}` does not exist.")
        ids = body["prompt"]
        if ids == [0, 0]:
            return self._complete(ids)
        with self._counting:
            self._number += 1
            number = self._number
        with self.changed:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.changed.notify_all()
        try:
            return self.answer(number, ids, lambda: self._complete(ids))
        finally:
            with self.changed:
                self.in_flight -= 1

    def _complete(self, ids: list[int]) -> Answer:
        choice = {"index": 0, "text": " x", "finish_reason": "length"}
        choice["prompt_logprobs"] = self.prompt_logprobs(ids)
        return Answer(200, {"object": "text_completion", "choices": [choice]})

    def prompt_logprobs(self, ids: list[int]) -> list[Any]:
        """The log-probability and rank of each token given those before it, by the real model."""
        import torch

        with self._computing, torch.inference_mode():
            logits = self._model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
        logprobs = torch.log_softmax(logits, -1)
        positions: list[Any] = [None]
        for row, id in zip(logprobs, ids[1:], strict=True):
            entry = {"logprob": float(row[id]), "decoded_token": "x"}
            entry["rank"] = int((row >= row[id]).sum())  # what is equal counts, as in vLLM
            positions.append({str(id): entry})
        return positions


def card(id: str, root: str, context: int | None, parent: str | None = None) -> dict[str, Any]:
    """A model in the list of those served."""
    more = {"root": root, "parent": parent, "max_model_len": context}
    return {"id": id, "object": "model", "owned_by": "vllm"} | more


def _handler(fake: FakeVllm) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            fake._sockets.add(self.request)
            super().setup()

        def finish(self) -> None:
            with suppress(OSError):
                super().finish()
            fake._sockets.discard(self.request)

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except OSError:  # the other end has gone
                self.close_connection = True

        def do_GET(self) -> None:
            self._send(None)

        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            data = self.rfile.read(size)
            if len(data) < size:  # cancelled while it was sent
                self.close_connection = True
                return
            self._send(json.loads(data))

        def _send(self, body: dict[str, Any] | None) -> None:
            try:
                answer = fake.respond(self.path, body, self.headers["Authorization"])
            except Drop:
                self.close_connection = True
                return
            content = answer.content
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
