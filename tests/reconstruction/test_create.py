"""A photo of a known person becomes an avatar that looks like it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.reconstruction import create, start
from jaxavatar.reconstruction.place import Budget

BUDGET = Budget(seen=(900, 300, 3000), unseen=(500, 150, 800))


@pytest.fixture(scope="module")
def creation(truth, findings):
    return create.create_avatar(truth.photo, findings, method="optimise", steps=40, budget=BUDGET)


def test_the_front_looks_like_the_photo(truth, creation):
    """Measured here on the photo itself, where the person covers pixels entirely."""
    shown = create.render_photo(creation.avatar, creation.target, jnp.zeros(3))
    inside = truth.matte > 0.99
    error = ((np.asarray(shown) - truth.photo)[inside] ** 2).mean()
    assert -10 * np.log10(error) > 28
    assert creation.report["psnr_inside_matte"] > 28


def test_the_outline_is_the_mattes(truth, creation):
    """Before white minus before black: how much of the background shows through."""
    white, black = (
        np.asarray(create.render_photo(creation.avatar, creation.target, jnp.full(3, c)))
        for c in (1.0, 0.0)
    )
    alpha = 1 - (white - black).mean(-1)
    assert np.abs(alpha - truth.matte).mean() < 0.03


def test_the_report_is_plain(findings, creation):
    report = json.loads(json.dumps(creation.report))
    assert report["found"] == {"face": True, "left_hand": True, "right_hand": False}
    assert report["messages"] == list(findings.messages)
    assert report["psnr_size"] == [192, 160]
    assert report["gaussians"] == int((np.asarray(creation.avatar.opacities) > 0).sum())
    assert 0 < report["landmark_error_pixels"]["face"] < 0.5


def test_sizes_are_the_budget_and_values_are_finite(creation):
    avatar = creation.avatar
    assert (avatar.n_face, avatar.n_hand, len(avatar.means)) == (1400, 450, 5650)
    assert avatar.image_size == (192, 160)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(avatar))


def test_large_photos_shrink_and_small_ones_stay():
    """A picture of its own coordinates keeps them when it shrinks."""
    y, x = np.mgrid[:768, :1024] / 1024
    photo, matte, scale = start._resize(np.stack([x, y, x * y], -1), x)
    assert (photo.shape, matte.shape, scale) == ((384, 512, 3), (384, 512), 0.5)
    np.testing.assert_allclose(photo[10:-10, 10:-10, 0], matte[10:-10, 10:-10], atol=1e-6)
    expected = (np.arange(512) + 0.5) / 512 - 0.5 / 1024
    np.testing.assert_allclose(matte[200, 10:-10], expected[10:-10], atol=1e-3)
    small, _, scale = start._resize(np.stack([x, y, x], -1)[:100, :100], x[:100, :100])
    assert (small.shape, scale) == ((100, 100, 3), 1.0)
