"""Fit a fixed budget of Gaussians to pictures: `python -m experiments.fit_scene --out out/fit`.

A known scene is rendered from a ring of cameras. As many Gaussians as the budget says start at
random and are fitted to six of the views by Adam, twice from the same start: plainly, and with the
relocation, the noise and the prices on opacity and scale of 3DGS as MCMC (`pallas_splat.densify`).
Other views judge. Writes `fit.json` and `fit.png`: target, plain and densified pictures of held-out
views, and below them the training loss (logarithmic; grey is plain, red is densified).

Relocation helps once Gaussians in empty space have died. So backgrounds change at every step, or
they would turn dark instead, and the opacities' rate is high: with 0.05 none dies in 400 steps.
"""

import argparse
import functools
import json
import math
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pallas_splat import Camera, Config, Gaussians, render, workloads
from pallas_splat.densify import perturb, relocate, reset_rows
from PIL import Image, ImageDraw

SIZE, VIEWS, HELD_OUT = 128, 6, 5
TRUE_COUNT, BUDGET = 3000, 800  # Gaussians
CENTRE, DISTANCE = np.array([0.0, 0.0, 4.0]), 4.5  # of the scene; of the cameras from it
RATES = {"means": 5e-3, "quats": 1e-2, "scales": 1e-2, "opacities": 0.2, "colors": 2e-2}
FINAL_RATE = 0.1  # all rates fall exponentially to this share
RELOCATE_EVERY, RELOCATE_UNTIL = 25, 0.8  # steps; share of all steps
NOISE = 2e2  # times the means' rate
PRICE = 1e-3  # of mean opacity and of mean scale
ROOM = Config(capacity=2**18)  # for engines with a list of intersections


def main(arguments: list[str] | None = None) -> None:
    """Fit twice, compare, write."""
    parser = argparse.ArgumentParser(description="Fit Gaussians to pictures, in two ways.")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/fit"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    truth = workloads.cast(workloads.clustered(TRUE_COUNT, SIZE)[0], jnp.float32)
    cameras, held_out = ring(VIEWS, 0.0), ring(HELD_OUT, 0.5 / VIEWS)
    targets = views(truth, cameras, 0.0), views(truth, cameras)

    report: dict[str, Any] = {"steps": options.steps, "budget": BUDGET}
    curves, pictures = [], [views(truth, held_out)]
    for name, densify in (("plain", False), ("densified", True)):
        params, losses, moved = fit(name, cameras, targets, options, densify)
        pictures.append(views(decode(params), held_out))
        report[name] = {
            "psnr_training": round(psnr(views(decode(params), cameras), targets[1]), 2),
            "psnr_held_out": round(psnr(pictures[-1], pictures[0]), 2),
            "relocated": moved,
        }
        print(f"{name}: {report[name]}", flush=True)
        curves.append(losses)
    (options.out / "fit.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(pictures, curves).save(options.out / "fit.png")
    print(f"written to {options.out}")


def ring(count: int, phase: float) -> Camera:
    """Return cameras around the scene; leaves have a leading axis."""
    angles = 2 * np.pi * (np.arange(count) / count + phase)
    viewmats = np.tile(np.eye(4), (count, 1, 1))
    for view, angle in zip(viewmats, angles, strict=True):
        cos, sin = np.cos(angle), np.sin(angle)
        view[:3, :3] = [[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]]
        view[:3, 3] = np.array([0, 0, DISTANCE]) - view[:3, :3] @ CENTRE
    intrinsics = np.array([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1]])
    K = jnp.tile(jnp.float32(intrinsics), (count, 1, 1))
    return Camera(jnp.float32(viewmats), K, SIZE, SIZE)


@functools.partial(jax.jit, static_argnames="background")
def views(gaussians: Gaussians, cameras: Camera, background: float = 1.0):
    """Render every camera's picture, by default before white, which shows stray Gaussians."""
    return jax.lax.map(lambda camera: picture(gaussians, camera, jnp.full(3, background)), cameras)


def picture(gaussians: Gaussians, camera: Camera, background):
    """Render one picture."""
    return render(gaussians, camera, background=background, config=ROOM).image


def initial(key) -> dict[str, Any]:
    """Scatter grey Gaussians in the box that the scene is in."""
    means = jax.random.uniform(key, (BUDGET, 3), minval=-1.0) * jnp.array([1.5, 1.2, 2.5])
    return {
        "means": means + CENTRE,
        "quats": jnp.tile(jnp.array([1.0, 0, 0, 0]), (BUDGET, 1)),
        "scales": jnp.full((BUDGET, 3), math.log(0.1)),
        "opacities": jnp.full(BUDGET, -2.0),
        "colors": jnp.full((BUDGET, 3), 0.5),
    }


