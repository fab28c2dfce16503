"""From text to ids: boundary, spans, EOS, length, and what is known of a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import in_ci
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pausedata.core.errors import UsageError
from pausedata.models.cache import load_tokenizer
from pausedata.models.ref import ModelRef
from pausedata.models.tokenizer import Tokenizer
from pausedata.models.tokens import Rejected, TokenBuilder, Tokenized, TokenRules, begins_character

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers  # noqa: E402
from tokenizers import processors as post  # noqa: E402
from tokenizers import trainers as train  # noqa: E402

LINES = [
    "The answer is 42, because six times seven is 42.\n\nQuestion: what is 6 * 7?\nAnswer: 42",
    "def add(a, b):\n    return a + b  # 日本語 and emoji 🙂 in one line",
    "naïve café, the the the answer answer",
]
GGUF = Path(__file__).parent.parent / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def wrap(backend: Any, **special: str) -> Tokenizer:
    return Tokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special))


def byte_level(**special: str) -> Tokenizer:
    """Byte-level BPE as GPT-2, SmolLM2, Qwen and Llama 3 have it."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    # trim_offsets leaves the space before a word out of its span.
    backend.post_processor = post.ByteLevel(trim_offsets=True)
    trainer = train.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<eos>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    backend.train_from_iterator(LINES, trainer)
    return wrap(backend, **({"eos_token": "<eos>"} | special))


