"""Train the transformer: `python -m experiments.train_reconstructor --out out/reconstructor`.

Makes portraits of people who do not exist, trains, measures what the photo does not show on
held-out people, and writes the weights. `--photos DIR` adds real photos, whose avatars are
optimised first. A run that was interrupted goes on where it was.
"""

import argparse
import functools
import json
import multiprocessing
import os
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from experiments.configs.reconstructor import Config, get_config
from experiments.loop_options import add_loop_options, with_loop_options
from jaxavatar import perception, photo
from jaxavatar.cli.common import keep_compiled_code
from jaxavatar.data.portrait_samples import (
    Sample,
    expand,
    load_samples,
    photo_sample,
    portrait_sample,
    save_samples,
    stack,
)
from jaxavatar.files import replacing
from jaxavatar.reconstruction.transformer import Changes, TransformerConfig
from jaxavatar.reconstruction.transformer.params_file import save_params
from jaxavatar.training import loop, sharding
from jaxavatar.training.reconstructor import (
    initial_params,
    make_reconstructor_step,
    regress,
    render_changed,
    true_way,
)
from jaxavatar.training.state import TrainState, make_optimiser

_PART = 20  # samples per file
_SHOWN = 6


def main() -> None:
    """Parse, train, measure, save."""
    parser = argparse.ArgumentParser(description="Train the transformer on portraits.")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/reconstructor"))
    parser.add_argument("--photos", type=pathlib.Path, nargs="*", default=[], metavar="PHOTO")
    add_loop_options(parser)
    parser.add_argument("--mesh", default="", metavar="AXIS=N,...", help=sharding.MESH_HELP)
    arguments = parser.parse_args()
    config = get_config()
    config = with_loop_options(config, arguments)
    keep_compiled_code()
    mesh = sharding.make_mesh(config=sharding.parse_mesh(arguments.mesh))
    run(config, arguments.photos, arguments.out, mesh)


