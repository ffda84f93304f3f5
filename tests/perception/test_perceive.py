import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxavatar.errors import InputError
from jaxavatar.perception import perceive

PHOTOS = pathlib.Path(__file__).parents[3] / "shared/data/photos"


@pytest.fixture
def photo(network, astronaut):
    """The astronaut, once it is certain that the networks can be loaded."""
    network("pose-landmark")
    return astronaut


def test_finds_the_astronaut(photo):
    found = perceive(photo)
    assert found.face is not None
    # Read off the enlarged photo by hand: nose, irises (the person's left one is on the right),
    # corners of the mouth, chin.
    # A pixel of the body network is five of the photo's here.
    np.testing.assert_allclose(found.pose.points[0], [223, 127], atol=12)
    marks = {473: (246.5, 103.5), 468: (203, 101.5), 61: (204, 140), 291: (243.5, 141)}
    for index, place in marks.items():
        np.testing.assert_allclose(found.face.points[index], place, atol=2.5)
    np.testing.assert_allclose(found.face.points[152], [223, 178], atol=5)
    assert found.face.depth[1] < found.face.depth[234]  # the nose is nearer than the cheek
    assert found.matte.shape == photo.shape[:2] and found.matte.dtype == np.float32
    assert found.matte.min() >= 0 and found.matte.max() <= 1
    assert found.matte[110, 222] > 0.99 and found.matte[300, 150] > 0.99  # face, suit
    assert found.matte[60, 60] < 0.01 and found.matte[60, 450] < 0.01  # flag, wall
    # Both hands are in gloves: whatever is not found must be said.
    missing = [found.left_hand, found.right_hand].count(None)
    assert sum("hand" in message for message in found.messages) == missing


def test_a_small_person_in_a_large_photo_gives_the_same_face(photo):
    found = perceive(photo)
    wide = np.pad(photo, ((300, 700), (500, 500), (0, 0)), mode="edge")
    again = perceive(wide)
    assert found.face is not None and again.face is not None
    apart = np.linalg.norm(again.face.points - [500, 300] - found.face.points, axis=1)
    assert apart.mean() < 0.01 * np.ptp(found.face.points[:, 0])


def test_unrecognisable_face_is_none_with_a_message(photo):
    pixelated = (photo * 255).astype(np.uint8)
    face = Image.fromarray(pixelated[85:165, 175:275])
    pixelated[85:165, 175:275] = face.resize((3, 3), Image.Resampling.BOX).resize((100, 80))
    found = perceive(pixelated.astype(np.float32) / 255)
    assert found.face is None
    assert any("face" in message for message in found.messages)


@pytest.mark.parametrize("kind", ["black", "noise", "sky"])
def test_nobody_is_an_input_error(kind, photo):
    empty = {
        "black": np.zeros((200, 300, 3), np.float32),
        "noise": np.random.default_rng(0).uniform(size=(300, 200, 3)).astype(np.float32),
        "sky": photo[:180, 400:],
    }[kind]
    with pytest.raises(InputError, match="no person found in the photo"):
        perceive(empty)


def test_too_small_a_photo_is_an_input_error(photo):
    with pytest.raises(InputError, match="20x30"):
        perceive(photo[:30, :20])


def test_of_two_people_the_largest_is_taken_and_told(photo):
    found = perceive(photo)
    small = photo[::2, ::2]
    pair = np.full((512, 900, 3), 0.6, np.float32)
    pair[:, :512], pair[256:, 600:856] = photo, small
    both = perceive(pair)
    assert any("2 people" in message for message in both.messages)
    np.testing.assert_allclose(both.pose.points[0], found.pose.points[0], atol=15)
    assert both.matte[256:, 600:856].mean() < 0.02


def test_left_and_right_hands_are_the_persons_own(network):
    files = [PHOTOS / f"{name}.jpg" for name in ("man_0398", "woman_0163")]
    if not all(file.exists() for file in files):
        pytest.skip("the development photos are not here")
    network("pose-landmark")
    imageio = pytest.importorskip("imageio.v3")
    for file in files:
        found = perceive(imageio.imread(file).astype(np.float32) / 255)
        assert found.left_hand is not None and found.right_hand is not None
        # Both people face the camera: their left hand is on the right of the picture.
        assert found.left_hand.points[:, 0].min() > found.right_hand.points[:, 0].max()
        for hand in (found.left_hand, found.right_hand):
            assert hand.score > 0.9
        assert found.messages == ()
