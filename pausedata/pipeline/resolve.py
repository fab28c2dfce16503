"""What the names in a recipe stand for here and now: revisions, files, models, the backend.

What is resolved once is pinned for the dataset, so that a later build needs no network and gets
the same; ``--update`` resolves anew.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pausedata import sources
from pausedata.core.errors import UnreachableError, UsageError
from pausedata.models.cache import load_tokenizer
from pausedata.models.ref import ModelRef, cached_commit, resolve_revision
from pausedata.models.tokenizer import Tokenizer
from pausedata.models.tokens import TokenBuilder, TokenRules
from pausedata.pipeline.recipe import LoadedRecipe, Model, Recipe, Scoring
from pausedata.scorers import choose_backend, resolve_backend
from pausedata.sources import OpenSource, UnreachedSource, hub
from pausedata.sources.records import is_local_hub
from pausedata.sources.spec import ChatPrompt, ColumnPrompt
from pausedata.sources.templates import Renderer
from pausedata.store.dataset import Version
from pausedata.store.files import canonical_json, digest
from pausedata.store.staging import Pins


class Tokenizers:
    """The tokenizers of models, loaded when first asked for; their hashes are remembered."""

    def __init__(self, pause_token: str, pins: Pins) -> None:
        self._pause_token, self._pins = pause_token, pins
        self._loaded: dict[ModelRef, Tokenizer] = {}
        self._unreachable: dict[ModelRef, UnreachableError] = {}

    def load(self, model: ModelRef) -> Tokenizer:
        """The model's tokenizer."""
        if model in self._unreachable:  # the Hub is asked once: its silence takes half a minute
            raise self._unreachable[model]
        if model not in self._loaded:
            try:
                self._loaded[model] = Tokenizer(load_tokenizer(model))
            except UnreachableError as error:
                self.give_up(model, error)
                raise
        return self._loaded[model]

    def give_up(self, model: ModelRef, error: UnreachableError) -> None:
        """Raise ``error`` for this model from now on."""
        self._unreachable[model] = error

    def hash(self, model: ModelRef) -> str:
        """The tokenizer's hash; known without loading it where it was loaded before."""
        return self._facts(model)["hash"]

    def chat_template_hash(self, model: ModelRef) -> str | None:
        """The hash of the tokenizer's chat template, or None where it has none."""
        return self._facts(model)["chat_template"]

    def _facts(self, model: ModelRef) -> dict[str, Any]:
        def find() -> dict[str, Any]:
            tokenizer = self.load(model)
            template = tokenizer.hf.chat_template
            return {
                "hash": tokenizer.hash(self._pause_token),
                "chat_template": digest(template) if template else None,
            }

        identity = canonical_json([model.tokenizer_identity(), self._pause_token])
        return self._pins.resolve(f"tokenizer {identity.decode()}", find)


@dataclass(frozen=True)
class Resolved:
    """A recipe with everything that it names found."""

    loaded: LoadedRecipe
    source: OpenSource
    model: ModelRef
    runs: dict[str, ModelRef]
    backend: str | None
    backend_why: str | None  # why it is what `auto` stands for; None where the recipe names it
    pins: dict[str, str]
    tokenizers: Tokenizers

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was written."""
        return self.loaded.recipe

    @property
    def is_chat(self) -> bool:
        """Whether prompts go through the chat template."""
        return isinstance(self.recipe.prompt, ChatPrompt | ColumnPrompt)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, loaded when first asked for."""
        return self.tokenizers.load(self.model)

    def renderer(self) -> Renderer:
        """What makes examples of the source's rows; one serves all splits."""
        chat = self.tokenizer.chat if self.is_chat else None
        return Renderer(self.recipe.prompt, self.recipe.response, self.recipe.source, chat)

    def token_builder(self) -> TokenBuilder:
        """What makes ids and spans of examples, as the recipe says."""
        rules = TokenRules(
            pause_token=self.recipe.pause.token,
            chat=self.is_chat,
            **token_settings(self.recipe.token_rules),
        )
        return TokenBuilder(self.tokenizer, rules)

    @cached_property
    def tokenizer_hash(self) -> str:
        """The tokenizer's hash; known without loading it where it was loaded before."""
        return self.tokenizers.hash(self.model)

    @cached_property
    def chat_template_hash(self) -> str | None:
        """The chat template's hash, or None where prompts do not go through it."""
        return self.tokenizers.chat_template_hash(self.model) if self.is_chat else None

    def recorded_recipe(self) -> dict[str, Any]:
        """The recipe as the manifest records it: no machine path, revisions and backend filled.

        What the recipe says and nothing reads is left out: it decides nothing, and nobody looked
        whether it may be published.
        """
        data = self.recipe.model_dump(mode="json", exclude_none=True)
        if self.recipe.scoring is None:
            data["scoring"] = None
        else:
            data["scoring"]["backend"] = self.backend
            # Where a server runs is the machine's business, as is where the dataset lies.
            data["scoring"].pop("url", None)
            for part in (data["scoring"], *data.get("runs", {}).values()):
                _record_warmup(part)
        for unused in self._unused_source():
            data["source"].pop(unused, None)
        data["source"] |= self._recorded_source()
        data["model"] = _recorded_model(data["model"], self.model)
        for name, ref in self.runs.items():
            if name in data.get("runs", {}):
                data["runs"][name]["model"] = _recorded_model(data["runs"][name]["model"], ref)
        data["output"] = Path(self.recipe.output).name
        return data

    def _unused_source(self) -> tuple[str, ...]:
        source = self.recipe.source
        if source.files:
            return "config", "revision"
        return ("revision",) if is_local_hub(str(source.hub)) else ()

    def _recorded_source(self) -> dict[str, Any]:
        provenance = self.source.provenance()
        if self.recipe.source.files:
            return {"files": [file["name"] for file in provenance["files"]]}
        return {key: provenance[key] for key in ("hub", "revision") if provenance.get(key)}


