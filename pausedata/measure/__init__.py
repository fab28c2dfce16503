"""Whether pauses help a trained model, and what they cost: measured on held-out examples.

`run.measure` is one measurement, `judge` and the gate's rules say what follows from it; `answers`
tells whether an answer is right, `calibrate` finds thresholds for pauses at inference.
"""
