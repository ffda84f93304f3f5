"""Numbers that cannot be drawn: what is said, and where it is said."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from pallas_splat import check_values, render, workloads

N = 20


def make_arguments():
    gaussians, camera = workloads.cast(workloads.clustered(N, 16), jnp.float32)
    camera = dataclasses.replace(camera, distortion=jnp.zeros(5))
    return {
        "gaussians": gaussians,
        "camera": camera,
        "features": jnp.ones((N, 2)),
        "background": jnp.ones(3),
        "screen_offsets": jnp.zeros((N, 2)),
    }


def damaged(name, place, value):
    """Arguments with one number changed; `name` as in the message."""
    arguments = make_arguments()
    whole, *field = name.split(".")
    array = getattr(arguments[whole], field[0]) if field else arguments[whole]
    array = array.at[place].set(value)
    if field:
        array = dataclasses.replace(arguments[whole], **{field[0]: array})
    return {**arguments, whole: array}


CASES = {
    "gaussians.means[3, 1] is nan; it must be finite": ("gaussians.means", (3, 1), np.nan),
    "gaussians.quats[0, 0] is inf; it must be finite": ("gaussians.quats", (0, 0), np.inf),
    "gaussians.scales[17, 2] is nan; standard deviations": ("gaussians.scales", (17, 2), np.nan),
    "gaussians.scales[17, 0] is -0.5; standard": ("gaussians.scales", (17, 0), -0.5),
    "gaussians.opacities[19] is 1.5; opacities must lie": ("gaussians.opacities", (19,), 1.5),
    "gaussians.opacities[1] is -0.25; opacities must": ("gaussians.opacities", (1,), -0.25),
    "gaussians.colors[2, 2] is -inf; it must": ("gaussians.colors", (2, 2), -np.inf),
    "gaussians.linear[4, 1, 2] is nan; it must": ("gaussians.linear", (4, 1, 2), np.nan),
    "camera.viewmat[0, 3] is nan; it must": ("camera.viewmat", (0, 3), np.nan),
    "camera.K[1, 1] is 0.0; intrinsics must be finite and": ("camera.K", (1, 1), 0.0),
    "camera.distortion[4] is nan; it must": ("camera.distortion", (4,), np.nan),
    "features[5, 1] is nan; it must": ("features", (5, 1), np.nan),
    "background[2] is inf; it must": ("background", (2,), np.inf),
    "screen_offsets[6, 0] is nan; it must": ("screen_offsets", (6, 0), np.nan),
}


@pytest.mark.parametrize("message", CASES)
def test_names_the_array_the_place_and_the_remedy(message):
    arguments = damaged(*CASES[message])
    with pytest.raises(ValueError) as raised:
        render(**arguments, backend="reference")
    assert str(raised.value).startswith(message)


def test_says_nothing_about_good_values():
    check_values(**make_arguments())
    edges = damaged("gaussians.opacities", jnp.arange(2), jnp.array([0.0, 1.0]))
    check_values(edges["gaussians"], edges["camera"])
    check_values(jax.tree.map(lambda a: a[:0], edges["gaussians"]), edges["camera"])


@pytest.mark.parametrize("order", ["checkify of jit", "jit of checkify"])
def test_works_under_checkify(order):
    def alpha(arguments):
        check_values(**arguments)
        return render(**arguments, backend="reference").alpha

    checked = checkify.checkify(jax.jit(alpha))
    if order == "jit of checkify":
        checked = jax.jit(checkify.checkify(alpha))
    error, rendered = checked(make_arguments())
    error.throw()
    assert rendered.max() > 0
    error, _ = checked(damaged("gaussians.means", (7, 0), jnp.nan))
    with pytest.raises(checkify.JaxRuntimeError, match=r"gaussians\.means\[7, 0\] is nan"):
        error.throw()


def test_first_of_many_is_named():
    arguments = damaged("gaussians.means", jnp.array([11, 5, 9]), jnp.nan)
    with pytest.raises(ValueError, match=r"gaussians\.means\[5, 0\]"):
        check_values(arguments["gaussians"], arguments["camera"])


def test_render_under_a_transformation_does_not_look():
    arguments = damaged("gaussians.colors", (0, 0), jnp.nan)
    rendered = jax.jit(lambda a: render(**a, backend="reference"))(arguments)
    assert jnp.isnan(rendered.image).any()
