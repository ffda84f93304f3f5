"""Photo to avatar: fit, place, paint, polish."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxavatar.reconstruction.optimise import Target, optimise, psnr_inside, render_photo
from jaxavatar.reconstruction.place import DEFAULT_BUDGET, Budget
from jaxavatar.reconstruction.start import start
from jaxavatar.structs import Avatar, Findings


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
    steps: int = 200,
    seed: int = 0,
    budget: Budget = DEFAULT_BUDGET,
    progress: Callable[[int, int, dict[str, float]], None] = lambda *_: None,
) -> Creation:
    """Make an avatar of the person in a photo.

    Args:
        image: the photo, [0, 1].
        findings: from `perception.perceive` on this photo.
        steps: of the optimisation.
        seed: for the choice of points.
        budget: how many Gaussians.
        progress: called with (steps done, steps, {"psnr": ...}).
    """
    started = time.monotonic()
    begun = start(image, findings, budget, seed)
    fit, target = begun.fit, begun.target
    avatar = optimise(begun.avatar, target, steps, progress)
    shown = render_photo(avatar, target, jnp.ones(3))
    pose, hands, face_error = (float(e) for e in fit.error)
    report = {
        "psnr_inside_matte": float(psnr_inside(shown, target)),
        "psnr_size": [int(s) for s in target.matte.shape],
        "gaussians": int((np.asarray(avatar.opacities) > 0).sum()),
        "landmark_error_pixels": {"pose": pose, "hands": hands, "face": face_error},
        "found": {
            "face": findings.face is not None,
            "left_hand": findings.left_hand is not None,
            "right_hand": findings.right_hand is not None,
        },
        "messages": list(findings.messages),
        "seconds": time.monotonic() - started,
    }
    return Creation(avatar=avatar, report=report, target=target)
