"""Training of the driver: pure steps, data parallelism, exact resumption, and the loop."""

from jaxavatar.training.checkpoint import Checkpoints
from jaxavatar.training.learned import (
    Learned,
    Rates,
    Retouch,
    personal_optimiser,
    retouched,
    untouched,
)
from jaxavatar.training.loop import DivergedError, LoopConfig, train
from jaxavatar.training.sequence import (
    Sequence,
    SequenceConfig,
    Watched,
    local_score,
    make_sequence_step,
    sequence_terms,
)
from jaxavatar.training.sharding import (
    MeshConfig,
    by_clip,
    by_rules,
    compile_step,
    make_mesh,
    parse_mesh,
    place,
    replicated,
)
from jaxavatar.training.state import OptimiserConfig, TrainState, create_state, make_optimiser
from jaxavatar.training.step import Batch, StepConfig, make_train_step
from jaxavatar.training.stopping import PreemptedError

__all__ = [
    "Batch",
    "Checkpoints",
    "DivergedError",
    "Learned",
    "LoopConfig",
    "MeshConfig",
    "OptimiserConfig",
    "PreemptedError",
    "Rates",
    "Retouch",
    "Sequence",
    "SequenceConfig",
    "StepConfig",
    "TrainState",
    "Watched",
    "by_clip",
    "by_rules",
    "compile_step",
    "create_state",
    "local_score",
    "make_mesh",
    "make_optimiser",
    "make_sequence_step",
    "make_train_step",
    "parse_mesh",
    "personal_optimiser",
    "place",
    "replicated",
    "retouched",
    "sequence_terms",
    "train",
    "untouched",
]
