"""What a recipe says. These models are the source of ``schemas/recipe.schema.json``."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.json_schema import models_json_schema

from pausedata.core.errors import UsageError, nearest
from pausedata.core.invalid import PAUSE_PATTERN, find_invalid
from pausedata.core.names import Name, Split
from pausedata.pipeline.rules import Rules
from pausedata.sources.spec import ColumnPrompt, Prompt, RecipePart, Source
from pausedata.store.choice import names_in
from pausedata.warmup import Warmup

if TYPE_CHECKING:
    from pausedata.strategies import Parameters, Strategy

RECIPE_FORMAT = "pausedata-recipe/1"


class Model(RecipePart):
    """The model that scores, and whose tokenizer makes the ids."""

    id: str = Field(description="Hub id, folder, or .gguf file")
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class Scoring(RecipePart):
    """How the corpus is scored, and how its rows are tokenised for that."""

    backend: str = Field(
        default="auto", description="auto, or a name that `pausedata doctor` lists"
    )
    run: Name = "base"
    max_length: int = Field(
        default=2048, ge=2, description="prompt, response and EOS; pauses not counted"
    )
    overlong: Literal["error", "skip", "truncate"] = "error"
    append_eos: bool = True
    device: str = "auto"
    batch_tokens: int | None = Field(default=None, ge=1, description="padded tokens a batch")
    engine: dict[str, Any] = Field(default_factory=dict, description="goes to vLLM as it is")
    engines: int | None = Field(
        default=None, ge=1, description="vLLM engines side by side; null: one a device, or group"
    )
    url: str | None = Field(default=None, description="where a server runs (backend: server)")
    cross_check: int = Field(
        default=8,
        ge=0,
        description="examples that transformers scores too (backends vllm, server)",
    )
    warmup: bool | Warmup = Field(
        default=False, description="whether, and how, the model is fine-tuned a little first"
    )


class Run(RecipePart):
    """A further scoring run, of the same tokens by another model."""

    model: Model
    warmup: bool | Warmup | None = Field(default=None, description="null: as scoring.warmup")


class Pause(RecipePart):
    """The pause token's text."""

    token: str = Field(default="[PAUSE]", min_length=1, pattern=PAUSE_PATTERN)


class Placement(BaseModel):
    """A placement: a strategy, the run it reads, and the strategy's own parameters beside."""

    model_config = ConfigDict(extra="allow", frozen=True)
    strategy: str
    run: Name | None = Field(default=None, description="the scoring run; null: scoring.run")
    _chosen: tuple[Strategy, Parameters] | None = PrivateAttr(default=None)

    @property
    def parameters(self) -> dict[str, Any]:
        """The keys that belong to the strategy."""
        return dict(self.model_extra or {})

    def choose(self, where: str) -> tuple[Strategy, Parameters]:
        """The strategy and its typed parameters, read once; UsageError begins with ``where``."""
        if self._chosen is None:
            from pausedata import strategies

            self._chosen = strategies.of(self.strategy, self.parameters, where)
        return self._chosen

    def chosen_as(self, strategy: Strategy, parameters: Parameters) -> Placement:
        """This placement, with its strategy and parameters remembered as they were parsed."""
        self._chosen = strategy, parameters
        return self


Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Export(BaseModel):
    """An export: a placement in a format, and the format's own options beside."""

    model_config = ConfigDict(extra="allow", frozen=True)
    placement: Name | dict[Name, Weight] | list[Name] = Field(
        description="a placement; several with weights, mixed by example; or one for each epoch"
    )
    format: str
    split: Split | None = Field(
        default=None, description="this split alone; null: every one but what is held out"
    )

    @field_validator("placement")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if not value:
            raise ValueError("name a placement")
        return value

    @property
    def placements(self) -> list[str]:
        """The placements that it is made from, each once."""
        return names_in(self.placement)

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to the format."""
        return dict(self.model_extra or {})


class Recipe(RecipePart):
    """Everything that makes a dataset."""

    format: Literal["pausedata-recipe/1"] = RECIPE_FORMAT
    name: Name
    source: Source
    prompt: Prompt = Field(description="Jinja2, or {messages: […]}, or {messages_column: name}")
    response: str | None = Field(default=None, description="Jinja2; left out with messages_column")
    model: Model
    scoring: Scoring | None = Field(default_factory=lambda: Scoring())
    runs: dict[Name, Run] = Field(default_factory=dict)
    pause: Pause = Field(default_factory=lambda: Pause())
    placements: dict[Name, Placement] = Field(default_factory=dict)
    exports: dict[Name, Export] = Field(default_factory=dict)
    gate: Rules | None = Field(
        default=None, description="what pauses have to bring to be worth it: `pausedata measure`"
    )
    shard_rows: int | None = Field(default=None, ge=1, description="examples a shard; null chooses")
    output: str = Field(description="the dataset's folder, relative to the current one")

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if isinstance(self.prompt, ColumnPrompt):
            if self.response is not None:
                raise ValueError("leave response out: with messages_column it is the last turn")
        elif self.response is None:
            raise ValueError("response: give a template")
        if self.runs and self.scoring is None:
            raise ValueError("runs need scoring: it is null")
        if self.scoring and self.scoring.run in self.runs:
            raise ValueError(f"runs: '{self.scoring.run}' is scoring.run's name already")
        return self

    @property
    def token_rules(self) -> Scoring:
        """The settings that shape tokens, which hold without scoring too."""
        return self.scoring or Scoring()

    def scoring_runs(self) -> dict[str, Model]:
        """The runs to score, by name, the main one first; empty without scoring."""
        if self.scoring is None:
            return {}
        return {self.scoring.run: self.model} | {n: r.model for n, r in self.runs.items()}

    def warmup_of(self, run: str) -> bool | Warmup:
        """What the recipe says of the warm-up of one of its runs."""
        assert self.scoring is not None
        own = self.runs[run].warmup if run in self.runs else None
        return self.scoring.warmup if own is None else own


class LoadedRecipe(BaseModel):
    """A recipe with where it was found: paths in it are relative to ``folder``."""

    model_config = ConfigDict(frozen=True)
    recipe: Recipe
    folder: Path
    label: str


def load_recipe(path: Path, overrides: dict[str, Any] | None = None) -> LoadedRecipe:
    """Read and check the recipe at ``path``; ``overrides`` maps dotted keys to values.

    Raises UsageError that names the file, the key and, for a misspelling, the nearest right name.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such recipe. `pausedata init` writes one to start from."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    try:
        data = yaml.load(text, Loader=_UniqueKeys)  # a SafeLoader
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {_one_line(error)}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: a recipe is a mapping of keys. `pausedata init` shows one.")
    for key, value in (overrides or {}).items():
        _override(data, key, value)
    _read_templates(data, path)
    recipe = parse_recipe(data, str(path))
    return LoadedRecipe(recipe=recipe, folder=path.resolve().parent, label=str(path))


