"""What a video teacher can teach, measured: `python -m experiments.distill`."""
