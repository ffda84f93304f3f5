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
        colors: of the image's channels, usually in [0, 1]; or spherical harmonics coefficients,
            K = (degree + 1)^2 of them for degrees 0 to 3, see `pallas_splat.sh`.
        linear: map applied after rotation and scale, e.g. a skinning matrix's linear part.
    """

    means: Float[Array, "N 3"]
    quats: Float[Array, "N 4"]
    scales: Float[Array, "N 3"]
    opacities: Float[Array, " N"]
    colors: Float[Array, "N 3"] | Float[Array, "N K 3"]
    linear: Float[Array, "N 3 3"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole or an orthographic camera.

    Attributes:
        viewmat: world to camera, OpenCV axes; rotation and translation, the last row is not read.
        K: intrinsics; only focal lengths and principal point are read (no skew). The principal
            point is in pixels, the focal lengths in pixels, or, for an orthographic camera, in
            pixels per world unit.
        width: of the image, pixels (static).
        height: of the image, pixels (static).
        near: Gaussians whose centre's depth is not beyond it are not drawn (static, positive).
        distortion: of the lens of a pinhole camera, Brown and Conrady's coefficients in OpenCV's
            order k1, k2, p1, p2, k3; None stands for none. What lies beyond the angle where the
            polynomial turns back is not drawn, see `pallas_splat.cameras`.
        orthographic: whether depth does not scale the picture (static).
    """

    viewmat: Float[Array, "4 4"]
    K: Float[Array, "3 3"]
    width: int = dataclasses.field(metadata={"static": True})
    height: int = dataclasses.field(metadata={"static": True})
    near: float = dataclasses.field(default=0.01, metadata={"static": True})
    distortion: Float[Array, "5"] | None = None
    orthographic: bool = dataclasses.field(default=False, metadata={"static": True})


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
        values: sum of w times attribute, per attribute.
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
        median_depth: depth of the Gaussian that takes the transmittance to one half or below, 0
            where none does; None when not asked for.
        normals: unit normals in world space, towards the camera; 0 where nothing is seen; None
            when not asked for.
        radii: half extents of every Gaussian's box on screen, pixels; 0 where it is not drawn.
        info: fill of the intersection list.
    """

    image: Float[Array, "H W 3"]
    alpha: Float[Array, "H W"]
    depth: Float[Array, "H W"]
    features: Float[Array, "H W C"] | None
    median_depth: Float[Array, "H W"] | None
    normals: Float[Array, "H W 3"] | None
    radii: Float[Array, "N 2"]
    info: Info
