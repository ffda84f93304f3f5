"""Face units from timed speech sounds, with coarticulation and exact closures.

Coarticulation follows the dominance model of Cohen & Massaro (1993, "Modeling coarticulation in
synthetic visual speech"): each sound has a target for each articulator and a dominance that falls
off with the distance in time; the articulator takes the average of the targets weighted by the
dominances. Sounds that do not care about an articulator have a small dominance and let their
neighbours through ("two" rounds its T already).

An average never quite reaches a closure, though, and a closure that is missed is what the eye sees
first. So two constrictions are laid over it: the lips touch in P, B, M (`seal`), and the lower lip
touches the upper teeth in F, V (`tuck`); each holds for at least the one frame nearest to its
middle. In pauses everything returns to the rest position: zero.

A sound is shown at the middle of a frame, (t + 0.5) / fps.
"""

import itertools

import numpy as np
from jaxtyping import Float, Int

from jaxavatar.errors import InputError
from jaxavatar.structs import FPS, Phone

FACE_UNITS: tuple[str, ...] = (
    *("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    *("cheekPuff", "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight"),
    *("eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft"),
    *("eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight"),
    *("eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight"),
    *("mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight"),
    *("mouthFunnel", "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft"),
    *("mouthPressRight", "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper"),
    *("mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft", "mouthSmileRight"),
    *("mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight"),
    *("noseSneerLeft", "noseSneerRight", "tongueOut"),
)
"""The 52 face units of ARKit in alphabetical order: the order of every expression vector."""

# Articulators: jaw, pucker, funnel, spread lips, teeth bared, tongue forward. A target is in face
# units (jawOpen 0.3 parts the lips by about 10 mm). The last two columns are the dominances of the
# jaw and of the lips (all others) over those of the neighbours.
_SHAPES: dict[str, tuple[float, ...]] = {
    #      jaw  puck  funn  sprd  bare  tong   jaw*  lips*
    "SIL": (0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.3, 0.3),
    "AA": (0.30, 0.00, 0.00, 0.05, 0.05, 0.00, 1.0, 0.7),
    "AE": (0.27, 0.00, 0.00, 0.25, 0.15, 0.00, 1.0, 0.8),
    "AH": (0.20, 0.00, 0.00, 0.05, 0.05, 0.00, 0.8, 0.5),
    "AX": (0.13, 0.00, 0.00, 0.05, 0.05, 0.00, 0.5, 0.3),
    "AO": (0.26, 0.15, 0.25, 0.00, 0.00, 0.00, 1.0, 1.0),
    "EH": (0.21, 0.00, 0.00, 0.25, 0.12, 0.00, 0.9, 0.8),
    "ER": (0.13, 0.20, 0.22, 0.00, 0.05, 0.00, 0.8, 0.9),
    "IH": (0.13, 0.00, 0.00, 0.25, 0.10, 0.00, 0.8, 0.7),
    "IY": (0.09, 0.00, 0.00, 0.45, 0.12, 0.00, 0.9, 1.0),
    "UH": (0.12, 0.35, 0.20, 0.00, 0.00, 0.00, 0.8, 1.0),
    "UW": (0.08, 0.65, 0.22, 0.00, 0.00, 0.00, 0.9, 1.4),
    "OH": (0.21, 0.40, 0.28, 0.00, 0.00, 0.00, 0.9, 1.2),
    "PBM": (0.07, 0.00, 0.00, 0.00, 0.00, 0.00, 1.2, 0.3),
    "FV": (0.06, 0.00, 0.00, 0.05, 0.00, 0.00, 1.2, 0.6),
    "TH": (0.10, 0.00, 0.00, 0.08, 0.08, 0.32, 1.0, 0.7),
    "TDN": (0.09, 0.00, 0.00, 0.08, 0.08, 0.10, 0.8, 0.3),
    "L": (0.12, 0.00, 0.00, 0.08, 0.08, 0.16, 0.8, 0.4),
    "SZ": (0.05, 0.00, 0.00, 0.18, 0.18, 0.00, 1.3, 0.7),
    "SH": (0.06, 0.20, 0.45, 0.00, 0.15, 0.00, 1.3, 1.3),
    "R": (0.10, 0.35, 0.20, 0.00, 0.03, 0.00, 0.8, 1.0),
    "W": (0.06, 0.75, 0.15, 0.00, 0.00, 0.00, 1.0, 1.8),
    "Y": (0.08, 0.00, 0.00, 0.32, 0.05, 0.00, 0.9, 0.8),
    "KG": (0.11, 0.00, 0.00, 0.05, 0.05, 0.00, 0.6, 0.2),
    "HH": (0.13, 0.00, 0.00, 0.05, 0.03, 0.00, 0.2, 0.1),
}

BILABIALS = ("P", "B", "M")
"""The sounds that close the lips."""

# What each sound looks like. A diphthong glides from one shape to another.
PHONE_SHAPES: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("SIL", "AA", "AE", "AH", "AX", "AO", "EH", "ER", "IH", "IY")},
    **{name: (name,) for name in ("UH", "UW", "L", "R", "W", "Y", "HH", "SH", "TH")},
    **dict.fromkeys(BILABIALS, ("PBM",)),
    **dict.fromkeys(("F", "V"), ("FV",)),
    **dict.fromkeys(("T", "D", "N"), ("TDN",)),
    **dict.fromkeys(("S", "Z"), ("SZ",)),
    **dict.fromkeys(("ZH", "CH", "JH"), ("SH",)),
    **dict.fromkeys(("K", "G", "NG"), ("KG",)),
    "DH": ("TH",),
    "AY": ("AA", "IH"),
    "AW": ("AA", "UH"),
    "EY": ("EH", "IY"),
    "OW": ("OH", "UW"),
    "OY": ("AO", "IH"),
}

