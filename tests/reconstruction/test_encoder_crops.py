"""What the encoders look at: person, head and hands, in the right place and size."""

import dataclasses

import numpy as np
import pytest

from jaxavatar.reconstruction.crops import make_crops
from jaxavatar.reconstruction.transformer.config import DinoConfig, TransformerConfig, VitConfig
from jaxavatar.structs import FaceLandmarks, Findings, HandLandmarks, PoseLandmarks

HEIGHT, WIDTH = 120, 160
CONFIG = TransformerConfig(
    body=VitConfig((80, 48), 16, 0, 8, 1, 2),
    head=DinoConfig(28, 14, 8, 1, 2, 1, 3, (0,)),
    hand=VitConfig((24, 16), 8, 0, 8, 1, 2),
    hand_branch=True,
)
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def around(centre, width, height, count):
    """Landmarks whose box has a centre, a width and a height."""
    points = np.tile(np.asarray(centre, float), (count, 1))
    points[0] += [-width / 2, -height / 2]
    points[1] += [width / 2, height / 2]
    return points


@pytest.fixture
def photo():
    """A grey wall with a person of 20 by 90 pixels."""
    image, matte = np.full((HEIGHT, WIDTH, 3), 0.4), np.zeros((HEIGHT, WIDTH))
    image[20:110, 70:90], matte[20:110, 70:90] = 0.6, 1.0
    return image, matte


@pytest.fixture
def findings(photo):
    pose = np.zeros((33, 2))
    pose[[7, 8]] = [[70, 40], [90, 40]]
    return Findings(
        pose=PoseLandmarks(pose, np.zeros(33), np.ones(33), 1.0),
        face=FaceLandmarks(around((80, 40), 16, 25, 478), np.zeros(478), 1.0),
        left_hand=HandLandmarks(around((130, 60), 10, 20, 21), np.zeros(21), 1.0),
        right_hand=HandLandmarks(around((30, 60), 10, 20, 21), np.zeros(21), 1.0),
        matte=photo[1],
        messages=(),
    )


def arrays(crops):
    return [np.asarray(c)[0] for c in (crops.body, crops.head, crops.hands, crops.hands_seen)]


def test_sizes_and_ranges(photo, findings):
    crops = make_crops(CONFIG, photo[0], findings)
    assert (crops.body.shape, crops.head.shape) == ((1, 80, 48, 3), (1, 28, 28, 3))
    assert crops.hands is not None and crops.hands.shape == (1, 2, 24, 16, 3)
    for crop in arrays(crops)[:3]:
        assert crop.dtype == np.float32 and crop.min() >= 0 and crop.max() <= 1
    bare = make_crops(dataclasses.replace(CONFIG, hand_branch=False), photo[0], findings)
    assert bare.hands is None and bare.hands_seen is None
    np.testing.assert_array_equal(bare.body, crops.body)


def test_the_left_hand_is_mirrored(photo, findings):
    """Marks on the left of both hands: in the crops one is on the right, the other on the left."""
    image = photo[0]
    image[55:60, 122:126] = RED
    image[55:60, 22:26] = BLUE
    left, right = arrays(make_crops(CONFIG, image, findings))[2]
    marked = [np.abs(hand - 0.4).max(-1) > 0.3 for hand in (left, right)]
    columns = [np.nonzero(mark)[1] for mark in marked]
    assert columns[0].min() > 8 and columns[1].max() < 8
    np.testing.assert_allclose(left[marked[0]].mean(0)[[1, 2]], 0.0, atol=0.15)
    np.testing.assert_allclose(right[marked[1]].mean(0)[[0, 1]], 0.0, atol=0.15)
    np.testing.assert_array_equal(left[:, ::-1][marked[1]][:, 0], right[marked[1]][:, 2])


def test_hands_that_are_not_found_are_white(photo, findings):
    for side, k in (("left_hand", 0), ("right_hand", 1)):
        one = dataclasses.replace(findings, **{side: None})
        _, _, hands, seen = arrays(make_crops(CONFIG, photo[0], one))
        assert seen.tolist() == [k != 0, k != 1]
        assert (hands[k] == 1).all() and hands[1 - k].max() < 0.5


def test_the_head_crop_is_a_square_around_the_face(photo, findings):
    """Twice the root of the face's area is 40 pixels; a tenth of it is added at the top."""
    image = photo[0]
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    image[..., 0], image[..., 1] = x / WIDTH, y / HEIGHT
    head = arrays(make_crops(CONFIG, image, findings))[1]
    expected = (np.arange(28) + 0.5) * 40 / 28
    np.testing.assert_allclose(head[5, :, 0] * WIDTH, 60 + expected, atol=0.6)
    np.testing.assert_allclose(head[:, 9, 1] * HEIGHT, 16 + expected, atol=0.6)


