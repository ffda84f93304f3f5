"""The in-repository video diffusion teacher: audio-conditioned, small enough to train here."""

from jaxavatar.teachers.video_dit.config import CONFIGS, AutoencoderConfig, VideoDiTConfig
from jaxavatar.teachers.video_dit.teacher import Heard, VideoDiTTeacher, precondition
from jaxavatar.teachers.video_dit.weights_file import load_params, save_params

__all__ = [
    "CONFIGS",
    "AutoencoderConfig",
    "Heard",
    "VideoDiTConfig",
    "VideoDiTTeacher",
    "load_params",
    "precondition",
    "save_params",
]
