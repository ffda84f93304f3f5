"""From a photo to everything the body fit needs: landmarks and matte of one person."""

import numpy as np
from jaxtyping import Float

from jaxavatar.errors import InputError
from jaxavatar.perception import face, hands, matting, pose
from jaxavatar.structs import Findings

LEAST_SIDE = 64


def perceive(image: Float[np.ndarray, "H W 3"]) -> Findings:
    """Find the largest person in a photo: body, face and hand landmarks, and the matte.

    Runs on the host around compiled networks; the first call compiles them (see `networks`).

    Args:
        image: in [0, 1], at least 64 pixels on each side.

    Returns:
        The findings, in photo pixels. A face or hand that the networks are not sure of is None,
        and `messages` says so.

    Raises:
        InputError: nobody was found, or the photo is too small.
    """
    image = np.asarray(image, np.float32)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image of shape {image.shape}, expected [H, W, 3]")
    height, width = image.shape[:2]
    if min(height, width) < LEAST_SIDE:
        raise InputError(
            f"the photo has only {width}x{height} pixels; use one with at least {LEAST_SIDE} on"
            " each side"
        )
    people = pose.find(image)
    if not people:
        raise InputError(
            "no person found in the photo; use a photo that shows one person from the front, at"
            " least from the head to the waist"
        )
    person, *others = people
    landmarks = person.landmarks
    found_face = face.find(image, landmarks)
    left, right = hands.find(image, landmarks)
    messages = []
    if others:
        messages.append(
            f"the photo shows {len(people)} people, the largest is taken; crop the photo to one"
            " person for a clean outline"
        )
    if found_face is None:
        messages.append(
            "no face shows in the photo (turned away, covered or too dark); use a photo that looks"
            " into the camera for a face that resembles the person"
        )
    for hand, side in ((left, "left"), (right, "right")):
        if hand is None:
            messages.append(f"the person's {side} hand does not show clearly in the photo")
    return Findings(
        pose=landmarks,
        face=found_face,
        left_hand=left,
        right_hand=right,
        matte=matting.find(image, person, face.head_box(landmarks), others),
        messages=tuple(messages),
    )
