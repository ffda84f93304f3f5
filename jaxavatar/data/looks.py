"""Looks of people who do not exist: hair, skin and clothes as functions of the place on a body.

A look gives any point of the template a colour and a distance by which hair or cloth stands off
the skin. All is procedural, so that there are as many looks as seeds, and so that the unseen sides
of a person are known as well as the front.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from jaxavatar.body import JOINTS, VERTEX_GROUPS, BodyModel
from jaxavatar.body.face_landmarks import load_face_landmarks

_SKIN = np.array(
    [
        [0.96, 0.83, 0.75],
        [0.90, 0.72, 0.60],
        [0.76, 0.56, 0.43],
        [0.55, 0.38, 0.28],
        [0.36, 0.24, 0.18],
    ]
)
_HAIR = np.array(
    [
        [0.05, 0.04, 0.04],
        [0.13, 0.09, 0.07],
        [0.28, 0.17, 0.10],
        [0.45, 0.28, 0.15],
        [0.72, 0.56, 0.34],
        [0.60, 0.58, 0.56],
    ]
)
_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409)
_LIPS += (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415)
_BROWS = (70, 63, 105, 66, 107, 55, 65, 52, 300, 293, 334, 296, 336, 285, 295, 282)
_FOREHEAD, _CHIN, _EAR = 10, 152, 234


@dataclasses.dataclass(frozen=True)
class Spots:
    """Points of a body's surface, described on the template.

    Attributes:
        points: template positions in the T-pose, metres.
        group: index into `VERTEX_GROUPS`.
        bare: how far a point belongs to the head, 0 to 1.
        hand: how far it belongs to a hand.
        leg: how far it belongs to a leg or foot.
    """

    points: Float[np.ndarray, "N 3"]
    group: Int[np.ndarray, " N"]
    bare: Float[np.ndarray, " N"]
    hand: Float[np.ndarray, " N"]
    leg: Float[np.ndarray, " N"]


def spots(
    model: BodyModel, corners: Int[np.ndarray, "N 3"], mix: Float[np.ndarray, "N 3"]
) -> Spots:
    """Describe points given by a triangle's vertices and barycentric weights."""
    shares = _shares(model)
    own = (shares[corners] * mix[:, :, None]).sum(1)
    return Spots(
        points=(np.asarray(model.vertices, float)[corners] * mix[:, :, None]).sum(1),
        group=np.asarray(model.vertex_group)[corners[:, 0]],
        bare=own[:, 0],
        hand=own[:, 1],
        leg=own[:, 2],
    )


def _shares(model: BodyModel) -> Float[np.ndarray, "V 3"]:
    weights = np.asarray(model.weights, float)

    def belongs(ends: tuple[str, ...]) -> np.ndarray:
        return weights[:, [k for k, name in enumerate(JOINTS) if name.endswith(ends)]].sum(1)

    fingers = tuple(str(k) for k in (1, 2, 3))
    hand = belongs(("wrist", *fingers)) - belongs(("spine1", "spine2", "spine3"))
    return np.stack(
        [belongs(("head", "jaw", "eye")), hand, belongs(("hip", "knee", "ankle", "foot"))], 1
    )


@dataclasses.dataclass(frozen=True)
class Look:
    """One person's hair, skin and clothes.

    Attributes:
        seed: of the texture's details.
        skin: colour of the skin.
        hair: colour of the hair.
        hairline: how far the hair reaches towards the face, metres above the usual.
        volume: of the hair on top, metres.
        length: how low the hair hangs at the back, metres above the ground; nothing hangs above
            the nape.
        knot: size of a knot at the back of the head, metres; 0 for none.
        beard: how dense, 0 to 1.
        lips: how red, 0 to 1.
        sleeve: where the sleeves end, metres from the middle of the body (the wrist is at 0.73).
        neckline: depth of the collar's opening, metres below the neck.
        hem: where the top ends, metres above the ground.
        loose: how far the top stands off, metres.
        top: colours of the top: ground and pattern.
        pattern: 0 plain, 1 stripes across, 2 stripes along, 3 checks, 4 blotches.
        period: of the pattern, metres.
        open_front: half width of an open jacket's gap, metres; 0 for a closed top.
        inner: colour of what is worn below a jacket.
        trousers: colour of the trousers; skin for bare legs.
        shoes: colour of the shoes.
    """

    seed: int
    skin: np.ndarray
    hair: np.ndarray
    hairline: float
    volume: float
    length: float
    knot: float
    beard: float
    lips: float
    sleeve: float
    neckline: float
    hem: float
    loose: float
    top: np.ndarray
    pattern: int
    period: float
    open_front: float
    inner: np.ndarray
    trousers: np.ndarray
    shoes: np.ndarray


