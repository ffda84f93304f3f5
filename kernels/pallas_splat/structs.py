"""What the splatter takes and gives: frozen pytrees of arrays.

Conventions: a camera looks along +z with x right and y down (OpenCV); pixel (row i, column j) has
its centre at (x, y) = (j + 0.5, i + 0.5). Shape letters: N Gaussians, H W image, C features.
"""

import dataclasses

import jax
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gaussians:
    """Anisotropic 3D Gaussians in world space.

    The covariance of one Gaussian is `(A R S)(A R S)^T` with S = diag(scales), R the rotation of
    `quats` and A = `linear` (identity when None), so it is positive semi-definite whatever the
    map that deformed the Gaussian.

    Attributes:
        means: centres, world units.
        quats: orientations, wxyz, of any norm; the zero quaternion counts as no rotation.
        scales: standard deviations along the local axes, world units (linear, not logarithmic).
        opacities: in [0, 1].
        colors: linear combination weights of the image's channels, usually in [0, 1].
        linear: map applied after rotation and scale, e.g. a skinning matrix's linear part.
    """

    means: Float[Array, "N 3"]
    quats: Float[Array, "N 4"]
    scales: Float[Array, "N 3"]
    opacities: Float[Array, " N"]
    colors: Float[Array, "N 3"]
    linear: Float[Array, "N 3 3"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        viewmat: world to camera, OpenCV axes.
        K: intrinsics in pixels; only focal lengths and principal point are read (no skew).
        width: of the image, pixels (static).
        height: of the image, pixels (static).
        near: Gaussians whose centre's depth is not beyond it are not drawn (static, positive).
    """

    viewmat: Float[Array, "4 4"]
    K: Float[Array, "3 3"]
    width: int = dataclasses.field(metadata={"static": True})
    height: int = dataclasses.field(metadata={"static": True})
    near: float = dataclasses.field(default=0.01, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Projected:
    """Gaussians as seen on the image plane, one array per component.

    Attributes:
        x: centre, pixels.
        y: centre, pixels.
        conic_xx: inverse 2D covariance (with the low-pass), 1 / pixels^2.
        conic_xy: its off-diagonal element.
        conic_yy: its last element.
        opacity: after Mip compensation where the config asks for it.
        depth: z in the camera's frame, world units.
        extent_x: half width of the box that holds every pixel with alpha >= the threshold, pixels.
        extent_y: half height of that box, pixels.
        visible: beyond the near plane, opaque enough to matter, and its box meets the image.
    """

    x: Float[Array, " N"]
    y: Float[Array, " N"]
    conic_xx: Float[Array, " N"]
    conic_xy: Float[Array, " N"]
    conic_yy: Float[Array, " N"]
    opacity: Float[Array, " N"]
    depth: Float[Array, " N"]
    extent_x: Float[Array, " N"]
    extent_y: Float[Array, " N"]
    visible: Bool[Array, " N"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Info:
    """How full the list of tile intersections was; engines without a list report 0, 0, False.

    Attributes:
        intersections: pairs of Gaussian and tile that the scene has.
        capacity: pairs that there was room for.
        overflow: whether they did not fit; every other output is then NaN, gradients as well.
    """

    intersections: Int[Array, ""]
    capacity: Int[Array, ""]
    overflow: Bool[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Composite:
    """What a backend returns: attributes composited front to back, before any background.

    With w the weight of a Gaussian in a pixel (its alpha times what those before it let through):

    Attributes:
        values: sum of w times (colour, depth, features), channels in this order, D = 4 + C.
        alpha: sum of w, in [0, 1].
        info: fill of the intersection list.
    """

    values: Float[Array, "H W D"]
    alpha: Float[Array, "H W"]
    info: Info


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rendered:
    """A rendered view.

    Attributes:
        image: colours over the background.
        alpha: accumulated opacity, in [0, 1].
        depth: expected depth of what is seen, world units; 0 where nothing is.
        features: composited features (no background), None when none were given.
        info: fill of the intersection list.
    """

    image: Float[Array, "H W 3"]
    alpha: Float[Array, "H W"]
    depth: Float[Array, "H W"]
    features: Float[Array, "H W C"] | None
    info: Info
