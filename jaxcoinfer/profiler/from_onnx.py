"""ONNX files as graphs. Asks for the package `onnx` where it is used (extra `onnx`)."""

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxcoinfer.data.fields import ProfileError
from jaxcoinfer.profiler.graph import CONV, LINEAR, POOL, Graph, Node, Tensor

# Where the weights of a convolution are among its inputs.
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = ("MatMul", "MatMulInteger", "QLinearMatMul")
_POOLINGS = ("MaxPool", "AveragePool", "LpPool")
_GLOBAL_POOLINGS = ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax")
_NOT_COUNTED = (
    "Attention",
    "DFT",
    "DeformConv",
    "Einsum",
    "GRU",
    "LSTM",
    "MaxRoiPool",
    "RNN",
    "RoiAlign",
    "STFT",
)
_NO_WEIGHTS = ("Resize", "Upsample")  # their constants are sizes


def read_onnx(path: Path, input_shape: Sequence[int] | None = None) -> tuple[Any, Graph]:
    """The model in a file, its shapes fixed and inferred, and its graph.

    input_shape: sizes for those that the file leaves open. Raises ProfileError in one line.
    """
    try:
        onnx = importlib.import_module("onnx")
    except ImportError:
        raise ProfileError(
            f"reading {path.name} needs the package onnx: pip install 'jaxcoinfer[onnx]'"
        ) from None
    model = _load(onnx, path)
    _check_nodes(onnx, model, path)
    _fix_input(model, path, input_shape)
    try:
        model = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except Exception as error:  # the classes differ between versions of onnx
        raise ProfileError(
            f"{path}: shapes cannot be inferred: {_short(error)}; simplify or repair the export"
        ) from None
    tensors = _tensors(onnx, model)
    _freeze_shapes(onnx, model, tensors)
    return model, _graph(onnx, model, path, tensors)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _load(onnx: Any, path: Path) -> Any:
    if not path.is_file():
        raise ProfileError(f"{path}: no such file; give an ONNX file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # whatever the parser of that file ending raises
        raise ProfileError(f"{path}: not a readable ONNX file: {_short(error)}") from None
    if not model.graph.node:
        raise ProfileError(f"{path}: not an ONNX file, or one without nodes")
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise ProfileError(
            f"{path}: weights in another file cannot be read; put it beside the model or export "
            f"with weights inside: {_short(error)}"
        ) from None
    inliner = importlib.import_module("onnx.inliner")
    return inliner.inline_local_functions(model) if model.functions else model


def _check_nodes(onnx: Any, model: Any, path: Path) -> None:
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            _refuse(
                path,
                node,
                "control flow has no fixed cost; export the one path that inference takes",
            )
        if node.domain not in ("", "ai.onnx"):
            _refuse(
                path,
                node,
                f"domain '{node.domain}' is not known; export with standard operators alone",
            )
        if node.op_type in _NOT_COUNTED:
            _refuse(path, node, "its FLOP are not counted; write that part of the profile by hand")
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise ProfileError(f"{path}: not valid ONNX: {_short(error)}") from None


def _refuse(path: Path, node: Any, why: str) -> NoReturn:
    raise ProfileError(f"{path}: node '{_label(node)}' ({node.op_type}): {why}")


def _label(node: Any) -> str:
    return node.name or next((name for name in node.output if name), "")


def _inputs(model: Any) -> list[Any]:
    """The inputs that are no weights: old files list both."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _fix_input(model: Any, path: Path, input_shape: Sequence[int] | None) -> None:
    """Gives the one input a fixed shape of batch 1, and forgets what the file says of all shapes
    behind it.
    """
    inputs, outputs = _inputs(model), list(model.graph.output)
    for what, values in (("input", inputs), ("output", outputs)):
        if len(values) != 1:
            names = ", ".join(value.name for value in values) or "none"
            advice = (
                "export the whole network's alone and add exits by hand"
                if what == "output"
                else "fold in the rest"
            )
            raise ProfileError(f"{path}: {len(values)} {what}s ({names}); allowed: one; {advice}")
    value = inputs[0]
    open_ = [
        dim.dim_value for dim in value.type.tensor_type.shape.dim
    ]  # 0 where the size is left open
    shape = _agreed(open_, input_shape, f"{path}: input '{value.name}'")
    del value.type.tensor_type.shape.dim[:]
    for size in shape:
        value.type.tensor_type.shape.dim.add().dim_value = size
    del model.graph.value_info[:]
    outputs[0].type.tensor_type.ClearField("shape")


def _agreed(known: list[int], input_shape: Sequence[int] | None, what: str) -> list[int]:
    shown = ",".join(str(size) if size else "?" for size in known)
    if input_shape is not None:
        if known and (
            len(known) != len(input_shape)
            or any(k not in (0, a) for k, a in zip(known, input_shape, strict=True))
        ):
            raise ProfileError(
                f"{what} has the shape {shown}, which is not {','.join(map(str, input_shape))}"
            )
        shape = list(input_shape)
    else:
        shape = [1, *known[1:]] if known[:1] == [0] else known  # an open batch is 1
    if not shape or 0 in shape:
        advice = "give one, as in --input-shape 1,3,224,224, or export with fixed sizes"
        raise ProfileError(f"{what} has no fixed shape ({shown or 'not even a rank'}); {advice}")
    if shape[0] != 1:
        raise ProfileError(f"{what} has a batch of {shape[0]}; allowed: 1, or a batch left open")
    return shape


def _tensors(onnx: Any, model: Any) -> dict[str, Tensor]:
    """Every tensor of which all sizes are known."""
    graph, known = model.graph, {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
        if kind.elem_type and kind.HasField("shape") and min(sizes, default=0) >= 0:
            known[value.name] = Tensor(tuple(sizes), _width(onnx, kind.elem_type))
    weights = {
        tensor.name: Tensor(tuple(tensor.dims), _width(onnx, tensor.data_type))
        for tensor in graph.initializer
    }
    return known | weights


def _width(onnx: Any, elem_type: int) -> int:
    return onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize * 8


def _freeze_shapes(onnx: Any, model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Makes constants of the nodes that ask for a shape, else arithmetic on shapes would look like
    a second branch.
    """
    for node in model.graph.node:
        if node.op_type not in ("Shape", "Size") or node.input[0] not in tensors:
            continue
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        tensor = tensors[node.input[0]]
        sizes = np.array(tensor.shape[attributes.get("start") : attributes.get("end")], np.int64)
        value = onnx.numpy_helper.from_array(
            sizes if node.op_type == "Shape" else np.array(tensor.elements, np.int64)
        )
        node.CopyFrom(
            onnx.helper.make_node("Constant", [], list(node.output), name=node.name, value=value)
        )


def _graph(onnx: Any, model: Any, path: Path, tensors: Mapping[str, Tensor]) -> Graph:
    constants = {tensor.name for tensor in model.graph.initializer}
    used = {name for node in model.graph.node for name in node.input} | {model.graph.output[0].name}
    nodes = []
    for node in model.graph.node:
        live = tuple(name for name in node.input if name and name not in constants)
        if not live:
            constants.update(node.output)
            continue
        outputs = tuple(name for name in node.output if name in used and name)
        try:
            _ = [tensors[name] for name in (*live, *outputs)]
            kind, flop = _cost(onnx, node, tensors) if outputs else ("", 0)
        except KeyError:
            _refuse(
                path,
                node,
                "a shape here cannot be inferred; export with fixed shapes, without such operators",
            )
        weights = {name: tensors[name].elements for name in _weights(node, constants, tensors)}
        nodes.append(Node(_label(node), live, outputs, kind, flop, weights))
    return Graph(
        path.name, _inputs(model)[0].name, model.graph.output[0].name, tuple(nodes), tensors
    )


def _weights(node: Any, constants: set[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """The constants of a node that were learned: no scalars, no int64 (sizes, axes), no running
    statistics.
    """
    if node.op_type in _NO_WEIGHTS:
        return []
    candidates = node.input[:3] if node.op_type == "BatchNormalization" else node.input
    named = [name for name in candidates if name in constants and name in tensors]
    return [name for name in named if tensors[name].shape and tensors[name].width < 64]


def _cost(onnx: Any, node: Any, tensors: Mapping[str, Tensor]) -> tuple[str, int]:
    """(kind, FLOP) of a node, ("", 0) of one that is no kernel."""
    op = node.op_type
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    into, out = tensors[node.input[0]], tensors[node.output[0]].elements
    if op in _CONVOLUTIONS:
        return CONV, 2 * out * math.prod(tensors[node.input[_CONVOLUTIONS[op]]].shape[1:])
    if op == "ConvTranspose":
        return CONV, 2 * into.elements * math.prod(tensors[node.input[1]].shape[1:])
    if op in _PRODUCTS:
        return LINEAR, 2 * out * into.shape[-1]
    if op == "Gemm":
        return LINEAR, 2 * out * into.shape[0 if attributes.get("transA") else 1]
    window = 1
    if op in _POOLINGS:
        window = math.prod(attributes["kernel_shape"])
    elif op in _GLOBAL_POOLINGS or (op in _REDUCTIONS and _over_space(into.shape, out)):
        window = into.elements // out
    return (POOL, out * window) if window > 1 else ("", 0)


def _over_space(shape: tuple[int, ...], out: int) -> bool:
    """Whether `out` elements are one for each channel of pictures, channels first or last."""
    return len(shape) >= 4 and out in (shape[0] * shape[1], shape[0] * shape[-1])
