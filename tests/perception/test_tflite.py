import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar import weights
from jaxavatar.errors import InputError
from jaxavatar.perception import crops, detect, tflite

# Name, the part of the astronaut to look at (x, y, side), value for black, tolerance relative to
# each output's largest value. Each part shows what its network seeks.
GRAPHS = [
    ("pose-detection", (256, 256, 512), -1, 1e-5),
    ("pose-landmark", (200, 300, 600), 0, 5e-5),
    ("palm-detection", (150, 450, 300), 0, 1e-5),
    ("hand-landmark", (150, 470, 150), 0, 1e-5),
    ("face-landmark", (223, 110, 170), 0, 1e-5),
    ("selfie-segmentation", (256, 256, 512), 0, 1e-4),
]


@pytest.fixture
def picture(astronaut):
    def cut(network, where, low=0.0):
        height, _, _ = network.graph.input_shape
        crop = crops.cut(astronaut, crops.box(*where), height)
        return crop * (1 - low) + low

    return cut


@pytest.mark.parametrize(("name", "where", "low", "tolerance"), GRAPHS)
def test_matches_the_tflite_interpreter(
    name, where, low, tolerance, network, picture, optimised_jit
):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    loaded = network(name)
    image = picture(loaded, where, low)
    reference = interpreter.Interpreter(str(weights.path(name)))
    reference.allocate_tensors()
    reference.set_tensor(reference.get_input_details()[0]["index"], image[None])
    reference.invoke()
    outputs = optimised_jit(lambda net, x: net(x))(loaded, image)
    details = reference.get_output_details()
    assert len(outputs) == len(details)
    for detail, output in zip(details, outputs, strict=True):
        expected = reference.get_tensor(detail["index"])[0]
        if name == "pose-landmark" and expected.shape == (256, 256, 1):
            # The mask's logits reach -1700 and are ill-conditioned (either float32 result is up
            # to 3 from float64); what counts is the mask.
            output, expected = jax.nn.sigmoid(output), jax.nn.sigmoid(expected)
            np.testing.assert_allclose(output, expected, atol=2e-3)
            continue
        np.testing.assert_allclose(output, expected, atol=tolerance * np.abs(expected).max())


def test_gradient_matches_finite_differences(network, picture):
    """In float64, where a step can be so small that no ReLU switches."""
    loaded = network("selfie-segmentation")
    image = picture(loaded, (256, 256, 512))
    with jax.enable_x64(True):
        double = loaded.replace(params=jax.tree.map(np.float64, loaded.params))
        direction = np.random.default_rng(0).normal(size=image.shape)

        @jax.jit
        def coverage(step):
            return jnp.mean(double(image + step * direction)[0])

        value, slope = jax.jit(jax.value_and_grad(coverage))(0.0)
        assert value.dtype == jnp.float64
        slope, difference = float(slope), float(coverage(1e-6) - coverage(-1e-6)) / 2e-6
    assert abs(slope) > 1e-4
    np.testing.assert_allclose(slope, difference, rtol=1e-3)


def test_wrong_image_size_is_refused(network):
    with pytest.raises(ValueError, match="the graph reads"):
        network("palm-detection")(jnp.zeros((8, 8, 3)))


def test_damaged_files_are_input_errors(network, tmp_path):
    network("palm-detection")
    data = weights.path("palm-detection").read_bytes()
    file = tmp_path / "net.tflite"
    for size in (0, 3, 8, 20, 100, 1000, len(data) // 4, len(data) // 2):
        file.write_bytes(data[:size])
        with pytest.raises(InputError, match="delete"):
            tflite.load(file)
    with pytest.raises(InputError, match="cannot read"):
        tflite.load(tmp_path / "absent.tflite")


def test_bytes_of_zeros_or_noise_are_input_errors(network, tmp_path):
    network("palm-detection")
    data = bytearray(weights.path("palm-detection").read_bytes())
    file = tmp_path / "net.tflite"
    file.write_bytes(data[:8] + bytes(len(data) - 8))
    with pytest.raises(InputError):
        tflite.load(file)
    file.write_bytes(data[:8] + np.random.default_rng(0).bytes(len(data) - 8))
    with pytest.raises(InputError):
        tflite.load(file)


def test_anchors_count_and_order():
    palm = detect.anchors(detect.PALM)
    # 24 x 24 cells with 2 anchors, then 12 x 12 with 6 (three maps of stride 16).
    assert palm.shape == (24 * 24 * 2 + 12 * 12 * 6, 2)
    np.testing.assert_allclose(
        palm[[0, 1, 2]], [[0.5 / 24] * 2, [0.5 / 24] * 2, [1.5 / 24, 0.5 / 24]]
    )
    np.testing.assert_allclose(palm[-6:], [[11.5 / 12] * 2] * 6)
    assert len(detect.anchors(detect.PERSON)) == 2254
