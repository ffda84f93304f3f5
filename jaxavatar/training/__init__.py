"""Training of the driver: pure steps, data parallelism, exact resumption, and the loop."""

from jaxavatar.training.checkpoint import Checkpoints
from jaxavatar.training.loop import DivergedError, LoopConfig, train
from jaxavatar.training.sharding import by_clip, compile_step, make_mesh, replicated
from jaxavatar.training.state import OptimiserConfig, TrainState, create_state, make_optimiser
from jaxavatar.training.step import Batch, StepConfig, make_train_step

__all__ = [
    "Batch",
    "Checkpoints",
    "DivergedError",
    "LoopConfig",
    "OptimiserConfig",
    "StepConfig",
    "TrainState",
    "by_clip",
    "compile_step",
    "create_state",
    "make_mesh",
    "make_optimiser",
    "make_train_step",
    "replicated",
    "train",
]
