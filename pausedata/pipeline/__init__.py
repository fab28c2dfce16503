"""From a recipe to a committed version: what is to be made is decided here, and made step by step.

`recipe.load_recipe`, `build.build`, the commands of `change` (place, score, export, remove),
`plan.plan`, and `runs.RunSpec`, which says how a model scores. Each step is in `steps/`.
"""
