"""Keypoints of frames: the places of the crops, what is found there, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.perception import crops, dense, face, hands


@pytest.fixture(scope="module")
def mesh():
    """A made-up upright face and two hands: pixels."""
    rng = np.random.default_rng(0)
    return (
        np.float32(rng.uniform(0.8, 1.2, (2, 478, 2)) * [200, 100]),
        np.float32(rng.uniform(0.8, 1.2, (2, 2, 21, 2)) * [150, 400]),
    )


def test_places_are_those_of_the_host(mesh):
    where = jax.jit(dense.places)(*map(jnp.asarray, mesh))
    for frame in range(2):
        pairs = [(where.face, face.around(mesh[0][frame]), frame)]
        pairs += [(where.hands, hands.around(mesh[1][frame, s]), (frame, s)) for s in range(2)]
        for ours, expected, at in pairs:
            found = jax.tree.map(lambda leaf, at=at: leaf[at], ours)
            np.testing.assert_allclose(found.center, expected.center, rtol=1e-5)
            np.testing.assert_allclose(found.size, expected.size, rtol=1e-5)
            np.testing.assert_allclose(np.cos(found.angle - expected.angle), 1, atol=1e-6)


@pytest.fixture(scope="module")
def small(astronaut):
    """The head of the portrait at 96 pixels, twice."""
    head = crops.cut(astronaut, crops.box(223, 120, 220), 96)
    return np.stack([head, np.roll(head, 3, axis=1)])


def around_head(shift=0.0):
    """Crops of the first frame, whose face lies 3 pixels further right in the second."""
    one = crops.Box(jnp.array([48.0, 48.0]) + shift, jnp.array([84.0, 84.0]), jnp.array(0.0))
    at = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one)
    hand = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf], axis=1), at)
    return dense.Places(at, hand)


@pytest.fixture
def detectors(network):
    return dense.Detectors(
        *(network(name) for name in ("face-landmark-attention", "face-landmark", "hand-landmark"))
    )


def test_a_face_that_moves_takes_its_keypoints_along(detectors, small):
    detect = jax.jit(dense.detect_anew)
    found = detect(detectors, jnp.asarray(small), around_head(4.0))
    assert found.points.shape == (2, dense.COUNT, 2)
    sure = np.asarray(found.weights)
    assert (sure[:, ~dense.IS_HAND] > 0.5).all() and (sure[:, dense.IS_HAND] == 0).all()
    moved = np.asarray(found.points[1] - found.points[0])[~dense.IS_HAND]
    np.testing.assert_allclose(moved, np.tile([3.0, 0.0], (len(moved), 1)), atol=0.7)
    # Where the search begins hardly matters.
    again = detect(detectors, jnp.asarray(small), around_head())
    apart = np.asarray(again.points - found.points)[:, ~dense.IS_HAND]
    assert np.abs(apart).mean() < 0.2


def test_gradients_say_that_keypoints_follow_the_picture(detectors, small):
    """Pixels changed as by a shift of the picture, to first order, shift the keypoints alike."""
    where = jax.tree.map(lambda leaf: leaf[:1], around_head())

    def across(frames):
        found = dense.detect(detectors, frames, where)
        return jnp.mean(found.points[:, ~dense.IS_HAND, 0])

    # Forward mode compiles sooner; `test_landmarks` takes the networks backwards.
    one_pixel_right = jnp.asarray(-np.gradient(small[:1], axis=2))
    push = jax.jit(lambda frames, change: jax.jvp(across, (frames,), (change,))[1])
    assert 0.6 < float(push(jnp.asarray(small[:1]), one_pixel_right)) < 1.4


def test_scores_decide_what_counts(mesh):
    rng = np.random.default_rng(2)
    scores = jnp.array([[0.9, 0.4, 0.7], [0.3, 0.6, 0.2]])
    found = dense._Found(jnp.asarray(mesh[0]), jnp.asarray(mesh[1]), scores)
    weights = np.asarray(dense._chosen(found).weights)
    assert weights.shape == (2, dense.COUNT)
    of_face, left, right = weights[:, 0], weights[:, -42], weights[:, -1]
    np.testing.assert_allclose(np.stack([of_face, left, right], 1), [[0.9, 0, 0.7], [0, 0.6, 0]])
    before = dense.places(*map(jnp.asarray, mesh))
    other = dense.places(*(jnp.float32(m + rng.normal(size=m.shape)) for m in mesh))
    closer = dense._closer(before, other, scores)
    np.testing.assert_array_equal(closer.face.center, [other.face.center[0], before.face.center[1]])
    np.testing.assert_array_equal(
        closer.hands.size[0], [before.hands.size[0, 0], other.hands.size[0, 1]]
    )