def _record_warmup(part: dict[str, Any]) -> None:
    """Leave out what is not asked for, and the folder that the warmed models are kept in."""
    said = part.get("warmup")
    if said is False:
        del part["warmup"]
    elif isinstance(said, dict) and "keep" in said:
        said["keep"] = Path(said["keep"]).name


def resolve(
    loaded: LoadedRecipe,
    root: Path,
    base: Version | None,
    *,
    update: bool = False,
    pin: bool = True,
) -> Resolved:
    """Find everything that the recipe names; UsageError says what is missing and what to do.

    Without ``pin`` what is found is not kept for the next time: nothing is written.
    """
    recipe, pins = loaded.recipe, Pins(root, recorded_pins(base), keep=pin)
    source, chosen = _find_source(loaded, pins, anew=update)
    model, found = find_model(recipe.model, loaded.folder, pins, anew=update)
    chosen |= found
    runs: dict[str, ModelRef] = {}
    for name, spec in recipe.scoring_runs().items():
        runs[name], found = find_model(spec, loaded.folder, pins, anew=update)
        if spec is not recipe.model:
            chosen |= {f"runs.{name}.{key}": revision for key, revision in found.items()}
    backend, why = _find_backend(recipe, pins, anew=update)
    if backend is not None:
        chosen["scoring.backend"] = backend
    return Resolved(
        loaded=loaded,
        source=source,
        model=model,
        runs=runs,
        backend=backend,
        backend_why=why,
        pins=chosen,
        tokenizers=Tokenizers(recipe.pause.token, pins),
    )


Found = TypeVar("Found")


def resolve_offline(
    loaded: LoadedRecipe, root: Path, base: Version | None, *, update: bool = False
) -> tuple[Resolved, list[str]]:
    """What can be found of all that the recipe names, and what cannot, with the reasons.

    The source and each model are looked up by themselves. Where one cannot be, what an earlier
    build pinned or the copy in a cache stands for it; where there is neither, the source or the
    tokenizer raises UnreachableError when it is asked for something. Nothing is written, and the
    result is no basis for a build: it may be of a copy that the Hub has moved on from.
    """
    recipe, pins = loaded.recipe, Pins(root, recorded_pins(base), keep=False)
    tokenizers, unknown = Tokenizers(recipe.pause.token, pins), []

    def reach(find: Callable[[bool], Found], instead: Callable[[UnreachableError], Found]) -> Found:
        try:
            return find(update)
        except UnreachableError as error:
            unknown.append(str(error))
            if update:
                with suppress(UnreachableError):
                    return find(False)  # as pinned
            return instead(error)

    def cached_source(error: UnreachableError) -> OpenSource:
        # A dataset that is there holds the rows of the commit that it pins, not of another.
        hub_id, config = str(recipe.source.hub), recipe.source.config
        commit = hub.cached_revision(hub_id, config) if base is None else None
        if commit is not None:
            with suppress(UnreachableError):
                source = sources.open_source(recipe.source, loaded.folder, commit)
                told = f"What is told of its rows is of the copy in the cache, {commit[:12]}."
                unknown[-1] += f" {told}"
                return source
        return UnreachedSource(error)

    def cached_model(spec: Model, error: UnreachableError) -> ModelRef:
        ref = ModelRef.parse(spec.id, spec.revision, loaded.folder)
        on_hub = ref.base or ref
        commit = cached_commit(on_hub)
        if commit is not None:
            unknown[-1] += f" What is told of it is of the copy in the cache, {commit[:12]}."
            on_hub = replace(on_hub, revision=commit)
        ref = on_hub if ref.base is None else replace(ref, base=on_hub)
        if commit is None and ref.tokenizer_holder().kind == "hub":
            tokenizers.give_up(ref, error)
        return ref

    source = reach(lambda anew: _find_source(loaded, pins, anew=anew)[0], cached_source)
    found: dict[tuple[str, str | None], ModelRef] = {}
    for spec in [recipe.model, *recipe.scoring_runs().values()]:
        if (spec.id, spec.revision) not in found:
            found[spec.id, spec.revision] = reach(
                lambda anew, spec=spec: find_model(spec, loaded.folder, pins, anew=anew)[0],
                lambda error, spec=spec: cached_model(spec, error),
            )
    model = found[recipe.model.id, recipe.model.revision]
    backend, why = _find_backend(recipe, pins, anew=update)
    resolved = Resolved(
        loaded=loaded,
        source=source,
        model=model,
        runs={name: found[s.id, s.revision] for name, s in recipe.scoring_runs().items()},
        backend=backend,
        backend_why=why,
        pins={},
        tokenizers=tokenizers,
    )
    try:
        tokenizers.hash(model)
    except UnreachableError as error:  # a gated model's revision is public, its files are not
        if not any(reason.startswith(str(error)) for reason in unknown):
            unknown.append(str(error))
    return resolved, unknown


