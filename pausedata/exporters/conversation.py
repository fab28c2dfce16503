"""Rows that are conversations: what formats of messages have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pausedata.core.errors import DataError
from pausedata.exporters.base import TextRow
from pausedata.exporters.reader import Reader

Turn = dict[str, str]  # role, content


def turns_of(row: TextRow, format: str) -> list[Turn]:
    """The prompt's messages, as role and content alone.

    DataError where a message is more than that: nothing of it may get lost.
    """
    for message in row.messages:
        more = sorted(set(message) - {"role", "content"})
        if more or not isinstance(message.get("content"), str):
            what = f"has {', '.join(more)}" if more else "has a content that is no text"
            raise DataError(
                f"'{row.id}': a message of its prompt {what}, and {format} writes role and content "
                "as text alone. Formats of token ids (`tokenized`) keep the prompt as it is."
            )
    return [{"role": m["role"], "content": m["content"]} for m in row.messages]


def read_whole(conversations: Sequence[list[Turn]], reader: Reader) -> list[list[int]]:
    """The ids of each conversation, rendered by the chat template and tokenised as one text."""
    texts = [reader.chat(turns, answered=True) for turns in conversations]
    return reader.encode(texts, special=False)


def read_in_parts(
    conversations: Sequence[list[Turn]], reader: Reader, parts: Sequence[Sequence[str]] | None
) -> list[list[int]]:
    """The same, the prompt tokenised apart from the reply, and the reply in ``parts`` if given."""
    found = []
    for number, turns in enumerate(conversations):
        prompt = reader.chat(turns[:-1], answered=False)
        whole = reader.chat(turns, answered=True)
        if not whole.startswith(prompt):
            found.append([])  # the template writes a prompt that is answered in another way
            continue
        reply = whole[len(prompt) :]
        texts = [reply]
        if parts is not None and reply.startswith(content := "".join(parts[number])):
            texts = [*parts[number], reply[len(content) :]]
        ids = reader.encode([prompt, *(text for text in texts if text)], special=False)
        found.append([token for part in ids for token in part])
    return found


def with_reply(row: Mapping[str, Any]) -> list[Turn]:
    """The conversation of a row of ``messages``."""
    return [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
