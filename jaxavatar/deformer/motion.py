"""The motion head: driving tokens to one twist per joint and frame (eq. 1 and 2).

Eq. 1 needs M queries to give M rows; they are learned, one per joint, and conditioned on the
frame's driving token: q_{m,t} = e_m + Proj(D_t). They attend over [Q || Q_0], the tokens of the
avatar's anchors and of the same anchors on the template. The query is added to what attention
returns, because keys and values do not change in time: by attention weights alone hardly any
speech would come through.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.body import JOINTS, LEFT_HAND, RIGHT_HAND
from jaxavatar.deformer.config import DriverConfig

_LEGS = ("hip", "knee", "ankle", "foot", "pelvis")
_NEAR_ZERO = nn.initializers.normal(1e-3)


def twist_bounds() -> Float[np.ndarray, "M 6"]:
    """Return the largest twist per frame of each joint: metres, then radians.

    Joints barely translate: bones keep their length up to soft tissue. Legs are nearly still in
    a conversation; hands and jaw are the quickest.
    """
    turn = np.full(len(JOINTS), 0.1)
    turn[[i for i, name in enumerate(JOINTS) if name.split("_")[-1] in _LEGS]] = 0.02
    turn[[JOINTS.index("jaw"), JOINTS.index("left_eye"), JOINTS.index("right_eye")]] = 0.2
    turn[LEFT_HAND] = turn[RIGHT_HAND] = 0.15
    shift = np.full(len(JOINTS), 0.001)
    shift[JOINTS.index("pelvis")] = 0.005
    return np.concatenate([np.tile(shift[:, None], 3), np.tile(turn[:, None], 3)], axis=1)


class MotionHead(nn.Module):
    """Predict bounded twists of the M = 55 joints."""

    config: DriverConfig

    @nn.compact
    def __call__(
        self, driving: Float[Array, "T d"], anchors: Float[Array, "two_Q F"]
    ) -> Float[Array, "T M 6"]:
        """Return the twists of each frame.

        Args:
            driving: D_t.
            anchors: features of [Q || Q_0], from `tokens`.
        """
        width, joints, frames = self.config.width, len(JOINTS), driving.shape[0]
        speech = nn.Dense(width, name="condition")(nn.LayerNorm(name="norm_in")(driving))
        if self.config.motion_tokens:
            joint = self.param("joints", nn.initializers.normal(0.5), (joints, width))
            kind = self.param("kinds", nn.initializers.normal(0.1), (2, width))
            tokens = nn.Dense(width, name="anchors")(anchors)
            tokens = tokens + jnp.repeat(kind, anchors.shape[0] // 2, axis=0)
            tokens = nn.LayerNorm(name="norm_anchors")(tokens)
            query = (joint + speech[:, None]).reshape(frames * joints, width)
            context = nn.MultiHeadDotProductAttention(self.config.heads, name="attention")(
                nn.LayerNorm(name="norm_query")(query), tokens
            )
            hidden = nn.LayerNorm(name="norm_out")(query + context)
            hidden = nn.gelu(nn.Dense(width, name="twist_in")(hidden))
            # One output matrix per joint: a shared one would have to tell 55 joints apart.
            out = self.param("twist_out", _NEAR_ZERO, (joints, width, 6))
            raw = jnp.einsum("tmd,mdk->tmk", hidden.reshape(frames, joints, width), out)
            raw = raw + self.param("twist_bias", nn.initializers.zeros, (joints, 6))
        else:
            hidden = nn.gelu(nn.Dense(2 * width, name="direct_in")(speech))
            raw = nn.Dense(joints * 6, kernel_init=_NEAR_ZERO, name="direct_out")(hidden)
            raw = raw.reshape(frames, joints, 6)
        return jnp.asarray(twist_bounds(), raw.dtype) * jnp.tanh(raw)
