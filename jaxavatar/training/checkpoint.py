"""Save and restore the training state exactly, with proof that it is what was saved (orbax)."""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    LatestN,
    PreservationPolicy,
)

from jaxavatar.errors import InputError
from jaxavatar.training.fingerprint import fingerprint
from jaxavatar.training.state import TrainState


class Checkpoints:
    """The last few training states in a folder, and the best one; one subfolder per step.

    A state is copied from the devices at once and written by another thread, beside its place;
    it is renamed when complete, so an interrupted save leaves the earlier ones as they were. With
    it goes the fingerprint of each leaf, by which `restore` knows a damaged state. Use as a
    context manager, which waits for pending saves, and never on a folder where another training
    is saving: what looks interrupted is removed. Processes that train together all call every
    method, on a folder that all of them see.

    Args:
        folder: created if need be.
        keep: how many states to keep; older ones are deleted.
        best: metric by which one more is kept; None keeps none.
        best_is: which value of that metric is the best.

    Raises:
        InputError: the folder cannot be created.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        keep: int = 3,
        best: str | None = None,
        best_is: Literal["lowest", "highest"] = "lowest",
    ):
        path = pathlib.Path(folder).absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error.strerror}; name another") from error
        self._folder = path
        self._best = _KeepBest(best, best_is)
        self._manager = ocp.CheckpointManager(
            path,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([LatestN(keep), self._best]),
                cleanup_tmp_directories=True,
            ),
        )
        for step in self._manager.all_steps() if best is not None else ():
            with contextlib.suppress(_DamagedError):
                self._best.note(step, self._about(step)["metrics"])

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        with self._writing():
            self._manager.close()

    def latest(self) -> int | None:
        """Return the step of the newest state, None when there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Return the step of the best state, None when no state has the metric."""
        return self._best.best(self._manager.all_steps())

    def save(
        self, state: TrainState, metrics: Mapping[str, float] | None = None, notes: Any = None
    ) -> bool:
        """Write a state under its step, in the background; the state may then be donated.

        Args:
            state: to write.
            metrics: by which the best one is told.
            notes: anything of JSON, for `notes`.

        Returns:
            Whether the state is worth keeping: one with infinite numbers or NaN is not written.

        Raises:
            InputError: this or the last save failed, for example because the disk is full.
        """
        step = int(state.step)
        prints, finite = fingerprint(state)
        if not finite:
            return False
        metrics = dict(metrics or {})
        about = {
            "leaves": _describe(state),
            "prints": prints,
            "metrics": metrics,
            "notes": notes,
        }
        self._best.note(step, metrics)
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    about=ocp.args.JsonSave(about | {"check": _check(about)}),
                ),
                force=True,
            )
        return True

    def wait(self) -> None:
        """Wait until the last save is complete; raises what `save` does."""
        with self._writing():
            self._manager.wait_until_finished()

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """Read a state, bit for bit, onto the devices where `like` lies.

        Args:
            like: a state of the same network and optimiser.
            step: of the state; None takes the newest one that is not damaged. Damaged ones are
                then renamed to `STEP.damaged`, and a sentence on the error stream says so.

        Raises:
            InputError: the folder holds no such state, only damaged ones, or one of another
                network or optimiser.
        """
        steps = sorted(self._manager.all_steps() if step is None else [step], reverse=True)
        if not steps:
            raise InputError(f"{self._folder} holds no training state; start without resuming")
        for tried, earlier in zip(steps, [*steps[1:], None], strict=True):
            state = self._read(tried, like)
            if state is not None:
                return state
            if earlier is not None:
                self._set_aside(tried)
                _say(
                    f"the state of step {tried} in {self._folder} is damaged, so training goes on"
                    f" from step {earlier}"
                )
        raise InputError(
            f"the state of step {steps[-1]} in {self._folder} is damaged or of another version,"
            " and none is before it; remove that folder to start anew, or choose another"
        )

    def notes(self, step: int) -> Any:
        """Return the notes that were saved with an undamaged state."""
        return self._about(step)["notes"]

    def _read(self, step: int, like: TrainState) -> TrainState | None:
        """Read one state; None if it is damaged, which all processes agree on."""
        with contextlib.suppress(_DamagedError):
            about = self._about(step)
            if about["leaves"] != _describe(like):
                raise InputError(
                    f"the state of step {step} in {self._folder} belongs to another configuration;"
                    " resume with that one or choose another folder"
                )
            shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            state = self._item(step, "state", ocp.args.StandardRestore(shapes))
            prints, _ = fingerprint(state)
            if prints == about["prints"]:
                return state
        return None

    def _about(self, step: int) -> dict[str, Any]:
        about = self._item(step, "about", ocp.args.JsonRestore())
        if not isinstance(about, dict) or about.pop("check", None) != _check(about):
            raise _DamagedError
        return about

    def _item(self, step: int, name: str, how: ocp.args.CheckpointArgs) -> Any:
        """Read a part of what is saved under a step; where one process cannot, all fail alike."""
        item = None
        # What damaged files make orbax raise is of many kinds, and not documented.
        with contextlib.suppress(Exception):
            item = self._manager.restore(step, args=ocp.args.Composite(**{name: how}))[name]
        readable = np.array(item is not None)
        if not np.all(multihost_utils.process_allgather(readable)):
            raise _DamagedError
        return item

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            aside = self._folder / f"{step}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            (self._folder / str(step)).rename(aside)
        multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager.reload()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # tensorstore's of a full disk is a ValueError
            raise InputError(
                f"could not save the state of training in {self._folder}: {error}; free some space"
                " or choose another folder and start again, which goes on from the last state"
            ) from error


class _DamagedError(Exception):
    """Something of a state cannot be read or is not what was saved."""


class _KeepBest(PreservationPolicy):
    """Keep the state with the lowest (or highest) value of a metric, among those that have it."""

    def __init__(self, metric: str | None, best_is: Literal["lowest", "highest"]):
        self._metric = metric
        self._sign = 1 if best_is == "lowest" else -1
        self._values: dict[int, float] = {}

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        value = metrics.get(self._metric or "")
        if value is not None:
            self._values[step] = self._sign * value

    def best(self, steps: Sequence[int]) -> int | None:
        return min(
            (s for s in steps if s in self._values), key=self._values.__getitem__, default=None
        )

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        best = self.best([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step == best for checkpoint in checkpoints]


def _describe(state: TrainState) -> dict[str, Any]:
    """Return the type and the shape of each leaf under its path, as JSON has them."""
    return {
        jax.tree_util.keystr(path): [str(leaf.dtype), list(leaf.shape)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _check(about: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _say(message: str) -> None:
    if jax.process_index() == 0:
        print(message, file=sys.stderr)
