"""The audio-driven particle deformer (paper, sec. 3.2)."""

from jaxavatar.deformer.config import DriverConfig
from jaxavatar.deformer.driver import AvatarCode, Driver, Motion, initial_state
from jaxavatar.deformer.gaussian import Offsets
from jaxavatar.deformer.weights_file import load_params, save_params
from jaxavatar.deformer.window import Window, chunk, whole

__all__ = [
    "AvatarCode",
    "Driver",
    "DriverConfig",
    "Motion",
    "Offsets",
    "Window",
    "chunk",
    "initial_state",
    "load_params",
    "save_params",
    "whole",
]
