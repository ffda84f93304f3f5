"""Timing commands; results are committed with the device and versions that gave them."""
