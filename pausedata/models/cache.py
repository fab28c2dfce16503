"""Models converted once into a cache: GGUF files and LoRA adapters as folders that vLLM reads.

vLLM reads neither of them as it should, and transformers takes half a minute of every command for
the vocabulary and the weights of a small GGUF file. ``models/`` and ``tokenizers/`` in
`cache_folder` hold a folder for each original, named by the hash of what decides its scores and
by the release of transformers that converted it, since a later one may do it better.

How a folder is made, found again and told from a broken one: `pausedata.models.kept`.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pausedata.core.cache import cache_folder
from pausedata.core.errors import UsageError, first_line, missing_extra
from pausedata.core.progress import ignore_message
from pausedata.models.kept import Making, NoCacheError, Say, is_whole, keep_folder, not_written
from pausedata.models.ref import ModelRef, quiet, read_tokenizer, resolve_revision
from pausedata.models.shape import parameter_count
from pausedata.models.tokenizer import Tokenizer
from pausedata.models.weights import weights_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BESIDE_WEIGHTS = 64 << 20  # bytes: tokenizer, configuration, headers


def folder_for_engine(ref: ModelRef, say: Say = ignore_message) -> tuple[str, str | None]:
    """What vLLM takes as model and revision: a Hub id with its revision, or a folder and None."""
    if ref.path is None:
        return ref.name, ref.revision
    return str(converted(ref, say)), None


def in_cache(ref: ModelRef, say: Say = ignore_message) -> ModelRef:
    """``ref`` as transformers loads it fastest: a GGUF model as its conversion in the cache.

    An adapter's base likewise. Where the cache cannot take it ``ref`` comes back as it is, which
    takes longer to load and gives the same weights, bit for bit.
    """
    if ref.kind == "adapter" and ref.base is not None:
        return replace(ref, base=in_cache(ref.base, say))
    if ref.kind != "gguf":
        return ref
    try:
        return ModelRef("folder", ref.name, converted(ref, say))
    except NoCacheError as error:
        say(f"{error} Until then {ref.name} is converted at every start.")
        return ref


def converted(ref: ModelRef, say: Say = ignore_message) -> Path:
    """The folder of a local model as every engine reads it, made now if it is not in the cache.

    Of a GGUF file the dequantised float32 weights, of an adapter its base in float32 with the
    adapter merged, each with its tokenizer; a folder is its own. ``say`` hears what takes long.
    NoCacheError where there is no room or the cache cannot be written, UsageError for a model
    that cannot be loaded, ValueError for a Hub id.
    """
    if ref.path is None:
        raise ValueError(f"{ref.name}: a model of the Hub is not converted")
    if ref.kind == "folder":
        return ref.path
    if ref.base is not None:  # what a branch names today would be taken for what it names later
        ref = replace(ref, base=resolve_revision(ref.base))
    origin, need = _origin(ref), _need(ref)

    def make(folder: Path) -> None:
        say(
            f"converting {ref.name} once into the cache ({need / 1e9:.1f} GB in {cache_folder()}) …"
        )
        _save_model(ref, folder)
        save_tokenizer(load_tokenizer(ref), folder, ref.name)

    return _kept("models", origin, make, need, say)


def missing_bytes(ref: ModelRef) -> int:
    """About how many bytes converting the model would add to the cache; 0 where it is there."""
    if ref.kind not in ("gguf", "adapter"):
        return 0
    try:
        folder = _place("models", _origin(ref))
    except metadata.PackageNotFoundError:  # then nothing can be converted, as a build says
        return 0
    return 0 if is_whole(folder) else _need(ref)


def cached_tokenizer(ref: ModelRef) -> PreTrainedTokenizerFast:
    """A GGUF file's tokenizer, read from the file the first time and from the cache afterwards.

    Where the cache cannot take it, or it would not come back the same, from the file every time.
    """
    read: list[PreTrainedTokenizerFast] = []

    def make(folder: Path) -> None:
        read.append(read_tokenizer(ref))
        if not save_tokenizer(read[0], folder, ref.name):
            raise NoCacheError(f"{ref.name}: its tokenizer cannot be saved as it is")

    try:
        folder = _kept("tokenizers", _origin(ref), make, _BESIDE_WEIGHTS, ignore_message)
    except NoCacheError:
        return read[0] if read else read_tokenizer(ref)
    return read_tokenizer(ModelRef("folder", ref.name, folder))


def _origin(ref: ModelRef) -> dict[str, Any]:
    """What the note says of the original: its identity (names and hashes, no path)."""
    if ref.kind == "adapter":
        return ref.identity()
    assert ref.path is not None
    return {"id": ref.name, "weights_sha256": weights_sha256(ref.path)}


def _save_model(ref: ModelRef, folder: Path) -> None:
    """Write the model in float32 to ``folder``, as `save_pretrained` would one of its own."""
    import torch

    from pausedata.models.load import load_model

    loaded = load_model(in_cache(ref) if ref.base else ref, torch.float32, torch.device("cpu"))
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    embedding, head = loaded.get_input_embeddings(), loaded.get_output_embeddings()
    if head is not None and not torch.equal(head.weight, embedding.weight):
        # An adapter gives a head that shared the embedding's weights its own. vLLM goes by the
        # configuration, and would leave them out if it still said 'tied'.
        for part in (config, config.get_text_config()):
            part.tie_word_embeddings = False
    # transformers saves no model that came from GGUF: a plain one of the same weights, then.
    with torch.device("meta"), quiet():
        plain = type(loaded)(config)
    try:
        plain.load_state_dict(loaded.state_dict(), assign=True)
    except RuntimeError as error:
        raise UsageError(
            f"{ref.name} cannot be converted to plain float32 weights: {first_line(error)}"
        ) from error
    plain.tie_weights()
    try:
        with quiet():
            plain.save_pretrained(folder)
    except Exception as error:  # safetensors has an error of its own for a disk that is full
        raise not_written(folder, first_line(error)) from error


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path, name: str) -> bool:
    """Write a tokenizer to ``folder``, unless it would not come back from there the same."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        tokenizer.save_pretrained(temporary)
        try:
            again = read_tokenizer(ModelRef("folder", name, Path(temporary)))
        except UsageError:
            return False
        if not _alike(tokenizer, again):
            return False
        for file in sorted(Path(temporary).iterdir()):
            file.rename(folder / file.name)
    return True


