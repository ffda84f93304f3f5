"""One training step on any number of devices: the mesh, and how what a step handles lies on it.

    mesh = make_mesh(config=parse_mesh("data=4,fsdp=2"))
    layout = by_rules(state, mesh)
    step = compile_step(make_train_step(config, driver, optimiser, mesh=mesh), mesh, layout)
    state, metrics = step(place(state, layout), place(batch, by_clip(mesh)))

| axis   | splits                                                            |
|--------|-------------------------------------------------------------------|
| data   | clips                                                             |
| fsdp   | clips, and parameters with the optimiser's memory of them         |
| frame  | frames of a clip, where they are deformed and rendered            |
| tensor | heads and hidden units of transformers, by their parameters       |

`sharding_rules` says how parameters lie; the compiler does the rest, all but the splatter: its
native kernel cannot be split by the compiler, so frames are rendered under `shard_map`. The SE(3)
scan and all networks that see a whole clip are computed by every device along "frame".

The step stays what it is on one device, written for the whole batch; results differ by rounding.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxavatar.errors import InputError
from jaxavatar.training.sharding_rules import AXES, DATA, FRAME, FSDP, rule_of

CLIPS = (DATA, FSDP)
MESH_HELP = "devices along data, fsdp, frame, tensor, as data=4,fsdp=2; without, all along data"


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; None along "data" takes all that are left."""

    data: int | None = None
    fsdp: int = 1
    frame: int = 1
    tensor: int = 1


def parse_mesh(text: str) -> MeshConfig:
    """Read the likes of "data=4,fsdp=2"; an axis that is not named has one device, or what is left.

    Raises:
        InputError: an axis is unknown, or a number none.
    """
    sizes = {}
    for part in filter(None, text.split(",")):
        name, _, size = part.partition("=")
        if name not in AXES or not size.isdecimal() or int(size) < 1:
            raise InputError(
                f"'{part}' is no part of a mesh; write axes among {', '.join(AXES)} with their"
                " numbers of devices, such as data=4,fsdp=2"
            )
        sizes[name] = int(size)
    return MeshConfig(**sizes)


def make_mesh(devices: Sequence[Any] | None = None, config: MeshConfig = MeshConfig()) -> Mesh:
    """Arrange devices (all of all processes, when None) along the four axes.

    Neighbours along "tensor", which talk most, are near each other; along "data" they may be far.

    Raises:
        InputError: there are more or fewer devices than the axes ask for.
    """
    devices = jax.devices() if devices is None else devices
    inner = config.fsdp, config.frame, config.tensor
    shape = (config.data or max(1, len(devices) // math.prod(inner)), *inner)
    if math.prod(shape) != len(devices):
        wanted = ", ".join(f"{name}={size}" for name, size in zip(AXES, shape, strict=True))
        raise InputError(
            f"a mesh of {wanted} needs {math.prod(shape)} devices, and there are {len(devices)};"
            " choose numbers whose product that is"
        )
    return jax.make_mesh(shape, AXES, (AxisType.Auto,) * len(AXES), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_clip(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: its leading axis split over "data" and "fsdp"."""
    return NamedSharding(mesh, PartitionSpec(CLIPS))


def by_rules(tree: Any, mesh: Mesh) -> Any:
    """Return the sharding of every array of a training state, or of parameters.

    Args:
        tree: arrays or their shapes. Single numbers, as steps and counts are, need no rule.
        mesh: from `make_mesh`.

    Raises:
        ValueError: no rule covers a parameter, or the mesh does not divide it.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        if not leaf.shape:
            return replicated(mesh)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        _, spec = rule_of(name)
        sizes = [1 if axis is None else mesh.shape[axis] for axis in spec]
        if len(sizes) > len(leaf.shape) or any(
            length % size for length, size in zip(leaf.shape, sizes, strict=False)
        ):
            raise ValueError(
                f"the parameter {name} of shape {leaf.shape} cannot be split into {tuple(sizes)}"
                f" parts, as its rule says ({spec}); choose another mesh"
            )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, tree)


def place(tree: Any, shardings: Any) -> Any:
    """Lay arrays out over the devices of a mesh.

    Args:
        tree: arrays, whole; the same in all processes, each of which takes its part.
        shardings: one for all, or a tree of them; None leaves them on the default device.

    Raises:
        ValueError: the mesh does not divide an array.
    """
    if jax.process_count() == 1 or shardings is None:
        return jax.device_put(tree, shardings)

    def part(sharding: NamedSharding, leaf: Any) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda leaf: part(shardings, leaf), tree)
    return jax.tree.map(part, shardings, tree)


def compile_step(
    step: Callable[..., Any],
    mesh: Mesh | None = None,
    state: Any = None,
    others: Sequence[Any] = (),
) -> Callable[..., Any]:
    """Compile a training step; the state passed in is donated and must not be used again.

    Args:
        step: of state, batch and `others`.
        mesh: the devices, also given to the step itself where it renders; None for one.
        state: the sharding of the state, from `by_rules`; None keeps it whole on every device.
        others: the shardings of further arguments.
    """
    if mesh is None:
        return jax.jit(step, donate_argnums=0)
    state = replicated(mesh) if state is None else state
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state, by_clip(mesh), *others),
        out_shardings=(state, replicated(mesh)),
    )


