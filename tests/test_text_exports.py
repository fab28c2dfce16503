"""Formats of text: every row read back as its trainer will read it, and mended or kept back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CHAT_TEMPLATE, PROBLEMS, Recipe, Run, make_model, write_rows

from pausedata import exporters
from pausedata.analysis.verify import verify
from pausedata.core.errors import DataError, UsageError
from pausedata.core.progress import Silent
from pausedata.exporters.refused import Refused
from pausedata.pipeline import commands
from pausedata.pipeline.recipe import Export
from pausedata.store.dataset import Version, open_version

CHAT = ("axolotl-chat", "messages", "alpaca", "sharegpt")
PLAIN = ("axolotl-segments", "swift", "prompt-completion")
MASKED = ("axolotl-segments", "axolotl-chat", "swift")


@pytest.fixture(scope="session")
def tricky_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that puts a `▁` before whatever follows a special token, as Llama 2's does.

    A pause within a word gives other tokens, one before a word does not. Ends of turns are EOS.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    folder = make_model(tmp_path_factory.mktemp("tricky") / "tricky")
    backend = Tokenizer(models.BPE(byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    backend.train_from_iterator(PROBLEMS.read_text("utf-8").splitlines(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def turn_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, whose EOS is the end of a turn, as chat models have it."""
    from transformers import AutoTokenizer

    folder = make_model(tmp_path_factory.mktemp("turn") / "turn")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tricky(chat: Recipe, tricky_model: Path) -> Recipe:
    """The same, with one pause each, and a tokenizer that makes other tokens of some."""
    chat.data["model"] = {"id": str(tricky_model)}
    chat.data["placements"]["one"] = {"strategy": "random", "positions": 1, "seed": 9}
    return chat


@pytest.fixture
def chat(recipe: Recipe, turn_model: Path) -> Recipe:
    """Word problems as chats, pauses at random places: within words, before spaces, at the end."""
    recipe.data |= {
        "model": {"id": str(turn_model)},
        "prompt": {"messages": [{"role": "system", "content": "Be brief."},
                                {"role": "user", "content": "{{ question }}"}]},
        "response": "{{ answer }}",
        "scoring": None,
        "placements": {"five": {"strategy": "random", "positions": 5, "seed": 2}},
        "exports": {},
    }  # fmt: skip
    return recipe


def spec(format: str, placement: str = "five", **options: Any) -> Export:
    if format not in MASKED:
        options["allow_unmasked"] = True
    return Export(placement=placement, format=format, **options)


def export(root: Path, name: str, wanted: Export, tokenizer: str | None = None) -> Any:
    """Add an export; of a folder a dataset keeps no path, so that the model is named again."""
    recipe = yaml.safe_load((root.parent / "recipe.yaml").read_text())
    return commands.export(root, name, wanted, tokenizer=tokenizer or recipe["model"]["id"])


