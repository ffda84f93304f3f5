"""Compare the methods of `create` on photos: `python -m experiments.reconstruct PHOTO ...`.

Each photo goes through each method twice; the second time, with everything compiled, counts. Writes
`reconstruct.json` (PSNR inside the matte, seconds) and `reconstruct.png`: a row per photo and
method, seen from the front and turned.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxavatar import animate, perception, photo, views
from jaxavatar.export.picture import save_picture
from jaxavatar.files import replacing
from jaxavatar.reconstruction.create import STEPS, Method, create_avatar
from jaxavatar.reconstruction.regress import load_regressor
from jaxavatar.structs import Avatar, BodyPose

_METHODS: tuple[Method, ...] = ("optimise", "regress", "regress+finetune")
_ANGLES = np.deg2rad([0.0, 45.0, 90.0, 180.0, -90.0, -45.0])
_SIDE = 224


def main() -> None:
    """Parse, compare, save."""
    parser = argparse.ArgumentParser(description="Compare the methods of `create` on photos.")
    parser.add_argument("photos", type=pathlib.Path, nargs="+", metavar="PHOTO")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("experiments/results"))
    arguments = parser.parse_args()
    regressor = load_regressor()
    rows, pictures = [], []
    for path in arguments.photos:
        image = photo.load_photo(path).image
        findings = perception.perceive(image)
        for method in _METHODS:
            for _ in range(2):
                creation = create_avatar(image, findings, method=method, regressor=regressor)
            report = creation.report
            row = {
                "photo": path.name,
                "trained_on": path.name in regressor.info.get("photos", []),
                "method": method,
                "psnr": round(report["psnr_inside_matte"], 2),
                "seconds": round(report["seconds"], 2),
                "seconds_after_placing": round(report["seconds_after_placing"], 2),
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
            pictures.append(np.concatenate(list(turned_views(creation.avatar)), axis=1))
    report = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__}",
        "steps": STEPS,
        "medians": [_median(rows, method) for method in _METHODS],
        "rows": rows,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    with replacing(arguments.out / "reconstruct.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    save_picture(arguments.out / "reconstruct.png", np.concatenate(pictures))
    print(json.dumps(report["medians"], indent=1))


def _median(rows: list[dict], method: Method) -> dict:
    chosen = [row for row in rows if row["method"] == method]
    names = ("psnr", "seconds", "seconds_after_placing")
    medians = {name: round(statistics.median(row[name] for row in chosen), 2) for name in names}
    return {"method": method} | medians


def turned_views(avatar: Avatar) -> Float[np.ndarray, "V H W 3"]:
    """Render an avatar at rest from the front and turned, on white."""
    count = len(_ANGLES)
    still = BodyPose(
        rotations=jnp.zeros((count, *avatar.rest.rotations.shape)),
        translation=jnp.zeros((count, 3)),
        expression=jnp.zeros((count, *avatar.rest.expression.shape)),
    )
    posed = jax.jit(animate.pose_avatar)(avatar, still)
    cameras = views.side_cameras(avatar, _SIDE, _ANGLES)
    return np.asarray(jax.jit(animate.render_frames)(posed, cameras, jnp.ones(3)).images)


if __name__ == "__main__":
    main()
