"""Notice that the machine is about to be taken away, in time to save.

Schedulers announce it by SIGTERM. One process notes the signal itself; where processes train
together (`jax.distributed`), JAX hears it on any of them and makes all agree on a step.
"""

import pathlib
import signal
import sys
import threading
import types

import jax
from jax.experimental import multihost_utils


class PreemptedError(SystemExit):
    """Training was asked to end and saved its state; the process's exit status is 143."""

    def __init__(self, step: int, folder: pathlib.Path):
        super().__init__(128 + signal.SIGTERM)
        if jax.process_index() == 0:
            print(
                f"asked to end: the state of step {step} is saved in {folder}; start again in the"
                " same way to go on from it",
                file=sys.stderr,
            )


class Preemption:
    """Whether to save and end; use as a context manager around the loop.

    Outside the main thread no signal can be noted, and SIGTERM ends the process as ever.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before = None

    def __enter__(self) -> "Preemption":
        main = threading.current_thread() is threading.main_thread()
        if main and not jax.distributed.is_initialized():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self._asked = True

    def reached(self, step: int) -> bool:
        """Say whether to save and end after this step; to be asked by all processes each step."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked
