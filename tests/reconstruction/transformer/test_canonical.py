"""The canonical pose of the query points."""

import jax.numpy as jnp
import numpy as np

from jaxavatar.body import JOINTS, PARENTS, load_template
from jaxavatar.reconstruction.transformer.canonical import query_points, to_rest


def test_legs_part_and_come_back():
    """Each foot swings by 20 degrees about its hip; a point of one joint returns home."""
    model = load_template()
    joints = np.asarray(model.joints, float)
    names = ["left_foot", "right_foot", "left_wrist"]
    rows = [JOINTS.index(name) for name in names]
    points, weights = model.joints[jnp.array(rows)], jnp.eye(len(JOINTS))[jnp.array(rows)]
    placed = np.asarray(query_points(points, weights, model.joints, PARENTS))
    for k, (side, angle) in enumerate((("left", np.pi / 9), ("right", -np.pi / 9))):
        hip = joints[JOINTS.index(f"{side}_hip")]
        turn = np.array(
            [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        )
        np.testing.assert_allclose(placed[k], hip + turn @ (joints[rows[k]] - hip), atol=1e-5)
    np.testing.assert_allclose(placed[2], joints[rows[2]], atol=1e-6)
    assert placed[0, 0] - placed[1, 0] > joints[rows[0], 0] - joints[rows[1], 0] + 0.3
    back = np.asarray(to_rest(model.joints, PARENTS))[rows]
    home = np.einsum("nab,nb->na", back[:, :, :3], placed) + back[:, :, 3]
    np.testing.assert_allclose(home, joints[rows], atol=1e-5)
