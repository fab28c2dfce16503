"""From a recipe to a committed version: what is to be made is decided here, and made step by step.

`recipe.load_recipe`, `build.build`, the commands of `commands` (place, score, export, remove),
`plan.plan`, and `runs.RunSpec`, which says how a model scores. `planner.decide` says what happens
to each table, `making.carry_out` does it by the functions of `steps/`, `transaction` commits it.
"""
