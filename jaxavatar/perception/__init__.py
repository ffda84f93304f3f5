"""What is in a photo: landmarks of body, face and hands, and the person's matte."""

from jaxavatar.perception.perceive import perceive

__all__ = ["perceive"]
