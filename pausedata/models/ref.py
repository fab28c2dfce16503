"""What names a model: a Hub id, a folder (a model's or a LoRA adapter's) or a .gguf file.

Nothing here loads weights. torch and transformers are imported within the functions that need
them, so that reading a recipe stays instant.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pausedata.core import network
from pausedata.core.errors import (
    UnreachableError,
    UsageError,
    first_line,
    listing,
    missing_extra,
    nearest,
)
from pausedata.core.network import COMMIT, TOKEN_REFUSED, HubProblem, problem_of
from pausedata.models.adapter import adapter_sha256, find_base, is_adapter, read_config
from pausedata.models.weights import files_sha256, weights_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
# Any of these is a vocabulary; tokenizer_config.json alone is none.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json", "qwen.tiktoken",
)  # fmt: skip


# What is fetched of a model of the Hub, as patterns of its files.
FETCHED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.md", "LICENSE*"]


@dataclass(frozen=True)
class ModelRef:
    """A model that is named but not loaded.

    ``name`` is what manifests and messages say: the Hub id, or the base name of a folder or file,
    never a path of this machine. ``path`` is None for a Hub id, ``revision`` for anything else.
    ``base`` is the model that an adapter changes.
    """

    kind: Literal["hub", "folder", "gguf", "adapter"]
    name: str
    path: Path | None = None
    revision: str | None = None
    base: ModelRef | None = None

    @classmethod
    def parse(cls, id: str, revision: str | None, base: Path) -> ModelRef:
        """The model that ``id`` names, with relative paths taken from ``base``.

        What starts with '.', '/' or '~', ends in .gguf or is there as a folder is a path; the
        rest is a Hub id. A path ignores ``revision``. UsageError where nothing usable is there.
        """
        text = id.strip()
        if not text:
            raise UsageError("model.id is empty: give a Hub id, a folder or a .gguf file")
        given = Path(text).expanduser()
        path = Path(os.path.normpath(base.absolute() / given))  # resolve() would lose link names
        is_gguf = path.suffix.lower() == ".gguf"
        if not (text[0] in "./~\\" or given.is_absolute() or is_gguf or path.is_dir()):
            return cls("hub", _checked_hub_id(text, path), None, revision)
        if is_gguf:
            if not path.is_file():
                raise UsageError(
                    f"no such file: {text}.{_neighbour(path)} In a clone of pausedata, "
                    "`make model` puts SmolLM2-135M-Instruct there."
                )
            return cls("gguf", path.name, path)
        if path.is_dir() and is_adapter(path):
            return cls("adapter", path.name, path, base=cls._base_of(path, base))
        _check_folder(path, text)
        return cls("folder", path.name or "model", path)

    @classmethod
    def _base_of(cls, adapter: Path, current: Path) -> ModelRef:
        config = read_config(adapter)
        try:
            found = cls.parse(find_base(adapter, config, current), config.get("revision"), current)
        except UsageError as error:
            raise UsageError(f"{adapter.name}, a LoRA adapter: its base: {error}") from None
        if found.kind == "adapter":
            raise UsageError(
                f"{adapter.name}: the base of this LoRA adapter, {found.name}, is an adapter too: "
                "merge that one into its own base first."
            )
        return found

    def from_pretrained_args(self) -> tuple[str, dict[str, Any]]:
        """The argument and keywords for ``from_pretrained`` of any transformers Auto class.

        Of an adapter those of its base, to which the adapter is added afterwards. Code that comes
        with a model is never run: left unsaid, transformers would ask whether to.
        """
        if self.base is not None:
            return self.base.from_pretrained_args()
        keywords: dict[str, Any] = {"trust_remote_code": False}
        if self.path is None:
            return self.name, keywords | ({"revision": self.revision} if self.revision else {})
        if self.kind == "gguf":
            return str(self.path.parent), keywords | {"gguf_file": self.path.name}
        return str(self.path), keywords

    def identity(self) -> dict[str, Any]:
        """What a manifest records: the id with its revision, or with the hash of the weights."""
        if self.path is None:
            return {"id": self.name, "revision": self.revision}
        if self.base is not None:
            base = self.base.identity()
            return {
                "id": self.name,
                "weights_sha256": adapter_sha256(self.path, base),
                "base": base,
            }
        return {"id": self.name, "weights_sha256": weights_sha256(self.path)}

    def is_cached(self) -> bool:
        """Whether the cache of the Hub has the configuration of a model of the Hub."""
        return cached_file(self, "config.json") is not None

    def tokenizer_holder(self) -> ModelRef:
        """Where the tokenizer is: an adapter without one of its own has its base's."""
        if self.base is None or self.path is None:
            return self
        return replace(self, kind="folder", base=None) if _has_tokenizer(self.path) else self.base

    def tokenizer_identity(self) -> dict[str, Any]:
        """What decides the tokenizer and its chat template, known without loading them."""
        holder = self.tokenizer_holder()
        if holder != self:
            return holder.tokenizer_identity()
        if self.kind == "folder" and self.path is not None:
            return {"tokenizer_sha256": files_sha256(self.path, _decides_tokenizer)}
        return {
            key: value for key, value in self.identity().items() if self.path is None or key != "id"
        }


