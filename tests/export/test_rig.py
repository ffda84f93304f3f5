"""A rigged mesh, read back by pygltflib and posed by NumPy, against our own posing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxavatar import animate, body
from jaxavatar.export.rig import fit_units, joint_track, make_rig
from jaxavatar.export.rig_glb import save_rig
from jaxavatar.structs import FPS, BodyPose

pygltflib = pytest.importorskip("pygltflib")

FRAMES = 3
FLIP = np.diag([1.0, -1.0, -1.0])
ORIGIN = np.array([0.1, 0.3, 2.0])
KINDS = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def template_avatar(toys):
    """Someone of the template's own shape, whose Gaussians are its vertices."""
    template = body.load_template()
    count = len(template.vertices)
    some = toys.avatar(count=count, n_face=60)
    colors = np.random.default_rng(0).uniform(0, 1, (count, 3)).astype(np.float32)
    return some.replace(
        means=template.vertices + jnp.array([0.0, 0.02, 0.01]),
        template_points=template.vertices,
        opacities=jnp.full(count, 0.8),
        colors=jnp.asarray(colors),
        joints=template.joints,
    )


def random_deltas(seed=0):
    rng = np.random.default_rng(seed)
    joints = len(body.JOINTS)
    return BodyPose(
        rotations=jnp.asarray(0.3 * rng.normal(size=(FRAMES, joints, 3)), jnp.float32),
        translation=jnp.asarray(0.1 * rng.normal(size=(FRAMES, 3)), jnp.float32),
        expression=jnp.asarray(rng.uniform(0, 1, (FRAMES, 52)), jnp.float32),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory, toys):
    avatar, deltas = template_avatar(toys), random_deltas()
    transforms = jax.jit(animate.delta_transforms)(avatar, deltas)
    track = joint_track(avatar, np.asarray(transforms), np.asarray(deltas.expression))
    path = tmp_path_factory.mktemp("rig") / "a.glb"
    save_rig(path, make_rig(avatar), track, ORIGIN)
    return avatar, deltas, pygltflib.GLTF2().load(str(path))


def read(document, number):
    accessor = document.accessors[number]
    width, blob = WIDTHS[accessor.type], document.binary_blob()

    def stored(view, kind):
        view = document.bufferViews[view]
        return np.frombuffer(blob[view.byteOffset :][: view.byteLength], KINDS[kind])

    if accessor.sparse is None:
        return stored(accessor.bufferView, accessor.componentType).reshape(-1, width)
    rows = np.zeros((accessor.count, width), np.float32)
    indices, values = accessor.sparse.indices, accessor.sparse.values
    place = stored(indices.bufferView, indices.componentType).astype(int)
    rows[place] = stored(values.bufferView, accessor.componentType).reshape(-1, width)
    return rows


def posed(document, frame):
    """What glTF 2.0 says of morph targets, nodes, skins and animations, in NumPy."""
    (animation,) = document.animations
    rotations = np.array([node.rotation for node in document.nodes[:-1]])
    translations = np.array([node.translation for node in document.nodes[:-1]])
    weights = np.zeros(0)
    for channel in animation.channels:
        sampler = animation.samplers[channel.sampler]
        times = read(document, sampler.input)[:, 0]
        np.testing.assert_allclose(times, np.arange(FRAMES) / FPS)
        values = read(document, sampler.output).reshape(FRAMES, -1)[frame]
        if channel.target.path == "weights":
            weights = values
        else:
            table = {"rotation": rotations, "translation": translations}[channel.target.path]
            table[channel.target.node] = values
    primitive = document.meshes[0].primitives[0]
    vertices = read(document, primitive.attributes.POSITION).astype(float)
    for weight, target in zip(weights, primitive.targets, strict=True):
        vertices = vertices + weight * read(document, target["POSITION"])
    local = np.tile(np.eye(4), (len(rotations), 1, 1))
    local[:, :3, :3] = Rotation.from_quat(rotations).as_matrix()
    local[:, :3, 3] = translations
    world = {}

    def descend(number, parent):
        world[number] = parent @ local[number]
        for child in document.nodes[number].children:
            descend(child, world[number])

    descend(document.skins[0].skeleton, np.eye(4))
    inverse = read(document, document.skins[0].inverseBindMatrices).reshape(-1, 4, 4)
    carried = np.stack([world[joint] for joint in document.skins[0].joints])
    carried = carried @ inverse.transpose(0, 2, 1)
    influences = read(document, primitive.attributes.JOINTS_0).astype(int)
    shares = read(document, primitive.attributes.WEIGHTS_0)
    blended = np.einsum("vk,vkab->vab", shares, carried[influences])
    return np.einsum("vab,vb->va", blended[:, :3, :3], vertices) + blended[:, :3, 3]


@pytest.mark.parametrize("frame", [0, 2])
def test_it_moves_as_the_body_does(written, frame):
    """Within what leaving out all but four joints per vertex costs."""
    avatar, deltas, document = written
    template = body.load_template()
    transforms = animate.delta_transforms(avatar, deltas)[frame]
    units = jnp.einsum("e,evk->vk", deltas.expression[frame], template.expression_dirs)
    shaped = template.vertices + jnp.array([0.0, 0.02, 0.01])
    joints = animate.joint_transforms(avatar, transforms)
    want, _ = body.skin(shaped + units, template.weights, joints)
    error = np.linalg.norm(posed(document, frame) - (np.asarray(want) - ORIGIN) @ FLIP, axis=1)
    assert np.median(error) < 1e-5
    assert np.quantile(error, 0.99) < 2e-3 and error.max() < 0.02


def test_names_colours_and_triangles(written):
    avatar, _, document = written
    template = body.load_template()
    assert [node.name for node in document.nodes[:-1]] == list(body.JOINTS)
    assert document.meshes[0].extras["targetNames"] == list(template.expression_names)
    primitive = document.meshes[0].primitives[0]
    triangles = read(document, primitive.indices).reshape(-1, 3)
    np.testing.assert_array_equal(triangles, template.faces)
    colors = read(document, primitive.attributes.COLOR_0)[:, :3] / 255
    srgb = np.where(colors <= 0.0031308, 12.92 * colors, 1.055 * colors ** (1 / 2.4) - 0.055)
    # Each vertex has a Gaussian of its own in its place; its neighbours weigh less.
    closeness = np.corrcoef(srgb.ravel(), np.asarray(avatar.colors).ravel())[0, 1]
    assert closeness > 0.5
    influences = read(document, primitive.attributes.JOINTS_0)
    shares = read(document, primitive.attributes.WEIGHTS_0)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    assert (influences[shares == 0] == 0).all()


def test_face_units_are_found_again():
    rng = np.random.default_rng(0)
    directions = 0.01 * rng.normal(size=(300, 52, 3))
    units = rng.uniform(0, 1, (4, 52)) * (rng.random((4, 52)) < 0.2)
    shifts = np.einsum("te,kea->tka", units, directions)
    shifts = shifts + 1e-5 * rng.normal(size=shifts.shape)
    found = fit_units(directions, shifts)
    assert (found >= 0).all() and (found <= 1).all()
    np.testing.assert_allclose(found, units, atol=0.01)
