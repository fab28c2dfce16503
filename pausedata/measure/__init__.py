"""Whether pauses help a trained model, and what they cost: measured on held-out examples."""
