"""MakeHuman's macro targets: body shape as a function of gender, age, build and origin.

A phenotype is a value in [0, 1] per attribute. Its mesh is the base mesh plus the macro targets,
each weighted by the product of the (piecewise linear) memberships it names, as in MakeHuman.
"""

import itertools

import numpy as np
from jaxtyping import Float

from experiments.assets.makehuman import MPFB, Wheel

LEVELS = {
    "gender": {"male": 0.0, "female": 1.0},
    "age": {"baby": 0.0, "child": 1 / 3, "young": 2 / 3, "old": 1.0},
    "muscle": {"minmuscle": 0.0, "averagemuscle": 0.5, "maxmuscle": 1.0},
    "weight": {"minweight": 0.0, "averageweight": 0.5, "maxweight": 1.0},
    "height": {"minheight": 0.0, "maxheight": 1.0},
    "proportions": {"idealproportions": 0.0, "uncommonproportions": 1.0},
}
ORIGINS = ("african", "asian", "caucasian")
NEUTRAL = {name: 0.5 for name in LEVELS} | {"age": 2 / 3} | {name: 1 / 3 for name in ORIGINS}

# Babies are left out: nobody's talking avatar needs them, and they stretch the shape space.
_AGES = ("child", "young", "old")

DIRECTIONS: dict[str, dict[str, float]] = {
    "gender_male": {"gender": 0.0},
    "gender_female": {"gender": 1.0},
    "age_child": {"age": 1 / 3},
    "age_old": {"age": 1.0},
    "muscle_max": {"muscle": 1.0},
    "muscle_min": {"muscle": 0.0},
    "weight_max": {"weight": 1.0},
    "weight_min": {"weight": 0.0},
    "height_max": {"height": 1.0},
    "height_min": {"height": 0.0},
    "proportions_ideal": {"proportions": 0.0},
    **{origin: {name: float(name == origin) for name in ORIGINS} for origin in ORIGINS},
}
"""The extremes that the template's shape directions lead to, each alone from `NEUTRAL`."""

Factors = tuple[str, ...]


def macro_targets(wheel: Wheel) -> dict[Factors, str]:
    """List the macro targets: the level names each is a product of, and its path."""
    folder = MPFB + "targets/"
    found: dict[Factors, str] = {}
    for gender, age in itertools.product(LEVELS["gender"], _AGES):
        for origin in ORIGINS:
            name = f"macrodetails/{origin}-{gender}-{age}"
            found[(origin, gender, age)] = folder + name
        for muscle, weight in itertools.product(LEVELS["muscle"], LEVELS["weight"]):
            build = (gender, age, muscle, weight)
            stem = "-".join(build)
            found[build] = f"{folder}macrodetails/universal-{stem}"
            for height in LEVELS["height"]:
                found[(*build, height)] = f"{folder}macrodetails/height/{stem}-{height}"
            for proportions in LEVELS["proportions"]:
                path = f"{folder}macrodetails/proportions/{stem}-{proportions}"
                found[(*build, proportions)] = path
            breast = f"{folder}breast/{stem}-averagecup-averagefirmness"
            if gender == "female" and wheel.has(breast):
                found[(*build, "breast")] = breast
    return found


def coefficients(factors: list[Factors], phenotype: dict[str, float]) -> Float[np.ndarray, " K"]:
    """Weigh each macro target for a phenotype; attributes not named are neutral."""
    values = NEUTRAL | phenotype
    membership = {"breast": 1.0} | {origin: values[origin] for origin in ORIGINS}
    for attribute, levels in LEVELS.items():
        anchors = list(levels.values())
        for name, row in zip(levels, np.eye(len(levels)), strict=True):
            membership[name] = float(np.interp(values[attribute], anchors, row))
    return np.array([np.prod([membership[name] for name in names]) for names in factors])


def random_adult(rng: np.random.Generator) -> dict[str, float]:
    """Draw an adult phenotype, symmetric about the neutral one but for old age."""
    drawn = {name: float(rng.uniform()) for name in LEVELS} | {"age": float(rng.uniform(0.55, 1))}
    return drawn | dict(zip(ORIGINS, rng.dirichlet(np.ones(3)).tolist(), strict=True))
