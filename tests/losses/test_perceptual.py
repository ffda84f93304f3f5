"""Distances by fixed networks against NumPy in float64, PyTorch where it is, and differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from jaxavatar import cli, weights
from jaxavatar.errors import InputError
from jaxavatar.losses import lpips, perceptual
from jaxavatar.losses.perceptual import unit
from jaxavatar.perception import efficientnet, vgg
from jaxavatar.weights.torch_pickle import read_pickled

BLOCKS = (16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320)
KERNELS = (3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


def slope(function, at, direction, step=1e-6):
    return float(function(at + step * direction) - function(at - step * direction)) / (2 * step)


# --- EfficientNet-Lite0


def lite0_tensors(rng):
    """Random weights by the names of the release, scaled so that activations stay of size one."""
    tensors = {}

    def convolution(name, out, inputs, size, norm):
        fan = inputs * size * size
        tensors[f"{name}.weight"] = rng.normal(size=(out, inputs, size, size)) * (2 / fan) ** 0.5
        tensors[f"{norm}.weight"] = rng.uniform(0.7, 1.3, out)
        tensors[f"{norm}.bias"] = rng.normal(size=out) * 0.3
        tensors[f"{norm}.running_mean"] = rng.normal(size=out) * 0.3
        tensors[f"{norm}.running_var"] = rng.uniform(0.7, 1.3, out)

    convolution("_conv_stem", 32, 3, 3, "_bn0")
    width = 32
    for i, (out, size) in enumerate(zip(BLOCKS, KERNELS, strict=True)):
        name, wide = f"_blocks.{i}.", width * (6 if i else 1)
        if i:
            convolution(name + "_expand_conv", wide, width, 1, name + "_bn0")
        convolution(name + "_depthwise_conv", wide, 1, size, name + "_bn1")
        convolution(name + "_project_conv", out, wide, 1, name + "_bn2")
        width = out
    return tensors


def lite0_by_hand(tensors, image):
    """The network on one picture [3, H, W], as its release computes it: nothing folded."""

    def norm(x, name):
        part = {
            k: tensors[f"{name}.{k}"] for k in ("weight", "bias", "running_mean", "running_var")
        }
        mean, spread = part["running_mean"], np.sqrt(part["running_var"] + 1e-3)
        scaled = (x - mean[:, None, None]) / spread[:, None, None]
        return scaled * part["weight"][:, None, None] + part["bias"][:, None, None]

    def convolve(x, name, stride=1):
        kernel = tensors[f"{name}.weight"]
        size = kernel.shape[-1]
        pads = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[1:]]
        x = np.pad(x, ((0, 0), *((p // 2, p - p // 2) for p in pads)))
        if kernel.shape[1] == 1 and len(x) == len(kernel):
            maps = [correlate2d(a, k[0], "valid") for a, k in zip(x, kernel, strict=True)]
        elif size == 1:
            maps = np.tensordot(kernel[:, :, 0, 0], x, 1)
        else:
            maps = [
                sum(correlate2d(a, b, "valid") for a, b in zip(x, k, strict=True)) for k in kernel
            ]
        return np.stack(list(maps))[:, ::stride, ::stride]

    x = np.clip(norm(convolve((255 * image - 127) / 128, "_conv_stem", 2), "_bn0"), 0, 6)
    found = []
    for i, stride in enumerate(STRIDES):
        name, y = f"_blocks.{i}.", x
        if i:
            y = np.clip(norm(convolve(y, name + "_expand_conv"), name + "_bn0"), 0, 6)
        y = np.clip(norm(convolve(y, name + "_depthwise_conv", stride), name + "_bn1"), 0, 6)
        y = norm(convolve(y, name + "_project_conv"), name + "_bn2")
        x = x + y if x.shape == y.shape else y
        found.append(x)
    return [found[i] for i in (0, 2, 4, 10, 15)]


def chord(a, b):
    """The mean square distance of unit vectors along the first axis."""
    a, b = (x / np.linalg.norm(x, axis=0) for x in (a, b))
    return ((a - b) ** 2).sum(0).mean()


@pytest.fixture(scope="module")
def lite0():
    tensors = lite0_tensors(np.random.default_rng(1))
    return tensors, efficientnet.fold(tensors)


def test_lite0_is_the_network_by_hand(lite0, rng, optimised_jit):
    """Compiled, in float32: also a watch on wrongly fused convolutions."""
    tensors, params = lite0
    images = rng.random((2, 45, 38, 3))
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    found = optimised_jit(efficientnet.features)(single, jnp.asarray(images, jnp.float32))
    expected = [lite0_by_hand(tensors, image.transpose(2, 0, 1)) for image in images]
    for number, ours in enumerate(found):
        theirs = np.stack([maps[number].transpose(1, 2, 0) for maps in expected])
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())
    value = jax.jit(perceptual)(single, *jnp.asarray(images, jnp.float32))
    by_hand = np.mean([chord(a, b) for a, b in zip(*expected, strict=True)])
    np.testing.assert_allclose(value, by_hand, rtol=1e-4)
    assert float(perceptual(single, *jnp.asarray(images[[0, 0]], jnp.float32), taps=(0,))) == 0.0


def test_gradient_of_the_perceptual_distance(lite0, rng, x64):
    params = jax.tree.map(jnp.asarray, lite0[1])
    image, target, direction = jnp.asarray(rng.random((3, 32, 32, 3)))
    loss = jax.jit(jax.value_and_grad(lambda image: perceptual(params, image, target)))
    gradient = loss(image)[1]
    expected = slope(lambda image: loss(image)[0], image, direction - 0.5)
    np.testing.assert_allclose(jnp.vdot(gradient, direction - 0.5), expected, rtol=1e-5)


def test_the_trained_network_likes_small_changes(rng):
    try:
        weights.path("efficientnet-lite0")
    except InputError as error:
        pytest.skip(str(error))
    params = efficientnet.load()
    wave = np.linspace(0, 9, 64)
    image = 0.5 + 0.4 * np.sin(wave[:, None, None] + np.array([0, 1, 2])) * np.cos(wave[:, None])
    noisy = np.clip(image + 0.1 * rng.normal(size=image.shape), 0, 1)
    other = rng.random(image.shape)
    distance = jax.jit(perceptual)
    near, far, same = (
        float(distance(params, jnp.float32(image), jnp.float32(x))) for x in (noisy, other, image)
    )
    assert same < 1e-10 < near < far


# --- LPIPS


def vgg_tensors(rng, spread=1.0):
    """Random weights by torchvision's and LPIPS's names."""
    numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    widths = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    convolutions, linear, before = {}, {}, 3
    for number, width in zip(numbers, widths, strict=True):
        kernel = rng.standard_normal((width, before, 3, 3), np.float32)
        convolutions[f"features.{number}.weight"] = kernel * np.float32((2 / 9 / before) ** 0.5)
        convolutions[f"features.{number}.bias"] = 0.1 * rng.standard_normal(width, np.float32)
        before = width
    for layer, width in enumerate((64, 128, 256, 512, 512)):
        linear[f"lin{layer}.model.1.weight"] = rng.random((1, width, 1, 1), np.float32)
    return convolutions, linear


def lpips_by_hand(tensors, image, target):
    """LPIPS of two pictures [3, H, W] in float64."""

    def maps(x):
        x = (2 * x - 1 - np.array([-0.030, -0.088, -0.188])[:, None, None]) / np.array(
            [0.458, 0.448, 0.450]
        )[:, None, None]
        found = []
        for stage in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
            if stage[0]:
                rows, columns = x.shape[1] // 2, x.shape[2] // 2
                x = x[:, : 2 * rows, : 2 * columns].reshape(-1, rows, 2, columns, 2).max((2, 4))
            for number in stage:
                kernel = tensors[f"features.{number}.weight"].astype(float)
                padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
                patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
                x = np.tensordot(kernel, patches, ((1, 2, 3), (0, 3, 4)))
                x = np.maximum(x + tensors[f"features.{number}.bias"][:, None, None], 0)
            found.append(x)
        return found

    total = 0.0
    for layer, (a, b) in enumerate(zip(maps(image), maps(target), strict=True)):
        a, b = (x / (np.linalg.norm(x, axis=0) + 1e-10) for x in (a, b))
        channel = tensors[f"lin{layer}.model.1.weight"][0, :, 0, 0]
        total += ((a - b) ** 2 * channel[:, None, None]).sum(0).mean()
    return total


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The two files of the release, random, and what the command makes of them."""
    import safetensors.numpy

    folder = tmp_path_factory.mktemp("lpips")
    convolutions, linear = vgg_tensors(np.random.default_rng(2))
    classifier = {"classifier.0.bias": np.zeros(3, np.float32)}
    safetensors.numpy.save_file(convolutions | classifier, folder / "vgg16.safetensors")
    safetensors.numpy.save_file(linear, folder / "vgg.safetensors")
    out = folder / "lpips.safetensors"
    command = ["weights", "import", "lpips"]
    assert cli.main([*command, str(folder / "vgg16.safetensors"), "--out", str(out)]) == 0
    with pytest.raises(InputError, match="channels/layer0 for one"):
        vgg.load_lpips(out)
    assert cli.main([*command, str(folder / "vgg.safetensors"), "--into", str(out)]) == 0
    return convolutions | linear, vgg.load_lpips(out)


