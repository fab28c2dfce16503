"""Rows that are conversations: what formats of messages have in common."""

from __future__ import annotations

from collections.abc import Sequence

from pausedata.core.errors import DataError
from pausedata.exporters.base import TextRow
from pausedata.exporters.reader import Reader

Turn = dict[str, str]  # role, content


def turns_of(row: TextRow, format: str) -> list[Turn]:
    """The prompt's messages.

    DataError where one has more than role and content, since that would be lost.
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


def read_apart(conversations: Sequence[list[Turn]], reader: Reader) -> list[list[int]]:
    """As `read_whole`, with the prompt tokenised apart from the reply."""
    return reader.encode_parts([_prompt_and_reply(turns, reader) for turns in conversations])


def _prompt_and_reply(turns: list[Turn], reader: Reader) -> list[str]:
    """Both as text; nothing where the template writes an answered prompt in another way."""
    prompt = reader.chat(turns[:-1], answered=False)
    whole = reader.chat(turns, answered=True)
    return [prompt, whole[len(prompt) :]] if whole.startswith(prompt) else []