def metaspace() -> Tokenizer:
    """BPE with ▁ for spaces and <0xNN> for bytes, BOS in front and EOS behind, as from T5's kin."""
    vocab = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab += ["▁", "a", "n", "s", "w", "e", "r", "an", "sw", "er", "▁an", "▁answ", "answ", "▁▁"]
    merges = [("a", "n"), ("s", "w"), ("e", "r"), ("▁", "an"), ("▁an", "sw"), ("an", "sw")]
    merges.append(("▁", "▁"))
    ids = {token: k for k, token in enumerate(vocab)}
    backend = tokenizers.Tokenizer(
        models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.post_processor = post.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return wrap(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram() -> Tokenizer:
    """SentencePiece's other model, with scores in place of merges, and no EOS."""
    scores = {"<unk>": 0.0, "▁": -2.0, "▁answer": -3.0, "answer": -4.0, "wer": -4.5}
    scores |= dict.fromkeys("answer42:", -6.0)
    backend = tokenizers.Tokenizer(models.Unigram(list(scores.items()), unk_id=0))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return wrap(backend, unk_token="<unk>")


def word_level() -> Tokenizer:
    """Whole words; whitespace is in no token and in no span."""
    words = ["[UNK]", "[EOS]", "the", "answer", "is", "42", "[PAUSE]"]
    ids = {word: k for k, word in enumerate(words)}
    backend = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return wrap(backend, unk_token="[UNK]", eos_token="[EOS]")


ALL = {"byte_level": byte_level(), "metaspace": metaspace(), "unigram": unigram()}
ALL["word_level"] = word_level()
BYTE_LEVEL = ALL["byte_level"]


def encode(tokenizer: Tokenizer, prompt: str, response: str, **rules: Any) -> Tokenized | Rejected:
    (result,) = TokenBuilder(tokenizer, TokenRules(**rules)).encode([prompt], [response])
    return result


def tokenized(tokenizer: Tokenizer, prompt: str, response: str, **rules: Any) -> Tokenized:
    result = encode(tokenizer, prompt, response, **rules)
    assert isinstance(result, Tokenized), result
    return result


def pieces(example: Tokenized, response: str) -> list[str]:
    """The response as its spans cut it."""
    spans = zip(example.char_start, example.char_end, strict=True)
    return [response[start:end] for start, end in spans]


# --- the boundary between prompt and response ---


def test_the_response_is_what_the_prompt_leaves_of_the_whole() -> None:
    example = tokenized(BYTE_LEVEL, "Answer:", " 42", append_eos=False)
    whole = BYTE_LEVEL.backend.encode("Answer: 42").ids
    assert [*example.prompt_ids, *example.response_ids] == whole
    assert not example.boundary_mismatch
    assert example.response_ids.dtype == example.char_start.dtype == np.int32


def test_where_prompt_and_response_would_share_a_token_the_response_stands_alone() -> None:
    example = tokenized(BYTE_LEVEL, "the ans", "wer is", append_eos=False)
    assert example.boundary_mismatch
    assert list(example.prompt_ids) == BYTE_LEVEL.backend.encode("the ans").ids
    assert list(example.response_ids) == BYTE_LEVEL.backend.encode("wer is").ids


def test_a_response_that_the_prompt_s_last_token_swallows_stands_alone() -> None:
    # Unigram makes one unknown token of a run of unknown characters.
    example = tokenized(ALL["unigram"], "answer 日", "本", append_eos=False)
    assert example.boundary_mismatch
    assert list(example.char_end)[-1] == 1


def test_special_tokens_in_front_are_kept_and_those_behind_removed() -> None:
    tokenizer = ALL["metaspace"]
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ([1], [2])
    example = tokenized(tokenizer, "an", " answer", append_eos=False)
    assert example.prompt_ids[0] == 1 and 2 not in example.prompt_ids
    assert 1 not in example.response_ids and 2 not in example.response_ids


def test_a_chat_prompt_gets_no_second_bos() -> None:
    example = tokenized(ALL["metaspace"], "<s> an", " answer", chat=True, append_eos=False)
    assert list(example.prompt_ids).count(1) == 1


# --- EOS ---


def test_eos_is_appended_with_an_empty_span_at_the_end() -> None:
    example = tokenized(BYTE_LEVEL, "Answer:", " 42")
    assert example.response_ids[-1] == BYTE_LEVEL.eos_id
    assert example.char_start[-1] == example.char_end[-1] == len(" 42")


def test_a_tokenizer_without_eos_says_which_setting_to_change() -> None:
    with pytest.raises(UsageError, match=r"scoring\.append_eos: false"):
        TokenBuilder(ALL["unigram"], TokenRules())


def test_a_chat_response_ends_as_the_template_ends_a_turn() -> None:
    tokenizer = byte_level()
    tokenizer.hf.chat_template = CHATML
    prompt = tokenizer.chat([{"role": "user", "content": "6 * 7?"}])
    assert prompt == "<|im_start|>user\n6 * 7?<|im_end|>\n<|im_start|>assistant\n"
    end = tokenizer.backend.token_to_id("<|im_end|>")  # without the newline behind it
    assert tokenizer.turn_end_ids() == [end]
    assert tokenized(tokenizer, prompt, "42", chat=True).response_ids[-1] == end
    without = tokenized(tokenizer, prompt, "42", chat=True, append_eos=False)
    assert end not in without.response_ids


def test_a_template_that_ends_no_turn_leaves_it_to_eos() -> None:
    tokenizer = byte_level()
    tokenizer.hf.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert tokenizer.turn_end_ids() == [tokenizer.eos_id]


def test_what_a_template_puts_before_its_end_token_belongs_to_the_end() -> None:
    tokenizer = byte_level()
    tokenizer.hf.chat_template = "{% for m in messages %}{{ m['content'] }} <eos>\n{% endfor %}"
    assert tokenizer.hf.decode(tokenizer.turn_end_ids()) == " <eos>"


def test_errors_of_chat_templates_are_told_plainly() -> None:
    with pytest.raises(UsageError, match="no chat template"):
        BYTE_LEVEL.chat([{"role": "user", "content": "x"}])
    tokenizer = byte_level()
    tokenizer.hf.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UsageError, match=r"roles: system\): System role not supported"):
        tokenizer.chat([{"role": "system", "content": "x"}])


# --- spans ---


def test_whitespace_outside_a_tokens_span_goes_to_the_token_that_follows() -> None:
    response = "  the answer\n is 42 \n"
    example = tokenized(ALL["word_level"], "is", response, append_eos=False)
    assert pieces(example, response) == ["  the", " answer", "\n is", " 42 \n"]


def test_spans_count_code_points_and_a_split_character_is_one() -> None:
    response = " ok 🙂!"  # the emoji has four bytes, and so up to four tokens
    example = tokenized(BYTE_LEVEL, "Answer:", response)
    begins = begins_character(example.char_start, example.char_end)
    shared = [
        piece for piece, first in zip(pieces(example, response), begins, strict=True) if first
    ]
    assert "".join(shared) == response
    assert not begins.all()


def test_tokens_that_begin_a_character_in_many_examples_at_once() -> None:
    rows = ["🙂🙂", "x", "日本"]
    examples = [tokenized(BYTE_LEVEL, "Q", row) for row in rows]
    each = [begins_character(e.char_start, e.char_end) for e in examples]
    lengths = [0, *(len(e.response_ids) for e in examples), 0]  # and an empty list at the end
    joined = begins_character(
        np.concatenate([e.char_start for e in examples]),
        np.concatenate([e.char_end for e in examples]),
        np.cumsum(lengths),
    )
    assert joined.tolist() == np.concatenate(each).tolist()
    assert each[0].sum() == 3  # two characters and EOS


TEXT = st.text(
    alphabet=st.one_of(
        st.sampled_from(list("answer 42\n\t :é́ïﬁ日本語🙂👩‍🔬🏽 \u3000▁")),
        st.characters(exclude_categories=["Cs"]),
    ),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=in_ci(150), deadline=None)
@given(prompt=TEXT, response=TEXT)
def test_spans_cover_any_response_and_ids_are_those_of_the_whole(
    name: str, prompt: str, response: str
) -> None:
    assume("[PAUSE]" not in prompt + response)  # Hypothesis tries the strings of this file too
    tokenizer = ALL[name]
    example = encode(tokenizer, prompt, response, append_eos=False)
    if isinstance(example, Rejected):
        text = {"empty_prompt": prompt, "empty_response": response}[example.reason]
        assert not tokenizer.backend.encode(text).ids
        return
    start, end = example.char_start, example.char_end
    assert len(start) == len(end) == len(example.response_ids)
    assert start[0] == 0 and end[-1] == len(response)
    assert (start <= end).all() and (np.diff(end) >= 0).all()
    assert (start[1:] <= end[:-1]).all()  # no gap: nothing of the response is left out
    ids = [*example.prompt_ids, *example.response_ids]
    whole = tokenizer.backend.encode(prompt + response).ids
    whole = whole[: len(whole) - len(tokenizer.suffix_ids)]
    assert ids == whole or example.boundary_mismatch


@settings(max_examples=in_ci(150), deadline=None)
@given(prompt=TEXT, response=TEXT)
def test_byte_level_ids_give_the_response_back(prompt: str, response: str) -> None:
    assume("[PAUSE]" not in prompt + response)
    example = tokenized(BYTE_LEVEL, prompt, response, append_eos=False)
    assert BYTE_LEVEL.hf.decode(example.response_ids) == response
    raw = b"".join(VOCAB[token_id].bytes for token_id in example.response_ids)
    assert raw == response.encode()
    begins = begins_character(example.char_start, example.char_end)
    for k in np.flatnonzero(begins):  # cutting there cuts no character
        head = b"".join(VOCAB[token_id].bytes for token_id in example.response_ids[:k])
        assert head == response[: example.char_start[k]].encode()


# --- length, and rows that cannot be used ---


def test_max_length_counts_prompt_response_and_eos() -> None:
    example = tokenized(BYTE_LEVEL, "Answer:", " 42")
    total = len(example.prompt_ids) + len(example.response_ids)
    assert not tokenized(BYTE_LEVEL, "Answer:", " 42", max_length=total).truncated
    for overlong in ("error", "skip"):
        row = encode(BYTE_LEVEL, "Answer:", " 42", max_length=total - 1, overlong=overlong)
        assert row == Rejected("overlong", f"{total} tokens; max_length is {total - 1}")


def test_truncation_cuts_the_end_and_adds_no_eos() -> None:
    whole = tokenized(BYTE_LEVEL, "Answer:", " 42 is the answer")
    length = len(whole.prompt_ids) + 3
    cut = tokenized(
        BYTE_LEVEL, "Answer:", " 42 is the answer", max_length=length, overlong="truncate"
    )
    assert cut.truncated
    assert list(cut.response_ids) == list(whole.response_ids[:3])
    assert list(cut.char_end) == list(whole.char_end[:3])
    row = encode(BYTE_LEVEL, "Answer:", " 42", max_length=length - 3, overlong="truncate")
    assert isinstance(row, Rejected) and row.reason == "no_response_left"


@pytest.mark.parametrize(
    ("prompt", "response", "reason"),
    [
        ("Answer:", "", "empty_response"),
        ("", "42", "empty_prompt"),
        ("Answer:", " 4[PAUSE]2", "has_pause"),
        ("Answer [PAUSE]:", "42", "has_pause"),
        ("[PAU", "SE]", "has_pause"),
        ("Answer:", "\ud83d", "not_unicode"),
    ],
)
def test_rows_that_cannot_be_used_are_told_by_reason(
    prompt: str, response: str, reason: str
) -> None:
    row = encode(BYTE_LEVEL, prompt, response)
    assert isinstance(row, Rejected) and row.reason == reason and row.detail


def test_ids_of_the_pause_are_found_where_its_text_is_not_in_the_example() -> None:
    # This normaliser makes the pause's own token of a word that does not look like it.
    backend = word_level().backend
    backend.normalizer = normalizers.Replace("hmm", "[PAUSE]")
    row = encode(wrap(backend, eos_token="[EOS]"), "the answer", "is hmm 42")
    assert isinstance(row, Rejected) and row.reason == "has_pause"


def test_a_batch_keeps_its_order_whatever_is_rejected_in_it() -> None:
    builder = TokenBuilder(BYTE_LEVEL, TokenRules(append_eos=False))
    prompts, responses = ["the ans", "Q", "Answer:", "Q"], ["wer", "", " 42", "the"]
    results = builder.encode(prompts, responses)
    alone = [builder.encode([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    for one, other in zip(results, alone, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Tokenized) and isinstance(other, Tokenized):
            assert list(one.response_ids) == list(other.response_ids)
    assert builder.encode([], []) == []


# --- the vocabulary ---


VOCAB = {entry.token_id: entry for entry in BYTE_LEVEL.vocab()}


def test_tokens_read_as_a_person_reads_them() -> None:
    ids = BYTE_LEVEL.backend.encode("The answer\n🙂").ids
    assert " answer" in [VOCAB[token_id].token for token_id in ids]
    assert VOCAB[BYTE_LEVEL.backend.token_to_id("Ċ")].token == "\n"
    assert VOCAB[BYTE_LEVEL.backend.token_to_id("ð")].token == "\\xf0"  # a part of a character
    assert VOCAB[0] == (0, "<eos>", b"<eos>", True)
    assert not VOCAB[ids[0]].special


def test_spaces_and_bytes_of_sentencepiece_vocabularies() -> None:
    entries = {entry.token_id: entry for entry in ALL["metaspace"].vocab()}
    find = ALL["metaspace"].backend.token_to_id
    assert entries[find("▁answ")].token == " answ"
    assert entries[find("<0x0A>")].token == "\n"
    assert entries[find("<0xF0>")].bytes == b"\xf0" and entries[find("<0xF0>")].token == "\\xf0"
    assert entries[find("</s>")] == (2, "</s>", b"</s>", True)
    example = tokenized(ALL["metaspace"], "an", " answer 🙂\n", append_eos=False)
    raw = b"".join(entries[token_id].bytes for token_id in example.response_ids)
    assert raw.decode() == " answer 🙂\n"


def test_wordpieces_lose_their_mark() -> None:
    backend = tokenizers.Tokenizer(
        models.WordPiece({"[UNK]": 0, "ans": 1, "##wer": 2}, unk_token="[UNK]")
    )
    assert [entry.token for entry in wrap(backend).vocab()] == ["[UNK]", "ans", "wer"]


def test_added_tokens_are_in_the_vocabulary() -> None:
    tokenizer = byte_level()
    tokenizer.hf.add_tokens(["<thé>"])
    entry = tokenizer.vocab()[-1]
    assert entry == (len(tokenizer) - 1, "<thé>", "<thé>".encode(), False)


# --- the pause ---


def test_a_new_pause_gets_the_id_that_adding_it_gives() -> None:
    tokenizer = byte_level()
    before = len(tokenizer)
    assert tokenizer.pause_id("[PAUSE]") == (before, True)
    assert len(tokenizer) == before  # only a copy was changed
    tokenizer.hf.add_tokens(["[PAUSE]"])
    assert tokenizer.pause_id("[PAUSE]") == (before, False)
    assert word_level().pause_id("[PAUSE]") == (6, False)


# --- identity ---


@pytest.mark.parametrize("make", [byte_level, metaspace, unigram, word_level])
def test_the_hash_outlives_saving_padding_and_the_pause(make: Any, tmp_path: Path) -> None:
    def reload(tokenizer: Tokenizer) -> Tokenizer:
        tokenizer.hf.save_pretrained(tmp_path)
        return Tokenizer(transformers.AutoTokenizer.from_pretrained(tmp_path))

    tokenizer = make()
    first = tokenizer.hash()
    assert first.startswith("sha256:") and len(first) == 71
    assert reload(tokenizer).hash() == first
    tokenizer.hf.chat_template = CHATML
    # With a pad token that is there: transformers adds one that is not when it loads the file.
    tokenizer.backend.enable_padding(length=8, pad_token=tokenizer.vocab()[0].token)
    tokenizer.backend.enable_truncation(4)
    tokenizer.backend.post_processor = post.ByteLevel(trim_offsets=False)
    assert tokenizer.hash() == first
    tokenizer.hf.add_tokens([AddedToken("[PAUSE]", special=True)])
    assert tokenizer.hash() == first
    assert reload(tokenizer).hash() == first


@pytest.mark.parametrize("make", [byte_level, metaspace, unigram, word_level])
def test_the_hash_changes_with_what_makes_ids(make: Any) -> None:
    first = make().hash()
    added = make()
    added.hf.add_tokens(["<new>"])
    lowered = make()
    lowered.backend.normalizer = normalizers.Lowercase()
    split = make()
    split.backend.pre_tokenizer = pre_tokenizers.Digits()
    assert len({first, added.hash(), lowered.hash(), split.hash()}) == 4
    assert make().hash() == first


# --- the real model's tokenizer ---


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    if not GGUF.exists():
        pytest.skip("models/ is empty: run `make model`")
    return Tokenizer(load_tokenizer(ModelRef.parse(GGUF.name, None, GGUF.parent)))


@pytest.mark.model
def test_the_real_tokenizer_and_its_chat_template(smollm2: Tokenizer) -> None:
    assert len(smollm2) == 49152
    assert smollm2.pause_id("[PAUSE]") == (49152, True)
    assert (smollm2.prefix_ids, smollm2.suffix_ids, smollm2.eos_id) == ([], [], 2)
    assert smollm2.turn_end_ids() == [2]
    prompt = smollm2.chat([{"role": "user", "content": "6 * 7?"}])
    example = tokenized(smollm2, prompt, "It is 42.", chat=True)
    assert smollm2.hf.decode(example.response_ids) == "It is 42.<|im_end|>"
    assert not example.boundary_mismatch


@pytest.mark.model
def test_the_real_tokenizer_s_bytes_are_the_response(smollm2: Tokenizer) -> None:
    entries = {entry.token_id: entry for entry in smollm2.vocab()}
    response = " Let x = 3/4 🙂; 日本語\n\n#### 72"
    example = tokenized(smollm2, "Question: how many?\nAnswer:", response, append_eos=False)
    assert b"".join(entries[k].bytes for k in example.response_ids) == response.encode()


@pytest.mark.model
def test_the_real_tokenizer_keeps_its_hash_when_saved(smollm2: Tokenizer, tmp_path: Path) -> None:
    smollm2.hf.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    again = load_tokenizer(ModelRef.parse(".", None, tmp_path))
    again.add_tokens(["[PAUSE]"])
    assert Tokenizer(again).hash() == smollm2.hash()