def test_lpips_is_the_distance_by_hand(released, rng, optimised_jit):
    tensors, params = released
    images, targets = rng.random((2, 2, 19, 16, 3))
    expected = [
        lpips_by_hand(tensors, a.transpose(2, 0, 1), b.transpose(2, 0, 1))
        for a, b in zip(images, targets, strict=True)
    ]
    found = optimised_jit(lpips)(params, jnp.float32(images), jnp.float32(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_gradient_of_lpips(released, rng, x64):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), released[1])
    image, target, direction = jnp.asarray(rng.random((3, 16, 16, 3)))
    loss = jax.jit(jax.value_and_grad(lambda image: lpips(params, image, target)))
    gradient = loss(image)[1]
    expected = slope(lambda image: loss(image)[0], image, direction - 0.5)
    np.testing.assert_allclose(jnp.vdot(gradient, direction - 0.5), expected, rtol=1e-5)


def test_a_zero_vector_has_no_wild_gradient():
    value, gradient = jax.value_and_grad(lambda x: unit(jnp.maximum(x, 0)).sum())(jnp.zeros(4))
    assert float(value) == 0 and np.isfinite(gradient).all()


# --- PyTorch's files


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_pytorch(zipped, rng, tmp_path):
    torch = pytest.importorskip("torch")
    weight = torch.tensor(rng.normal(size=(4, 6)))
    state = {
        "whole": weight,
        "part": weight[1:, ::2],
        "turned": weight.float().T,
        "count": torch.tensor(3),
    }
    path = tmp_path / "model.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    found = read_pickled(path)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def test_a_pickle_cannot_run_anything(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=r"os\.system"):
        read_pickled(path)
    with pytest.raises(InputError, match="no checkpoint"):
        read_pickled(tmp_path / "none.pth")