_ARTICULATORS = 6
_NEAR = 8  # shapes to each side that can reach a frame
_RAMP = 0.065  # seconds from a constriction to free lips
_FADE = 0.12  # seconds from speech to rest


def face_curves(
    phones: tuple[Phone, ...], frames: int, fps: float = FPS
) -> Float[np.ndarray, "T E"]:
    """Compute the face units of speech.

    Args:
        phones: speech sounds in time order.
        frames: number of frames T.
        fps: frames per second.

    Returns:
        T rows of the 52 units of `FACE_UNITS`, in [0, 1]; exactly zero in pauses, more than
        0.12 s from any sound.

    Raises:
        InputError: a symbol that is not ARPABET.
    """
    curves = np.zeros((frames, len(FACE_UNITS)), np.float32)
    speech = [phone for phone in phones if phone.symbol != "SIL"]
    if not speech:
        return curves
    time = (np.arange(frames) + 0.5) / fps
    shapes = _blend(phones, time)
    seal = _constriction(phones, BILABIALS, time, fps)
    # Where both could act the lips' own closure wins.
    tuck = _constriction(phones, ("F", "V"), time, fps) * (1 - seal)
    units = _units(shapes, seal, tuck)
    amount = _fade(speech, time)
    for name, values in units.items():
        curves[:, FACE_UNITS.index(name)] = np.clip(values * amount, 0, 1)
    return curves