def _read_templates(data: dict[str, Any], path: Path) -> None:
    """Put the content of chat templates that exports name as files in their place."""
    from pausedata.exporters.templates import read_template

    exports = data.get("exports")
    for name, export in exports.items() if isinstance(exports, dict) else ():
        given = export.get("chat_template") if isinstance(export, dict) else None
        if isinstance(given, str):
            where = f"{path}: exports.{name}.chat_template"
            export["chat_template"] = read_template(given, path.parent, where)


def parse_recipe(data: dict[str, Any], label: str) -> Recipe:
    """Check ``data`` as a recipe; ``label`` is how errors call it."""
    from pausedata import exporters, strategies

    token = data.get("pause", {}).get("token") if isinstance(data.get("pause"), dict) else None
    if isinstance(token, list):
        raise UsageError(
            f"{label}: pause.token is a list: YAML reads a bare [PAUSE] as one. "
            """Quote it: token: "[PAUSE]" (on a command line: --set 'pause.token="[PAUSE]"')."""
        )
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise UsageError(explain(error, label, data)) from None
    runs = recipe.scoring_runs()
    for name, placement in recipe.placements.items():
        where = f"{label}: placements.{name}"
        strategy, parameters = placement.choose(where)
        if strategies.reads_scores(strategy, parameters) and not runs:
            raise UsageError(f"{where}: '{strategy.name}' needs scores, and scoring is null.")
        # A run may also be one that `score` added to the dataset: build looks for it there.
    for name, export in recipe.exports.items():
        where = f"{label}: exports.{name}"
        for placement in export.placements:
            if placement not in recipe.placements:
                raise UsageError(
                    f"{where}.placement: no placement '{placement}'."
                    f"{nearest(placement, recipe.placements)}"
                )
        exporters.parse(exporters.get(export.format, f"{where}.format"), export.options, where)
    if recipe.scoring:
        from pausedata.scorers import check_backend
        from pausedata.scorers.address import check_address

        try:
            check_backend(recipe.scoring.backend)
            check_address(recipe.scoring.backend, recipe.scoring.url, "scoring.url")
            if recipe.scoring.engine and recipe.scoring.backend in ("transformers", "server"):
                raise UsageError(
                    f"scoring.engine is for vLLM, backend '{recipe.scoring.backend}' takes no "
                    "such settings: leave it out, or choose backend 'vllm'."
                )
            for run in runs:
                check_warmup(recipe.scoring.backend, recipe.warmup_of(run), "scoring.warmup")
        except UsageError as error:
            raise UsageError(f"{label}: {error}") from None
    return recipe


