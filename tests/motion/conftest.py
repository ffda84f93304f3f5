"""Made-up motion, and frames of it as JSON."""

import json

import numpy as np
import pytest


@pytest.fixture(scope="session")
def made_pose():
    """Return random local rotations [T, 55, 3] of a person upright in the camera frame."""

    def make(frames, seed=0):
        rng = np.random.default_rng(seed)
        rotations = 0.3 * rng.normal(size=(frames, 55, 3))
        rotations[:, 0] = [3.0, 0.05, -0.02]
        return rotations

    return make


@pytest.fixture(scope="session")
def as_frames():
    """Return frames as the JSON files of LHM and PERSONA have them, without cameras."""

    def make(rotations, translation):
        return [
            {
                "betas": [0.1] * 10,
                "root_pose": pose[0].tolist(),
                "body_pose": pose[1:22].tolist(),
                "jaw_pose": pose[22].tolist(),
                "leye_pose": pose[23].tolist(),
                "reye_pose": pose[24].tolist(),
                "lhand_pose": pose[25:40].tolist(),
                "rhand_pose": pose[40:].tolist(),
                "trans": place.tolist(),
            }
            for pose, place in zip(rotations, translation, strict=True)
        ]

    return make


@pytest.fixture(scope="session")
def write_frames():
    """Write frames as numbered JSON files into a folder."""

    def write(folder, frames, name="{:05d}.json"):
        folder.mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(frames, start=1):
            (folder / name.format(number)).write_text(json.dumps(frame))

    return write