def test_without_a_face_the_ears_tell_where_the_head_is(photo, findings):
    """3.5 times their distance, at least 8 pixels, and rounded outwards to whole pixels."""
    image = photo[0]
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    image[..., 0], image[..., 1] = x / WIDTH, y / HEIGHT
    for ears, centre, side in (
        ([[66, 60], [86, 60]], (76, 60), 70),
        ([[80, 61], [80, 59]], (80, 60), 28),
    ):
        pose = np.zeros((33, 2))
        pose[[7, 8]] = ears
        faceless = dataclasses.replace(
            findings, face=None, pose=dataclasses.replace(findings.pose, points=pose)
        )
        head = arrays(make_crops(CONFIG, image, faceless))[1]
        along = ((np.arange(28) + 0.5) / 28 - 0.5) * side
        np.testing.assert_allclose(head[14, :, 0] * WIDTH, centre[0] + along, atol=1.0)
        np.testing.assert_allclose(head[:, 14, 1] * HEIGHT, centre[1] + along, atol=1.0)


@pytest.mark.parametrize("centre", [(0, 60), (159, 60), (130, 0), (130, 119)])
def test_beyond_the_photo_all_is_white(photo, findings, centre):
    """A hand at each border: half of its crop, 32 by 21 pixels, lies outside."""
    hand = HandLandmarks(around(centre, 10, 20, 21), np.zeros(21), 1.0)
    at_border = dataclasses.replace(findings, right_hand=hand)
    crop = arrays(make_crops(CONFIG, photo[0], at_border))[2][1]
    white = (crop > 0.99).all(-1)
    assert white.mean() == pytest.approx(0.5, abs=0.1)
    np.testing.assert_allclose(crop[~white], 0.4, atol=0.35)
    rows, columns = white.mean(1), white.mean(0)
    x, y = centre
    assert (columns[0] == 1) == (x == 0) and (columns[-1] == 1) == (x == 159)
    assert (rows[0] == 1) == (y == 0) and (rows[-1] == 1) == (y == 119)


def test_a_hand_outside_of_the_photo_is_a_white_crop(photo, findings):
    for centre in ((-90, 60), (300, 60), (80, -70), (80, 400)):
        hand = HandLandmarks(around(centre, 10, 20, 21), np.zeros(21), 1.0)
        outside = dataclasses.replace(findings, left_hand=hand)
        hands = arrays(make_crops(CONFIG, photo[0], outside))[2]
        assert (hands[0] == 1).all()


def test_the_body_fills_its_crop_on_white(photo, findings):
    """The person is 20 by 90, so 5 : 3 leaves white at the sides; the wall does not show."""
    body = arrays(make_crops(CONFIG, photo[0], findings))[0]
    person = np.abs(body - 0.6).max(-1) < 0.02
    white = (body > 0.99).all(-1)
    assert (person | white).mean() > 0.85  # what is left is the border between them
    rows, columns = np.nonzero(person)
    assert np.ptp(rows) + 1 >= 74
    assert columns.min() + columns.max() == pytest.approx(47, abs=4)
    # 5 : 3 of 90 is 54 pixels wide, 48 in the crop.
    assert np.ptp(columns) + 1 == pytest.approx(20 * 80 / 90, abs=3)


def test_a_square_body_encoder_gets_5_to_3_on_white(photo, findings):
    square = dataclasses.replace(CONFIG, body=VitConfig((84, 84), 14, 0, 8, 1, 2))
    body = arrays(make_crops(square, photo[0], findings))[0]
    assert body.shape == (84, 84, 3)
    # The picture's 5 : 3 share of the square lies in the middle.
    margin = int((84 - 84 * 3 / 5) / 2)
    np.testing.assert_allclose(body[:, : margin - 2], 1.0, atol=1e-3)
    np.testing.assert_allclose(body[:, -margin + 2 :], 1.0, atol=1e-3)
    assert np.abs(body[42, 40:44] - 0.6).max() < 0.02


def test_an_empty_matte(photo, findings):
    empty = dataclasses.replace(findings, matte=np.zeros((HEIGHT, WIDTH)))
    with pytest.raises(ValueError, match="the matte is empty"):
        make_crops(CONFIG, photo[0], empty)