def _decides_tokenizer(path: Path) -> bool:
    name = path.name
    return name in _TOKENIZER_FILES or name.startswith(
        ("tokenizer_config", "special_tokens_map", "added_tokens", "merges", "chat_template")
    )


def _neighbour(path: Path) -> str:
    """The nearest name beside ``path`` as a hint, or an empty string."""
    if not path.parent.is_dir():
        return ""
    return nearest(path.name, sorted(entry.name for entry in path.parent.iterdir()))


def _check_folder(path: Path, text: str) -> None:
    """UsageError unless ``path`` is a folder that holds a model."""
    if path.is_file():
        raise UsageError(f"{text} is a file, but no .gguf: name the folder that the model is in")
    if not path.is_dir():
        raise UsageError(f"no such folder: {text}.{_neighbour(path)}")
    if (path / "config.json").is_file():
        return
    names = sorted(entry.name for entry in path.iterdir())
    shown = listing(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    raise UsageError(f"{text} is not a model folder: no config.json, there are: {shown}")


def _checked_hub_id(text: str, path: Path) -> str:
    """``text`` where it can be a Hub id; else a UsageError with what was probably meant."""
    if _HUB_ID.fullmatch(text) and ".." not in text and "--" not in text and len(text) <= 96:
        return text
    bare = re.sub(r"^(https?://)?(www\.)?(huggingface\.co|hf\.co)/|^hf://(models/)?", "", text)
    bare, _, revision = bare.partition("@")
    if "/tree/" in bare:
        bare, _, revision = bare.partition("/tree/")
    short = "/".join(bare.strip("/").split("/")[:2])
    # 'models/base/v2' beside a folder 'models' is a mistyped path rather than a Hub id and more.
    mistyped = bare == text and any(p.is_dir() for p in list(path.parents)[: text.count("/")])
    if short != text and _HUB_ID.fullmatch(short) and not mistyped:
        hint = f" Did you mean '{short}'" + (f" with revision '{revision}'?" if revision else "?")
    else:
        hint = _neighbour(path)
    raise UsageError(
        f"model '{text}' is neither a Hub id (org/name), nor a folder, nor a .gguf file.{hint}"
    )


def resolve_revision(ref: ModelRef) -> ModelRef:
    """``ref`` with the commit that its branch, tag or null revision stands for right now.

    Asks the Hub, except for a whole commit hash, a folder or a file, which come back as they are.
    UsageError where the Hub has no such model or revision, UnreachableError where it does not
    answer or asks for a login.
    """
    if ref.kind != "hub" or (ref.revision and COMMIT.fullmatch(ref.revision)):
        return ref
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise missing_extra("huggingface_hub", "transformers", "A model of the Hub") from error
    try:
        sha = HfApi().model_info(ref.name, revision=ref.revision, timeout=30).sha
    except Exception as error:  # one network call: whatever else it raises is the network's
        raise _not_resolved(ref, error) from error
    return replace(ref, revision=sha)


def _not_resolved(ref: ModelRef, error: Exception) -> UsageError | UnreachableError:
    """Why the Hub does not say which commit is meant, and what to do."""
    what = f"model '{ref.name}'" + (f" at '{ref.revision}'" if ref.revision else "")
    match problem_of(error):
        case HubProblem.GATED:
            return _gated(ref)
        case HubProblem.NO_REVISION:
            return UsageError(
                f"{what}: the model has no such revision. Set `model.revision` to a branch, a tag "
                "or a commit that its page lists, or to null for main."
            )
        case HubProblem.NO_REPOSITORY:
            return UsageError(
                f"{what}: no such model on the Hub, nor a folder of that name here. Check the "
                "name; if it is private, log in with `hf auth login` or set HF_TOKEN."
            )
        case HubProblem.TOKEN_REFUSED:
            return UnreachableError(f"{what}: {TOKEN_REFUSED}.")
        case _:
            commit = cached_commit(ref)
            pin = f"`{commit}` (the copy in the cache)" if commit else "a commit hash"
            return UnreachableError(
                f"{what} cannot be looked up on the Hub ({first_line(error)}). Offline, set "
                f"`model.revision` to {pin}, or give a local folder."
            )


def _gated(ref: ModelRef) -> UnreachableError:
    return UnreachableError(
        f"model '{ref.name}' is gated: accept its terms on https://huggingface.co/{ref.name}, "
        "then log in with `hf auth login` or set HF_TOKEN; or name a local copy of it, with "
        "--set model.id=FOLDER."
    )


def cached_file(ref: ModelRef, name: str) -> Path | None:
    """A file of a Hub model in the local cache, or None."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(ref.name, name, revision=ref.revision)
    except Exception:  # only a hint or an estimate rests on it
        return None
    return Path(found) if isinstance(found, str) else None


def cached_commit(ref: ModelRef) -> str | None:
    """The commit of a Hub model's copy in the local cache, or None."""
    config = cached_file(ref, "config.json")
    return config.parent.name if config and COMMIT.fullmatch(config.parent.name) else None


def read_tokenizer(ref: ModelRef) -> PreTrainedTokenizerFast:
    """As `load_tokenizer`, but read from ``ref`` itself (no adapter), past the cache."""
    if ref.kind == "gguf" and importlib.util.find_spec("gguf") is None:
        raise missing_extra("gguf", "transformers", "Reading a .gguf file")
    if ref.kind == "folder" and ref.path is not None and not _has_tokenizer(ref.path):
        # transformers would make an empty tokenizer from the model's type without a word.
        raise UsageError(
            f"{ref.name}: no tokenizer in the folder (tokenizer.json is missing): save the "
            "tokenizer there too, with tokenizer.save_pretrained(folder)."
        )
    with quiet():
        AutoTokenizer = import_transformers("Loading a tokenizer").AutoTokenizer
        where, keywords = ref.from_pretrained_args()
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, **keywords)
        except ImportError as error:
            raise UsageError(f"{ref.name}: its tokenizer: {first_line(error)}") from error
        except (OSError, ValueError, KeyError) as error:
            problem = problem_of(error) if ref.kind == "hub" else None
            if problem is HubProblem.GATED:
                raise _gated(ref) from error
            if problem in (HubProblem.NO_ANSWER, HubProblem.BUSY):
                raise UnreachableError(
                    f"model '{ref.name}': its tokenizer is in no cache here, and the Hub does not "
                    "answer. Check the network and HF_ENDPOINT, or give a local folder."
                ) from error
            if needs_own_code(error):
                raise own_code(ref.name) from error
            raise UsageError(
                f"{ref.name}: its tokenizer cannot be loaded: {first_line(error)}"
            ) from error
    if not tokenizer.is_fast:
        raise UsageError(
            f"{ref.name}: its tokenizer ({type(tokenizer).__name__}) is not a fast one, so it "
            "gives no character offsets; convert it to a tokenizer.json first."
        )
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder):
        raise UsageError(f"{ref.name}: its tokenizer has no vocabulary (no tokenizer.json?)")
    return tokenizer


def needs_own_code(error: BaseException) -> bool:
    """Whether transformers wants to run code that comes with the model."""
    return "custom code" in str(error) and "trust_remote_code" in str(error)


def own_code(name: str) -> UsageError:
    """The error for a model that comes with code of its own."""
    return UsageError(
        f"{name} comes with code of its own, which pausedata does not run. Choose a model whose "
        "architecture transformers knows, or a conversion of this one."
    )


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def import_transformers(purpose: str) -> Any:
    """The module; UsageError, which says what ``purpose`` needs it, where it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise missing_extra("transformers", "transformers", purpose) from error
    return transformers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers and huggingface_hub from logging and drawing bars meanwhile."""
    try:
        import huggingface_hub.utils
        from transformers.utils import logging
    except ImportError:  # whoever needs them says so
        yield
        return
    # The Hub's switches outside: transformers turns those bars off, and on, with its own.
    with network.quiet(huggingface_hub.utils):
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
