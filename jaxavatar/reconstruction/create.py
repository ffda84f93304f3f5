"""Photo to avatar, by one of three methods.

All begin alike: the body is fitted, Gaussians are placed and painted (`start`). "optimise" polishes
them on the photo. "regress" lets the transformer change them in one pass, the unseen sides above
all. "regress+finetune" adapts the transformer's decoder to the person and then polishes, in fewer
steps.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.reconstruction.finetune import finetune
from jaxavatar.reconstruction.optimise import Target, optimise, psnr_inside, render_photo
from jaxavatar.reconstruction.place import DEFAULT_BUDGET, Budget
from jaxavatar.reconstruction.query import template_queries
from jaxavatar.reconstruction.regress import Regressor, decode, load_regressor, read_photo
from jaxavatar.reconstruction.start import Start, start
from jaxavatar.structs import Avatar, Findings

Method = Literal["optimise", "regress", "regress+finetune"]
STEPS: dict[Method, int] = {"optimise": 200, "regress": 0, "regress+finetune": 50}
"""Steps of the polish by default."""

_decode = jax.jit(decode, static_argnums=0)


@dataclasses.dataclass(frozen=True)
class Creation:
    """A new avatar with what should be said about it.

    Attributes:
        avatar: the result.
        report: plain numbers and sentences, for JSON.
        target: the photo the avatar was fitted to, for comparing.
    """

    avatar: Avatar
    report: dict[str, Any]
    target: Target


def create_avatar(
    image: Float[np.ndarray, "H W 3"],
    findings: Findings,
    *,
    method: Method = "regress+finetune",
    regressor: Regressor | None = None,
    steps: int | None = None,
    seed: int = 0,
    budget: Budget = DEFAULT_BUDGET,
    progress: Callable[[int, int, dict[str, float]], None] = lambda *_: None,
) -> Creation:
    """Make an avatar of the person in a photo.

    Args:
        image: the photo, [0, 1].
        findings: from `perception.perceive` on this photo.
        method: see the module.
        regressor: the transformer; None loads the packaged one, where the method needs it.
        steps: of the polish; None takes the method's own number, and "regress" takes none.
        seed: for the choice of points.
        budget: how many Gaussians; a transformer without placed points has its own number.
        progress: called with (steps done, steps, {"psnr": ...}).

    Raises:
        InputError: the transformer's weights cannot be read.
    """
    steps = STEPS[method] if steps is None or method == "regress" else steps
    where = budget
    if method != "optimise":
        regressor = load_regressor() if regressor is None else regressor
        if not regressor.config.placed:
            where = template_queries(regressor.config.points)
    started = time.monotonic()
    begun = start(image, findings, where, seed)
    ready = time.monotonic()
    if regressor is None or method == "optimise":
        avatar = optimise(begun.avatar, begun.target, steps, progress)
    else:
        inputs = read_photo(regressor, begun, image, findings)
        if method == "regress":
            avatar = _decode(regressor.config, regressor.params, inputs)
        else:
            avatar = finetune(regressor, inputs, begun.target, steps, progress)
    psnr = float(_psnr(avatar, begun.target))
    done = time.monotonic()
    report = _report(begun, avatar, findings) | {
        "method": method,
        "steps": steps,
        "psnr_inside_matte": psnr,
        "seconds": done - started,
        "seconds_after_placing": done - ready,
    }
    return Creation(avatar=avatar, report=report, target=begun.target)


@jax.jit
def _psnr(avatar: Avatar, target: Target) -> Float[Array, ""]:
    return psnr_inside(render_photo(avatar, target, jnp.ones(3)), target)


def _report(begun: Start, avatar: Avatar, findings: Findings) -> dict[str, Any]:
    pose, hands, face = (float(e) for e in np.asarray(begun.fit.error))
    return {
        "psnr_size": [int(side) for side in begun.target.matte.shape],
        "gaussians": int((np.asarray(avatar.opacities) > 0).sum()),
        "landmark_error_pixels": {"pose": pose, "hands": hands, "face": face},
        "found": {
            "face": findings.face is not None,
            "left_hand": findings.left_hand is not None,
            "right_hand": findings.right_hand is not None,
        },
        "messages": list(findings.messages),
    }
