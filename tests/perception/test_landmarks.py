import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.perception import crops, detect, face, hands, pose
from jaxavatar.structs import HandLandmarks, PoseLandmarks

FACE = crops.box(223, 115, 180)  # in the astronaut photo


def body(left_wrist, right_wrist):
    points = np.zeros((33, 2), np.float32)
    points[[11, 12]] = [[60, 0], [-60, 0]]
    points[[13, 14]] = [[70, 50], [-70, 50]]
    points[[15, 16]] = [left_wrist, right_wrist]
    return PoseLandmarks(points, np.zeros(33), np.ones(33), 1.0)


def hand(wrist, score=1.0, size=20.0):
    offsets = np.stack([np.linspace(0, size, 21), np.linspace(0, -size, 21)], -1)
    return HandLandmarks((wrist + offsets).astype(np.float32), np.zeros(21), score)


def test_suppression_averages_overlapping_boxes_by_score():
    def at(x, y):
        return [[x, y], [10, 10], [x + 1, y + 1]]

    points = np.array([at(0, 0), at(50, 50), at(2, 0), at(9, 9)], float)
    scores = np.array([0.9, 0.8, 0.6, 0.55])
    groups = detect.suppress(scores, points)
    assert [round(score, 2) for score, _ in groups] == [0.9, 0.8, 0.55]
    np.testing.assert_allclose(groups[0][1][0], [(0.9 * 0 + 0.6 * 2) / 1.5, 0])
    np.testing.assert_allclose(groups[1][1], points[1])


def test_heat_map_refinement_matches_a_plain_loop():
    generator = np.random.default_rng(0)
    points = generator.uniform(-20, 270, (39, 2)).astype(np.float32)
    heat = generator.uniform(0, 0.6, (64, 64, 39)).astype(np.float32)
    heat[..., ::3] *= 0.5  # too cold to move a point
    expected = points.copy()
    for k, (x, y) in enumerate(np.floor(points / 4).astype(int)):
        if not (0 <= x < 64 and 0 <= y < 64):
            continue
        rows = slice(max(0, y - 3), y + 4)
        columns = slice(max(0, x - 3), x + 4)
        patch = heat[rows, columns, k].astype(np.float64)
        if patch.max() >= 0.5:
            at = np.mgrid[:64, :64][:, rows, columns]
            expected[k] = 4 * (at * patch).sum((1, 2))[::-1] / patch.sum()
    refined = jax.jit(pose.refine)(points, heat)
    np.testing.assert_allclose(refined, expected, atol=1e-3)
    assert not np.allclose(expected, points)


def test_hands_go_to_the_nearer_wrists():
    left, right = hand((50, 90)), hand((-55, 95), score=0.9)
    assert hands.assign([right, left], body((52, 90), (-52, 90))) == (left, right)
    # Crossed arms: nearness decides, not the side of the picture.
    assert hands.assign([right, left], body((-52, 90), (52, 90))) == (right, left)


def test_clasped_hands_are_shared_out_for_the_least_distance():
    one, other = hand((4, 90)), hand((-4, 90), size=-20)
    assert hands.assign([one, other], body((0, 90), (-8, 90))) == (one, other)


def test_far_hands_and_repeated_hands_are_not_used():
    left, again = hand((50, 90)), hand((51, 90), score=0.8)
    stranger = hand((200, 0))
    assert hands.assign([again, stranger, left], body((52, 90), (30, 90))) == (left, None)
    assert hands.assign([], body((52, 90), (-52, 90))) == (None, None)


def test_attention_mesh_agrees_with_the_plain_mesh(network, astronaut):
    """The plain graph is checked against the interpreter; both know the same 468 points."""
    crop = crops.cut(astronaut, FACE, face.SIZE)
    points, score = jax.jit(face.landmarks_in_crop)(network("face-landmark-attention"), crop)
    plain = jax.jit(lambda net, x: net(x))(network("face-landmark"), crop)
    expected = np.asarray(plain[0]).reshape(468, 3)
    apart = np.linalg.norm(points[:468, :2] - expected[:, :2], axis=1)
    assert score > 0.9
    assert apart.mean() < 2 and apart.max() < 10  # of 192; the attention graph is the finer one
    depth = np.corrcoef(points[:468, 2], expected[:, 2])[0, 1]
    assert depth > 0.95


def test_irises_lie_inside_their_eyes(network, astronaut):
    crop = crops.cut(astronaut, FACE, face.SIZE)
    points, _ = jax.jit(face.landmarks_in_crop)(network("face-landmark-attention"), crop)
    for center, contour in zip((468, 473), face.CONTOURS, strict=True):
        low, high = points[np.array(contour)].min(0), points[np.array(contour)].max(0)
        assert np.all(points[center, :2] > low[:2]) and np.all(points[center, :2] < high[:2])


@pytest.mark.parametrize("cover", [0.1, 0.4, 0.8])
def test_a_covered_face_is_not_found(cover, network, astronaut):
    """Hair, ears and collar stay in sight, which fools the attention graph's own score."""
    for name in ("pose-landmark", "pose-detection", "face-landmark", "face-landmark-attention"):
        network(name)
    (person,) = pose.find(astronaut)
    seen = face.find(astronaut, person.landmarks)
    assert seen is not None and seen.score > 0.99
    covered = astronaut.copy()
    (left, top), (right, bottom) = seen.points.min(0).astype(int), seen.points.max(0).astype(int)
    covered[top:bottom, left:right] = cover
    assert face.find(covered, person.landmarks) is None


def test_face_landmarks_follow_the_image_through_gradients(network, astronaut):
    """Descending the gradient of a lip's height through crop and network must lower it."""
    net = network("face-landmark-attention")
    image = jnp.asarray(astronaut[:256, 100:356])
    place = crops.box(123, 115, 180)

    def height(pixels):
        points, _ = face.landmarks_in_crop(net, crops.crop(pixels, place, face.SIZE))
        return points[13, 1] - points[14, 1]  # upper against lower lip, crop pixels

    value_and_grad = jax.jit(jax.value_and_grad(height))
    value, slope = value_and_grad(image)
    norm = float(jnp.linalg.norm(slope))
    assert np.isfinite(norm) and norm > 0
    # To first order, a step of length 0.01 along the gradient lowers the value by 0.01 * norm.
    moved, _ = value_and_grad(image - 0.01 / norm * slope)
    assert moved - value == pytest.approx(-0.01 * norm, rel=0.2)
