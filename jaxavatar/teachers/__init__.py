"""What the deformer learns from."""