def rows_of(version: Version, name: str = "e") -> list[dict[str, Any]]:
    lines = (version.folder / "exports" / name / "train.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def text_of(format: str, row: dict[str, Any]) -> str:
    """The reply of a row, pauses included, whatever the format calls it."""
    if format == "axolotl-segments":
        return "".join(segment["text"] for segment in row["segments"][1:])
    if format == "swift":
        return "".join(message["content"] for message in row["messages"][1:])
    if format == "axolotl-chat":
        return "".join(part["text"] for part in row["messages"][-1]["content"])
    if format == "messages":
        return row["messages"][-1]["content"]
    if format == "sharegpt":
        return row["conversations"][-1]["value"]
    return row["output" if format == "alpaca" else "completion"]


@pytest.mark.parametrize("format", [*PLAIN, *CHAT])
def test_the_text_is_the_response_with_its_pauses(chat: Recipe, format: str) -> None:
    """Whatever was moved, no pause is lost, and no character."""
    chat.build()
    version = export(chat.out, "e", spec(format, on_mismatch="move")).version
    assert verify(version, Silent()) == []
    answers = [
        json.loads(x)["answer"] for x in (chat.folder / "rows.jsonl").read_text().splitlines()
    ]
    for row, answer in zip(rows_of(version), answers, strict=True):
        text = text_of(format, row)
        assert text.count("[PAUSE]") == 5
        assert text.replace("[PAUSE]", "").replace("<|im_end|>", "") == answer


@pytest.mark.parametrize("format", [*PLAIN, *CHAT])
def test_every_row_written_gives_the_planned_ids(chat: Recipe, format: str) -> None:
    """An independent reading: a fresh tokenizer, and what each trainer is known to do."""
    from transformers import AutoTokenizer

    chat.build()
    version = export(chat.out, "e", spec(format, on_mismatch="move")).version
    tokenizer = AutoTokenizer.from_pretrained(chat.data["model"]["id"])
    tokenizer.add_tokens(["[PAUSE]"], special_tokens=True)
    pause = tokenizer.convert_tokens_to_ids("[PAUSE]")
    tokens = version.table("tokens")
    plain = [
        row["prompt_ids"] + row["response_ids"]
        for shard in tokens.shards
        for row in tokens.read(shard).to_pylist()
    ]

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def templated(messages: list[dict[str, str]]) -> list[int]:
        return ids(tokenizer.apply_chat_template(messages, tokenize=False))

    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for row, original in zip(rows_of(version), plain, strict=True):
        if format == "axolotl-segments":
            found = [i for segment in row["segments"] for i in ids(segment["text"])]
        elif format == "swift":
            found = [i for m in row["messages"] for i in ids(m["content"])] + [end]
        elif format == "axolotl-chat":
            found = templated(
                [{"role": m["role"], "content": "".join(p["text"] for p in m["content"])}
                 for m in row["messages"]]
            )  # fmt: skip
        elif format == "messages":
            found = templated(row["messages"])
        elif format == "sharegpt":
            roles = {"system": "system", "human": "user", "gpt": "assistant"}
            found = templated(
                [{"role": roles[t["from"]], "content": t["value"]} for t in row["conversations"]]
            )
        elif format == "alpaca":
            found = templated(
                [{"role": "system", "content": row["system"]},
                 {"role": "user", "content": row["instruction"]},
                 {"role": "assistant", "content": row["output"]}]
            )  # fmt: skip
        else:
            found = [*ids(row["prompt"] + row["completion"]), end]
        if format in CHAT:  # the template's line break
            found = found[: len(found) - len(ids("\n"))]
        assert [i for i in found if i != pause] == original
        assert found.count(pause) == 5


def test_labels_of_segments_are_those_of_the_tokens(chat: Recipe) -> None:
    chat.build()
    version = export(chat.out, "e", spec("axolotl-segments", on_mismatch="move")).version
    for row in rows_of(version):
        prompt, *reply = row["segments"]
        assert prompt["label"] is False and prompt["text"].endswith("<|im_start|>assistant\n")
        assert reply[-1] == {"label": True, "text": "<|im_end|>"}
        assert all(s["label"] is ("[PAUSE]" not in s["text"]) for s in reply)
    trained = spec("axolotl-segments", on_mismatch="move", pause_label="train")
    version = export(chat.out, "t", trained).version
    assert all(s["label"] for row in rows_of(version, "t") for s in row["segments"][1:])


# on_mismatch


def test_an_error_counts_all_and_names_the_first(tricky: Recipe) -> None:
    """Over all shards, before anything is committed."""
    tricky.data["shard_rows"] = 3
    tricky.build()
    with pytest.raises(Refused) as error:
        export(tricky.out, "e", spec("messages", "one"))
    text = str(error.value)
    assert "of 12 examples would not arrive as planned" in text
    assert "from token" in text and "--on-mismatch move" in text
    assert error.value.count > 1
    assert open_version(tricky.out).number == 1


def test_what_is_skipped_is_what_differs(tricky: Recipe) -> None:
    tricky.build()
    with pytest.raises(Refused) as error:
        export(tricky.out, "e", spec("messages", "one"))
    version = export(tricky.out, "e", spec("messages", "one", on_mismatch="skip")).version
    meta = json.loads((version.folder / "exports/e/train.meta.json").read_text())
    assert meta["skipped"] == {"pause_changes_tokens": error.value.count}
    assert meta["rows"] == 12 - error.value.count == len(rows_of(version))
    changes = _changes(version)
    assert len(changes) == error.value.count
    assert verify(version, Silent()) == []


def _changes(version: Version, name: str = "e") -> list[dict[str, Any]]:
    path = version.folder / "exports" / name / "train.changes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_pause_moves_to_the_nearest_place_that_survives(tricky: Recipe) -> None:
    """Brute force: every place is tried for that one pause, in text, by a fresh tokenizer."""
    from transformers import AutoTokenizer

    tricky.build()
    version = export(tricky.out, "e", spec("messages", "one", on_mismatch="move")).version
    tokenizer = AutoTokenizer.from_pretrained(tricky.data["model"]["id"])
    tokenizer.add_tokens(["[PAUSE]"], special_tokens=True)
    pause = tokenizer.convert_tokens_to_ids("[PAUSE]")
    tokens = {
        row["id"]: row
        for shard in version.table("tokens").shards
        for row in version.table("tokens").read(shard).to_pylist()
    }
    examples = {
        row["id"]: row
        for shard in version.table("examples").shards
        for row in version.table("examples").read(shard).to_pylist()
    }
    moved = {entry["id"]: entry for entry in _changes(version)}
    assert moved
    for id, entry in moved.items():
        row, text = tokens[id], examples[id]["response"]
        survives = []
        last = len(row["response_ids"]) - 1  # the end of the turn
        for position in range(last + 1):
            at = len(text) if position == last else row["char_start"][position]
            reply = text[:at] + "[PAUSE]" + text[at:] + "<|im_end|>"
            whole = tokenizer(examples[id]["prompt"] + reply, add_special_tokens=False)
            planned = row["prompt_ids"] + row["response_ids"][:position] + [pause]
            if whole["input_ids"] == planned + row["response_ids"][position:]:
                survives.append(position)
        ((planned_at, _),) = entry["planned"]
        assert planned_at not in survives
        nearest = min(survives, key=lambda p: (abs(p - planned_at), p))
        assert entry["places"] == [[nearest, 1]]


def test_an_edited_row_is_noticed(chat: Recipe) -> None:
    """Verify makes text rows again from the placement and the moves on record."""
    chat.build()
    version = export(chat.out, "e", spec("swift", on_mismatch="move")).version
    assert verify(version, Silent()) == []
    path = version.folder / "exports/e/train.jsonl"
    text = path.read_text("utf-8")
    path.chmod(0o644)
    path.write_text(text.replace("[PAUSE]", "[PAUSE][PAUSE]", 1), "utf-8")
    assert any("train.jsonl" in problem for problem in verify(version, Silent()))


# What cannot be written


def test_the_loss_on_pauses_is_to_be_accepted(run: Callable[..., Run], chat: Recipe) -> None:
    chat.build()
    words = ("export", chat.out, "--placement", "five", "--on-mismatch", "move")
    done = run(*words, "--format", "messages")
    assert done.status == 2 and "--allow-unmasked" in done.err and len(done.err.splitlines()) == 1
    done = run(
        *words, "--format", "messages", "--allow-unmasked", "--tokenizer", chat.data["model"]["id"]
    )
    assert done.status == 0, done.err
    assert "the pauses bear loss" in done.err
    folder = open_version(chat.out).folder / "exports" / "five-messages"
    assert json.loads((folder / "train.meta.json").read_text())["pause_label_masked"] is False
    assert "**The pauses are trained too.**" in (folder / "README.md").read_text()


def test_a_folder_is_no_longer_known_by_its_path(run: Callable[..., Run], chat: Recipe) -> None:
    chat.build()
    done = run("export", chat.out, "--placement", "five", "--format", "swift")
    assert done.status == 2 and "--tokenizer" in done.err


def test_another_tokenizer_is_refused(
    run: Callable[..., Run], chat: Recipe, tmp_path: Path
) -> None:
    from conftest import swap_tokens

    chat.build()
    other = make_model(tmp_path / "other")
    swap_tokens(other, "e", "a")
    done = run(
        *("export", chat.out, "--placement", "five", "--format", "swift", "--tokenizer", other)
    )
    assert done.status == 2 and "--tokenizer" in done.err


def test_plain_prompts_need_a_template_for_messages(recipe: Recipe) -> None:
    recipe.data |= {"scoring": None, "exports": {}}
    recipe.data["placements"] = {"five": {"strategy": "random", "positions": 2}}
    recipe.build()
    with pytest.raises(UsageError, match="--chat-template model"):
        export(recipe.out, "e", spec("messages", on_mismatch="move"))
    done = export(
        recipe.out, "e", spec("messages", on_mismatch="move", chat_template="model"),
        tokenizer=recipe.data["model"]["id"],
    )  # fmt: skip
    row = rows_of(done.version)[0]
    assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
    assert row["messages"][0]["content"].startswith("Question: ")


# Chat templates and system prompts


def test_prompts_through_another_template(chat: Recipe, tmp_path: Path) -> None:
    """The file's content is recorded, not its path; responses keep their tokens."""
    chat.build()
    template = tmp_path / "short.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role[0] }}:{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>a:{% endif %}"
    )
    text = template.read_text()
    made = export(
        chat.out,
        "e",
        Export(placement="five", format="tokenized", chat_template=text, system="Think."),
        tokenizer=chat.data["model"]["id"],
    ).version
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat.data["model"]["id"])
    before = {
        r["id"]: r
        for s in made.table("tokens").shards
        for r in made.table("tokens").read(s).to_pylist()
    }
    for row, (_, tokens) in zip(rows_of(made), before.items(), strict=True):
        decoded = tokenizer.decode([i for i in row["input_ids"] if i != 400])
        assert decoded.startswith("<|im_start|>s:Think.<|im_end|><|im_start|>u:")
        assert "Be brief." not in decoded
        own = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        assert own == tokens["response_ids"]
    assert str(tmp_path) not in json.dumps(made.table("exports/e").entry.provenance)


