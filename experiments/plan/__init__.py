"""What a training step needs on chips that are not at hand: memory, work, traffic, time."""
