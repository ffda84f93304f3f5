"""Log-mel spectra as Whisper computes them (Radford et al., 2023, "Robust Speech Recognition").

Frames of 25 ms every 10 ms, periodic Hann window, mel bands of Slaney's scale and area norm (80;
128 since large-v3), log10 with a floor, then (x + 4) / 4. Two floors exist:

- `whisper_log_mel`: 8 decades below the loudest value of the given piece. This is Whisper's own.
- `log_mel`: a fixed level, `FLOOR`. A frame then depends on its own samples only, so that it does
  not change with the window it is computed in, and silence is one constant.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.structs import SAMPLE_RATE

N_FFT = 400
HOP = 160
N_MELS = 80

# Where Whisper's own floor falls for speech at `sound.SPEECH_LEVEL`: the loudest mel power in a
# few seconds of such speech is about 10^0.5.
FLOOR = -7.5


def log_mel(samples: Float[Array, "*B S"], bands: int = N_MELS) -> Float[Array, "*B F M"]:
    """Compute log-mel frames with the fixed floor, without padding.

    Args:
        samples: speech at 16 kHz, at `sound.SPEECH_LEVEL`.
        bands: M.

    Returns:
        F = (S - 400) // 160 + 1 frames; frame f is centred at sample 160 f + 200.
    """
    return (jnp.maximum(_log_power(samples, bands), FLOOR) + 4) / 4


def whisper_log_mel(samples: Float[Array, "*B S"], bands: int = N_MELS) -> Float[Array, "*B F M"]:
    """Compute log-mel frames exactly as Whisper does for one piece of sound.

    Args:
        samples: speech at 16 kHz; more than 200 samples.
        bands: M.

    Returns:
        F = S // 160 frames; frame f is centred at sample 160 f (reflected at the ends).
    """
    edge = [(0, 0)] * (samples.ndim - 1) + [(N_FFT // 2, N_FFT // 2)]
    # Whisper drops the last frame of its centred transform.
    padded = jnp.pad(samples, edge, mode="reflect")
    log = _log_power(padded, bands)[..., : samples.shape[-1] // HOP, :]
    floor = log.max((-2, -1), keepdims=True) - 8
    return (jnp.maximum(log, floor) + 4) / 4


def _log_power(samples: Float[Array, "*B S"], bands: int) -> Float[Array, "*B F M"]:
    count = (samples.shape[-1] - N_FFT) // HOP + 1
    index = np.arange(count)[:, None] * HOP + np.arange(N_FFT)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    spectrum = jnp.fft.rfft(samples[..., index] * window.astype(np.float32))
    power = spectrum.real**2 + spectrum.imag**2
    return jnp.log10(jnp.maximum(power @ mel_filters(bands).T, 1e-10))


@functools.cache
def mel_filters(bands: int = N_MELS) -> Float[np.ndarray, "M K"]:
    """Return the weights of triangular mel bands over the 201 bins of the spectrum.

    Slaney's mel scale (linear below 1 kHz, logarithmic above), each triangle of unit area.
    """
    frequency = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    corner = 1000 / (200 / 3)  # mel at 1 kHz, where the scale turns logarithmic
    top = corner + np.log(SAMPLE_RATE / 2 / 1000) * 27 / np.log(6.4)
    mel = np.linspace(0, top, bands + 2)
    edge = np.where(mel < corner, mel * 200 / 3, 1000 * np.exp((mel - corner) * np.log(6.4) / 27))
    width = np.diff(edge)
    slope = edge[:, None] - frequency
    triangles = np.minimum(-slope[:-2] / width[:-1, None], slope[2:] / width[1:, None])
    area = 2 / (edge[2:] - edge[:-2])
    return (np.maximum(0, triangles) * area[:, None]).astype(np.float32)