def test_messages_of_a_column_come_out_as_they_were(chat: Recipe) -> None:
    """Several turns; the last reply is the response."""
    talk = [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 2+2?"},
        {"role": "assistant", "content": "It is four."},
    ]
    write_rows(chat.folder / "rows.jsonl", [{"id": "t", "talk": talk}])
    chat.data["prompt"] = {"messages_column": "talk"}
    del chat.data["response"]
    chat.build()
    version = open_version(chat.out)
    for name in ("messages", "sharegpt", "alpaca"):
        export(chat.out, name, spec(name, on_mismatch="move"))
    version = open_version(chat.out)
    (row,) = rows_of(version, "messages")
    assert row["messages"][:-1] == talk[:-1]
    assert row["messages"][-1]["content"].replace("[PAUSE]", "") == "It is four."
    (row,) = rows_of(version, "sharegpt")
    assert [t["from"] for t in row["conversations"]] == ["system", "human", "gpt", "human", "gpt"]
    (row,) = rows_of(version, "alpaca")
    assert row["history"] == [["1+1?", "2"]] and row["instruction"] == "And 2+2?"
    assert row["system"] == "Add."


def test_what_a_message_has_besides_is_not_dropped_silently(chat: Recipe) -> None:
    talk = [
        {"role": "user", "content": "1+1?", "name": "Ann"},
        {"role": "assistant", "content": "Two."},
    ]
    write_rows(chat.folder / "rows.jsonl", [{"id": "t", "talk": talk}])
    chat.data["prompt"] = {"messages_column": "talk"}
    del chat.data["response"]
    chat.build()
    with pytest.raises(DataError, match="a message of its prompt has name"):
        export(chat.out, "e", spec("messages", on_mismatch="move"))


