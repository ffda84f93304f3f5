"""Which axis of which parameter lies on which axis of the mesh.

"tensor" splits heads and hidden units, so that a block needs one sum over the devices for each of
its three parts; "fsdp" splits what is left of every large matrix, which is gathered where it is
used. The table is complete: a parameter that no rule covers is an error, not a copy on every
device.
"""

import re
from collections.abc import Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

FSDP, TENSOR = "fsdp", "tensor"

_COLUMNS = PartitionSpec(FSDP, TENSOR)
_ROWS = PartitionSpec(TENSOR, FSDP)
_SPLIT = PartitionSpec(TENSOR)
_WHOLE = PartitionSpec()

RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"transformer/block\d+/\w+_attention/(query|key|value)/kernel", _COLUMNS),
    (r"transformer/block\d+/\w+_attention/(query|key|value)/bias", _SPLIT),
    (r"transformer/block\d+/\w+_attention/(query|key)_norm/scale", _SPLIT),
    (r"transformer/block\d+/\w+_attention/out/kernel", _ROWS),
    (r"transformer/block\d+/feed_forward/up/kernel", _COLUMNS),
    (r"transformer/block\d+/feed_forward/up/bias", _SPLIT),
    (r"transformer/block\d+/feed_forward/down/kernel", _ROWS),
    (r"transformer/(text_in|time/in)/kernel", _COLUMNS),
    (r"transformer/(text_in|time/in)/bias", _SPLIT),
    (r"transformer/(text_out|time/out)/kernel", _ROWS),
    (r"transformer/time/blocks/kernel", PartitionSpec(FSDP, None)),
    (r"transformer/patches/kernel", PartitionSpec(None, None, None, None, FSDP)),
    (r"transformer/out/kernel", PartitionSpec(FSDP, None)),
    (r"transformer/audio/pack/kernel", PartitionSpec(FSDP, None)),
    (r"transformer/audio\d+/kernel", PartitionSpec(None, FSDP)),
    (r"transformer/block\d+/((\w+_attention/out|feed_forward/down|cross_norm)/bias)", _WHOLE),
    (r"transformer/(block\d+/)?(modulation|cross_norm/scale)", _WHOLE),
    (r"transformer/(text_out|time/out|time/blocks|patches|out|audio/pack|audio\d+)/bias", _WHOLE),
    (r"transformer/audio/norm/(scale|bias)", _WHOLE),
    # 54 and 73 million parameters: a copy on every device spares the gathering.
    (r"(encoder|decoder)/.*", _WHOLE),
    (r"null_text", _WHOLE),
)


def make_mesh(fsdp: int, tensor: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Arrange `fsdp` x `tensor` devices (None: all there are) for `parameter_shardings`."""
    chosen = np.array(jax.devices() if devices is None else devices)
    return Mesh(chosen.reshape(fsdp, tensor), (FSDP, TENSOR))


def parameter_specs(params: Any) -> Any:
    """Return the partition of every parameter of a teacher.

    Args:
        params: nested dict as from `WanTeacher.init`, or the shapes of one.

    Raises:
        ValueError: no rule covers a parameter.
    """
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(params, sep="/")
    specs = {path: _spec(path) for path in flat}
    return flax.traverse_util.unflatten_dict(specs, sep="/")


def parameter_shardings(params: Any, mesh: Mesh) -> Any:
    """Return the sharding of every parameter, for `jax.device_put` or `jax.jit`.

    Args:
        params: as for `parameter_specs`.
        mesh: from `make_mesh`; the sizes of its axes divide what they split.

    Raises:
        ValueError: no rule covers a parameter.
    """
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        parameter_specs(params),
        is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
    )


def _spec(path: str) -> PartitionSpec:
    for pattern, spec in RULES:
        if re.fullmatch(pattern, path):
            return spec
    raise ValueError(f"no sharding rule covers the parameter {path}; add one to RULES")
