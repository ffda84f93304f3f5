"""What the video teacher's clips show of the speech: the figures and pictures of its training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.data.clips import Clip
from jaxavatar.data.talking_heads import Shot, Talk, TalkConfig, cut, film
from jaxavatar.metrics.mouth_probe import MouthProbe, fit_probe
from jaxavatar.structs import Avatar
from jaxavatar.teachers.protocol import Params
from jaxavatar.teachers.sampling import sample
from jaxavatar.teachers.schedule import noisy
from jaxavatar.teachers.video_dit import VideoDiTTeacher

GUIDANCES = (1.0, 1.5, 2.0)
LEVELS = (0.3, 0.6, 0.9)
STEPS = 16  # of the sampler
_FITTED, _TESTED = 64, 16  # windows per person


def measure(
    teacher: VideoDiTTeacher,
    params: Params,
    config: TalkConfig,
    fitting: list[Clip],
    held_out: list[Clip],
    people: list[Avatar],
) -> dict:
    """Compare the mouth in drawn clips with the speech's true one.

    Args:
        teacher: whose clips.
        params: its parameters.
        config: sizes of the clips.
        fitting: clips whose rendered mouths a probe is fitted to, one probe per person.
        held_out: clips to measure on.
        people: one after the other.

    Returns:
        `probe`: correlation of the probe's opening with the true one in rendered held-out
        frames, the most that can be measured; `samples`: of drawn frames, per guidance, all
        people together, each centred and scaled by its own truth; `wrong_audio`: for the
        guidance 1.5, when the clip was drawn for other speech; `slope`: of the drawn opening
        over the true one; `error`: mean squared error of the velocity at some noise levels with
        right, wrong and no speech.
    """
    kinds: dict[str, list[np.ndarray]] = {}
    errors = []
    for number, avatar in enumerate(people):
        rng = np.random.default_rng([number, 4])
        known = windows(config, avatar, fitting, _FITTED, rng)
        probe = _probe(known)
        talk = windows(config, avatar, held_out, _TESTED, rng)
        true = np.asarray(talk.opening).ravel()
        centre, scale = true.mean(), true.std()

        def read(frames: Array, probe: MouthProbe = probe, c=centre, s=scale) -> np.ndarray:
            flat = np.asarray(frames).reshape(-1, *frames.shape[2:])
            return (probe(flat) - c) / s

        kinds.setdefault("true", []).append((true - centre) / scale)
        kinds.setdefault("probe", []).append(read(talk.frames))
        told = dataclasses.replace(talk.told, audio=talk.told.audio[::-1])
        wrong = dataclasses.replace(talk, told=told)
        for scale_of in GUIDANCES:
            drawn = draw(teacher, params, talk, jax.random.key(number), scale_of)
            kinds.setdefault(f"{scale_of:g}", []).append(read(drawn))
        drawn = draw(teacher, params, wrong, jax.random.key(number), 1.5)
        kinds.setdefault("wrong", []).append(read(drawn))
        errors.append(_errors(teacher, params, talk, wrong))
    joined = {name: np.concatenate(values) for name, values in kinds.items()}
    true = joined.pop("true")

    def related(name: str) -> float:
        return round(float(np.corrcoef(joined[name], true)[0, 1]), 3)

    return {
        "probe": related("probe"),
        "samples": {f"{g:g}": related(f"{g:g}") for g in GUIDANCES},
        "wrong_audio": related("wrong"),
        "slope": {
            f"{g:g}": round(float(joined[f"{g:g}"] @ true / (true @ true)), 3) for g in GUIDANCES
        },
        "error": {
            f"{level:g}": dict(
                zip(
                    ("right", "wrong", "none"), np.mean(errors, 0)[k].round(5).tolist(), strict=True
                )
            )
            for k, level in enumerate(LEVELS)
        },
    }


def windows(
    config: TalkConfig, avatar: Avatar, clips: list[Clip], count: int, rng: np.random.Generator
) -> Talk:
    """Render `count` random windows of clips, all of one person by one camera."""
    pieces = []
    for _ in range(count):
        clip = clips[rng.integers(len(clips))]
        begin = int(rng.integers(0, max(1, len(clip) - config.frames)))
        pieces.append(cut(clip, begin, config.frames, config.context))

    def same(value) -> Array:
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (count, *np.shape(value)))

    shots = Shot(
        avatar=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), avatar),
        motion=jax.tree.map(lambda *leaves: np.stack(leaves), *(motion for _, motion in pieces)),
        yaw=same(0.1),
        pitch=same(0.0),
        height=same(0.15),
        background=same([0.6, 0.6, 0.6]),
    )
    return film(shots, jnp.asarray(np.stack([audio for audio, _ in pieces])), config.side)


def draw(
    teacher: VideoDiTTeacher, params: Params, talk: Talk, key: jax.Array, guidance: float
) -> Float[Array, "B T H W 3"]:
    """Draw a clip for the speech and the reference picture of each of a batch."""
    return _draw(teacher, params, talk.told, key, (guidance,))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _draw(teacher: VideoDiTTeacher, params: Params, told, key: jax.Array, scales):
    condition = teacher.condition(params, told)
    shape = (len(told.audio), *teacher.config.latent_shape)
    return sample(teacher, params, key, shape, condition, scales, STEPS)


def draw_sheet(teacher: VideoDiTTeacher, params: Params, talk: Talk) -> Float[np.ndarray, "H W 3"]:
    """Lay out, for each clip, the reference picture with the true frames above the drawn ones."""
    drawn = draw(teacher, params, talk, jax.random.key(0), 1.5)
    still = np.asarray(talk.told.reference)[:, None]
    rows = [np.concatenate([still, np.asarray(frames)], axis=1) for frames in (talk.frames, drawn)]
    table = np.stack(rows, axis=1)  # B 2 T+1 H W 3
    clips, kinds, count, height, width, _ = table.shape
    tiled = table.transpose(0, 1, 3, 2, 4, 5)
    return tiled.reshape(clips * kinds * height, count * width, 3)


def _probe(talk: Talk) -> MouthProbe:
    frames = np.asarray(talk.frames)
    region = np.asarray(talk.mouth[0]) > 0
    return fit_probe(
        frames.reshape(-1, *frames.shape[2:]), np.asarray(talk.opening).ravel(), region
    )


@functools.partial(jax.jit, static_argnums=0)
def _errors(teacher: VideoDiTTeacher, params: Params, talk: Talk, wrong: Talk) -> Array:
    """Return the velocity's error per level and kind of speech."""
    clean = teacher.encode(params, talk.frames)
    noise = jax.random.normal(jax.random.key(0), clean.shape)
    right = teacher.condition(params, talk.told)
    conditions = (
        right,
        teacher.condition(params, wrong.told),
        teacher.drop(params, right, "audio"),
    )
    rows = []
    for level in LEVELS:
        tau = jnp.full(len(clean), level)
        mixed = noisy(teacher.spec.schedule, clean, noise, tau)
        made = [teacher.predict(params, mixed, tau, condition) for condition in conditions]
        rows.append(jnp.stack([jnp.mean((v - (noise - clean)) ** 2) for v in made]))
    return jnp.stack(rows)