def decode(params: dict[str, Any]) -> Gaussians:
    """Turn what is optimised into Gaussians: log scales, logits of opacities."""
    scales, opacities = jnp.exp(params["scales"]), jax.nn.sigmoid(params["opacities"])
    return Gaussians(**params | {"scales": scales, "opacities": opacities})


def encode(gaussians: Gaussians) -> dict[str, Any]:
    """Undo `decode`."""
    params = {name: getattr(gaussians, name) for name in RATES}
    opacities = jax.scipy.special.logit(gaussians.opacities)
    return params | {"scales": jnp.log(gaussians.scales), "opacities": opacities}


def fit(name: str, cameras: Camera, targets, options, densify: bool):
    """Optimise from the common start; return parameters, losses and how many Gaussians moved."""
    rates = {n: optax.exponential_decay(r, options.steps, FINAL_RATE) for n, r in RATES.items()}
    adams: Any = {name: optax.adam(rate, eps=1e-15) for name, rate in rates.items()}
    optimiser = optax.multi_transform(adams, {name: name for name in RATES})

    @jax.jit
    def step(params, state, index, key):
        keys = jax.random.split(key, 3)
        pick = jax.random.randint(keys[0], (), 0, VIEWS)
        camera = jax.tree.map(lambda leaf: leaf[pick], cameras)
        background = jax.random.uniform(keys[1], (3,))
        dark, light = (images[pick] for images in targets)
        wanted = dark + (light - dark) * background

        def loss(params):
            gaussians = decode(params)
            error = jnp.mean(jnp.abs(picture(gaussians, camera, background) - wanted))
            price = jnp.mean(gaussians.opacities) + jnp.mean(gaussians.scales)
            return error + (PRICE * price if densify else 0), error

        (_, error), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimiser.update(gradients, state, params)
        stepped: Any = optax.apply_updates(params, updates)
        if densify:
            strength = jnp.asarray(NOISE * rates["means"](index))
            stepped = stepped | {"means": perturb(keys[2], decode(stepped), strength).means}
        return stepped, state, error

    @jax.jit
    def revive(params, state, key):
        result = relocate(key, decode(params))
        params = encode(result.gaussians)
        state = reset_rows(state, optimiser.init(params), result.changed)
        return params, state, jnp.sum(result.moved)

    key, start = jax.random.key(options.seed), time.monotonic()
    params = initial(key)
    state, losses, moved = optimiser.init(params), [], 0
    for index in range(options.steps):
        params, state, error = step(params, state, index, jax.random.fold_in(key, index))
        losses.append(float(error))
        due = densify and (index + 1) % RELOCATE_EVERY == 0
        if due and index < RELOCATE_UNTIL * options.steps:
            params, state, count = revive(
                params, state, jax.random.fold_in(key, options.steps + index)
            )
            moved += int(count)
        if (index + 1) % 50 == 0:
            left = (time.monotonic() - start) / (index + 1) * (options.steps - index - 1)
            mean = np.mean(losses[-50:])
            print(f"{name}: step {index + 1}, loss {mean:.4f}, {left:.0f} s left", flush=True)
    return params, losses, moved


def psnr(pictures, targets) -> float:
    """Peak signal to noise ratio over all pictures, dB."""
    return float(-10 * np.log10(np.mean(np.square(np.clip(pictures, 0, 1) - targets))))


def draw(pictures, curves) -> Image.Image:
    """Compose the sheet."""
    rows = [np.concatenate([np.clip(picture, 0, 1) for picture in row], 1) for row in pictures]
    top = np.round(255 * np.concatenate(rows)).astype(np.uint8)
    width, height = HELD_OUT * SIZE, (len(rows) + 1) * SIZE
    sheet = Image.new("RGB", (width, height), "white")
    sheet.paste(Image.fromarray(top))
    pen = ImageDraw.Draw(sheet)
    for row, label in enumerate(("target", "plain", "densified", "loss")):
        pen.text((3, row * SIZE), label, fill="black")
    smooth = [np.convolve(np.log(curve), np.ones(VIEWS) / VIEWS, "valid") for curve in curves]
    low, high = min(c.min() for c in smooth), max(c.max() for c in smooth)
    for curve, colour in zip(smooth, ("grey", "red"), strict=True):
        x = np.linspace(0, width - 1, len(curve))
        y = height - 4 - (curve - low) / (high - low) * (SIZE - 8)
        pen.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=colour, width=2)
    return sheet


if __name__ == "__main__":
    main()
