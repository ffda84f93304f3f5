"""The probe reads what it was fitted to, and no more."""

import numpy as np
import pytest

from jaxavatar.metrics.mouth_probe import fit_probe


def mouths(rng, count, noise=0.02):
    """Pictures with a dark bar whose height is the opening."""
    openings = rng.uniform(0, 1, count)
    rows = np.arange(24)[:, None]
    frames = 0.7 - 0.5 / (1 + np.exp(np.abs(rows - 12) - 6 * openings[:, None, None]))
    frames = np.repeat(frames[..., None], 3, -1) * np.ones((1, 24, 24, 1))
    return frames + noise * rng.standard_normal(frames.shape), openings


def test_reads_pictures_that_it_was_not_fitted_to():
    rng = np.random.default_rng(0)
    region = np.zeros((24, 24), bool)
    region[4:20, 4:20] = True
    probe = fit_probe(*mouths(rng, 60), region)
    frames, openings = mouths(rng, 40)
    assert np.corrcoef(probe(frames), openings)[0, 1] > 0.98
    assert np.abs(probe(frames) - openings).mean() < 0.06


def test_sees_only_its_region():
    rng = np.random.default_rng(0)
    frames, openings = mouths(rng, 30)
    region = np.zeros((24, 24), bool)
    region[4:20, 4:20] = True
    probe = fit_probe(frames, openings, region)
    changed = np.where(region[..., None], frames, 0.0)
    np.testing.assert_array_equal(probe(changed), probe(frames))


def test_finds_nothing_where_there_is_nothing():
    """With shuffled openings the probe's held-out correlation is that of chance."""
    rng = np.random.default_rng(0)
    frames, openings = mouths(rng, 60)
    probe = fit_probe(frames, rng.permutation(openings), np.ones((24, 24), bool))
    fresh, true = mouths(rng, 200)
    assert abs(np.corrcoef(probe(fresh), true)[0, 1]) < 0.5 or probe(fresh).std() < 0.1


def test_an_empty_region_is_refused():
    with pytest.raises(ValueError, match="region"):
        fit_probe(np.zeros((3, 4, 4, 3)), np.zeros(3), np.zeros((4, 4), bool))