def _blend(phones: tuple[Phone, ...], time: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T A"]:
    """Return each articulator's average target, weighted by the dominances."""
    spans, rows = _spans(phones)
    middle, width = spans.mean(1), np.clip(0.5 * (spans[:, 1] - spans[:, 0]) + 0.025, 0.04, 0.12)
    near = _nearest(spans[:, 1], time)
    distance = (time[:, None] - middle[near]) / width[near]
    table = rows[near]
    alpha = table[..., [-2] + [-1] * (_ARTICULATORS - 1)]
    # Gaussian dominance: the exponent 2 of Cohen & Massaro's family has no kink at the middle.
    # A common factor cancels in the average; taking the nearest's keeps the sum above zero.
    exponent = -(distance**2)
    dominance = alpha * np.exp(exponent - exponent.max(1, keepdims=True))[..., None]
    return (dominance * table[..., :_ARTICULATORS]).sum(1) / dominance.sum(1)


def _spans(
    phones: tuple[Phone, ...],
) -> tuple[Float[np.ndarray, "P 2"], Float[np.ndarray, "P columns"]]:
    """Return start and end of every shape, and its row of the table."""
    spans, rows = [], []
    for phone in phones:
        if phone.symbol not in PHONE_SHAPES:
            raise InputError(f"unknown speech sound {phone.symbol!r}; use ARPABET without stress")
        shapes = PHONE_SHAPES[phone.symbol]
        edges = np.linspace(phone.start, phone.end, len(shapes) + 1)
        spans.extend(itertools.pairwise(edges))
        rows.extend(_SHAPES[shape] for shape in shapes)
    return np.array(spans), np.array(rows)


def _nearest(
    ends: Float[np.ndarray, " P"], time: Float[np.ndarray, " T"]
) -> Int[np.ndarray, "T n"]:
    """Return the indices of the shapes around each time; the memory stays linear in T."""
    count = min(len(ends), 2 * _NEAR + 1)
    first = np.clip(np.searchsorted(ends, time) - _NEAR, 0, len(ends) - count)
    return first[:, None] + np.arange(count)


def _constriction(
    phones: tuple[Phone, ...], symbols: tuple[str, ...], time: Float[np.ndarray, " T"], fps: float
) -> Float[np.ndarray, " T"]:
    """Return 1 in the frames of the given sounds, falling smoothly to 0 before and after.

    The last third of a stop is its release. At low frame rates a sound may lie between the
    frames: it then takes the one nearest to the middle of its closure.
    """
    free = np.ones(len(time))  # a product, not a minimum: no kink where two of them meet
    reach = int(np.ceil(_RAMP * fps)) + 1
    for phone in phones:
        if phone.symbol not in symbols:
            continue
        released = (phone.end - phone.start) / 3 if phone.symbol in ("P", "B") else 0.0
        begin, end = phone.start, phone.end - released
        nearest = (np.floor((begin + end) / 2 * fps) + 0.5) / fps
        begin, end = min(begin, nearest), max(end, nearest)
        around = slice(max(int(begin * fps) - reach, 0), int(end * fps) + reach + 1)
        distance = np.maximum(np.maximum(begin - time[around], time[around] - end), 0)
        ramp = 0.5 + 0.5 * np.cos(np.pi * np.minimum(distance / _RAMP, 1))
        free[around] *= 1 - ramp
    return 1 - free


def _fade(speech: list[Phone], time: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Return 1 while there is sound and 0 in pauses, smooth between."""
    start, end = np.array([(phone.start, phone.end) for phone in speech]).T
    begins = np.append(start, np.inf)
    ends = np.insert(end, 0, -np.inf)
    following = np.searchsorted(end, time)  # the sound that is on or comes next
    distance = np.minimum(begins[following] - time, time - ends[following])
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(distance / _FADE, 0, 1))


def _units(
    shapes: Float[np.ndarray, "T A"], seal: Float[np.ndarray, " T"], tuck: Float[np.ndarray, " T"]
) -> dict[str, Float[np.ndarray, " T"]]:
    """Turn articulators and constrictions into face units.

    `mouthClose` brings the lips together by as much as the same `jawOpen` parts them, so equal
    values mean touching lips; everything else that parts them fades out under a constriction.
    """
    jaw, pucker, funnel, spread, bare, tongue = shapes.T
    free = (1 - seal) * (1 - tuck)
    jaw = jaw * (1 - 0.5 * seal) * (1 - 0.4 * tuck)
    return {
        "jawOpen": jaw,
        "mouthClose": jaw * (seal + 0.7 * tuck),
        "mouthPucker": pucker,
        "mouthFunnel": funnel * free,
        "tongueOut": tongue * free,
        "mouthRollLower": 0.1 * seal + 0.4 * tuck,
        "mouthRollUpper": 0.08 * seal,
        **_both("mouthPress", 0.2 * seal),
        **_both("mouthStretch", 0.5 * spread * (1 - 0.5 * seal)),
        **_both("mouthSmile", 0.3 * spread * (1 - 0.5 * seal)),
        **_both("mouthLowerDown", bare * free),
        **_both("mouthUpperUp", 0.7 * bare * free + 0.38 * tuck),
    }


def _both(name: str, values: Float[np.ndarray, " T"]) -> dict[str, Float[np.ndarray, " T"]]:
    return {f"{name}Left": values, f"{name}Right": values}
