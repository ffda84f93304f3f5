"""Read a float TFLite graph into plain arrays and run it as a pure, differentiable JAX function.

The file is parsed once, on the host; what remains is a static list of operations (`Graph`) and
weight arrays, together a `Network`. Half-precision and sparse weights become dense float32.
Tensors keep TFLite's layout (batch 1, height, width, channels); calling a network adds and removes
the batch axis.

Source of the format: the TensorFlow Lite schema (schema.fbs, version 3).
"""

import dataclasses
import os
import pathlib
import struct
from typing import Any

import flax.struct
import jax
import numpy as np
import tflite
from flatbuffers import flexbuffers
from jaxtyping import Array, Float

from jaxavatar.errors import InputError
from jaxavatar.perception import tflite_attention, tflite_ops
from jaxavatar.perception.tflite_ops import Op

# The schema's generated classes type every field as optional; parsing trusts the file and turns
# whatever goes wrong into one InputError.
Table = Any

_KINDS = {code: name for name, code in vars(tflite.BuiltinOperator).items() if name.isupper()}
_DTYPES = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
}
_CONV = ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor")
_POOL = ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth")
_ACT = ("FusedActivationFunction",)
# For every operation with options: the schema's table and the fields that matter.
_OPTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "ADD": (tflite.AddOptions, _ACT),
    "AVERAGE_POOL_2D": (tflite.Pool2DOptions, _POOL + _ACT),
    "CONCATENATION": (tflite.ConcatenationOptions, ("Axis", *_ACT)),
    "CONV_2D": (tflite.Conv2DOptions, _CONV + _ACT),
    "DEPTHWISE_CONV_2D": (tflite.DepthwiseConv2DOptions, _CONV + _ACT),
    "DEPTH_TO_SPACE": (tflite.DepthToSpaceOptions, ("BlockSize",)),
    "FULLY_CONNECTED": (tflite.FullyConnectedOptions, _ACT),
    "MAX_POOL_2D": (tflite.Pool2DOptions, _POOL + _ACT),
    "MEAN": (tflite.ReducerOptions, ("KeepDims",)),
    "MUL": (tflite.MulOptions, _ACT),
    "RESIZE_BILINEAR": (tflite.ResizeBilinearOptions, ("AlignCorners", "HalfPixelCenters")),
    "STRIDED_SLICE": (tflite.StridedSliceOptions, ("BeginMask", "EndMask", "ShrinkAxisMask")),
}
_KERNELS = tflite_ops.KERNELS | tflite_attention.KERNELS


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A parsed graph without its float weights; hashable by identity, so that it may be static.

    Attributes:
        ops: in order of execution.
        input: tensor number of the image.
        input_shape: (height, width, channels) of the image.
        outputs: tensor numbers of the results.
        constants: integer tensors (shapes, axes, paddings) by number.
    """

    ops: tuple[Op, ...]
    input: int
    input_shape: tuple[int, int, int]
    outputs: tuple[int, ...]
    constants: dict[int, np.ndarray]


@flax.struct.dataclass
class Network:
    """A graph with its weights: a pytree, so that it passes through jit and grad.

    Attributes:
        params: float32 weights by tensor number.
        graph: the operations (static).
    """

    params: dict[int, Array]
    graph: Graph = flax.struct.field(pytree_node=False)

    def __call__(self, image: Float[Array, "H W C"]) -> tuple[Float[Array, "..."], ...]:
        """Run the graph on one image of the size it was made for.

        Pure and differentiable with respect to the weights and the image.

        Args:
            image: in the value range the graph expects.

        Returns:
            One array per output, without the batch axis.
        """
        graph = self.graph
        if image.shape != graph.input_shape:
            raise ValueError(f"image of shape {image.shape}, the graph reads {graph.input_shape}")
        values: dict[int, Any] = {**graph.constants, **self.params, graph.input: image[None]}
        for op in graph.ops:
            inputs = [values[number] if number >= 0 else None for number in op.inputs]
            values[op.output] = _KERNELS[op.kind](op, *inputs)
        return tuple(values[number][0] for number in graph.outputs)


def load(path: str | os.PathLike[str]) -> Network:
    """Parse a TFLite file.

    Raises:
        InputError: the file is missing, truncated, not TFLite, or uses an unknown operation.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the network {path}: {error.strerror}") from error
    remedy = f"delete {path} so that it is fetched again"
    if data[4:8] != b"TFL3":
        raise InputError(f"{path} is not a TFLite file; {remedy}")
    try:
        graph, params = _parse(data)
    except (struct.error, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
        raise InputError(f"{path} is damaged or not supported ({e}); {remedy}") from e
    return Network(jax.device_put(params), graph)


def _parse(data: bytes) -> tuple[Graph, dict[int, np.ndarray]]:
    model: Table = tflite.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    constants = {}
    for number in range(graph.TensorsLength()):
        value = _constant(model, graph.Tensors(number))
        if value is not None:
            constants[number] = value
    ops = []
    for index in range(graph.OperatorsLength()):
        op = _operation(model, graph, graph.Operators(index))
        if op.kind in ("DEQUANTIZE", "DENSIFY"):  # `_constant` has done their work
            constants[op.output] = constants[op.inputs[0]]
        elif op.kind in _KERNELS:
            ops.append(op)
        else:
            raise ValueError(f"unknown operation {op.kind}")
    used = {number for op in ops for number in op.inputs if number in constants}
    floats = {n for n in used if constants[n].dtype == np.float32}
    (image,) = (int(number) for number in graph.InputsAsNumpy())
    height, width, channels = _shape(graph.Tensors(image))[1:]
    return (
        Graph(
            ops=tuple(ops),
            input=image,
            input_shape=(height, width, channels),
            outputs=tuple(int(number) for number in graph.OutputsAsNumpy()),
            constants={n: constants[n] for n in used - floats},
        ),
        {n: constants[n] for n in floats},
    )


def _shape(tensor: Table) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()


def _constant(model: Table, tensor: Table) -> np.ndarray | None:
    buffer = model.Buffers(tensor.Buffer())
    if buffer.DataLength() == 0:
        return None
    values = np.frombuffer(buffer.DataAsNumpy().tobytes(), _DTYPES[tensor.Type()])
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if tensor.Sparsity() is not None:
        return _densify(tensor, values)
    return values.reshape(_shape(tensor))


def _operation(model: Table, graph: Table, operator: Table) -> Op:
    code = model.OperatorCodes(operator.OpcodeIndex())
    # Old files hold the number in an 8-bit field, new ones in a 32-bit field beside it.
    kind = _KINDS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    options: dict[str, Any] = {}
    if kind == "CUSTOM":
        kind = code.CustomCode().decode()
        raw = bytes(operator.CustomOptions(i) for i in range(operator.CustomOptionsLength()))
        if kind == "Convolution2DTransposeBias":
            padding, stride_w, stride_h = struct.unpack("<3i", raw)
            options = {"padding": padding, "stride_w": stride_w, "stride_h": stride_h}
        elif raw:
            loaded: Any = flexbuffers.Loads(raw)
            options = loaded
    elif kind in _OPTIONS:
        table, fields = _OPTIONS[kind]
        parsed: Table = table()
        parsed.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
        options = {field: getattr(parsed, field)() for field in fields}
    (output,) = (int(number) for number in operator.OutputsAsNumpy())
    inputs = tuple(int(number) for number in operator.InputsAsNumpy())
    return Op(kind, inputs, output, _shape(graph.Tensors(output)), options)


def _densify(tensor: Table, values: np.ndarray) -> np.ndarray:
    """Expand TFLite's hierarchical sparse format, level by level.

    Each level splits every entry of the level above: a dense one into all indices, a compressed
    (CSR) one into those listed. Levels beyond the tensor's rank index inside blocks.
    """
    sparsity, shape = tensor.Sparsity(), _shape(tensor)
    order = sparsity.TraversalOrderAsNumpy()
    blocked = sparsity.BlockMapAsNumpy() if sparsity.BlockMapLength() else np.zeros(0, np.int32)
    index = np.zeros((1, 0), np.int64)  # of each entry: its index on every level so far
    entry = np.zeros(1, np.int64)  # of each entry: its position in the next level's arrays
    sizes = []
    for level in range(sparsity.DimMetadataLength()):
        meta = sparsity.DimMetadata(level)
        sizes.append(int(meta.DenseSize()))
        if meta.Format() == tflite.DimensionType.DENSE:
            count = np.full(len(entry), sizes[-1])
            own = np.tile(np.arange(sizes[-1]), len(entry))
            entry = np.repeat(entry, count) * sizes[-1] + own
        else:
            starts = _integers(meta, "ArraySegments").astype(np.int64)
            count = starts[entry + 1] - starts[entry]
            within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            entry = np.repeat(starts[entry], count) + within
            own = _integers(meta, "ArrayIndices")[entry]
        index = np.column_stack([np.repeat(index, count, axis=0), own])
    coordinates = np.zeros((len(shape), len(index)), np.int64)
    for level, dimension in enumerate(order):
        if dimension < len(shape):
            inner = np.flatnonzero(blocked == dimension)
            step = sizes[list(order).index(len(shape) + inner[0])] if len(inner) else 1
            coordinates[dimension] += index[:, level] * step
        else:
            coordinates[blocked[dimension - len(shape)]] += index[:, level]
    dense = np.zeros(shape, values.dtype)
    dense[tuple(coordinates)] = values[entry]
    return dense


def _integers(meta: Table, name: str) -> np.ndarray:
    classes = {1: tflite.Int32Vector, 2: tflite.Uint16Vector, 3: tflite.Uint8Vector}
    table = getattr(meta, name)()
    vector: Table = classes[getattr(meta, name + "Type")()]()
    vector.Init(table.Bytes, table.Pos)
    return vector.ValuesAsNumpy()
