"""Made-up people are reproducible, different, human and in front of their camera."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar import animate
from jaxavatar.body import JOINTS, LANDMARKS
from jaxavatar.data.people import random_person
from jaxavatar.structs import BodyPose

BUDGET = (300, 100, 400)


@pytest.fixture(scope="module")
def people():
    return [random_person(seed, BUDGET) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def standing(people):
    """Where the Gaussians of each are in the rest pose."""
    still = BodyPose(*(jnp.zeros((1, *size)) for size in ((55, 3), (3,), (52,))))
    pose = jax.jit(animate.pose_avatar)
    return [np.asarray(pose(person, still).means[0]) for person in people]


def test_a_seed_is_a_person(people):
    again = random_person(1, BUDGET)
    for a, b in zip(jax.tree.leaves(people[0]), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_people_differ_in_body_pose_and_colour(people):
    for i, j in ((0, 1), (1, 2), (0, 2)):
        a, b = people[i], people[j]
        assert np.abs(a.joints - b.joints).max() > 0.01
        assert np.abs(a.rest.rotations - b.rest.rotations).max() > 0.05
        assert np.abs(a.colors - b.colors).mean() > 0.02


def test_counts_are_the_budget_and_batches_can_stack_them(people):
    for person in people:
        assert (person.n_face, person.n_hand, len(person.means)) == (300, 100, sum(BUDGET))
        assert person.image_size == (512, 512)
    jax.tree.map(lambda *leaves: np.stack(leaves), *people)


def test_values_are_in_their_ranges(people):
    for person in people:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(person))
        np.testing.assert_allclose(person.weights.sum(1), 1.0, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(person.quats, axis=1), 1.0, atol=1e-5)
        assert person.colors.min() >= 0
        assert person.colors.max() <= 1
        assert person.opacities.min() > 0.5
        assert 1e-4 <= person.scales.min() <= person.scales.max() <= 0.021
        assert len(set(np.asarray(person.anchors).tolist())) == len(person.anchors)
        assert person.landmarks.shape == (len(LANDMARKS),)


def test_head_and_chest_stand_in_the_picture(people, standing):
    for person, points in zip(people, standing, strict=True):
        pixels = points[:, :2] / points[:, 2:] * person.K[0, 0] + person.K[:2, 2]
        head = np.asarray(person.weights)[:, JOINTS.index("head")] > 0.9
        assert (points[:, 2] > 1).all()
        assert ((pixels[head] > 0) & (pixels[head] < 512)).all()
        chest = np.asarray(person.weights)[:, JOINTS.index("spine3")] > 0.5
        assert ((pixels[chest] > 0) & (pixels[chest] < 512)).all()
        assert pixels[head, 1].mean() + 50 < pixels[chest, 1].mean()  # y points down
        # They look at the camera: the face is nearer than the back of the head.
        assert points[: person.n_face, 2].mean() < points[head, 2].mean()


def test_the_skin_of_face_and_hands_is_alike_and_clothes_are_not(people):
    """Per person: median colours of cheeks, hands and chest."""
    cloth = []
    for person in people:
        colors = np.asarray(person.colors)
        owner = np.asarray(person.weights).argmax(1)
        hands = np.median(colors[300:400], axis=0)
        face = np.median(colors[:300], axis=0)
        chest = np.median(colors[owner == JOINTS.index("spine3")], axis=0)
        assert np.abs(hands - face).max() < 0.2
        cloth.append(np.abs(chest - face).max())
    assert max(cloth) > 0.15
