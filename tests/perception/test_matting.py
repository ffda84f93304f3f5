import numpy as np

from jaxavatar.perception import matting


def test_guided_filter_matches_least_squares_in_every_window():
    """Windows inside the image, against ridge regression solved one by one in float64."""
    generator = np.random.default_rng(0)
    guide = generator.uniform(size=(9, 10, 3)).astype(np.float32)
    target = generator.uniform(size=(9, 10)).astype(np.float32)
    radius, smoothness = 1, 1e-2
    slope, offset = matting.guided_coefficients(guide, target, radius, smoothness)
    fits = np.zeros((9, 10, 4))
    for y in range(1, 8):
        for x in range(1, 9):
            colors = guide[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).astype(np.float64)
            values = target[y - 1 : y + 2, x - 1 : x + 2].reshape(-1).astype(np.float64)
            centred = colors - colors.mean(0)
            moment = centred.T @ centred / 9 + smoothness * np.eye(3)
            a = np.linalg.solve(moment, centred.T @ (values - values.mean()) / 9)
            fits[y, x] = [*a, values.mean() - a @ colors.mean(0)]
    for y in range(2, 7):
        for x in range(2, 8):
            mean = fits[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))
            np.testing.assert_allclose([*slope[y, x], offset[y, x]], mean, atol=1e-3)


def test_guided_filter_snaps_a_blurred_edge_to_the_photo():
    photo = np.zeros((40, 40, 3), np.float32)
    photo[:, 20:] = [0.9, 0.6, 0.3]
    blurred = np.broadcast_to(np.clip((np.arange(40) - 14) / 12, 0, 1), (40, 40))
    slope, offset = matting.guided_coefficients(photo, blurred.astype(np.float32), radius=8)
    sharp = (slope * photo).sum(-1) + offset
    edge = sharp[20, 20] - sharp[20, 19]
    assert edge > 0.5 > 3 * (blurred[20, 20] - blurred[20, 19])


def test_islands_are_cleared_and_the_soft_rim_stays():
    matte = np.zeros((20, 20), np.float32)
    matte[2:10, 2:10], matte[10, 2:10] = 1, 0.3
    matte[14:19, 14:19], matte[13, 14:19] = 1, 0.3
    body = np.zeros((20, 20), np.float32)
    body[3:6, 3:6] = 1
    kept = matting.keep_component(matte, body)
    np.testing.assert_array_equal(kept[:11], matte[:11])
    np.testing.assert_array_equal(kept[13:], 0)
