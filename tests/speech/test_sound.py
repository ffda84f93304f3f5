"""Sound files: every format, one level, clear errors."""

import subprocess
import wave

import imageio_ffmpeg
import numpy as np
import pytest
import scipy.io.wavfile

from jaxavatar.errors import InputError
from jaxavatar.speech import sound


def chirp(rate: int, seconds: float = 1.5) -> np.ndarray:
    """A tone from 300 to 900 Hz that swells twice: known at any sampling rate."""
    t = np.arange(int(rate * seconds)) / rate
    phase = 2 * np.pi * (300 * t + 200 * t**2)
    return (0.3 * np.sin(np.pi * t * 2 / seconds) ** 2 * np.sin(phase)).astype(np.float32)


def encode(path, samples, rate, channels=1):
    """Write a file with ffmpeg, which chooses the format by the suffix."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "f32le"]
    command += ["-ar", str(rate), "-ac", str(channels), "-i", "-", str(path)]
    subprocess.run(command, input=samples.astype("<f4").tobytes(), check=True)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "m4a"])
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (96000, 2), (22050, 1)])
def test_every_format_gives_the_same_sound(tmp_path, suffix, rate, channels):
    if suffix == "mp3" and rate > 48000:
        rate = 48000  # the format's highest
    original = np.repeat(chirp(rate)[:, None], channels, axis=1)
    if channels == 2:
        original[:, 1] = 0  # the mixture of both channels counts
    encode(tmp_path / f"sound.{suffix}", original, rate, channels)
    loaded = sound.load(tmp_path / f"sound.{suffix}")
    expected = sound.level(chirp(16000))
    assert loaded.dtype == np.float32
    # Lossy codecs pad up to a few blocks at either end.
    assert abs(len(loaded) - len(expected)) <= (16 if suffix in ("wav", "flac") else 1600)
    size = max(len(loaded), len(expected))
    a, b = (np.fft.rfft(x, 2 * size) for x in (loaded, expected))
    correlation = np.fft.irfft(a * b.conj()).max()
    norms = np.linalg.norm(loaded) * np.linalg.norm(expected)
    assert correlation / norms > 0.999
    assert np.linalg.norm(loaded) == pytest.approx(np.linalg.norm(expected), rel=0.03)


def test_the_level_does_not_depend_on_the_microphone(tmp_path):
    speech = chirp(16000)
    for name, gain in (("loud", 2.5), ("quiet", 0.1)):
        encode(tmp_path / f"{name}.wav", gain * speech, 16000)
    loud, quiet = (sound.load(tmp_path / f"{name}.wav") for name in ("loud", "quiet"))
    np.testing.assert_allclose(loud, quiet, atol=2e-4)  # 16-bit steps, ten times enlarged


def test_the_level_is_that_of_the_speech_without_its_pauses():
    speech = np.tile([1.0, -1.0], 8000).astype(np.float32)
    for pause in (0, 16000, 64000):
        levelled = sound.level(np.pad(0.3 * speech, (0, pause)))
        rms = np.sqrt(np.mean(levelled[: len(speech)] ** 2))
        assert 20 * np.log10(rms) == pytest.approx(sound.SPEECH_LEVEL, abs=0.01)


def test_a_lone_click_neither_clips_nor_is_lost():
    clicks = np.zeros(16000, np.float32)
    clicks[::4000] = 0.01
    levelled = sound.level(clicks)
    assert 0.1 < np.abs(levelled).max() <= 1


def test_save_wav_is_read_back(tmp_path):
    samples = np.linspace(-1.2, 1.2, 5001).astype(np.float32)
    sound.save_wav(tmp_path / "new" / "a.wav", samples)
    with wave.open(str(tmp_path / "new" / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels()) == (16000, 1)
        stored = np.frombuffer(file.readframes(9999), "<i2") / 32767
    np.testing.assert_allclose(stored, np.clip(samples, -1, 1), atol=1 / 32767)


def test_a_colon_in_the_name_is_no_protocol(tmp_path):
    encode(tmp_path / "take.wav", chirp(16000), 16000)
    (tmp_path / "take.wav").rename(tmp_path / "http:take.wav")
    assert len(sound.load(tmp_path / "http:take.wav")) == 24000


def bad_files(folder):
    speech = chirp(16000)
    broken = speech.copy()
    broken[100] = np.nan
    scipy.io.wavfile.write(folder / "nan.wav", 16000, broken)
    scipy.io.wavfile.write(folder / "short.wav", 16000, speech[:3000])
    scipy.io.wavfile.write(folder / "nothing.wav", 16000, speech[:0])
    scipy.io.wavfile.write(folder / "silent.wav", 16000, 9e-4 * speech / np.abs(speech).max())
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is no sound")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.wav", "no sound file"),
        ("nan.wav", "NaN"),
        ("short.wav", "0.19 s"),
        ("nothing.wav", "empty"),
        ("silent.wav", "silent"),
        ("empty.wav", "empty"),
        ("text.wav", "no sound that ffmpeg can read"),
        (".", "no sound file"),
    ],
)
def test_errors_name_the_file_and_the_fault(tmp_path, name, words):
    bad_files(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        sound.load(tmp_path / name)
    assert str(tmp_path) in str(caught.value)