def random_look(rng: np.random.Generator) -> Look:
    """Draw a look."""
    between = rng.random()
    tone = int(rng.integers(len(_SKIN) - 1))
    skin = (1 - between) * _SKIN[tone] + between * _SKIN[tone + 1] + rng.normal(0, 0.02, 3)
    long_hair = rng.random() < 0.4
    return Look(
        seed=int(rng.integers(2**31)),
        skin=skin.clip(0.05, 1),
        hair=(_HAIR[rng.integers(len(_HAIR))] * rng.uniform(0.8, 1.2, 3)).clip(0.02, 0.9),
        hairline=float(rng.normal(0, 0.008) + (0.15 if rng.random() < 0.06 else 0)),
        volume=float(rng.uniform(0.004, 0.045)),
        length=float(rng.uniform(1.32, 1.55)) if long_hair else 1.65,
        knot=float(rng.uniform(0.02, 0.05)) if not long_hair and rng.random() < 0.15 else 0.0,
        beard=float(rng.uniform(0.2, 0.9)) if not long_hair and rng.random() < 0.3 else 0.0,
        lips=float(rng.uniform(0.2, 1.0)),
        sleeve=float(rng.choice([0.20, rng.uniform(0.28, 0.42), 0.5, 0.71, 0.72])),
        neckline=float(rng.choice([-0.03, 0.0, 0.0, rng.uniform(0, 0.12)])),
        hem=float(rng.uniform(0.85, 1.03)),
        loose=float(rng.uniform(0.0, 0.025)),
        top=_dyes(rng, 2),
        pattern=int(rng.choice([0, 0, 0, 1, 2, 3, 4])),
        period=float(rng.uniform(0.015, 0.08)),
        open_front=float(rng.uniform(0.02, 0.07)) if rng.random() < 0.25 else 0.0,
        inner=_dyes(rng, 1)[0],
        trousers=skin if rng.random() < 0.12 else _dyes(rng, 1)[0] * 0.8,
        shoes=_dyes(rng, 1)[0] * 0.5,
    )


def _dyes(rng: np.random.Generator, count: int) -> Float[np.ndarray, "count 3"]:
    """Draw colours of cloth: most are pale, dark or grey, as clothes are."""
    grey = rng.choice([0.05, 0.15, 0.35, 0.6, 0.85, 0.93], size=(count, 1))
    hue = rng.random((count, 3))
    vivid = rng.choice([0.05, 0.15, 0.3, 0.7], size=(count, 1))
    return ((1 - vivid) * grey + vivid * hue + rng.normal(0, 0.02, (count, 3))).clip(0.02, 0.98)


def colors(look: Look, model: BodyModel, at: Spots) -> Float[np.ndarray, "N 3"]:
    """Return the colour of each point before any light falls on it, [0, 1]."""
    rng = np.random.default_rng(look.seed)
    made = np.tile(look.skin, (len(at.points), 1))
    made *= 1 + 0.05 * _noise(rng, at.points, 0.05)[:, None]
    made[at.hand > 0.5] *= [0.98, 0.93, 0.92]
    _paint_clothes(look, rng, at, made)
    _paint_face(look, model, at, made)
    hair = hair_share(look, model, at)
    strands = 1 + 0.1 * _noise(rng, at.points, 0.012) + 0.12 * _noise(rng, at.points, 0.05)
    made += hair[:, None] * (look.hair * strands[:, None] - made)
    return made.clip(0, 1)


def standoff(look: Look, model: BodyModel, at: Spots) -> Float[np.ndarray, " N"]:
    """Return how far hair or cloth stands off the skin, metres along the normal."""
    rng = np.random.default_rng(look.seed + 1)
    height, half, depth = at.points[:, 1], np.abs(at.points[:, 0]), at.points[:, 2]
    marks = _marks(model)
    crown = marks[_FOREHEAD, 1]
    hair = hair_share(look, model, at) * np.maximum(1 + 0.4 * _noise(rng, at.points, 0.06), 0.2)
    on_top = np.clip((height - marks[_EAR, 1]) / (crown - marks[_EAR, 1]), 0.3, 1.0)
    out = look.volume * hair * on_top
    if look.length < 1.6:  # what hangs hides the neck: it stands off where the neck is thin
        hanging = hair * (1 - at.bare) * np.clip((1.62 - height) / 0.05, 0, 1)
        out += hanging * np.clip(0.035 - 0.2 * half, 0.01, 0.035)
    knot = np.array([0.0, marks[_EAR, 1] + 0.02, marks[_EAR, 2] - 0.1])
    away = np.linalg.norm(at.points - knot, axis=1)
    out += look.knot * np.exp(-0.5 * (away / 0.03) ** 2) * (depth < marks[_EAR, 2])
    cloth = _top_share(look, at)
    folds = 1 + 0.5 * _noise(rng, at.points, 0.12)
    waist = 1 + 0.6 * np.exp(-0.5 * ((height - 1.1) / 0.12) ** 2)
    return out + cloth * look.loose * folds.clip(0.1) * waist + 0.003 * cloth


