"""What `plan` says of a recipe, as tests look at it."""

from __future__ import annotations

from typing import Any

from conftest import Recipe

from pausedata.pipeline.plan import Plan, plan
from pausedata.pipeline.recipe import load_recipe


def planned(recipe: Recipe, **options: Any) -> Plan:
    return plan(load_recipe(recipe.write()), recipe.out, **options)


def actions(result: Plan) -> dict[str, str]:
    return {step.table: step.action for step in result.steps}


def why(result: Plan, table: str) -> str:
    return next(step.why for step in result.steps if step.table == table)
