"""Scores of videos against true ones: `python -m experiments.evaluate`."""
