"""Train the driver: `python -m experiments.train small --out out/train`.

Makes the clips (synthetic speech with timed phones, features, procedural motion), trains, measures
the lips on held-out speakers, sentences and people, and writes the weights. A run that was
interrupted goes on where it was; with the same command it gives the same weights.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import os
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.launch.processes import add_distributed_option, join_processes
from experiments.loop_options import add_loop_options, with_loop_options
from jaxavatar import animate, drive
from jaxavatar.cli.common import keep_compiled_code
from jaxavatar.data.clips import make_clips
from jaxavatar.data.people import random_person
from jaxavatar.deformer import Driver, initial_state, weights_file, whole
from jaxavatar.files import replacing
from jaxavatar.metrics import lips
from jaxavatar.teachers import procedural
from jaxavatar.training import loop, sharding
from jaxavatar.training.batches import clip_drive, make_batch, make_cast, stretch
from jaxavatar.training.state import create_state, make_optimiser
from jaxavatar.training.step import make_train_step


def main() -> None:
    """Parse, train, measure, save."""
    parser = argparse.ArgumentParser(description="Train the driver.")
    parser.add_argument("config", help="a module of experiments.configs, e.g. small")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/train"))
    add_loop_options(parser)
    parser.add_argument("--mesh", default="", metavar="AXIS=N,...", help=sharding.MESH_HELP)
    add_distributed_option(parser)
    arguments = parser.parse_args()
    join_processes(arguments)
    config = importlib.import_module(f"experiments.configs.{arguments.config}").get_config()
    config = with_loop_options(config, arguments)
    keep_compiled_code()
    mesh = sharding.make_mesh(config=sharding.parse_mesh(arguments.mesh))
    run(config, arguments.out, mesh)


def run(config, out: pathlib.Path, mesh: jax.sharding.Mesh) -> dict:
    """Train one configuration in the folder `out`; return the held-out report."""
    listener = drive.load_listener()
    clips = make_clips(out / "clips_train.npz", config.train_clips, config.train_voices, listener)
    held_out = make_clips(
        out / "clips_held_out.npz", config.held_out_clips, config.held_out_voices, listener
    )
    people = [random_person(seed, config.gaussians) for seed in config.train_people]
    cast = make_cast(people, config.batch.neighbours)
    strangers = [random_person(seed, config.gaussians) for seed in config.held_out_people]

    driver = Driver(config.driver)
    optimiser = make_optimiser(config.optimiser)

    def batch_of(step: int):
        batch = make_batch(config.batch, config.seed, step, clips, cast)
        return sharding.place(batch, sharding.by_clip(mesh))

    state = create_state(
        driver, optimiser, jax.random.key(config.seed), people[0], clip_drive(clips[0])
    )
    layout = sharding.by_rules(state, mesh)
    state = sharding.place(state, layout)
    made = make_train_step(config.step, driver, optimiser, mesh=mesh)
    step = sharding.compile_step(made, mesh, layout)
    started = time.monotonic()
    shown = dataclasses.replace(config.batch, rendered=6)
    example = make_batch(shown, config.seed, 0, clips, cast)

    def preview(state):
        return contact_sheet(example.images, _act(driver, state.params, example))

    state = loop.train(config.loop, step, state, batch_of, out, preview)
    minutes = (time.monotonic() - started) / 60

    report = {
        "steps": int(state.step),
        "minutes_of_this_run": round(minutes, 1),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__}",
        "held_out": measure(driver, state.params, held_out, strangers),
        "control_shuffled_audio": measure(driver, state.params, held_out, strangers, shuffle=True),
    }
    weights_file.save_params(out / "driver.npz", state.params, config.driver)
    with replacing(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return report


def contact_sheet(taught, acted) -> np.ndarray:
    """Lay out pictures [B, R, H, W, 3]: for each clip a row of the teacher's above the driver's."""
    rows = np.stack([np.asarray(taught), np.asarray(acted)], axis=1)  # B 2 R H W 3
    clips, kinds, count, height, width, _ = rows.shape
    tiled = rows.transpose(0, 1, 3, 2, 4, 5)
    return tiled.reshape(clips * kinds * height, count * width, 3)


@functools.partial(jax.jit, static_argnums=0)
def _act(driver: Driver, params, batch):
    """Render the chosen frames of every clip of a batch as the driver acts them."""

    def one(clip):
        posed, _ = animate.deform(driver, params, clip.avatar, clip.drive)
        picked = jax.tree.map(lambda leaf: leaf[clip.frames], posed)
        return animate.render_frames(picked, clip.camera, clip.background).images

    return jax.lax.map(one, batch)


def measure(driver: Driver, params, clips, people, shuffle: bool = False) -> dict:
    """Score the lips on clips, each acted by one of `people`.

    Args:
        driver: the network.
        params: its parameters.
        clips: with the teacher's motion.
        people: avatars, taken in turn.
        shuffle: drive each clip by the sound of the next one (a control that must fail).
    """
    length = max(len(clip) for clip in clips)
    predicted, true, phones = [], [], []
    for number, clip in enumerate(clips):
        avatar = people[number % len(people)]
        heard = clips[(number + 1) % len(clips)] if shuffle else clip
        count = min(len(clip), len(heard))
        sound, _, _ = stretch(heard, 0, length)
        _, motion, _ = stretch(clip, 0, length)
        rest, taught, moved = (np.asarray(p) for p in _lips(driver, params, avatar, sound, motion))
        closed = lips.opening(rest)
        predicted.append(np.maximum(lips.opening(moved[:count]) - closed, 0.0))
        true.append(np.maximum(lips.opening(taught[:count]) - closed, 0.0))
        phones.append(clip.phones)
    return dataclasses.asdict(lips.score(predicted, true, phones))


@functools.partial(jax.jit, static_argnums=0)
def _lips(driver: Driver, params, avatar, sound, motion):
    """Return the landmarks at rest, as the teacher moves them and as the driver does."""
    still = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[:1]), motion)
    code = animate.encode(driver, params, avatar)
    state = initial_state(driver.config)
    heard, _ = animate.track(driver, params, code, whole(sound, driver.config.halo), state)
    return (
        procedural.landmarks(avatar, still),
        procedural.landmarks(avatar, motion),
        animate.deform_points(driver, params, avatar, code, heard, avatar.landmarks)[0],
    )


if __name__ == "__main__":
    main()