def hair_share(look: Look, model: BodyModel, at: Spots) -> Float[np.ndarray, " N"]:
    """Return how far each point is covered by hair, 0 to 1."""
    marks = _marks(model)
    forehead, ear, chin = marks[_FOREHEAD], marks[_EAR], marks[_CHIN]
    height, depth, half = at.points[:, 1], at.points[:, 2], np.abs(at.points[:, 0])
    # The lowest point of the hair, from the nape over the ears to the forehead.
    places = [ear[2] - 0.1, ear[2] - 0.035, ear[2] - 0.01, ear[2] + 0.03, forehead[2] + 0.005]
    lowest = [chin[1] + 0.01, chin[1] + 0.03, ear[1] + 0.03, ear[1] + 0.045, forehead[1]]
    line = np.interp(depth, places, lowest) + look.hairline
    share = at.bare * np.clip((height - line) / 0.006 + 0.5, 0, 1)
    if look.length < 1.6:
        behind = np.clip((ear[2] + 0.005 - depth) / 0.01, 0, 1) * (half < 0.13)
        share = np.maximum(share, behind * np.clip((height - look.length) / 0.02, 0, 1))
    return share * (at.group == 0)


def _top_share(look: Look, at: Spots) -> Float[np.ndarray, " N"]:
    """Return how far each point is covered by the top."""
    height, depth, half = at.points[:, 1], at.points[:, 2], np.abs(at.points[:, 0])
    front = np.clip(depth / 0.05, 0, 1)
    neck = 1.535 - look.neckline * front * np.clip(1 - half / 0.09, 0, 1)
    covered = np.clip((neck - height) / 0.004 + 0.5, 0, 1) + (half > 0.13)
    covered *= np.clip((look.sleeve - half) / 0.006 + 0.5, 0, 1)
    covered *= np.clip((height - look.hem) / 0.006 + 0.5, 0, 1)
    return covered.clip(0, 1) * (1 - at.bare) * (at.group == 0)


def _paint_clothes(
    look: Look, rng: np.random.Generator, at: Spots, made: Float[np.ndarray, "N 3"]
) -> None:
    height, depth, half = at.points[:, 1], at.points[:, 2], np.abs(at.points[:, 0])
    below = (1 - at.bare) * np.clip((1.05 - height) / 0.006, 0, 1) * (half < 0.4)
    made += below[:, None] * (look.trousers - made)
    shoe = np.clip((0.09 - height) / 0.004, 0, 1)
    made += shoe[:, None] * (look.shoes - made)
    wave = 2 * np.pi / look.period
    across, along = np.sin(wave * height), np.sin(wave * at.points[:, 0])
    share = {
        0: np.zeros(len(half)),
        1: across > 0,
        2: along > 0,
        3: 0.5 * (across > 0) + 0.5 * (along > 0),
        4: _noise(rng, at.points, look.period) > 0,
    }[look.pattern]
    top = look.top[0] + np.asarray(share, float)[:, None] * (look.top[1] - look.top[0])
    gap = (half < look.open_front) & (depth > 0)
    top = np.where(gap[:, None], look.inner, top)
    top = top * (1 + 0.08 * _noise(rng, at.points, 0.1)[:, None])
    made += _top_share(look, at)[:, None] * (top - made)


def _paint_face(look: Look, model: BodyModel, at: Spots, made: Float[np.ndarray, "N 3"]) -> None:
    marks = _marks(model)
    bare = (at.bare > 0.5) & (at.group == 0)
    chin, nose = marks[_CHIN], marks[2]
    jaw = bare & (at.points[:, 1] < nose[1] - 0.004) & (at.points[:, 2] > marks[_EAR, 2])
    jaw &= at.points[:, 1] > chin[1] - 0.02
    made[jaw] += 0.7 * look.beard * (look.hair - made[jaw])
    red = look.skin + look.lips * (np.array([0.7, 0.2, 0.22]) - look.skin) * 0.6
    for ids, color, reach in ((_LIPS, red, 0.0035), (_BROWS, look.hair * 0.9, 0.0045)):
        distance = np.linalg.norm(at.points[:, None] - marks[list(ids)], axis=2).min(1)
        made[bare & (distance < reach)] = color
    for name, color in (
        ("upper_teeth", (0.9, 0.88, 0.82)),
        ("lower_teeth", (0.85, 0.83, 0.78)),
        ("tongue", (0.6, 0.3, 0.3)),
    ):
        made[at.group == VERTEX_GROUPS.index(name)] = color
    for name, iris in (("left_eye", 473), ("right_eye", 468)):
        eye = at.group == VERTEX_GROUPS.index(name)
        made[eye] = 0.9
        made[eye & (np.linalg.norm(at.points - marks[iris], axis=1) < 0.006)] = look.hair * 0.8


def _marks(model: BodyModel) -> Float[np.ndarray, "478 3"]:
    corners, mix = load_face_landmarks()
    return (np.asarray(model.vertices, float)[corners] * mix[:, :, None]).sum(1)


def _noise(
    rng: np.random.Generator, points: Float[np.ndarray, "N 3"], size: float
) -> Float[np.ndarray, " N"]:
    """Return smooth noise of deviation one: waves in random directions, `size` metres long."""
    directions = rng.normal(0, 2 * np.pi / (3 * size), (6, 3))
    return np.sin(points @ directions.T + rng.uniform(0, 2 * np.pi, 6)).sum(1) / np.sqrt(3)
