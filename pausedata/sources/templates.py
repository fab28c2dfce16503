"""Rows to examples: the recipe's templates, or a column that holds a conversation."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pausedata.core.errors import PausedataError, UsageError, listing, nearest
from pausedata.sources.readers import one_line, writable
from pausedata.sources.records import BadRow, Row
from pausedata.sources.spec import ChatPrompt, ColumnPrompt, Prompt, Source

if TYPE_CHECKING:
    from pausedata.sources.jinja import Template

Chat = Callable[[list[dict[str, Any]]], str]


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """An example before it gets its id; ``id``: the source's, None where it names none."""

    id: str | None
    split: str
    row: int
    prompt: str
    response: str
    meta: str
    where: str  # the row, as messages name it
    messages: str | None = None  # the prompt's messages as JSON, where it is made of some


class _Unusable(Exception):
    """Makes a BadRow of the row, with this reason and detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Renderer:
    """Makes examples of rows.

    ``chat`` turns messages into the prompt's text through the model's chat template; it is needed
    where the prompt is one of messages. UsageError where a template is not Jinja2.
    """

    def __init__(
        self, prompt: Prompt, response: str | None, source: Source, chat: Chat | None = None
    ) -> None:
        self.prompt, self.source = prompt, source
        from pausedata.sources.jinja import Template  # Jinja2 is for those that render

        self.templates: list[Template] = []
        if isinstance(prompt, str):
            self.templates.append(Template("prompt", prompt))
        elif isinstance(prompt, ChatPrompt):
            for n, message in enumerate(prompt.messages):
                self.templates.append(Template(f"prompt.messages[{n}].content", message.content))
        if response is not None:
            self.templates.append(Template("response", response))
        if chat is None and not isinstance(prompt, str):
            raise UsageError("prompt: messages need a tokenizer that has a chat template.")
        self._chat = chat
        self._names = {name for template in self.templates for name in template.names}
        if isinstance(prompt, ColumnPrompt):
            self._names.add(prompt.messages_column)
        self._first = True

    @property
    def variables(self) -> set[str]:
        """The columns that the prompt and the response are made of."""
        from pausedata.sources.jinja import GLOBALS

        return self._names - GLOBALS.keys()

    def render(self, row: Row) -> Iterator[RenderedRow | BadRow]:
        """The row's examples (several with ``turns: each``), or one BadRow.

        A fault of the recipe (a variable that is no column, a filter that fails) shows on the first
        row that is rendered: there it is a UsageError.
        """
        first, self._first = self._first, False
        try:
            if first:
                self._check_columns(row)
            # A list, so that a row gives all of its examples or is counted as bad.
            examples = list(self._examples(row))
        except _Unusable as problem:
            if first and problem.reason in ("missing_column", "template_error"):
                raise UsageError(f"{row.where}: {problem.detail}") from problem.__cause__
            examples = [BadRow(row.split, row.index, row.where, problem.reason, problem.detail)]
        yield from examples

    def _examples(self, row: Row) -> Iterator[RenderedRow]:
        own_id = self._id(row)
        meta = self._meta(row)
        for turn, (prompt, response, messages) in enumerate(self._pairs(row), 1):
            if not response.strip():
                raise _Unusable("empty_response", "the response is empty")
            if "\0" in prompt or "\0" in response:
                raise _Unusable("nul_character", "the text holds a NUL character")
            if not writable(prompt + response + meta + (own_id or "")):
                raise _Unusable("bad_utf8", "half a surrogate pair, which is no text")
            # Ids of further turns get a number, as those of repeated texts do.
            name = own_id if own_id is None or turn == 1 else f"{own_id}-{turn}"
            yield RenderedRow(
                name, row.split, row.index, prompt, response, meta, row.where, messages
            )

    def _pairs(self, row: Row) -> Iterator[tuple[str, str, str | None]]:
        """The prompts and responses that the row makes, and the prompts as messages."""
        if isinstance(self.prompt, ColumnPrompt):
            yield from self._turns(row, self.prompt)
            return
        *prompts, response = [self._text(template, row) for template in self.templates]
        if isinstance(self.prompt, ChatPrompt):
            roles = [message.role for message in self.prompt.messages]
            messages = [
                {"role": role, "content": content}
                for role, content in zip(roles, prompts, strict=True)
            ]
            yield self._chat_text(messages, "template_error"), response, _as_json(messages)
        else:
            yield prompts[0], response, None

    def _text(self, template: Template, row: Row) -> str:
        from jinja2 import UndefinedError

        from pausedata.sources.jinja import UnfitValue

        try:
            return template.render(row.columns)
        except UnfitValue as error:
            raise _Unusable(error.reason, f"{template.key}: {error.detail}") from error
        except UndefinedError as error:
            name = re.fullmatch(r"'(\w+)' is undefined", error.message or "")
            if name and name[1] not in row.columns:
                raise _missing(f"{template.key}: ", name[1], row) from error
            raise _Unusable("template_error", f"{template.key}: {one_line(error)}") from error
        except MemoryError:
            raise
        except Exception as error:  # filters and operators raise what they like
            detail = f"{template.key}: {type(error).__name__}: {one_line(error)}"
            raise _Unusable("template_error", detail) from error

    def _turns(self, row: Row, prompt: ColumnPrompt) -> Iterator[tuple[str, str, str]]:
        messages = _messages(row, prompt.messages_column)
        ends = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        if not ends:
            raise _Unusable("no_assistant_turn", f"'{prompt.messages_column}' has none")
        chosen = ends[-1:] if prompt.turns == "last" else ends
        # A greeting that opens the conversation answers nothing: it is context for what follows.
        chosen = [end for end in chosen if end > 0]
        if not chosen:
            detail = f"'{prompt.messages_column}': nothing stands before the assistant's turn"
            raise _Unusable("bad_messages", detail)
        for end in chosen:
            text = self._chat_text(messages[:end], "bad_messages")
            yield text, messages[end]["content"], _as_json(messages[:end])

    def _chat_text(self, messages: list[dict[str, Any]], reason: str) -> str:
        assert self._chat is not None
        try:
            return self._chat(messages)
        except (PausedataError, MemoryError):
            raise
        except Exception as error:  # chat templates refuse what they do not know
            raise _Unusable(reason, f"the model's chat template: {one_line(error)}") from error

    def _id(self, row: Row) -> str | None:
        column = self.source.id
        if column is None:
            return None
        value = row.columns.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and value:
            return value
        raise _Unusable("bad_id", f"'{column}' is {_shown(value)}: an id is text or an integer")

    def _meta(self, row: Row) -> str:
        keep = self.source.keep
        if keep is None:
            kept = [c for c in row.columns if c not in self._names and c != self.source.id]
        else:
            kept = [c for c in keep if c in row.columns]
        values = {}
        for column in kept:
            try:
                values[column] = _plain(row.columns[column])
            except TypeError as error:
                raise UsageError(
                    f"source.keep: {row.where}: '{column}' holds {error}, which JSON cannot. "
                    "List in source.keep the columns to keep ([] for none)."
                ) from None
        return json.dumps(values, ensure_ascii=False, allow_nan=False)

    def _check_columns(self, row: Row) -> None:
        """UsageError where ``source.id`` or ``source.keep`` names a column that the row lacks."""
        named = [
            ("source.id", self.source.id),
            *(("source.keep", k) for k in self.source.keep or []),
        ]
        for key, column in named:
            if column is not None and column not in row.columns:
                raise UsageError(f"{row.where}: {_missing(f'{key}: ', column, row).detail}")


def _missing(prefix: str, name: str, row: Row) -> _Unusable:
    hint = nearest(name, row.columns)
    detail = f"{prefix}no column '{name}'.{hint} Columns: {listing(row.columns)}."
    return _Unusable("missing_column", detail)


def _messages(row: Row, column: str) -> list[dict[str, Any]]:
    """The column as messages with text; keys that are null (Parquet fills them in) are left out."""
    if column not in row.columns:
        raise _missing("prompt.messages_column: ", column, row)
    value = row.columns[column]
    if not isinstance(value, list):
        raise _Unusable("bad_messages", f"'{column}' is {_shown(value)}, not a list of messages")
    messages = []
    for n, message in enumerate(value):
        if not isinstance(message, dict):
            raise _Unusable("bad_messages", f"'{column}[{n}]' is {_shown(message)}, not a message")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                detail = f"'{column}[{n}].{key}' is {_shown(message.get(key))}, not text"
                raise _Unusable("bad_messages", detail)
        messages.append({key: part for key, part in message.items() if part is not None})
    return messages


def _as_json(messages: list[dict[str, Any]]) -> str:
    return json.dumps([_plain(message) for message in messages], ensure_ascii=False)


def _shown(value: Any) -> str:
    if value is None:
        return "null or missing"
    if value == "":
        return "empty"
    text = repr(value) if isinstance(value, int | float) else ""
    return text or f"a {type(value).__name__}"


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it: times as ISO 8601, NaN and infinities as null.

    TypeError, whose text is the type's name, for what has no such form: bytes, images.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TypeError(type(value).__name__)
