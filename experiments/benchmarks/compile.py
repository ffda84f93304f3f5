"""Compile the splatter ahead of time: `python -m experiments.benchmarks.compile --platform tpu`.

Prints what the compiler says about memory and work of a render, and of a render with gradients,
on one device and on a mesh that shares out a batch of cameras. No device of the platform is needed:

- `tpu`: compiled for a topology by `libtpu` (the extra `tpu`);
- `cuda`: compiled for an H100 by JAX's plugin for CUDA (the extra `cuda`; of it, jax-cuda12-plugin,
  jax-cuda12-pjrt and nvidia-cuda-nvcc-cu12 suffice), lowered to StableHLO only without it; XLA does
  not use CUB's sorts where it sees no GPU;
- `cpu`: compiled for this machine.
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

CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_MEBIBYTE = 2**20
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 12 minor: 8 }
"""
"""What XLA has to know of a GPU, as text of its GpuTargetConfigProto."""


def main(arguments: list[str] | None = None) -> None:
    """Compile and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--platform", choices=["tpu", "cpu", "cuda"], default="cpu")
    parser.add_argument("--topology", help="v5e:2x2 of TPUs, 1x1x1 of GPUs where none is given")
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
        f"backend {options.backend}, {options.platform}, {len(devices)} x {devices[0].device_kind}"
    )
    for n_devices in sorted({1, len(devices)}):
        mesh = Mesh(np.array(devices[:n_devices]), ("cameras",))
        for name, function in functions(options.backend, camera, config, mesh).items():
            where = f"{name}, {n_devices} device{'s' * (n_devices > 1)}"
            traced = trace(function, gaussians, camera, mesh)
            lowered = traced.lower(lowering_platforms=(options.platform,))
            if options.platform != "cpu" and devices[0].platform == "cpu":
                lines = len(lowered.as_text().splitlines())
                print(f"{where}: lowered only, {lines} lines of StableHLO")
            else:
                print(f"{where}: {describe(lowered.compile())}", flush=True)


def find_devices(platform: str, topology: str | None) -> list[Any]:
    """Return the devices to compile for: of a topology, else those of this machine."""
    if platform == "tpu":
        os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no TPU machine to ask
        described = topologies.get_topology_desc(topology or "v5e:2x2", "tpu")
        return list(described.devices)
    devices = jax.devices("cpu")  # makes JAX look for plugins
    if platform == "cuda" and any(importlib.util.find_spec(name) for name in CUDA_PLUGINS):
        described = topologies.get_topology_desc(
            "", "cuda", target_config=_H100, topology=topology or "1x1x1"
        )
        devices = list(described.devices)
    return devices


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
