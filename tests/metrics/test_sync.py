"""SyncNet against PyTorch where it is, its cepstra and scores against sums written out."""

from typing import Any

import numpy as np
import pytest

from jaxavatar.errors import InputError
from jaxavatar.metrics.sync import cepstra, face_squares, sync_scores
from jaxavatar.perception import syncnet


def test_towers_are_pytorchs(tmp_path, optimised_jit):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def block(kind, inputs, out, size, stride: Any = 1, pad: Any = 0, pool: Any = None):
        three = kind == 3
        norm = nn.BatchNorm3d(out) if three else nn.BatchNorm2d(out)
        made = (nn.Conv3d if three else nn.Conv2d)(inputs, out, size, stride, pad)
        pools = [] if pool is None else [(nn.MaxPool3d if three else nn.MaxPool2d)(*pool)]
        return [made, norm, nn.ReLU(), *pools]

    torch.manual_seed(0)
    side, half = (0, 1, 1), (1, 2, 2)
    lip = nn.Sequential(
        *block(3, 3, 96, (5, 7, 7), half, 0, ((1, 3, 3), half)),
        *block(3, 96, 256, (1, 5, 5), half, side, ((1, 3, 3), half, side)),
        *block(3, 256, 256, (1, 3, 3), 1, side),
        *block(3, 256, 256, (1, 3, 3), 1, side),
        *block(3, 256, 256, (1, 3, 3), 1, side, ((1, 3, 3), half)),
        *block(3, 256, 512, (1, 6, 6)),
    )
    aud = nn.Sequential(
        *block(2, 1, 64, 3, 1, 1, (1, 1)),
        *block(2, 64, 192, 3, 1, 1, (3, (1, 2))),
        *block(2, 192, 384, 3, 1, 1),
        *block(2, 384, 256, 3, 1, 1),
        *block(2, 256, 256, 3, 1, 1, (3, 2)),
        *block(2, 256, 512, (5, 4)),
    )
    dense = [
        nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))
        for _ in range(2)
    ]
    whole = nn.ModuleDict(
        {"netcnnlip": lip, "netcnnaud": aud, "netfclip": dense[0], "netfcaud": dense[1]}
    )
    for module in whole.modules():
        if hasattr(module, "running_mean"):
            nn.init.normal_(module.running_mean, 0, 0.3)
            for values in (module.running_var, module.weight):
                nn.init.uniform_(values, 0.7, 1.4)
            nn.init.normal_(module.bias, 0, 0.3)
        elif hasattr(module, "weight"):
            nn.init.kaiming_normal_(module.weight)
    whole.eval()
    path = tmp_path / "syncnet_v2.model"
    torch.save(whole.state_dict(), path)
    params = syncnet.load(path)
    rng = np.random.default_rng(0)
    faces = rng.random((1, 5, 224, 224, 3), np.float32)
    heard = rng.normal(size=(3, 13, 20)).astype(np.float32)
    with torch.no_grad():
        bgr = torch.tensor(255 * faces[..., ::-1].transpose(0, 4, 1, 2, 3).copy())
        seen = dense[0](lip(bgr).flatten(1)).numpy()
        spoken = dense[1](aud(torch.tensor(heard[:, None])).flatten(1)).numpy()
    ours = np.asarray(optimised_jit(syncnet.embed_lips)(params, faces))
    np.testing.assert_allclose(ours, seen, atol=2e-5 * np.abs(seen).max())
    ours = np.asarray(optimised_jit(syncnet.embed_sound)(params, heard))
    np.testing.assert_allclose(ours, spoken, atol=2e-5 * np.abs(spoken).max())
    torch.save({"some": torch.ones(2)}, path)
    with pytest.raises(InputError, match="syncnet_v2"):
        syncnet.load(path)


def test_cepstra_are_the_sums_written_out():
    samples = np.random.default_rng(0).normal(size=900).clip(-3, 3) / 10
    found = cepstra(samples)
    assert found.shape == (13, 5)  # the last window is filled up with zeros
    words = np.round(samples * 32768)
    bent = words - 0.97 * np.concatenate([[0], words[:-1]])
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    edges = [int(513 * 700 * (10 ** (m / 2595) - 1) / 16000) for m in mels]
    for place in (0, 3, 4):
        window = bent[160 * place : 160 * place + 400]
        turns = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(len(window))) / 512)
        power = np.abs(turns @ window) ** 2 / 512
        bands = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = sum(power[i] * (i - low) / (middle - low) for i in range(low, middle))
            total += sum(power[i] * (high - i) / (high - middle) for i in range(middle, high))
            bands.append(np.log(total))
        expected = [np.log(power.sum())]
        for n in range(1, 13):
            waves = np.cos(np.pi * n * (2 * np.arange(26) + 1) / 52)
            lift = 1 + 11 * np.sin(np.pi * n / 22)
            expected.append(lift * np.sqrt(2 / 26) * (waves @ bands))
        np.testing.assert_allclose(found[:, place], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("early", [-4, 0, 7])
def test_scores_find_the_shift(early):
    rng = np.random.default_rng(1)
    lips = rng.normal(size=(60, 8))
    sound = np.roll(lips, -early, axis=0) + 0.01 * rng.normal(size=(60, 8))
    found = sync_scores(lips, sound)
    assert found.offset == early
    means = []
    for shift in range(-15, 16):
        others = [sound[i + shift] if 0 <= i + shift < 60 else np.zeros(8) for i in range(60)]
        gaps = np.array([a - b for a, b in zip(lips, others, strict=True)])
        means.append(np.linalg.norm(gaps, axis=1).mean())
    assert found.distance == pytest.approx(min(means), abs=1e-4)
    assert found.confidence == pytest.approx(sorted(means)[15] - min(means), abs=1e-4)


def test_squares_follow_the_face():
    face = np.zeros((30, 478, 3))
    face[:, 1:, 0] = 100 + np.linspace(-20, 20, 477)
    face[:, 1:, 1] = 50 + np.linspace(-10, 10, 477)
    face[:, 0, :2] = 100, 50
    face[12] += 40  # one wild frame
    face[:3] = np.nan
    np.testing.assert_allclose(face_squares(face), np.tile([[100, 58, 56]], (30, 1)))
    with pytest.raises(ValueError, match="no frame"):
        face_squares(np.full((4, 478, 3), np.nan))