def test_a_dataset_of_messages_is_read_by_what_was_there_before(chat: Recipe) -> None:
    """`messages` is one column more in `examples`; the others are where they were."""
    version = chat.build().version
    table = version.table("examples")
    row = table.read(table.shards[0]).to_pylist()[0]
    assert json.loads(row["messages"])[0] == {"role": "system", "content": "Be brief."}


def test_an_export_that_was_stopped_goes_on(
    chat: Recipe, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Run]
) -> None:
    """Outside the dataset, too: rows that were read back are not read back twice."""
    from pausedata.exporters import check

    chat.data["shard_rows"] = 3
    chat.build()
    words = (
        *("export", chat.out, "--placement", "five", "--format", "swift", "--on-mismatch", "move"),
        *("--tokenizer", chat.data["model"]["id"], "-o", chat.folder / "train.jsonl"),
    )
    real, calls = check.Checker.check, []

    def counted(self: Any, examples: Any, places: Any) -> Any:
        calls.append(len(examples))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, examples, places)

    monkeypatch.setattr(check.Checker, "check", counted)
    done = run(*words)
    assert done.status == 130 and not (chat.folder / "train.jsonl").exists()
    calls.clear()
    calls += [0] * 10  # no more interruptions
    done = run(*words)
    assert done.status == 0, done.err
    assert sum(calls[10:]) == 6  # of twelve: two shards of three were there
    whole = (chat.folder / "train.jsonl").read_bytes()
    run(*words)
    assert (chat.folder / "train.jsonl").read_bytes() == whole
    assert not list((chat.out / "staging").glob("exports*"))


