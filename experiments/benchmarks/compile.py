"""Compile the splatter ahead of time: `python -m experiments.benchmarks.compile --platform tpu`.

Prints what the compiler says about memory and work of a render, and of a render with gradients,
on one device and on a mesh that shares out a batch of cameras. No device of the platform is needed:

- `tpu`: compiled for a topology by `libtpu` (the extra `tpu`);
- `cpu`: compiled for this machine;
- `cuda`: lowered to StableHLO only, as compiling for it needs its plugin.
"""

import argparse
import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from pallas_splat import Camera, Config, Gaussians, estimate_capacity, render, workloads

_MEBIBYTE = 2**20


def main(arguments: list[str] | None = None) -> None:
    """Compile and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--platform", choices=["tpu", "cpu", "cuda"], default="cpu")
    parser.add_argument("--topology", default="v5e:2x2", help="of TPUs")
    parser.add_argument("--gaussians", type=int, default=40_000)
    parser.add_argument("--size", type=int, default=512, help="of the image, pixels")
    parser.add_argument("--backend", default="xla")
    options = parser.parse_args(arguments)
    if options.platform == "tpu" and importlib.util.find_spec("libtpu") is None:
        parser.exit(1, "libtpu is not installed; install the extra: pip install 'jaxavatar[tpu]'\n")

    # What is counted eagerly runs on the CPU, whatever plugins there are.
    jax.config.update("jax_platforms", "cpu")
    gaussians, camera = workloads.cast(
        workloads.avatar(options.gaussians, options.size), jnp.float32
    )
    config = Config(capacity=estimate_capacity(gaussians, camera))
    devices = find_devices(options.platform, options.topology)
    print(
        f"{options.gaussians} Gaussians, {options.size} x {options.size} pixels, "
        f"backend {options.backend}, {options.platform}"
        + (f" {options.topology} ({devices[0].device_kind})" if options.platform == "tpu" else "")
    )
    for n_devices in sorted({1, len(devices)}):
        mesh = Mesh(np.array(devices[:n_devices]), ("cameras",))
        for name, function in functions(options.backend, camera, config, mesh).items():
            where = f"{name}, {n_devices} device{'s' * (n_devices > 1)}"
            traced = trace(function, gaussians, camera, mesh)
            if options.platform == "cuda":
                text = traced.lower(lowering_platforms=("cuda",)).as_text()
                print(f"{where}: lowered only, {len(text.splitlines())} lines of StableHLO")
            else:
                print(f"{where}: {describe(traced.lower().compile())}", flush=True)


def find_devices(platform: str, topology: str) -> list[Any]:
    """Return the devices to compile for: of a TPU topology, else those of this machine."""
    if platform != "tpu":
        return jax.devices("cpu")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no TPU machine to ask
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)


def functions(
    backend: str, camera: Camera, config: Config, mesh: Mesh
) -> dict[str, Callable[..., Any]]:
    """Return a render of views `[B 4 4]` shared out over a mesh, and one with gradients."""

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("cameras")),
        out_specs=PartitionSpec("cameras"),
    )
    def forward(gaussians: Gaussians, viewmats):
        def one(viewmat):
            view = dataclasses.replace(camera, viewmat=viewmat)
            return render(gaussians, view, backend=backend, config=config).image

        return jax.vmap(one)(viewmats)

    def backward(gaussians: Gaussians, viewmats):
        return jax.value_and_grad(lambda g: jnp.mean(jnp.square(forward(g, viewmats))))(gaussians)

    return {"forward": forward, "forward+backward": backward}


def trace(function: Callable[..., Any], gaussians: Gaussians, camera: Camera, mesh: Mesh):
    """Trace a function of Gaussians and one view per device."""

    def struct(array, spec, leading=()):
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct((*leading, *array.shape), array.dtype, sharding=sharding)

    return jax.jit(function).trace(
        jax.tree.map(lambda a: struct(a, PartitionSpec()), gaussians),
        struct(camera.viewmat, PartitionSpec("cameras"), (mesh.devices.size,)),
    )


def describe(compiled: Any) -> str:
    """Say what one device needs, in mebibytes, and what it computes."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    sizes = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "peak": memory.peak_memory_in_bytes,
    }
    parts = [f"{name} {size / _MEBIBYTE:.1f} MiB" for name, size in sizes.items()]
    # Loops count as one pass: the compiler does not know how long the lists are.
    flops = f"{cost.get('flops', 0) / 1e6:.1f} Mflop with one pass of every loop"
    return ", ".join([*parts, flops])


if __name__ == "__main__":
    main()
