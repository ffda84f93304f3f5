"""Where the time of a training step goes, and how it grows.

    python -m experiments.benchmarks.step

The step is that of `experiments.configs.small`, on one device, with random speech. Inside one
compiled program no clock can tell stages apart; so each stage is compiled by itself, and what is
not a program of its own is a difference of two. Then the whole step is timed with more Gaussians,
frames, pixels and clips, and powers of them are fitted. Times are the fastest of many calls;
on CPUs the process's CPU seconds, which other work on the machine hardly changes.
Writes `experiments/results/step_cpu.json`; what that file holds is not measured again.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.apart import ROOT, machine
from experiments.configs.small import get_config
from jaxavatar import animate
from jaxavatar.cli.common import keep_compiled_code
from jaxavatar.data.clips import Clip
from jaxavatar.data.people import random_person
from jaxavatar.deformer import Driver
from jaxavatar.structs import BodyPose, Phone
from jaxavatar.training import compile_step, create_state, make_optimiser, make_train_step
from jaxavatar.training.batches import clip_drive, make_batch, make_cast
from jaxavatar.training.step import Batch, hear, loss

RESULT = ROOT / "experiments/results/step_cpu.json"
CALLS, SECONDS = 8, 5.0  # at least so many, for at least so long
BASE = {"gaussians": 3000, "frames": 40, "side": 96, "clips": 4}
TIMES = (1, 2, 4)
"""How many times as many Gaussians, frames (with as many more rendered), pixels, clips."""


class Case:
    """A training of random people who move to random speech.

    Args:
        gaussians: of each person.
        frames: T; one of 40 is rendered.
        side: of the pictures, pixels.
        clips: B.
    """

    def __init__(self, gaussians: int, frames: int, side: int, clips: int):
        config = get_config()
        more = gaussians / sum(config.gaussians)
        face, hand, rest = (round(more * count) for count in config.gaussians)
        people = [random_person(seed, (face, hand, rest)) for seed in (0, 1)]
        self.clips = [_clip(seed, frames) for seed in range(4)]
        self.config = dataclasses.replace(
            config.batch, clips=clips, frames=frames, rendered=max(1, frames // 40), side=side
        )
        self.cast = make_cast(people, self.config.neighbours)
        self.step_config = config.step
        self.driver = Driver(config.driver)
        self.optimiser = make_optimiser(config.optimiser)
        drive = clip_drive(self.clips[0])
        key = jax.random.key(0)
        self.state = create_state(self.driver, self.optimiser, key, people[0], drive)
        self.batch = self.batch_of(0)

    def batch_of(self, number: int) -> Batch:
        """Make the batch of a step, which renders the teacher's pictures too."""
        return make_batch(self.config, 0, number, self.clips, self.cast)

    def time_step(self) -> float:
        """Return seconds per step."""
        step = compile_step(make_train_step(self.step_config, self.driver, self.optimiser))
        copy = jax.tree.map(jnp.copy, self.state)
        carried = [step(copy, self.batch)[0]]

        def call() -> Any:
            carried[0], metrics = step(carried[0], self.batch)
            return carried[0], metrics

        return fastest(call)

    def time_stages(self) -> dict[str, float]:
        """Return seconds per step of each stage."""
        keys = jax.random.split(jax.random.key(0), self.config.clips)
        value = functools.partial(loss, self.step_config, self.driver, None)
        blind = dataclasses.replace(self.batch, images=None, masks=None)
        params, batch = self.state.params, self.batch

        def splat(posed: Any) -> jax.Array:
            def one(clip: tuple) -> jax.Array:
                return animate.render_frames(*clip).images

            return jnp.sum(jax.lax.map(one, (posed, batch.camera, batch.background)) ** 2)

        def update(gradients: Any) -> Any:
            updates, memory = self.optimiser.update(gradients, self.state.opt_state, params)
            return optax.apply_updates(params, updates), memory

        posed = jax.jit(self._posed)()
        networks = _time(lambda p: value(p, blind, keys)[0], params)
        forward = _time(lambda p: value(p, batch, keys)[0], params)
        both = _time(jax.grad(lambda p: value(p, batch, keys)[0]), params)
        splatted, both_splatted = _time(splat, posed), _time(jax.grad(splat), posed)
        optimised = _time(update, params)
        step = self.time_step()
        return {
            "data": fastest(lambda: self.batch_of(1)),
            "step": step,
            "forward_motion": networks,
            "forward_pictures": forward - networks,
            "forward_splat": splatted,
            "backward": both - forward,
            "backward_splat": both_splatted - splatted,
            "optimiser": optimised,
            "outside_splat_share": 1 - both_splatted / step,
        }

    def _posed(self) -> Any:
        """Return the Gaussians that a step renders."""

        def one(clip: Batch) -> Any:
            code, motion = hear(self.driver, self.state.params, clip)
            shown = motion.frames(clip.frames)
            args = self.driver, self.state.params, clip.avatar, code, shown
            return animate.deform_frames(*args).gaussians

        return jax.lax.map(one, self.batch)


def _time(function: Callable[..., Any], *arguments: Any) -> float:
    compiled = jax.jit(function)
    return fastest(lambda: compiled(*arguments))


def fastest(call: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of many calls, after one that compiles."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    jax.block_until_ready(call())
    seconds = []
    while len(seconds) < CALLS or sum(seconds) < SECONDS:
        start = clock()
        jax.block_until_ready(call())
        seconds.append(clock() - start)
    return min(seconds)


def _clip(seed: int, frames: int) -> Clip:
    """Return random speech, and motion of a size that occurs."""
    rng = np.random.default_rng(seed)

    def noise(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(frames, *shape)), jnp.float32)

    motion = BodyPose(0.02 * noise(55, 3), 0.001 * noise(3), jnp.abs(0.2 * noise(52)))
    text, mask = np.zeros((8, 384), np.float32), np.zeros(8, bool)
    phones = (Phone("P", 0.2, 0.3), Phone("AA", 0.3, 0.5))
    return Clip(np.asarray(noise(768)), text, mask, motion, 0, phones, "")


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Fit the step's time by a power of each size; of pixels, their number."""
    found = {}
    for name in BASE:
        points = [
            (row[name] ** (2 if name == "side" else 1), row["step_s"])
            for row in rows
            if all(row[other] == BASE[other] for other in BASE if other != name)
        ]
        if len(points) > 2:
            sizes, seconds = np.log(points).T
            found[name] = round(float(np.polyfit(sizes, seconds, 1)[0]), 3)
    return found


def cases() -> list[dict[str, int]]:
    """Return the base, and each of its sizes grown."""
    found = [BASE]
    for name in BASE:
        for times in TIMES[1:]:
            grown = round(BASE[name] * (times**0.5 if name == "side" else times))
            found.append(BASE | {name: grown})
    return found


def main() -> None:
    """Time the stages, then the step in every case; print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=pathlib.Path, default=RESULT)
    out = parser.parse_args().out
    keep_compiled_code()
    result = json.loads(out.read_text()) if out.exists() else {"machine": machine(), "rows": []}
    if "stages_s" not in result:
        stages = Case(**BASE).time_stages()
        result["stages_s"] = {name: float(f"{value:.3g}") for name, value in stages.items()}
        print(json.dumps(result["stages_s"]), flush=True)
    rows = result["rows"]
    for case in cases():
        if any(case.items() <= row.items() for row in rows):
            continue
        rows.append(case | {"step_s": float(f"{Case(**case).time_step():.3g}")})
        print(json.dumps(rows[-1]), flush=True)
        result["exponents"] = growth(rows)
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
