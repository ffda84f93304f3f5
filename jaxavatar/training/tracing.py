"""Trace a few training steps: what host and device do when, for TensorBoard's profiler."""

import os
from collections.abc import Callable
from typing import Any

import jax


class Trace:
    """Traces steps `first` to `first + count - 1`; use as a context manager around the loop.

    Args:
        folder: where `plugins/profile/` goes, which TensorBoard and xprof read.
        first: number of the first step to trace.
        count: how many; 0 traces none.
    """

    def __init__(self, folder: str | os.PathLike[str], first: int, count: int):
        self._folder = folder
        self._steps = range(first, first + count)
        self._running = False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, number: int, step: Callable[..., Any], *arguments: Any) -> Any:
        """Return `step(*arguments)`, traced if the step of this number is to be."""
        if number not in self._steps:
            return step(*arguments)
        if number == self._steps[0]:
            jax.profiler.start_trace(self._folder)
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            results = step(*arguments)
        if number == self._steps[-1]:
            jax.block_until_ready(results)  # else the device is still at it
            self._stop()
        return results

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
