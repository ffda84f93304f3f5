"""The polish gets closer to the photo without leaving its bounds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.reconstruction.optimise import (
    QUICK,
    STEADY,
    Polish,
    Target,
    apply_polish,
    optimise,
    psnr_inside,
    render_photo,
)

PADDING = slice(0, 8)


@pytest.fixture(scope="module")
def start(toys):
    """A toy avatar whose first Gaussians are padding; those of odd number were seen."""
    avatar = toys.avatar(count=120, n_face=40, n_hand=20)
    return avatar.replace(opacities=avatar.opacities.at[PADDING].set(0.0))


@pytest.fixture(scope="module")
def target(start):
    """The avatar in other colours and a little bigger, as the photo."""
    rng = np.random.default_rng(1)
    wanted = start.replace(
        colors=jnp.clip(start.colors + 0.15 * rng.normal(size=(120, 3)), 0, 1),
        scales=start.scales * 1.1,
    )
    K = start.K
    blank = Target(
        photo=jnp.zeros((32, 32, 3)),
        matte=jnp.ones((32, 32)),
        K=K,
        face=jnp.zeros((120, 3)),
        seen=jnp.arange(120) % 2 == 1,
    )
    render = jax.jit(render_photo)
    white, black = (render(wanted, blank, jnp.full(3, c)) for c in (1.0, 0.0))
    matte = 1.0 - (white - black).mean(-1)
    photo = black / jnp.maximum(matte, 1e-3)[..., None]
    return dataclasses.replace(blank, photo=jnp.clip(photo, 0, 1), matte=matte)


@pytest.fixture(scope="module")
def polished(start, target):
    """After forty steps, with what `progress` was told."""
    told = []
    done = optimise(start, target, 35, lambda *news: told.append(news))
    return done, told


def test_the_picture_gets_better(start, target, polished):
    render = jax.jit(render_photo)
    before, after = (
        float(psnr_inside(render(a, target, jnp.ones(3)), target)) for a in (start, polished[0])
    )
    assert (target.matte > 0.9).sum() > 50
    assert after > before + 3


def test_progress_counts_to_the_end(polished):
    told = polished[1]
    assert [done for done, _, _ in told] == [10, 20, 30, 40]
    assert {total for _, total, _ in told} == {40}
    assert told[-1][2]["psnr"] > told[0][2]["psnr"] + 1


def test_unseen_colours_do_not_change(start, target, polished):
    change = np.abs(np.asarray(polished[0].colors - start.colors)).max(1)
    seen = np.asarray(target.seen)
    assert not change[~seen].any()
    assert change[seen].max() > 0.02


def test_padding_stays_invisible(polished):
    assert not np.asarray(polished[0].opacities[PADDING]).any()


def test_nothing_but_the_gaussians_changes_and_they_stay_near(start, polished):
    done = polished[0]
    assert 0 < np.abs(done.means - start.means).max() <= 0.004 + 1e-6
    growth = np.abs(np.log(done.scales / start.scales))
    assert 0 < growth.max() <= 0.35 + 1e-5
    changed = ("means", "scales", "opacities", "colors")
    rest = [a.replace(**dict.fromkeys(changed)) for a in (start, done)]
    for a, b in zip(*map(jax.tree.leaves, rest), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_polish_changes_nothing(start, target):
    nothing = Polish(*(jnp.zeros(s) for s in ((120, 3), (120, 3), (120,), (120, 3))))
    same = apply_polish(start, target, nothing)
    for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_psnr_counts_the_inside_only():
    """An error of 0.1 everywhere inside is 20 dB, whatever is outside."""
    matte = jnp.zeros((8, 8)).at[2:6, 2:6].set(1.0)
    photo = jnp.full((8, 8, 3), 0.5)
    target = Target(photo, matte, jnp.eye(3), jnp.zeros((1, 3)), jnp.ones(1, bool))
    image = jnp.where(matte[..., None] > 0, photo + 0.1, 0.0)
    assert float(psnr_inside(image, target)) == pytest.approx(20.0, abs=1e-3)


def test_the_quick_pace_needs_fewer_steps(start, target):
    """Sixty of its steps do more than a hundred steady ones, and keep within the same bounds."""
    render = jax.jit(render_photo)
    done = {
        pace: optimise(start, target, steps, lambda *_: None, pace)
        for pace, steps in ((QUICK, 60), (STEADY, 100))
    }
    quick, steady = (
        float(psnr_inside(render(done[pace], target, jnp.ones(3)), target))
        for pace in (QUICK, STEADY)
    )
    assert quick > steady + 0.3
    assert np.abs(done[QUICK].means - start.means).max() <= 0.004 + 1e-6
    assert np.abs(np.log(done[QUICK].scales / start.scales)).max() <= 0.35 + 1e-5
