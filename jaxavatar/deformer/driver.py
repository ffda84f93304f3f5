"""The audio-driven particle deformer: speech and text to joint motion and Gaussian offsets."""

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxavatar.body import JOINTS
from jaxavatar.deformer import se3
from jaxavatar.deformer.config import DriverConfig
from jaxavatar.deformer.fusion import GatedFusion
from jaxavatar.deformer.gaussian import GaussianHead, Offsets, Queries
from jaxavatar.deformer.motion import MotionHead
from jaxavatar.deformer.tokens import GaussianFeatures, without_person
from jaxavatar.deformer.window import Window
from jaxavatar.structs import Avatar


@flax.struct.dataclass
class AvatarCode:
    """What the networks read of an avatar; computed once, used for every frame.

    Attributes:
        anchors: features of [Q || Q_0].
        queries: of the Gaussian head.
    """

    anchors: Float[Array, "two_Q F"]
    queries: Queries


@flax.struct.dataclass
class Motion:
    """The motion of T frames; index it with `frames` to pick some.

    Attributes:
        transforms: T_{m,t} as parameters of jaxlie.SE3, relative to the rest pose.
        driving: D of each frame and its neighbours.
        valid: which of these neighbours the clip has.
    """

    transforms: Float[Array, "T M 7"]
    driving: Float[Array, "T w d"]
    valid: Bool[Array, "T w"]

    def frames(self, index: Array) -> "Motion":
        """Return the motion of the frames `index`, or of one frame without the axis T."""
        return jax.tree.map(lambda leaf: leaf[index], self)


def initial_state(config: DriverConfig) -> Float[Array, "M S"]:
    """Return the state before the first frame: the body at rest."""
    return se3.rest_state(len(JOINTS), config.integration)


class Driver(nn.Module):
    """Speech and text to motion and offsets.

    `encode` runs once per avatar, `track` once per stretch of speech, `offsets` once per frame.
    """

    config: DriverConfig

    def setup(self):
        """Build the parts."""
        self.features = GaussianFeatures(self.config)
        self.fusion = GatedFusion(self.config)
        self.motion = MotionHead(self.config)
        self.gaussian = GaussianHead(self.config)
        if self.config.integration == "leaky":
            rate = self.config.initial_rate
            logit = math.log(rate / (1 - rate))
            self.rate = self.param("rate", nn.initializers.constant(logit), (len(JOINTS),))

    def __call__(
        self, avatar: Avatar, window: Window, state: Float[Array, "M S"]
    ) -> tuple[Motion, Offsets, Float[Array, "M S"]]:
        """Return the motion, the offsets of every frame (leading axis T) and the next state.

        Args:
            avatar: whom to move.
            window: T frames of speech and text with `config.halo` frames on either side.
            state: `initial_state`, or what the previous stretch returned.
        """
        code = self.encode(avatar)
        motion, state = self.track(code, window, state)
        every_frame = nn.vmap(
            Driver.offsets,
            in_axes=(None, 0),  # pyright: ignore[reportArgumentType]
            variable_axes={"params": None},
            split_rngs={"params": False},
        )
        return motion, every_frame(self, code.queries, motion), state

    def encode(self, avatar: Avatar) -> AvatarCode:
        """Prepare an avatar."""
        features = self.features(avatar)
        anchors = features[avatar.anchors]
        return AvatarCode(
            anchors=jnp.concatenate([anchors, without_person(anchors)]),
            queries=self.gaussian.queries(features, (avatar.n_face, avatar.n_hand)),
        )

    def track(
        self, code: AvatarCode, window: Window, state: Float[Array, "M S"]
    ) -> tuple[Motion, Float[Array, "M S"]]:
        """Turn a stretch of speech into motion; return it and the state after its last frame."""
        near, reach = self.config.window, self.config.reach
        tokens = self.fusion(window)
        valid = window.valid[reach : window.valid.shape[0] - reach]
        frames = tokens.shape[0] - 2 * near
        twists = self.motion(tokens[near : near + frames], code.anchors)
        # Only leaky integration has a memory to learn.
        rate = nn.sigmoid(self.rate) if self.config.integration == "leaky" else jnp.ones(1)
        transforms, state = se3.integrate(twists, state, rate, self.config.integration)
        around = np.arange(frames)[:, None] + np.arange(2 * near + 1)
        motion = Motion(transforms=transforms.wxyz_xyz, driving=tokens[around], valid=valid[around])
        return motion, state

    def offsets(self, queries: Queries, frame: Motion) -> Offsets:
        """Return the offsets of one frame of `motion` for an avatar's or a selection's queries."""
        return self.gaussian(queries, frame.driving, frame.valid)