def for_clips(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """Map a function of one clip over the leading axis of its arguments, which lies as `by_clip`.

    What the function does by `over_frames` is then split over clips as well.
    """
    if mesh is None:
        return jax.vmap(function)
    return jax.vmap(function, spmd_axis_name=CLIPS)


def sum_over_clips(function: Callable[..., Any], mesh: Mesh | None, *batch: Any) -> Any:
    """Add up what a function of one clip returns for the clips of a batch.

    Every device takes its clips one after the other, in the memory of one.
    """
    shards = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in CLIPS)
    turns = jax.tree.map(
        lambda leaf: leaf.reshape(shards, -1, *leaf.shape[1:]).swapaxes(0, 1), batch
    )

    def turn(*clips: Any) -> Any:
        if shards > 1:
            return for_clips(function, mesh)(*clips)
        single = function(*jax.tree.map(lambda leaf: leaf[0], clips))
        return jax.tree.map(lambda leaf: leaf[None], single)

    def add(sums: Any, clips: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, turn(*clips)), None

    shapes = jax.eval_shape(turn, *jax.tree.map(lambda leaf: leaf[0], turns))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    sums, _ = jax.lax.scan(add, zeros, turns)
    return jax.tree.map(lambda leaf: leaf.sum(axis=0), sums)


def over_frames(
    function: Callable[[Any, Any], Any], mesh: Mesh | None, whole: Any, frames: Any
) -> Any:
    """Return `function(whole, frames)`, computed by each device for its share of the frames.

    Args:
        function: whose results have a leading axis of frames, each depending on its frame alone.
        mesh: the devices; None computes all frames at once.
        whole: what all frames need.
        frames: arrays with a leading axis of frames.

    Raises:
        ValueError: the frames cannot be shared equally.
    """
    return _over((FRAME,), "frames", function, mesh, whole, frames)


def over_clips(function: Callable[[Any], Any], mesh: Mesh | None, clips: Any) -> Any:
    """Return `function(clips)`, computed by each device for its share of the clips.

    As `over_frames`, for what the compiler cannot split.
    """
    return _over(CLIPS, "clips", lambda _, clips: function(clips), mesh, (), clips)


def _over(
    axes: tuple[str, ...],
    kind: str,
    function: Callable[[Any, Any], Any],
    mesh: Mesh | None,
    whole: Any,
    shared: Any,
) -> Any:
    if mesh is None:
        return function(whole, shared)
    count = jax.tree.leaves(shared)[0].shape[0]
    devices = math.prod(mesh.shape[axis] for axis in axes)
    if count % devices:
        raise ValueError(f"{count} {kind} cannot be shared equally by {devices} devices")
    spec = PartitionSpec(axes)
    # The engines' loops do not say which axes their carries vary over, so JAX cannot check it.
    split = jax.shard_map(
        function, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=spec, check_vma=False
    )
    return split(whole, shared)
