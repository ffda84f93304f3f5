"""Body tokens and a head crop to canonical Gaussians to a pose, against NumPy."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxavatar.body import PARENTS
from jaxavatar.reconstruction.transformer import ImageTokens, Reconstructor, TransformerConfig
from jaxavatar.reconstruction.transformer.animate import (
    PointBody,
    blend_quaternion,
    full_pose,
    multiply,
    pose_gaussians,
)
from jaxavatar.reconstruction.transformer.config import DinoConfig, VitConfig
from jaxavatar.reconstruction.transformer.dinov2 import HeadEncoder
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes
from jaxavatar.weights.lhm_import import arrange_released

WIDTH, HEADS, LAYERS, N = 16, 2, 2, 20
CONFIG = TransformerConfig(
    points=N,
    layers=LAYERS,
    width=WIDTH,
    heads=HEADS,
    body=VitConfig((48, 64), 16, 0, 24, 1, 2),
    head=DinoConfig(28, 14, 20, 2, 2, 2, 2, (0, 1)),
    decoder_width=12,
)


@pytest.fixture(params=["float32", "float64"])
def kind(request):
    """Whether to compute and compare in float32 or in float64."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def same(actual, expected, kind):
    """Compare within the tolerances of the recorded outputs."""
    rtol, atol = (1e-4, 1e-4) if kind == "float32" else (1e-6, 3e-7)
    assert actual.dtype == kind
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def cast(kind, tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, kind), tree)


