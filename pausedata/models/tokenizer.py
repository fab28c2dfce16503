"""What is known of a tokenizer: its hash, its vocabulary, its special tokens, its chat template."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from pausedata.core.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

_METASPACE = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# A word that a chat template has no reason to trim, translate or write by itself.
_PROBE = "pausedataprobe"


class VocabEntry(NamedTuple):
    """A row of the table `vocab`."""

    token_id: int
    token: str  #: as a person reads it; bytes that are no whole character as \\xNN
    bytes: bytes  #: what the token adds to the text's UTF-8
    special: bool


def with_special_token(hf: PreTrainedTokenizerFast, text: str) -> PreTrainedTokenizerFast:
    """A copy of a tokenizer in which ``text`` is one token, as trainers add one."""
    from transformers import AddedToken

    copied = copy.deepcopy(hf)
    copied.add_tokens([AddedToken(text, special=True, normalized=False)], special_tokens=True)
    return copied


class Tokenizer:
    """A fast tokenizer of transformers, and what pausedata needs to know of it.

    ``backend`` is the tokenizer of the `tokenizers` library inside; truncation and padding, which
    trainers like to leave switched on, are switched off in it.
    """

    def __init__(self, hf: PreTrainedTokenizerFast) -> None:
        self.hf = hf
        self.backend: Backend = hf.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()

    def __len__(self) -> int:
        return len(self.hf)

    def hash(self, pause_token: str = "[PAUSE]") -> str:
        """``sha256:…`` of what makes ids, the same however the tokenizer was saved.

        The canonical JSON holds the vocabulary by id, merges or scores, the settings of the model,
        the normaliser, the pre-tokeniser and the added tokens other than ``pause_token``. Padding,
        truncation, chat template and post-processor are left out: trainers rewrite them.
        """
        parts = json.loads(self.backend.to_str())
        canonical = json.dumps(
            {
                "model": _canonical_model(parts["model"], pause_token),
                "normalizer": _settings(parts["normalizer"]),
                "pre_tokenizer": _settings(parts["pre_tokenizer"]),
                # Whether one is `special` changes how ids are decoded, not what they are.
                "added_tokens": [
                    _settings({key: value for key, value in token.items() if key != "special"})
                    for token in sorted(parts["added_tokens"], key=lambda token: token["id"])
                    if token["content"] != pause_token
                ],
            },
            ensure_ascii=False,
            sort_keys=True,
            separators=(",", ":"),
        )
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()

    def vocab(self) -> list[VocabEntry]:
        """Every id that has a token, ascending, with those added to the model's vocabulary."""
        parts = json.loads(self.backend.to_str())
        pieces = Pieces(self.hf, parts)
        special_ids = set(self.hf.all_special_ids)
        special_ids |= {token["id"] for token in parts["added_tokens"] if token["special"]}
        entries = []
        for _, token_id in sorted(self.backend.get_vocab().items(), key=lambda item: item[1]):
            raw = pieces[token_id]
            text = raw.decode("utf-8", errors="backslashreplace")
            entries.append(VocabEntry(token_id, text, raw, token_id in special_ids))
        return entries

    def pause_id(self, token: str) -> tuple[int, bool]:
        """The id of the pause ``token``, and whether it is new to the tokenizer.

        A new one gets the id that adding it to a copy gives: ``len(tokenizer)``, unless the
        vocabulary has gaps.
        """
        if token == "":
            raise UsageError("pause.token is empty: give a text such as '[PAUSE]'")
        own = self.backend.token_to_id(token)
        if own is not None:
            return own, False
        from tokenizers import Tokenizer as Backend

        copy = Backend.from_str(self.backend.to_str())
        copy.add_tokens([token])
        new = copy.token_to_id(token)
        assert new is not None
        return new, True

    @property
    def eos_id(self) -> int | None:
        """The id of the end-of-sequence token, or None."""
        eos = self.hf.eos_token_id
        return eos if isinstance(eos, int) else None

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The special ids that the tokenizer puts in front of a text and behind it."""
        plain = self.backend.encode("a", add_special_tokens=False).ids
        encoding = self.backend.encode("a", add_special_tokens=True)
        ids, mask = encoding.ids, encoding.special_tokens_mask
        front = next((k for k, special in enumerate(mask) if not special), len(ids))
        return ids[:front], ids[front + len(plain) :]

    @property
    def prefix_ids(self) -> list[int]:
        """The ids that the tokenizer puts in front of every text (BOS), kept as at inference."""
        return self._around[0]

    @property
    def suffix_ids(self) -> list[int]:
        """The ids that the tokenizer puts behind every text (T5's EOS): to be removed."""
        return self._around[1]

    def chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """The text that the chat template makes of ``messages``; UsageError where it cannot."""
        if not self.hf.chat_template:
            raise UsageError(
                "the model's tokenizer has no chat template, which a prompt of messages needs: "
                "write the prompt as one text template, or name an instruction-tuned model."
            )
        try:
            text = self.hf.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except Exception as error:  # a template may raise anything, with a text meant for people
            roles = ", ".join(str(message.get("role")) for message in messages)
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UsageError(
                f"the model's chat template refuses the messages (roles: {roles}): {reason}"
            ) from error
        return str(text)

    def turn_end_ids(self) -> list[int]:
        """What the chat template puts after an assistant's turn, up to and with its end token.

        Found by rendering a probe. Where no special token follows the turn, EOS; without an EOS
        an empty list.
        """
        text = self.chat(
            [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": _PROBE}],
            add_generation_prompt=False,
        )
        end = text.rfind(_PROBE) + len(_PROBE)
        added = self.hf.added_tokens_decoder
        ends = {token_id for token_id, token in added.items() if token.special} | {self.eos_id}
        found: list[int] = []
        if _PROBE in text:
            # Encoded whole, since what stands before decides how the first ids of the rest look.
            encoding = self.backend.encode(text, add_special_tokens=False)
            for token_id, (start, _) in zip(encoding.ids, encoding.offsets, strict=True):
                if start >= end:
                    found.append(token_id)
                    if token_id in ends:
                        return found
        return [] if self.eos_id is None else [self.eos_id]


class Pieces:
    """What each token of a fast tokenizer adds to the text's UTF-8: ``pieces[token_id]``.

    An id that has no token adds nothing.
    """

    def __init__(self, hf: PreTrainedTokenizerFast, parts: dict[str, Any] | None = None) -> None:
        """``parts``: the tokenizer as JSON, where the caller has it already."""
        self._backend: Backend = hf.backend_tokenizer
        if parts is None:
            parts = json.loads(self._backend.to_str())
        assert parts is not None
        self._read = _token_reader(parts)
        self._in_model: dict[str, int] = self._backend.get_vocab(with_added_tokens=False)
        self._spaces = _METASPACE in json.dumps(_text_parts(parts), ensure_ascii=False)
        special_ids = set(hf.all_special_ids)
        self._added = {
            token["id"]: token["special"] or token["id"] in special_ids
            for token in parts["added_tokens"]
        }

    def __getitem__(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        # An added token stands in the text as it is written. Gemma adds runs of ▁ as plain tokens
        # that its model also makes of spaces: those are read as spaces.
        special = self._added.get(token_id)
        literal = special is not None and (
            special or not self._spaces or token not in self._in_model
        )
        return token.encode() if literal else self._read(token)


def _canonical_model(model: dict[str, Any], pause_token: str) -> dict[str, Any]:
    """A tokenizer's model with its vocabulary as ``[id, token(, score)]`` by id."""
    vocab = model.get("vocab") or {}
    if isinstance(vocab, dict):
        rows = sorted([token_id, token] for token, token_id in vocab.items())
    else:  # Unigram: a list of [token, score], in which the index is the id
        rows = [[token_id, token, score] for token_id, (token, score) in enumerate(vocab)]
    merges = [
        merge.split(" ", 1) if isinstance(merge, str) else list(merge)
        for merge in model.get("merges") or []
    ]
    rest = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
    return {
        **_settings(rest),
        "vocab": [row for row in rows if row[1] != pause_token],
        "merges": merges,
    }


def _settings(part: Any) -> Any:
    """A part of the tokenizer without what changes no id.

    Settings that are off (null, false, empty) count as absent, because releases differ in which
    they write; ``trim_offsets`` moves spans only.
    """
    if isinstance(part, dict):
        return {
            key: _settings(value)
            for key, value in part.items()
            if key != "trim_offsets" and not (value is None or value is False or value == "")
        }
    return [_settings(item) for item in part] if isinstance(part, list) else part


def _text_parts(parts: dict[str, Any]) -> list[Any]:
    """The parts that say how tokens stand for text."""
    return [parts["normalizer"], parts["pre_tokenizer"], parts["decoder"]]


def _types(part: Any) -> set[str]:
    """All values of ``type`` in a nested part."""
    if isinstance(part, dict):
        own = {part["type"]} if isinstance(part.get("type"), str) else set()
        return own.union(*(_types(value) for value in part.values()))
    return set().union(*(_types(item) for item in part)) if isinstance(part, list) else set()


def _token_reader(parts: dict[str, Any]) -> Callable[[str], bytes]:
    """How this tokenizer's model writes bytes as tokens: the function that undoes it."""
    text_parts, model = _text_parts(parts), parts["model"]
    types = _types(text_parts)
    if "ByteLevel" in types:
        return _read_byte_level
    spaces = _METASPACE in json.dumps(text_parts, ensure_ascii=False)
    byte_tokens = bool(model.get("byte_fallback")) or "ByteFallback" in types
    wordpiece = model.get("type") == "WordPiece"
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""

    def read(token: str) -> bytes:
        if byte_tokens and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        if spaces:
            token = token.replace(_METASPACE, " ")
        if wordpiece and prefix and token != prefix:
            token = token.removeprefix(prefix)
        return token.removesuffix(suffix).encode()

    return read


def _byte_map() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones as themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + k): byte for k, byte in enumerate(others)
    }


_BYTES = _byte_map()


def _read_byte_level(token: str) -> bytes:
    if all(character in _BYTES for character in token):
        return bytes(_BYTES[character] for character in token)
    return token.encode()
