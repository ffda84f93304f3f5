"""Videos are read, paired and scored; the networks are replaced by what is known."""

import json
import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest
import skimage.metrics

from experiments.evaluate import __main__ as evaluate
from experiments.evaluate import judges, sync, watching
from jaxavatar.errors import InputError
from jaxavatar.metrics.tracks import Sighting
from jaxavatar.metrics.video_frames import pair_videos, read_frames, video_size


def make(path, seconds, rate, size, *options):
    """A test pattern with a tone."""
    source = f"testsrc2=size={size[1]}x{size[0]}:rate={rate}:duration={seconds}"
    tone = f"sine=frequency=300:duration={seconds}"
    inputs = ["-f", "lavfi", "-i", source, "-f", "lavfi", "-i", tone]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *inputs, *options, str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A true video and a smaller, coarser one at another rate."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("pred", "true"):
        (folder / name).mkdir()
    make(folder / "true" / "a.mp4", 1, 25, (64, 96))
    make(folder / "pred" / "a.mkv", 1, 30, (32, 48), "-crf", "40")
    return folder


def test_frames_come_at_25_per_second_in_any_size(folders):
    frames = list(read_frames(folders / "pred" / "a.mkv", (33, 49)))
    assert len(frames) == 25
    assert {frame.shape for frame in frames} == {(33, 49, 3)}
    assert video_size(folders / "true" / "a.mp4") == (64, 96)


def test_damaged_and_missing_videos_are_named(folders, tmp_path):
    with pytest.raises(InputError, match="no video at"):
        video_size(tmp_path / "none.mp4")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((folders / "true" / "a.mp4").read_bytes()[:3000])
    with pytest.raises(InputError, match="complete MP4"):
        video_size(broken)


def test_pairs_have_one_stem(folders, tmp_path):
    (pair,) = pair_videos(folders / "pred", folders / "true")
    assert pair == ("a", folders / "pred" / "a.mkv", folders / "true" / "a.mp4")
    (tmp_path / "b.mp4").touch()
    with pytest.raises(InputError, match="lacks a video for b"):
        pair_videos(tmp_path, folders / "true")
    with pytest.raises(InputError, match="two folders"):
        pair_videos(folders / "pred", folders / "true" / "a.mp4")
    (tmp_path / "b.mov").touch()
    with pytest.raises(InputError, match="two videos named b"):
        pair_videos(tmp_path, tmp_path)


@pytest.fixture
def light(monkeypatch):
    """No networks: a face that opens its mouth with the picture, colours as features."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(478, 3))

    def sight(frame, _=None):
        face = points.copy()
        face[14] = face[13] + [0, frame.mean(), 0]
        return Sighting(face, np.full((2, 21, 2), np.nan), np.full(2, np.nan), 1.0)

    monkeypatch.setattr(watching, "sight", sight)
    monkeypatch.setattr(judges.efficientnet, "load", dict)
    monkeypatch.setattr(watching, "_encode", lambda _, frame: frame.mean((0, 1)) / 255)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    evaluate.main()


def test_the_command_scores_a_folder(folders, light, monkeypatch, tmp_path, capsys):
    out = tmp_path / "made" / "scores.json"
    run(monkeypatch, folders / "pred", folders / "true", "--out", out)
    report = json.loads(out.read_text())
    rows = {row["name"]: row for row in report["rows"]}
    ours, theirs = (
        list(read_frames(folders / name, (64, 96))) for name in ("pred/a.mkv", "true/a.mp4")
    )
    expected = [
        skimage.metrics.structural_similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=-1,
        )
        for a, b in zip(theirs, ours, strict=True)
    ]
    assert rows["SSIM"]["value"] == pytest.approx(np.mean(expected), abs=1e-5)
    peak = [
        skimage.metrics.peak_signal_noise_ratio(a, b) for a, b in zip(theirs, ours, strict=True)
    ]
    assert rows["PSNR"]["value"] == pytest.approx(np.mean(peak), abs=1e-3)
    opened = [[frame.mean() for frame in video] for video in (ours, theirs)]
    assert rows["mouth correlation"]["value"] == pytest.approx(np.corrcoef(opened)[0, 1], abs=1e-6)
    assert rows["frechet distance (EfficientNet-Lite0)"]["value"] > 0
    said = capsys.readouterr().out
    for name in ("LPIPS", "FID", "FVD", "CSIM", "SyncC", "SyncD", "face distance (dlib)"):
        assert rows[name]["value"] is None
        assert "weights absent" in rows[name]["note"]
    assert "weights import lpips" in said
    assert rows["HKC"]["value"] is None and rows["hands found"]["value"] == 0
    (video,) = report["videos"]
    assert video["frames"] == [25, 25] and video["size"] == [64, 96]
    assert out.with_suffix(".png").stat().st_size > 1000


def test_syncnet_goes_over_both_videos(folders, light, monkeypatch, tmp_path):
    """Both towers are replaced by one number per window: the window's place."""
    calls = {"lips": [], "sound": []}

    def count(name, shape):
        def embed(_, given):
            assert given.shape == shape
            calls[name].append(given)
            return np.full((1, 1), float(len(calls[name])))

        return embed

    monkeypatch.setattr(judges.syncnet, "load", lambda _: {})
    monkeypatch.setattr(watching, "_plainly", lambda images: (20.0, 0.5))
    monkeypatch.setattr(sync, "_lips", count("lips", (1, 5, 224, 224, 3)))
    monkeypatch.setattr(sync, "_sound", count("sound", (1, 13, 20)))
    out = tmp_path / "scores.json"
    run(monkeypatch, folders / "pred", folders / "true", "--syncnet", "some", "--out", out)
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert len(calls["lips"]) == len(calls["sound"]) == 40  # twice 25 frames less 5
    assert rows["SyncD"]["value"] == pytest.approx(0, abs=1e-5)
    assert rows["SyncC"]["value"] > 1


def test_mistakes_are_one_line(folders, light, monkeypatch, tmp_path, capsys):
    tall = make(tmp_path / "tall.mp4", 1, 25, (96, 64))
    short = make(tmp_path / "short.mp4", 0.2, 25, (64, 96))
    true = folders / "true" / "a.mp4"
    for wrong, word in ((tall, "proportions"), (short, "share 5 frames"), (tmp_path, "must be")):
        with pytest.raises(SystemExit, match="2"):
            run(monkeypatch, wrong, true, "--out", tmp_path / "scores.json")
        assert word in capsys.readouterr().err
    assert not (tmp_path / "scores.json").exists()