def _alike(one: PreTrainedTokenizerFast, other: PreTrainedTokenizerFast) -> bool:
    """Whether two tokenizers give the same ids, special tokens and chats."""
    first, second = Tokenizer(one), Tokenizer(other)
    return (
        first.hash() == second.hash()
        and (first.prefix_ids, first.suffix_ids) == (second.prefix_ids, second.suffix_ids)
        and one.special_tokens_map == other.special_tokens_map
        and one.all_special_ids == other.all_special_ids
        and one.chat_template == other.chat_template
    )


def _kept(
    kind: str, origin: dict[str, Any], make: Callable[[Path], None], need: int, say: Say
) -> Path:
    """The folder of ``kind`` for ``origin``; ``make`` fills it unless it is complete already.

    ``need``: the bytes that it will take. NoCacheError where the cache cannot take it.
    """
    try:
        folder = _place(kind, origin)
    except metadata.PackageNotFoundError as error:
        purpose = "Converting a model" if kind == "models" else "Loading a tokenizer"
        raise missing_extra("transformers", "transformers", purpose) from error
    made_from = origin | {"transformers": _release()}
    making = Making(origin["id"], made_from, need, doing="converting", product="its conversion")
    return keep_folder(folder, making, make, say)


def _place(kind: str, origin: dict[str, Any]) -> Path:
    return cache_folder() / kind / f"{origin['weights_sha256']}-transformers-{_release()}"


def _release() -> str:
    return metadata.version("transformers")


def _need(ref: ModelRef) -> int:
    return 4 * (parameter_count(ref) or 0) + _BESIDE_WEIGHTS


def load_tokenizer(ref: ModelRef) -> PreTrainedTokenizerFast:
    """The model's tokenizer as transformers loads it; `models.tokenizer.Tokenizer` wraps it.

    That of a GGUF file, which takes half a minute to read, is kept in a cache. UsageError where
    there is none, or one that gives no character offsets (a "slow" one); UnreachableError where
    the Hub does not answer or asks for a login.
    """
    ref = ref.tokenizer_holder()
    if ref.kind != "gguf":
        return read_tokenizer(ref)

    return cached_tokenizer(ref)