def linear(name, rows, columns):
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name, width=WIDTH):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def checkpoint_shapes():
    """Names of all that stands in LHM's checkpoints between body tokens and Gaussians."""
    body = CONFIG.body.width
    shapes = linear("pcl_embed.mlp", WIDTH, 51) | norm("pcl_embed.norm")
    shapes |= linear("motion_embed_mlp.0", body // 2, body)
    shapes |= linear("motion_embed_mlp.2", 2 * WIDTH, body // 2)
    shapes |= linear("transformer.linear_cond_proj", WIDTH, body) | norm("transformer.norm")
    for layer in range(LAYERS):
        for block in ("head_dit", "body_dit"):
            here, last = f"transformer.layers.{layer}.{block}.", layer == LAYERS - 1
            shapes |= linear(f"{here}norm1.linear", 6 * WIDTH, WIDTH)
            shapes |= linear(f"{here}norm1_context.linear", (2 if last else 6) * WIDTH, WIDTH)
            ends = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0")
            for end in ends if last else (*ends, "to_add_out"):
                shapes |= linear(f"{here}attn.{end}", WIDTH, WIDTH)
            for end in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
                shapes[f"{here}attn.{end}.weight"] = (WIDTH // HEADS,)
            for end in ("ff",) if last else ("ff", "ff_context"):
                shapes |= linear(f"{here}{end}.net.0.proj", 4 * WIDTH, WIDTH)
                shapes |= linear(f"{here}{end}.net.2", WIDTH, 4 * WIDTH)
    shapes |= linear("renderer.mlp_net.layers.0", 12, WIDTH)
    shapes |= linear("renderer.mlp_net.layers.2", 12, 12)
    shapes |= linear("renderer.mlp_net.layers.4", WIDTH, 12)
    for name, count in (("shs", 3), ("scaling", 3), ("xyz", 3), ("opacity", 1), ("rotation", 4)):
        shapes |= linear(f"renderer.gs_net.out_layers.{name}", count, WIDTH)
    return shapes | head_shapes()


def head_shapes():
    d, dino = CONFIG.head.width, "encoder.model."
    shapes = {f"{dino}cls_token": (1, 1, d), f"{dino}pos_embed": (1, 5, d)}
    shapes |= {f"{dino}register_tokens": (1, 2, d), f"{dino}patch_embed.proj.bias": (d,)}
    shapes |= {f"{dino}patch_embed.proj.weight": (d, 3, 14, 14)} | norm(f"{dino}norm", d)
    for layer in range(2):
        here = f"{dino}blocks.{layer}."
        shapes |= norm(f"{here}norm1", d) | norm(f"{here}norm2", d)
        shapes |= linear(f"{here}attn.qkv", 3 * d, d) | linear(f"{here}attn.proj", d, d)
        shapes |= linear(f"{here}mlp.fc1", 4 * d, d) | linear(f"{here}mlp.fc2", d, 4 * d)
        shapes |= {f"{here}ls1.gamma": (d,), f"{here}ls2.gamma": (d,)}
        shapes |= {f"encoder.fusion_head.projects.{layer}.weight": (d, d, 1, 1)}
        shapes |= {f"encoder.fusion_head.projects.{layer}.bias": (d,)}
    shapes |= {"encoder.fusion_head.output_conv.weight": (d, 2 * d, 1, 1)}
    return shapes | {"encoder.fusion_head.output_conv.bias": (d,)}


@pytest.fixture(scope="module")
def person():
    """A body of random numbers, rounded to float32 so that both types start from the same."""
    rng = np.random.default_rng(0)
    joints = np.zeros((55, 3))
    for m, parent in enumerate(PARENTS):
        joints[m] = (joints[parent] if parent >= 0 else 0) + rng.normal(0, 0.15, 3)
    body = {
        "weights": rng.dirichlet(0.05 * np.ones(55), size=N),
        "shape_dirs": 0.03 * rng.normal(size=(N, 3, 10)),
        "expr_dirs": 0.01 * rng.normal(size=(N, 3, 100)),
        "joints": joints,
        "joint_dirs": 0.03 * rng.normal(size=(55, 3, 10)),
    }
    body = {name: np.float32(array).astype(float) for name, array in body.items()}
    return body | {"constrain": np.arange(N) % 4 == 0, "parents": PARENTS}


@pytest.fixture(scope="module")
def pose():
    rng = np.random.default_rng(1)
    made = {
        "rotations": 0.5 * rng.normal(size=(55, 3)),
        "translation": np.array([0.1, -0.2, 3.0]),
        "betas": rng.normal(size=10),
        "expression": rng.normal(size=100),
    }
    return {name: np.float32(array).astype(float) for name, array in made.items()}


def point_body(kind, body):
    given = cast(kind, {k: v for k, v in body.items() if k not in ("constrain", "parents")})
    return PointBody(
        given["weights"],
        given["shape_dirs"],
        given["expr_dirs"],
        jnp.asarray(body["constrain"]),
        given["joints"],
        given["joint_dirs"],
        PARENTS,
    )


def test_tokens_to_posed_gaussians(oracle, kind, person, pose):
    rng = np.random.default_rng(2)
    w = oracle.random_weights(rng, checkpoint_shapes())
    shapes = ((N, 3), (CONFIG.body.tokens, 24), (28, 28, 3))
    points, body, crop = (rng.uniform(-1, 1, size=shape) for shape in shapes)
    w = {name: np.float32(tensor).astype(float) for name, tensor in w.items()}
    points, body, crop = (np.float32(x).astype(float) for x in (points, body, crop))
    head = oracle.head_encoder(oracle.part(w, "encoder."), crop, 14, 2)
    upper = np.arange(N) < 8
    canonical = oracle.reconstruct(w, points, body, head, HEADS, LAYERS, upper)
    means, quats = oracle.animate(person, canonical["means"], canonical["quats"], **pose)

    params, report = arrange_released(cast(kind, w), "lhm", parameter_shapes(CONFIG))
    assert not report.unknown
    assert {path.split("/")[0] for path in report.missing} == {"body_encoder"}
    module, encoder = Reconstructor(CONFIG), HeadEncoder(CONFIG.head)

    def run(params, points, body, crop, given, pose) -> Any:
        head: Any = encoder.apply({"params": params["head_encoder"]}, crop[None])
        tokens = ImageTokens(body[None], head)
        made: Any = module.apply(
            {"params": params}, points[None], tokens, upper_body=upper, method="reconstruct"
        )
        moved = pose_gaussians(made.means[0], made.quats[0], given, **pose)
        return made, moved

    arguments = cast(kind, (params, points, body, crop))
    made, moved = jax.jit(run)(*arguments, point_body(kind, person), cast(kind, pose))
    for name in ("means", "offsets", "scales", "quats", "opacities", "colors"):
        same(getattr(made, name)[0], canonical[name], kind)
    same(moved[0], means, kind)
    same(moved[1], quats, kind)


def test_poses_of_a_clip_agree_with_one_by_one(oracle, kind, person, pose):
    """Compiled, vectorised, and eager."""
    rng = np.random.default_rng(3)
    means = np.float32(rng.normal(size=(N, 3))).astype(float)
    quats = oracle.norm(rng.normal(size=(N, 4)))
    quats = np.float32(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(float)
    clip = {name: np.stack([array, 0.5 * array]) for name, array in pose.items()}
    body, gaussians = point_body(kind, person), cast(kind, (means, quats))

    def one(given):
        return pose_gaussians(gaussians[0], gaussians[1], body, **given)

    eager = one(cast(kind, pose))
    both = jax.jit(jax.vmap(one))(cast(kind, clip))
    for k in range(2):
        same(both[k][0], eager[k], kind)
        expected = oracle.animate(
            person, means, quats, **{name: array[1] for name, array in clip.items()}
        )
        same(both[k][1], expected[k], kind)
    np.testing.assert_allclose(jnp.linalg.norm(eager[1], axis=-1), 1, rtol=1e-5)
    assert (eager[1][:, 0] >= 0).all()


def test_the_canonical_pose_returns_points_of_one_joint(person):
    """Undone and applied again, the pose keeps what a single joint holds."""
    rng = np.random.default_rng(4)
    weights = np.eye(55)[rng.integers(55, size=N)]
    body = point_body("float32", person | {"weights": weights})
    body = dataclasses.replace(body, fixed=jnp.zeros(N, bool))
    means = jnp.asarray(rng.normal(size=(N, 3)), jnp.float32)
    quats = jnp.tile(jnp.array([1.0, 0, 0, 0]), (N, 1))
    rotations = jnp.zeros((55, 3)).at[1, 2].set(np.pi / 9).at[2, 2].set(-np.pi / 9)
    still = jnp.zeros(3), jnp.zeros(10), jnp.zeros(100)
    moved, turned = pose_gaussians(means, quats, body, rotations, *still)
    np.testing.assert_allclose(moved, means, atol=1e-5)
    np.testing.assert_allclose(turned, quats, atol=1e-6)


def test_quaternions_of_rotations_and_blends(oracle):
    """Half turns about every axis use all four ways; blends are not orthogonal."""
    rng = np.random.default_rng(5)
    expected = np.empty((0, 4))
    turns = Rotation.from_rotvec(np.concatenate([np.pi * np.eye(3), rng.normal(size=(40, 3))]))
    blends = 0.6 * turns.as_matrix() + 0.4 * Rotation.random(43, rng).as_matrix()
    for matrices in (turns.as_matrix(), blends):
        expected = np.array([oracle.read_quaternion(m) for m in matrices])
        actual = blend_quaternion(jnp.asarray(matrices, jnp.float32))
        np.testing.assert_allclose(actual, expected, atol=2e-6)
    found = np.asarray(blend_quaternion(jnp.asarray(turns.as_matrix(), jnp.float32)))
    alike = np.abs((found * turns.as_quat()[:, [3, 0, 1, 2]]).sum(1))
    np.testing.assert_allclose(alike, 1, atol=1e-6)
    product = multiply(jnp.asarray(expected[:20]), jnp.asarray(expected[20:40]))
    for k in range(20):
        np.testing.assert_allclose(
            product[k], oracle.multiply(expected[k], expected[20 + k]), atol=1e-6
        )


def test_derivatives_are_finite_at_rest_and_under_half_turns(person):
    body = point_body("float32", person)
    means, quats = jnp.ones((N, 3)), jnp.tile(jnp.array([1.0, 0, 0, 0]), (N, 1))
    rest = jnp.zeros(3), jnp.zeros(10), jnp.zeros(100)

    @jax.jit
    def gradient(rotations):
        def total(rotations, means):
            moved, turned = pose_gaussians(means, quats, body, rotations, *rest)
            return moved.sum() + turned.sum()

        return jax.grad(total, (0, 1))(rotations, means)

    for rotations in (jnp.zeros((55, 3)), jnp.zeros((55, 3)).at[0, 0].set(np.pi)):
        for part in gradient(rotations):
            assert np.isfinite(part).all()


def test_parts_of_a_pose_come_in_order():
    counts = (1, 21, 1, 1, 1, 15, 15)
    rows = np.arange(55.0)[:, None] * np.ones(3)
    parts = [part if len(part) > 1 else part[0] for part in np.split(rows, np.cumsum(counts)[:-1])]
    np.testing.assert_array_equal(full_pose(*map(jnp.asarray, parts)), rows)
