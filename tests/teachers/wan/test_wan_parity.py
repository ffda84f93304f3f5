"""Every block, and the whole networks, against diffusers; the adapter against its description."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxavatar.teachers.wan.decoder import WanDecoder, decode
from jaxavatar.teachers.wan.encoder import WanEncoder, encode
from jaxavatar.teachers.wan.transformer import WanTransformer

_QUICK: Any = {"xla_backend_optimization_level": 0}  # only compiles sooner
jit = functools.partial(jax.jit, compiler_options=_QUICK)

# Float32 against float32: sums of up to a thousand terms of order one.
TOLERANCE: Any = {"rtol": 2e-5, "atol": 2e-5}


def seen_inside(module, params, *inputs):
    """Return a module's output and those of its parts, by their paths."""

    def run(params, *inputs) -> Any:
        return module.apply({"params": params}, *inputs, capture_intermediates=True, mutable=True)

    output, state = jit(run)(params, *inputs)
    flat: Any = flatten_dict(state["intermediates"], sep="/")
    return output, {path.removesuffix("/__call__"): values[0] for path, values in flat.items()}


def test_transformer_block_by_block(cases, oracle, configs, imported):
    shapes, expected = cases["transformer"]
    params = imported("transformer", oracle.weights(shapes, 0))
    given = oracle.transformer_inputs()
    module = WanTransformer(configs["transformer"])
    output, inside = seen_inside(module, params, *(given[k] for k in ("latents", "time", "text")))
    inside["time/code"], six = inside["time"]
    inside["time/six"] = six.reshape(len(six), -1)
    inside["output"] = output
    assert len(expected) == 10
    for name, values in expected.items():
        np.testing.assert_allclose(inside[name], values, **TOLERANCE, err_msg=name)


def test_transformer_that_hears(cases, oracle, configs, imported):
    shapes, expected = cases["heard"]
    params = imported("heard", oracle.weights(shapes, 0))
    given = oracle.transformer_inputs()
    apply = jit(WanTransformer(configs["heard"]).apply)
    inputs = [given[k] for k in ("latents", "time", "text", "audio")]
    output = apply({"params": params}, *inputs)
    np.testing.assert_allclose(output, expected["output"], **TOLERANCE)
    silent = apply({"params": params}, *inputs[:3], jnp.zeros_like(inputs[3]))
    assert jnp.abs(silent - output).max() > 0.1


def test_autoencoder_block_by_block(cases, oracle, configs, imported):
    shapes, expected = cases["autoencoder"]
    params = imported("autoencoder", oracle.weights(shapes, 0))
    given, config = oracle.autoencoder_inputs(), configs["autoencoder"]
    for part, module, inputs in (
        ("encoder", WanEncoder(config), given["frames"]),
        ("decoder", WanDecoder(config), given["latents"]),
    ):
        _, inside = seen_inside(module, params[part], inputs)
        inside = {f"{part}/{name}": values for name, values in inside.items()}
        names = [name for name in expected if name.startswith(f"{part}/")]
        assert len(names) >= 4
        for name in names:
            # The oracle's blocks of the decoder end with their upsampling, ours are apart.
            mine = inside[name] if name in inside else inside[f"{name}_{config.blocks}"]
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(mine / scale, expected[name] / scale, **TOLERANCE)
    latents = jit(lambda p, x: encode(config, p, x))(params["encoder"], given["frames"])
    np.testing.assert_allclose(latents, expected["latents"], **TOLERANCE)
    frames = jit(lambda p, z: decode(config, p, z))(params["decoder"], given["latents"])
    clipped = np.clip(expected["decoded"], 0, 1)
    assert 0.2 < np.mean((clipped > 0) & (clipped < 1)) < 0.95
    np.testing.assert_allclose(frames, clipped, rtol=0, atol=1e-4)
