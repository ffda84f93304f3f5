"""Query points cover the template evenly, are the same everywhere, and find their neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.body import JOINTS
from jaxavatar.reconstruction.query import in_canonical_pose, nearest_queries, template_queries

COUNT = 2001
HEAD = [JOINTS.index(name) for name in ("neck", "head", "jaw", "left_eye", "right_eye")]


@pytest.fixture(scope="module")
def queries():
    return template_queries(COUNT)


@pytest.fixture(scope="module")
def triangles(model):
    """Areas of the template's triangles, and which belong to head and neck."""
    vertices, faces = np.asarray(model.vertices, float), np.asarray(model.faces)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    head = np.asarray(model.weights, float)[:, HEAD].sum(1)[faces].mean(1) > 0.5
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2, head


def test_they_lie_in_triangles_of_the_template(model, queries):
    faces = {tuple(face) for face in np.asarray(model.faces).tolist()}
    assert {tuple(corners) for corners in queries.corners.tolist()} <= faces
    assert (queries.mix >= 0).all()
    np.testing.assert_allclose(queries.mix.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(queries.weights.sum(1), 1, atol=1e-5)


def test_the_last_quarter_is_on_head_and_neck(model, queries):
    share = np.asarray(model.weights, float)[:, HEAD].sum(1)[queries.corners].mean(1)
    body = 3 * (COUNT // 4)
    assert len(queries.points) == COUNT and body == 1500
    assert (share[:body] <= 0.5).all() and (share[body:] > 0.5).all()


def test_each_stands_for_the_same_area(queries, triangles):
    """All areas together are the template's; any stretch of triangles gets its share of points."""
    area, head = triangles
    body = 3 * (COUNT // 4)
    assert queries.area.sum() == pytest.approx(area.sum(), rel=1e-6)
    for part, own in ((slice(0, body), ~head), (slice(body, COUNT), head)):
        assert np.ptp(queries.area[part]) == 0
        assert queries.area[part].sum() == pytest.approx(area[own].sum(), rel=1e-6)


def test_halves_of_the_body_get_their_share_of_points(model, queries):
    """Left, right, upper, lower, front, back: as many points per area, within five percent."""
    vertices, faces = np.asarray(model.vertices, float), np.asarray(model.faces)
    body, chosen = 3 * (COUNT // 4), queries.corners[: 3 * (COUNT // 4)]
    head = np.asarray(model.weights, float)[:, HEAD].sum(1)[faces].mean(1) > 0.5
    a, b, c = (vertices[faces[~head][:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    for axis, middle in ((0, 0.0), (1, 1.0), (2, 0.0)):
        expected = area[vertices[faces[~head]].mean(1)[:, axis] > middle].sum() / area.sum()
        assert 0.2 < expected < 0.8
        actual = (vertices[chosen].mean(1)[:, axis] > middle).sum() / body
        assert actual == pytest.approx(expected, abs=0.05)


def test_points_fill_a_triangle_evenly(model):
    """Of many points on few triangles, a quarter lies in the corner of half the side."""
    queries = template_queries(200_000)
    for k in range(3):
        assert (queries.mix[:, k] > 0.5).mean() == pytest.approx(0.25, abs=0.003)
    np.testing.assert_allclose(queries.mix.mean(0), 1 / 3, atol=0.002)


def test_they_are_the_same_every_time(queries):
    template_queries.cache_clear()
    again = template_queries(COUNT)
    assert again is not queries
    for name in ("corners", "mix", "points", "weights", "area"):
        np.testing.assert_array_equal(getattr(again, name), getattr(queries, name))
    assert template_queries(COUNT) is again


def test_they_may_first_be_asked_for_while_tracing(queries):
    template_queries.cache_clear()
    traced = jax.jit(lambda: jnp.asarray(template_queries(COUNT).points))()
    np.testing.assert_allclose(traced, queries.points, atol=1e-6)


def test_the_legs_are_apart_and_the_rest_is_the_t_pose(model, queries):
    """A foot that its hip carries turns by 20 degrees about the hip's joint; heads stay."""
    home = (np.asarray(model.vertices, float)[queries.corners] * queries.mix[:, :, None]).sum(1)
    still = queries.weights[:, HEAD].sum(1) > 0.999
    np.testing.assert_allclose(queries.points[still], home[still], atol=2e-6)
    assert still.sum() > 300
    for side, sign in (("left", 1), ("right", -1)):
        leg = [JOINTS.index(f"{side}_{name}") for name in ("hip", "knee", "ankle", "foot")]
        alone = queries.weights[:, leg].sum(1) > 0.9999
        assert alone.sum() > 50
        angle = sign * np.pi / 9
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        hip = np.asarray(model.joints, float)[leg[0], :2]
        expected = (home[alone, :2] - hip) @ turn.T + hip
        np.testing.assert_allclose(queries.points[alone, :2], expected, atol=2e-4)


def test_corners_of_triangles_are_where_vertices_are(model, queries):
    rng = np.random.default_rng(0)
    corners, mix = queries.corners[:50], rng.dirichlet(np.ones(3), size=50)
    at = in_canonical_pose(model, corners, np.tile([1.0, 0, 0], (50, 1)))
    again = in_canonical_pose(model, corners[:, [2, 0, 1]], np.tile([0, 1.0, 0], (50, 1)))
    np.testing.assert_array_equal(at, again)
    turned = in_canonical_pose(model, corners[:, ::-1], mix[:, ::-1])
    np.testing.assert_allclose(in_canonical_pose(model, corners, mix), turned, atol=1e-6)


def test_nearest_queries_against_all_distances(queries):
    rng = np.random.default_rng(1)
    points = queries.points[rng.choice(COUNT, 40)] + rng.normal(0, 0.01, (40, 3))
    index, share = nearest_queries(queries, points)
    distance = np.linalg.norm(points[:, None] - queries.points, axis=2)
    np.testing.assert_array_equal(index, np.argsort(distance, axis=1)[:, :3])
    assert index.dtype == np.int32 and share.dtype == np.float32
    weight = 1 / (np.sort(distance, axis=1)[:, :3] + 1e-3)
    np.testing.assert_allclose(share, weight / weight.sum(1, keepdims=True), rtol=1e-5)
    own, share = nearest_queries(queries, queries.points[:30])
    np.testing.assert_array_equal(own[:, 0], np.arange(30))
    assert (share[:, 0] > 0.8).all()
