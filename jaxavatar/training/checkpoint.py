"""Save and restore the training state exactly (orbax)."""

import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxavatar.errors import InputError
from jaxavatar.training.state import TrainState


class Checkpoints:
    """The last few training states in a folder, one subfolder per step.

    A state is written beside its place and renamed when complete, so an interrupted save leaves
    the earlier ones as they were. Use as a context manager, which waits for pending saves.

    Args:
        folder: created if need be.
        keep: how many states to keep; older ones are deleted.

    Raises:
        InputError: the folder cannot be created.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 3):
        path = pathlib.Path(folder).absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error.strerror}; name another") from error
        self._folder = path
        self._manager = ocp.CheckpointManager(
            path, options=ocp.CheckpointManagerOptions(max_to_keep=keep)
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """Return the step of the newest state, None when there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Write a state under its step and wait until it is complete."""
        self._manager.save(int(state.step), args=ocp.args.StandardSave(state))
        self._manager.wait_until_finished()

    def restore(self, like: TrainState) -> TrainState:
        """Read the newest state, bit for bit, onto the devices where `like` lies.

        Raises:
            InputError: the folder holds no state, or one of another network or optimiser.
        """
        step = self.latest()
        if step is None:
            raise InputError(f"{self._folder} holds no training state; start without resuming")
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            restored: Any = self._manager.restore(step, args=ocp.args.StandardRestore(shapes))
        except (ValueError, KeyError) as error:
            raise InputError(
                f"the state of step {step} in {self._folder} belongs to another configuration;"
                " resume with that one or choose another folder"
            ) from error
        return restored
