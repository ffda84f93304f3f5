"""Train the video teacher that ships with the package, in two commands.

    python -m experiments.train_teacher --out out/teacher
    python -m experiments.train_teacher --out out/teacher2 --start out/teacher/video_dit.npz

Each makes clips of talking faces (synthetic speech, random people, the procedural teacher's
motion), teaches the ears by themselves, trains the transformer by flow matching, measures the clips
that it draws for held-out people and voices, and writes the weights. The second goes on from the
weights of the first. A run that was interrupted goes on where it was.
"""

import argparse
import json
import os
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs.teacher import Config, get_config
from experiments.loop_options import add_loop_options, with_loop_options
from experiments.teacher_report import draw_sheet, measure
from jaxavatar import drive
from jaxavatar.cli.common import keep_compiled_code
from jaxavatar.data.clips import make_clips
from jaxavatar.data.people import random_actor
from jaxavatar.data.talking_heads import Talk, make_talk, stack_avatars
from jaxavatar.files import replacing
from jaxavatar.teachers.video_dit import VideoDiTTeacher, load_params, save_params
from jaxavatar.training import loop, sharding
from jaxavatar.training.ears import teach_ears
from jaxavatar.training.state import TrainState, make_optimiser
from jaxavatar.training.video_dit import initial_state, make_flow_step


def main() -> None:
    """Parse, train, measure, save."""
    parser = argparse.ArgumentParser(description="Train the video teacher.")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/teacher"))
    parser.add_argument("--start", type=pathlib.Path, help="weights to train further")
    add_loop_options(parser)
    parser.add_argument("--mesh", default="", metavar="AXIS=N,...", help=sharding.MESH_HELP)
    arguments = parser.parse_args()
    config = get_config(further=arguments.start is not None)
    config = with_loop_options(config, arguments)
    keep_compiled_code()
    mesh = sharding.make_mesh(config=sharding.parse_mesh(arguments.mesh))
    run(config, arguments.out, mesh, arguments.start)


def run(
    config: Config,
    out: pathlib.Path,
    mesh: jax.sharding.Mesh,
    start: pathlib.Path | None = None,
) -> dict:
    """Train one configuration in the folder `out`; return the held-out report.

    Args:
        config: everything that the training depends on.
        out: folder of clips, checkpoints, weights and report.
        mesh: devices to train on.
        start: weights to start from, of the same model; None starts at random.
    """
    listener = drive.load_listener()
    clips = make_clips(out / "clips_train.npz", config.train_clips, config.train_voices, listener)
    held_out = make_clips(
        out / "clips_held_out.npz", config.held_out_clips, config.held_out_voices, listener
    )
    cast = stack_avatars([random_actor(seed, config.gaussians) for seed in config.train_people])
    strangers = [random_actor(seed, config.gaussians) for seed in config.held_out_people]

    teacher = VideoDiTTeacher(config.model)
    optimiser = make_optimiser(config.optimiser)
    if start is None:
        state = initial_state(config.model, optimiser, jax.random.key(config.seed))
    else:
        params, _ = load_params(start)
        state = TrainState(params, optimiser.init(params), jnp.zeros((), jnp.int32))
    state.params["dit"]["ears"], lessons = teach_ears(
        config.ears, config.model, state.params["dit"]["ears"], clips
    )
    layout = sharding.by_rules(state, mesh)
    state = sharding.place(state, layout)
    step = sharding.compile_step(make_flow_step(teacher, config.flow, optimiser), mesh, layout)
    example = make_talk(config.talk, config.seed + 1, 0, held_out, stack_avatars(strangers))

    def batch_of(number: int) -> Talk:
        talk = make_talk(config.talk, config.seed, number, clips, cast)
        return sharding.place(talk, sharding.by_clip(mesh))

    started = time.monotonic()
    state = loop.train(
        config.loop,
        step,
        state,
        batch_of,
        out,
        lambda state: draw_sheet(teacher, state.params, example),
    )
    minutes = (time.monotonic() - started) / 60
    save_params(out / "video_dit.npz", state.params, config.model)
    report = {
        "ears_loss": [round(float(np.mean(part)), 4) for part in np.array_split(lessons, 10)],
        "steps": int(state.step),
        "minutes_of_this_run": round(minutes, 1),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__}",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "held_out": measure(teacher, state.params, config.talk, clips, held_out, strangers),
    }
    with replacing(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return report


if __name__ == "__main__":
    main()
