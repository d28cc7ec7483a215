"""Flax Linen modules as graphs: the jaxpr of `module.apply`, functions within it inlined. Nothing
is computed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcoinfer.data.fields import ProfileError
from jaxcoinfer.profiler.graph import CONV, LINEAR, POOL, Graph, Node, Tensor

# Parameters in which primitives that call a function once (jit, remat, custom gradients) hold its
# jaxpr.
_CALLED = ("jaxpr", "call_jaxpr")
_NO_CALLS = ("reduce", "reduce_window")  # their jaxpr combines two elements
_CONTROL_FLOW = ("cond", "scan", "while")
_NOT_COUNTED = (
    "fft",
    "ffi_call",
    "pallas_call",
    "pure_callback",
    "ragged_dot_general",
    "shard_map",
)
_REDUCTIONS = ("reduce_max", "reduce_sum")


def read_flax(module: Any, input_shape: Sequence[int], call: Mapping[str, Any]) -> Graph:
    """The graph of `module.apply(variables, x, **call)` for a float32 x of that shape. Raises
    ProfileError.
    """
    import jax
    from flax.errors import FlaxError

    origin = type(module).__name__
    if not input_shape or input_shape[0] != 1:
        raise ProfileError(
            f"{origin}: input shape {tuple(input_shape)}; "
            "allowed: batch 1 first, as in (1, 32, 32, 3)"
        )
    x = jax.ShapeDtypeStruct(tuple(input_shape), "float32")
    try:
        variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **call), x)
        closed = jax.make_jaxpr(lambda variables, x: module.apply(variables, x, **call))(
            variables, x
        )
    except FlaxError as error:
        reason = " ".join(str(error).split())[:200]
        raise ProfileError(
            f"{origin}: cannot be applied ({reason}); call it for inference, as with train=False"
        ) from None
    if len(closed.jaxpr.outvars) != 1:
        n = len(closed.jaxpr.outvars)
        raise ProfileError(
            f"{origin}: {n} outputs; allowed: one; leave early exits out and add them by hand"
        )
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    walk = _Walk(origin)
    weights = [walk.constant(_learned(path, leaf)) for path, leaf in leaves]
    begin = walk.tensor(x)
    (end,) = walk.run(closed.jaxpr, [*weights, begin], "")
    return Graph(origin, begin, end, tuple(walk.nodes), walk.tensors)


def _learned(path: Any, leaf: Any) -> dict[str, int]:
    """A leaf's elements by its name; none of running statistics."""
    names = [str(getattr(step, "key", step)) for step in path]
    return {"/".join(names): leaf.size} if names[0] == "params" else {}


class _Walk:
    """The nodes of a jaxpr so far. A value has a number as its name; a constant is in `constants`,
    with its weights.
    """

    def __init__(self, origin: str):
        self.origin = origin
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}
        self.constants: dict[str, dict[str, int]] = {"": {}}  # "" is any literal

    def tensor(self, aval: Any) -> str:
        name = str(len(self.tensors))
        self.tensors[name] = Tensor(tuple(aval.shape), aval.dtype.itemsize * 8)
        return name

    def constant(self, weights: dict[str, int]) -> str:
        name = f"constant {len(self.constants)}"
        self.constants[name] = weights
        return name

    def run(self, jaxpr: Any, arguments: Sequence[str], scope: str) -> list[str]:
        """Adds the nodes of `jaxpr`, called with those values; returns its outputs."""
        names = dict(zip(jaxpr.invars, arguments, strict=True)) | {
            v: self.constant({}) for v in jaxpr.constvars
        }

        def name_of(atom: Any) -> str:
            return "" if hasattr(atom, "val") else names[atom]

        for eqn in jaxpr.eqns:
            inputs = [name_of(atom) for atom in eqn.invars]
            label = "/".join(filter(None, (scope, str(eqn.source_info.name_stack))))
            inner = _called(eqn)
            if inner is None:
                outputs = self._add(eqn, inputs, label)
            else:
                outputs = self.run(getattr(inner, "jaxpr", inner), inputs, label)
            names.update(zip(eqn.outvars, outputs, strict=True))
        return [name_of(atom) for atom in jaxpr.outvars]

    def _add(self, eqn: Any, inputs: Sequence[str], label: str) -> list[str]:
        weights = {k: v for name in inputs for k, v in self.constants.get(name, {}).items()}
        live = tuple(name for name in inputs if name not in self.constants)
        if not live:
            return [self.constant(weights) for _ in eqn.outvars]
        op = eqn.primitive.name
        if op in _CONTROL_FLOW or op in _NOT_COUNTED:
            why = (
                "control flow has no fixed cost"
                if op in _CONTROL_FLOW
                else "its FLOP are not counted"
            )
            raise ProfileError(
                f"{self.origin}: '{label}' ({op}): {why}; write that part of the profile by hand"
            )
        outputs = [self.tensor(v.aval) for v in eqn.outvars]
        kind, flop = _cost(op, eqn)
        self.nodes.append(Node(f"{label}/{op}", live, tuple(outputs), kind, flop, weights))
        return outputs


def _called(eqn: Any) -> Any:
    """The jaxpr that an equation calls, or None."""
    if eqn.primitive.name in (*_NO_CALLS, *_CONTROL_FLOW, *_NOT_COUNTED):
        return None
    return next(
        (eqn.params[name] for name in _CALLED if hasattr(eqn.params.get(name), "eqns")), None
    )


def _cost(op: str, eqn: Any) -> tuple[str, int]:
    """(kind, FLOP) of an equation, ("", 0) of one that is no kernel."""
    into, out = eqn.invars[0].aval, eqn.outvars[0].aval.size
    if op == "conv_general_dilated":
        kernel = eqn.invars[1].aval
        outputs_axis, inputs_axis, *_ = eqn.params["dimension_numbers"].rhs_spec
        if max(eqn.params["lhs_dilation"], default=1) > 1:
            # Transposed: the zeros between its inputs cost nothing.
            return CONV, 2 * into.size * kernel.size // kernel.shape[inputs_axis]
        return CONV, 2 * out * kernel.size // kernel.shape[outputs_axis]
    if op == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return LINEAR, 2 * out * math.prod(into.shape[axis] for axis in contracted)
    window = 1
    if op.startswith("reduce_window"):
        window = math.prod(eqn.params["window_dimensions"])
    elif op in _REDUCTIONS and into.ndim >= 4 and len(eqn.params["axes"]) == into.ndim - 2:
        window = into.size // out
    return (POOL, out * window) if window > 1 else ("", 0)
