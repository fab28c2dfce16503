"""What the names in a recipe stand for here and now: revisions, files, models, the backend.

What is resolved once is pinned for the dataset, so that a later build needs no network and gets
the same; ``--update`` resolves anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pausedata import models, sources
from pausedata.errors import UsageError
from pausedata.models import ModelRef
from pausedata.recipe import ChatPrompt, ColumnPrompt, LoadedRecipe, Recipe, Scoring
from pausedata.scorers import resolve_backend
from pausedata.sources import OpenSource, hub, is_local_hub
from pausedata.sources.templates import Renderer
from pausedata.store.dataset import Version
from pausedata.store.files import canonical_json, digest
from pausedata.store.staging import Pins
from pausedata.tokenizer import Tokenizer
from pausedata.tokens import TokenBuilder, TokenRules


@dataclass(frozen=True)
class Resolved:
    """A recipe with everything that it names found."""

    loaded: LoadedRecipe
    source: OpenSource
    model: ModelRef
    runs: dict[str, ModelRef]
    backend: str | None
    pins: dict[str, str]
    _store: Pins

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was written."""
        return self.loaded.recipe

    @property
    def is_chat(self) -> bool:
        """Whether prompts go through the chat template."""
        return isinstance(self.recipe.prompt, ChatPrompt | ColumnPrompt)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, loaded when first asked for."""
        return Tokenizer(models.load_tokenizer(self.model))

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
        return self._tokenizer_facts(self.model)["hash"]

    @cached_property
    def chat_template_hash(self) -> str | None:
        """The chat template's hash, or None where prompts do not go through it."""
        return self._tokenizer_facts(self.model)["chat_template"] if self.is_chat else None

    def check_tokenizer(self, run: str) -> None:
        """UsageError where the model of ``run`` has another tokenizer than the tokens' own."""
        if self._tokenizer_facts(self.runs[run])["hash"] != self.tokenizer_hash:
            raise UsageError(
                f"run '{run}': {self.runs[run].name} has another tokenizer than "
                f"{self.model.name}, so that its scores would be of other tokens. Score it in a "
                "dataset of its own."
            )

    def _tokenizer_facts(self, model: ModelRef) -> dict[str, Any]:
        def find() -> dict[str, Any]:
            same = model == self.model
            tokenizer = self.tokenizer if same else Tokenizer(models.load_tokenizer(model))
            template = tokenizer.hf.chat_template
            return {
                "hash": tokenizer.hash(self.recipe.pause.token),
                "chat_template": digest(template) if template else None,
            }

        identity = canonical_json([model.tokenizer_identity(), self.recipe.pause.token])
        return self._store.resolve(f"tokenizer {identity.decode()}", find)

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
        for unused in self._unused_source():
            data["source"].pop(unused, None)
        data["source"] |= self._recorded_source()
        data["model"] = _recorded_model(data["model"], self.model)
        for name, ref in self.runs.items():
            if name in data.get("runs", {}):
                data["runs"][name]["model"] = _recorded_model(data["runs"][name]["model"], ref)
        # Where the dataset lies is the machine's business, not the dataset's.
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
    recipe, pins = loaded.recipe, Pins(root, _recorded_pins(base), keep=pin)
    source, chosen = recipe.source, {}
    revision = source.revision
    if source.hub and not is_local_hub(source.hub):
        revision = pins.resolve(
            f"source.revision {source.hub}@{source.revision or ''}",
            lambda: hub.resolve_revision(str(source.hub), source.revision),
            anew=update,
        )
        chosen["source.revision"] = revision
    model, found = _model(recipe.model, loaded.folder, pins, update)
    chosen |= {"model.revision": found} if found else {}
    runs: dict[str, ModelRef] = {}
    for name, spec in recipe.scoring_runs().items():
        runs[name], found = _model(spec, loaded.folder, pins, update)
        if found and spec is not recipe.model:
            chosen[f"runs.{name}.model.revision"] = found
    backend = None
    if recipe.scoring:
        asked = recipe.scoring.backend
        backend = pins.resolve(
            f"scoring.backend {asked}", lambda: resolve_backend(asked), anew=update
        )
        chosen["scoring.backend"] = backend
    return Resolved(
        loaded=loaded,
        source=sources.open_source(source, loaded.folder, revision),
        model=model,
        runs=runs,
        backend=backend,
        pins=chosen,
        _store=pins,
    )


def _recorded_pins(base: Version | None) -> dict[str, str]:
    """The pins of a committed version, under the keys that staging uses.

    A dataset that was copied without its staging folder still needs no network.
    """
    if base is None:
        return {}
    recipe, pins = base.manifest.recipe, base.manifest.pins
    found = {}
    if "source.revision" in pins:
        found[f"source.revision {recipe['source'].get('hub')}@"] = pins["source.revision"]
    if "model.revision" in pins:
        found[f"model.revision {recipe['model']['id']}@"] = pins["model.revision"]
    for key, revision in pins.items():
        if key.startswith("runs."):
            name = key.removeprefix("runs.").removesuffix(".model.revision")
            found[f"model.revision {recipe['runs'][name]['model']['id']}@"] = revision
    if "scoring.backend" in pins:
        found["scoring.backend auto"] = pins["scoring.backend"]
    return found


def _model(spec: Any, folder: Path, pins: Pins, update: bool) -> tuple[ModelRef, str | None]:
    """The model that ``spec`` names, and the commit it was resolved to where it is on the Hub."""
    try:
        ref = ModelRef.parse(spec.id, spec.revision, folder)
    except UsageError as error:
        raise UsageError(f"model.id: {error}") from None
    if ref.kind != "hub":
        return ref, None
    revision = pins.resolve(
        f"model.revision {spec.id}@{spec.revision or ''}",
        lambda: models.resolve_revision(ref).revision,
        anew=update,
    )
    return ModelRef.parse(spec.id, revision, folder), revision


def _recorded_model(spec: dict[str, Any], ref: ModelRef) -> dict[str, Any]:
    if ref.path is not None:  # a folder or a file has no revision
        spec = {key: value for key, value in spec.items() if key != "revision"}
    return spec | ref.identity()


def token_settings(scoring: Scoring) -> dict[str, Any]:
    """The parts of `scoring` that shape tokens."""
    return scoring.model_dump(include={"max_length", "overlong", "append_eos"})