def run(
    config: Config,
    photos: list[pathlib.Path],
    out: pathlib.Path,
    mesh: jax.sharding.Mesh,
) -> dict:
    """Train one configuration in the folder `out`; return the held-out report."""
    train = portraits(config.model, config.train, out / "train")
    held_out = portraits(config.model, config.held_out, out / "held_out")
    real = photo_samples(config.model, photos, train, out / "photos.npz")

    optimiser = make_optimiser(config.optimiser)
    params = initial_params(config.model, jax.random.key(config.seed), train)
    state = TrainState(params, optimiser.init(params), jnp.zeros((), jnp.int32))
    layout = sharding.by_rules(state, mesh)
    state = sharding.place(state, layout)
    made = make_reconstructor_step(config.model, config.loss, optimiser, config.seed, mesh)
    step = sharding.compile_step(made, mesh, layout)

    def batch_of(number: int) -> Sample:
        batch = make_batch(config, number, train, real)
        return sharding.place(batch, sharding.by_clip(mesh))

    def preview(state: TrainState) -> np.ndarray:
        return contact_sheet(config.model, state.params, held_out)

    started = time.monotonic()
    state = loop.train(config.loop, step, state, batch_of, out, preview)
    report = {
        "steps": int(state.step),
        "minutes_of_this_run": round((time.monotonic() - started) / 60, 1),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__}",
        "people": len(config.train),
        "photos": [path.name for path in photos],
        "held_out": measure(config.model, state.params, held_out),
    }
    save_params(out / "tiny.safetensors", state.params["params"], config.model, True, report)
    with replacing(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return report


def portraits(config: TransformerConfig, seeds: range, folder: pathlib.Path) -> Sample:
    """Make the samples of some seeds, on all cores, or read those that were made before."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [seeds[first : first + _PART] for first in range(0, len(seeds), _PART)]
    paths = [folder / f"{part[0]:07d}.npz" for part in parts]
    jobs = [job for job in zip(parts, paths, strict=True) if not job[1].exists()]
    if jobs:
        # Separate processes: the work is mostly NumPy's, on one core each.
        with multiprocessing.get_context("spawn").Pool() as pool:
            made = pool.imap_unordered(functools.partial(_make_part, config), jobs)
            list(tqdm(made, total=len(jobs), unit="part", desc=f"portraits in {folder.name}"))
    like = portrait_sample(config, seeds[0])
    loaded = [load_samples(path, like) for path in paths]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *loaded)


def _make_part(config: TransformerConfig, job: tuple[range, pathlib.Path]) -> None:
    seeds, path = job
    save_samples(path, stack([portrait_sample(config, seed) for seed in seeds]))


def photo_samples(
    config: TransformerConfig, photos: list[pathlib.Path], like: Sample, path: pathlib.Path
) -> Sample | None:
    """Make the samples of real photos, or read those that were made before."""
    if not photos:
        return None
    if not path.exists():
        made = []
        for file in tqdm(photos, unit="photo"):
            image = photo.load_photo(file).image
            made.append(photo_sample(config, image, perception.perceive(image)))
        save_samples(path, stack(made))
    return load_samples(path, like)


def make_batch(config: Config, step: int, people: Sample, photos: Sample | None) -> Sample:
    """Choose the samples of a step: a pure function of seed and step."""
    rng = np.random.default_rng([config.seed, step])
    real = 0 if photos is None else int(rng.binomial(config.batch, config.photo_share))
    chosen = [_rows(people, rng.choice(len(people.means), config.batch - real, replace=False))]
    if photos is not None and real:
        chosen.append(_rows(photos, rng.integers(len(photos.means), size=real)))
    return jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *chosen)


def _rows(samples: Sample, index: np.ndarray) -> Sample:
    return jax.tree.map(lambda leaf: leaf[index], samples)


def untouched(sample: Sample) -> Changes:
    """Return the changes of no model at all: Gaussians as they were placed and painted."""
    return Changes(
        shift=jnp.zeros_like(sample.means),
        growth=jnp.zeros_like(sample.scales),
        opacity=jnp.zeros_like(sample.opacities),
        colors=sample.photo.colors,
        weights=sample.weights,
    )


@functools.partial(jax.jit, static_argnums=0)
def _shown(
    config: TransformerConfig, params: dict, batch: Sample
) -> Float[Array, "B V 3 side side 3"]:
    """Render each sample's views: the truth, without the model, with it; on white."""
    batch = expand(batch)
    changed = regress(config, params, batch, batch.photo)

    def one(item: tuple) -> Array:
        sample, changes, view = item
        truth = sample.truth.views[view]
        camera = sample.truth.viewmats[view], sample.truth.K[view], jnp.ones(3)
        before, _ = render_changed(sample, untouched(sample), *camera)
        after, _ = render_changed(sample, changes, *camera)
        return jnp.stack([truth[..., :3] + 1 - truth[..., 3:], before, after])

    views = jnp.arange(batch.truth.views.shape[1])

    def all_views(item: tuple) -> Array:
        return jax.lax.map(lambda view: one((*item, view)), views)

    return jax.lax.map(all_views, (batch, changed))


def contact_sheet(config: TransformerConfig, params: dict, samples: Sample) -> np.ndarray:
    """Show held-out people, one row each: per view the truth, before, and after the model."""
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[:_SHOWN]), samples)
    shown = np.asarray(_shown(config, params, batch))
    people, views, kinds, height, width, _ = shown.shape
    return shown.transpose(0, 3, 1, 2, 4, 5).reshape(people * height, views * kinds * width, 3)


def measure(config: TransformerConfig, params: dict, samples: Sample) -> dict:
    """Return errors of what the photos do not show, without the model ("placed") and with it."""

    @jax.jit
    def errors(batch: Sample) -> dict:
        batch = expand(batch)
        changed = regress(config, params, batch, batch.photo)
        plain = jax.vmap(untouched)(batch)
        hidden = batch.truth.color_known & ~batch.photo.seen
        way = true_way(batch.truth, batch.photo)
        rows = {}
        for name, made in (("placed", plain), ("regressed", changed)):
            color = jnp.abs(made.colors - batch.truth.colors).mean(-1)
            off = 1000 * jnp.abs(jnp.sum(made.shift * batch.photo.rays, axis=-1) - way)
            assert made.weights is not None
            wrong = 0.5 * jnp.abs(made.weights - batch.truth.weights).sum(-1)
            for term, values in (("color", color), ("millimetres", off), ("weights", wrong)):
                rows[f"{name}_{term}"] = (values * hidden).sum(1) / hidden.sum(1)
        return rows

    rows, pictures = [], []
    for first in range(0, len(samples.means), 8):
        batch = jax.tree.map(lambda leaf, k=first: jnp.asarray(leaf[k : k + 8]), samples)
        rows.append(jax.device_get(errors(batch)))
        pictures.append(np.asarray(_shown(config, params, batch)))
    report = {
        name: round(float(np.concatenate([row[name] for row in rows]).mean()), 4)
        for name in rows[0]
    }
    shown = np.concatenate(pictures)
    for name, kind in (("placed", 1), ("regressed", 2)):
        error = ((shown[:, :, kind] - shown[:, :, 0]) ** 2).mean((2, 3, 4))
        report[f"{name}_turned_psnr"] = round(float((-10 * np.log10(error)).mean()), 2)
    return report


if __name__ == "__main__":
    main()
