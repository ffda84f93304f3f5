"""Configurations: frozen dataclasses; an ablation is a `dataclasses.replace`."""