def test_formats_say_whether_they_mask(run: Callable[..., Run]) -> None:
    told = {f["name"]: f["pause_label_masked"] for f in json.loads(run("formats", "--json").out)}
    assert {name for name, masked in told.items() if not masked} == {
        "prompt-completion", "messages", "alpaca", "sharegpt"
    }  # fmt: skip
    assert set(told) == set(exporters.own())


@pytest.fixture
def bos(recipe: Recipe, tmp_path: Path) -> Recipe:
    """Plain prompts, and a tokenizer that puts BOS before every text."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = make_model(tmp_path / "bos")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.save_pretrained(folder)
    recipe.data |= {"model": {"id": str(folder)}, "scoring": None, "exports": {}}
    recipe.data["placements"] = {"five": {"strategy": "random", "positions": 5}}
    return recipe


@pytest.mark.parametrize("format", PLAIN)
def test_what_opens_a_text_is_there_once(bos: Recipe, format: str) -> None:
    """As text where the trainer adds nothing (axolotl's segments), else not."""
    version = bos.build().version
    table = version.table("tokens")
    ids = table.read(table.shards[0], ["prompt_ids"]).column("prompt_ids")[0].as_py()
    assert ids.count(1) == 1 and ids[0] == 1
    version = export(bos.out, "e", spec(format, on_mismatch="move")).version
    row = rows_of(version)[0]
    if format == "axolotl-segments":
        assert row["segments"][0]["text"].startswith("<|im_start|>Question: ")
        assert row["segments"][-1]["text"] == "<|endoftext|>"
    else:
        text = row["prompt"] if format == "prompt-completion" else row["messages"][0]["content"]
        assert text.startswith("Question: ")
    assert verify(version, Silent()) == []


def test_longer_rows_are_counted_once_with_what_the_template_puts_behind(chat: Recipe) -> None:
    """The limit is of the row as it arrives; verify knows those left out without a tokenizer."""
    chat.build()
    whole = export(chat.out, "whole", spec("messages", on_mismatch="move")).version
    longest = json.loads((whole.folder / "exports/whole/train.meta.json").read_text())["longest"]
    fits = spec("messages", on_mismatch="move", max_length=longest)
    assert len(rows_of(export(chat.out, "fits", fits).version, "fits")) == 12
    short = spec("messages", on_mismatch="move", max_length=longest - 1, overlong="skip")
    version = export(chat.out, "short", short).version
    meta = json.loads((version.folder / "exports/short/train.meta.json").read_text())
    left_out = meta["skipped"]["overlong"]
    assert left_out == len(_changes(version, "short")) == 12 - meta["rows"] >= 1
    assert meta["longest"] < longest
    assert verify(version, Silent()) == []


def test_a_template_that_leaves_a_message_out_is_refused(chat: Recipe) -> None:
    """Jinja takes a name that it does not know for an empty text."""
    chat.build()
    deaf = "{% for m in messages %}<|im_start|>{{ m.role }}{{ m.contents }}<|im_end|>{% endfor %}"
    with pytest.raises(UsageError, match="leaves out the system message"):
        export(chat.out, "e", Export(placement="five", format="tokenized", chat_template=deaf))


def test_pauses_stay_where_they_are_through_another_template(bos: Recipe) -> None:
    """Though prompts, and what ends a response, are other tokens then."""
    bos.build()
    anew = Export(placement="five", format="tokenized", chat_template="model")
    made = rows_of(export(bos.out, "e", anew).version)
    plain = rows_of(export(bos.out, "p", Export(placement="five", format="tokenized")).version, "p")
    for row, before in zip(made, plain, strict=True):
        replies = []
        for one in (row, before):
            first = next(k for k, label in enumerate(one["labels"]) if label != -100)
            # From the first pause, or token, of the response on, without what ends it.
            while one["input_ids"][first - 1] == 400:
                first -= 1
            replies.append([i for i in one["input_ids"][first:] if i not in (0, 2)])
        assert replies[0] == replies[1]
    assert verify(open_version(bos.out), Silent()) == []