def check_warmup(backend: str, warmup: bool | Warmup, where: str) -> None:
    """UsageError where ``backend`` cannot score with a model that was warmed up here."""
    if warmup and backend == "server":
        raise UsageError(
            f"{where}: a server scores with the model that it serves, not with one that is warmed "
            "up here. Choose backend transformers or vllm; or leave it out and serve what "
            "`pausedata score … --warmup-only` makes."
        )


def explain(error: ValidationError, label: str, data: Any) -> str:
    """One or two lines on what is wrong with ``data``: file, key, what, the nearest right one."""
    wrong = find_invalid(error, Recipe, data)
    if wrong.kind == "unknown":
        return f"{label}: unknown key '{wrong.key}'.{wrong.hint}"
    if wrong.kind == "missing":
        return f"{label}: '{wrong.key}' is missing.{wrong.hint}"
    more = f" (and {wrong.more} more)" if wrong.more else ""
    return f"{label}: {wrong.key or 'recipe'}: {wrong.message}.{wrong.hint}{more}"


def parse_set(
    assignments: list[str], option: str = "--set", texts: Collection[str] = ()
) -> dict[str, Any]:
    """``a.b=value`` assignments, given with ``option``, as a mapping; values are read as YAML.

    Those of ``texts``, keys that hold free text, are taken as they are, unless in quotes: the
    regular expression ``[a-z]`` is no list, and ``#`` begins no comment.
    """
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, raw = assignment.partition("=")
        if not equals or not re.fullmatch(r"[\w-]+(\.[\w.-]+)*", key):
            raise UsageError(f"{option} {assignment}: write it as key=value.")
        if key in parsed:
            raise UsageError(f"{option} {key}: it is given twice. Give it once.")
        quoted = len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "'\""
        if key in texts and not quoted:
            parsed[key] = raw
            continue
        try:
            parsed[key] = read_value(raw)
        except yaml.YAMLError as error:
            why = _one_line(error)
            if key in texts:
                why += ". Leave the inner quotes out: text is taken as it is"
            raise UsageError(f"{option} {assignment}: the value is not YAML: {why}.") from None
    return parsed


def read_value(raw: str) -> Any:
    """A value on a command line, read as a recipe's is; yaml.YAMLError where it is not YAML."""
    return yaml.load(raw, Loader=_UniqueKeys)


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, with every strategy's parameters and format's options.

    Those of pausedata's own: a plug-in's name may stand there too, with any keys.
    """
    from pausedata import exporters, strategies

    own = {
        (Placement, "strategy"): {n: strategies.get(n).options for n in strategies.own()},
        (Export, "format"): {n: exporters.get(n).options for n in exporters.own()},
    }
    options = [model for models in own.values() for model in models.values()]
    # All at once, so that models of one name in two modules get definitions of two names.
    references, schema = models_json_schema([(m, "validation") for m in (Recipe, *options)])
    names = {m: r["$ref"].rsplit("/", 1)[1] for (m, _), r in references.items()}
    definitions = schema["$defs"]
    taken_out = {model: definitions.pop(names[model]) for model in (Recipe, *options)}
    for (base, key), models in own.items():
        variants = {name: taken_out[model] for name, model in models.items()}
        definitions[base.__name__] = _by_name(definitions[base.__name__], key, variants)
    return {
        **taken_out[Recipe],
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pausedata recipe",
        "$defs": definitions,
    }


def _by_name(base: dict[str, Any], key: str, variants: dict[str, Any]) -> dict[str, Any]:
    """The schema of a placement (export), whose ``key`` decides what else it may say."""
    rules = [
        {
            "if": {"properties": {key: {"const": name}}, "required": [key]},
            "then": {
                "description": own.get("description", ""),
                # What all have is said by `base`; to be named here lets it stand beside the rest.
                "properties": dict.fromkeys(base["properties"], True) | own.get("properties", {}),
                "required": sorted({*base["required"], *own.get("required", [])}),
                "additionalProperties": False,
            },
        }
        for name, own in variants.items()
    ]
    names = {"anyOf": [{"enum": list(variants)}, {"type": "string"}]}
    properties = base["properties"] | {key: base["properties"][key] | names}
    return base | {"properties": properties, "allOf": rules}


def _override(data: dict[str, Any], dotted: str, value: Any) -> None:
    keys = dotted.split(".")
    holder = data
    for key in keys[:-1]:
        if not isinstance(holder.get(key), dict):
            holder[key] = {}
        holder = holder[key]
    holder[keys[-1]] = value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error, since the first would vanish unseen."""


def _unique_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(
                None,
                None,
                "a key that is a list or a mapping: quote a value that begins with {{ or [",
                key_node.start_mark,
            )
        if key in mapping:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{key}' is given twice", key_node.start_mark
            )
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
# As in YAML 1.2: in 1.1, which PyYAML reads, 1e-3 is a text, since it has no point.
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)