def _find_source(
    loaded: LoadedRecipe, pins: Pins, *, anew: bool = False
) -> tuple[OpenSource, dict[str, str]]:
    """The source that the recipe names, and the commit that it stands for, by its pin's key."""
    source, chosen = loaded.recipe.source, {}
    revision = source.revision
    if source.hub and not is_local_hub(source.hub):
        revision = pins.resolve(
            f"source.revision {source.hub}@{source.revision or ''}",
            lambda: hub.resolve_revision(str(source.hub), source.revision),
            anew=anew,
        )
        chosen["source.revision"] = revision
    return sources.open_source(source, loaded.folder, revision), chosen


def _find_backend(recipe: Recipe, pins: Pins, *, anew: bool) -> tuple[str | None, str | None]:
    """The backend that scores, None where nothing is scored; of ``auto``, why it is that one."""
    if recipe.scoring is None:
        return None, None
    asked, device = recipe.scoring.backend, recipe.scoring.device
    whys: list[str] = []

    def find() -> str:
        if asked != "auto":
            return resolve_backend(asked)
        found, why = choose_backend(device)
        whys.append(why)
        return found

    backend = pins.resolve(f"scoring.backend {asked}", find, anew=anew)
    if asked != "auto":
        return backend, None
    return backend, whys[0] if whys else "as it was for this dataset; --update looks again"


def recorded_pins(base: Version | None) -> dict[str, str]:
    """The pins of a committed version, under the keys that staging uses.

    A dataset that was copied without its staging folder still needs no network.
    """
    if base is None:
        return {}
    recipe, pins = base.manifest.recipe, base.manifest.pins
    found = {}
    if "source.revision" in pins:
        found[f"source.revision {recipe['source'].get('hub')}@"] = pins["source.revision"]
    if "scoring.backend" in pins:
        found["scoring.backend auto"] = pins["scoring.backend"]
        # One that the recipe names: it need not be here where all is scored already.
        found[f"scoring.backend {pins['scoring.backend']}"] = pins["scoring.backend"]
    holders = {"": recipe} | {f"runs.{n}.": run for n, run in recipe.get("runs", {}).items()}
    for prefix, holder in holders.items():
        if revision := pins.get(f"{prefix}model.revision"):
            found[f"model.revision {holder['model']['id']}@"] = revision
        if revision := pins.get(f"{prefix}model.base.revision"):
            found[f"model.revision {holder['model']['base']['id']}@"] = revision
    return found


def find_model(
    spec: Model, folder: Path, pins: Pins, *, anew: bool = False, where: str = "model.id"
) -> tuple[ModelRef, dict[str, str]]:
    """The model that ``spec`` names, and the commit that it, or an adapter's base, stands for.

    ``where`` is what errors call ``spec.id``. The commit is keyed by where a manifest pins it.
    """
    try:
        ref = ModelRef.parse(spec.id, spec.revision, folder)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    on_hub = ref.base or ref
    if on_hub.kind != "hub":
        return ref, {}
    revision = pins.resolve(
        f"model.revision {on_hub.name}@{on_hub.revision or ''}",
        lambda: resolve_revision(on_hub).revision,
        anew=anew,
    )
    pinned = replace(on_hub, revision=revision)
    if ref.base is None:
        return pinned, {"model.revision": revision}
    return replace(ref, base=pinned), {"model.base.revision": revision}


def _recorded_model(spec: dict[str, Any], ref: ModelRef) -> dict[str, Any]:
    if ref.path is not None:  # a folder or a file has no revision
        spec = {key: value for key, value in spec.items() if key != "revision"}
    return spec | ref.identity()


def token_settings(scoring: Scoring) -> dict[str, Any]:
    """The parts of `scoring` that shape tokens."""
    return scoring.model_dump(include={"max_length", "overlong", "append_eos"})
