"""Smoothness of trajectories: jitter costs, articulation does not.

A trajectory is where a keypoint or a joint is in each of T consecutive frames, in any unit. Second
differences x[t-1] - 2 x[t] + x[t+1] answer to a sinusoid of frequency f by 4 sin^2(pi f / fps)
times its amplitude: 0.06 for 1 Hz, 0.5 for 3 Hz and 4 for 12.5 Hz at 25 frames per second. Speech
moves jaw and lips at 2 to 7 Hz; what is faster is noise of a teacher or of a detector.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_LEAST_ENERGY = 1e-4  # squared units per frame: what moves less is at rest


def jumps(
    points: Float[Array, "T K D"],
    weights: Float[Array, "T K"] | None = None,
    free: float = 0.0,
) -> Float[Array, ""]:
    """Penalise second differences that are longer than `free`.

    Args:
        points: trajectories; T >= 3. Subtract the teacher's to keep its own articulation free.
        weights: confidence of each point in [0, 1]; a second difference takes the least of its
            three. None weighs all alike.
        free: length that costs nothing, unit per frame squared. An articulation of amplitude A
            and frequency f stays free below 4 A sin^2(pi f / fps).

    Returns:
        mean of max(|x[t-1] - 2 x[t] + x[t+1]| - free, 0)^2 over frames and points, squared units.
    """
    second = points[:-2] - 2.0 * points[1:-1] + points[2:]
    # The bound comes before the root, which has no derivative at zero.
    bound = max(free, 1e-12)
    excess = jnp.sqrt(jnp.maximum(jnp.sum(second**2, axis=-1), bound**2)) - bound
    if weights is None:
        return jnp.mean(excess**2)
    least = jnp.minimum(jnp.minimum(weights[:-2], weights[1:-1]), weights[2:])
    return jnp.sum(least * excess**2) / jnp.maximum(jnp.sum(least), 1e-6)


def fast_share(
    points: Float[Array, "T K D"], cutoff: float, fps: float, least: float = _LEAST_ENERGY
) -> Float[Array, ""]:
    """Return the share of the motion's energy above a frequency.

    Energy is the power of the velocities v[t] = x[t+1] - x[t] under a Hann window:
    sum_{f > cutoff} P(f) / (sum_f P(f) + least).

    Args:
        points: trajectories.
        cutoff: Hz.
        fps: frames per second.
        least: squared units per frame and coordinate; far less energy counts as rest.

    Returns:
        A number in [0, 1). It falls by moving more slowly as well as by moving less fast; only
        the latter is wanted, so keep it beside a loss that knows the motion's size.
    """
    frequency, power = power_spectrum(points, fps)
    fast = jnp.sum(jnp.where(frequency[:, None, None] > cutoff, power, 0.0))
    return fast / (jnp.sum(power) + least * points.shape[1] * points.shape[2])


def spectral_distance(
    points: Float[Array, "T K D"],
    targets: Float[Array, "T K D"],
    fps: float,
    least: float = _LEAST_ENERGY,
) -> Float[Array, ""]:
    """Compare how strongly points move at each frequency, whenever they do so.

    Args:
        points: trajectories.
        targets: of the teacher; they need not be in time with ours.
        fps: frames per second.
        least: squared units per frame and coordinate; added to both powers, so that what rests
            in both counts as equal.

    Returns:
        mean over frequencies f and points k of
        (log(P_k(f) + least / F) - log(P~_k(f) + least / F))^2, where P_k is the power of the
        velocity of point k and F the number of frequencies.
    """
    frequency, ours = power_spectrum(points, fps)
    _, theirs = power_spectrum(targets, fps)
    floor = least * points.shape[2] / len(frequency)
    ours, theirs = (jnp.log(power.sum(axis=-1) + floor) for power in (ours, theirs))
    return jnp.mean((ours - theirs) ** 2)


def power_spectrum(
    points: Float[Array, "T K D"], fps: float
) -> tuple[Float[np.ndarray, " F"], Float[Array, "F K D"]]:
    """Return frequencies in Hz, and the power of each coordinate's velocity at them.

    Args:
        points: trajectories, T >= 4.
        fps: frames per second.

    Returns:
        F = (T - 1) // 2 + 1 frequencies from 0 to fps / 2. The powers add up to the mean square
        of the windowed velocities divided by that of the window, so that for white noise their
        sum is its variance; squared units per frame.
    """
    velocity = points[1:] - points[:-1]
    count = len(velocity)
    window = np.hanning(count + 2)[1:-1].astype(points.dtype)[:, None, None]
    amplitude = jnp.fft.rfft(velocity * window, axis=0)
    # All but the first and, for an even count, the last stand for a negative frequency too.
    twice = np.full(count // 2 + 1, 2.0, points.dtype)
    twice[0] = 1.0
    if count % 2 == 0:
        twice[-1] = 1.0
    power = jnp.real(amplitude) ** 2 + jnp.imag(amplitude) ** 2
    scale = twice / (count * np.sum(window**2))
    return np.fft.rfftfreq(count, 1.0 / fps), power * jnp.asarray(scale)[:, None, None]
