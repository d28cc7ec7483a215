"""A network as nodes between tensors, and the chain of layers between its single-tensor cuts.

Every reader makes a `Graph`, `divide` makes layers of it. A cut is allowed where one tensor alone
separates what was computed from what follows, so a residual block has none inside. Batch 1; one
multiply-add is 2 FLOP.
"""

import dataclasses
import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from jaxcoinfer.data.fields import ProfileError

CONV, LINEAR, POOL = "conv", "linear", "pool"
BITS_OF_A_PICTURE = 8  # of each value, as cameras and files keep it


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What flows between nodes."""

    shape: tuple[int, ...]  # batch 1 first
    width: int  # bits of each element

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        return self.elements * self.width


@dataclasses.dataclass(frozen=True)
class Node:
    """An operation."""

    label: str  # what its author calls it
    inputs: tuple[str, ...]  # names of activations alone
    outputs: tuple[str, ...]
    kind: str = ""  # CONV, LINEAR or POOL; "" is all else, which counts no FLOP
    flop: int = 0
    # Elements of what depends on no input of the network, by name.
    weights: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Graph:
    """Nodes from one input to one output."""

    origin: str  # a file or a class
    input: str  # names of tensors, likewise output
    output: str
    nodes: tuple[Node, ...]  # in an order in which they can run
    tensors: Mapping[str, Tensor]  # by name


@dataclasses.dataclass(frozen=True)
class Layer:
    """The nodes between two cuts."""

    name: str
    flop: int
    kernels: int  # how many
    parameters: int  # how many, shared ones once
    begin: str  # name of the tensor that goes in
    end: str  # name of the tensor that comes out
    out: Tensor  # that which comes out
    labels: tuple[str, str]  # of its first and its last kernel


@dataclasses.dataclass(frozen=True)
class Chain:
    """A network as a chain of layers."""

    name: str
    origin: str  # the file or the class that it was read from
    input: Tensor
    layers: tuple[Layer, ...]

    @property
    def is_picture(self) -> bool:
        return len(self.input.shape) == 4

    @property
    def input_bits(self) -> int:
        """Bits to send when nothing runs on the device: of a picture as it is kept, else what the
        network takes.
        """
        return self.input.elements * (BITS_OF_A_PICTURE if self.is_picture else self.input.width)


def divide(graph: Graph, name: str) -> Chain:
    """The chain of `graph`, as many layers as its single-tensor cuts allow, each with one kernel at
    least.

    What is no kernel belongs to the kernel before it, up to the smallest tensor on the way to the
    next one. Raises ProfileError when no cut is left.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ProfileError(f"name '{name}' is invalid; allowed: letters, digits, '-' and '_'")
    nodes = _needed(graph)
    if not any(node.kind for node in nodes):
        raise ProfileError(
            f"{graph.origin}: no convolution, linear layer or pooling between input and output"
        )
    ends = _layer_ends(nodes, _cuts(graph, nodes), graph.tensors)
    if len(ends) < 2:
        raise ProfileError(
            f"{graph.origin}: cannot be cut, as nowhere does a single tensor separate one kernel "
            "from the next; divide it by hand (profiles/README.md)"
        )
    numbers: Counter[str] = Counter()
    layers, begin, first = [], graph.input, 0
    for last, end in ends:
        layers.append(_layer(nodes[first : last + 1], begin, end, graph.tensors[end], numbers))
        begin, first = end, last + 1
    return Chain(name, graph.origin, graph.tensors[graph.input], tuple(layers))


def named(text: str) -> str:
    """`text` with all that a profile's name may not hold replaced by '-'."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-") or "network"


def _needed(graph: Graph) -> list[Node]:
    """The nodes that the output hangs on: a dead branch would keep tensors alive and hide cuts."""
    wanted, kept = {graph.output}, []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _cuts(graph: Graph, nodes: Sequence[Node]) -> list[tuple[int, str]]:
    """(index of a node, tensor) wherever that tensor alone is live behind the node; the last is the
    output.

    Any order in which the nodes can run gives the same cuts: of a node neither before nor after the
    tensor, the output would hang on a way around it.
    """
    readers = Counter(name for node in nodes for name in set(node.inputs))
    readers[graph.output] += 1
    live, cuts = {graph.input}, []
    for i, node in enumerate(nodes):
        for name in set(node.inputs):
            readers[name] -= 1
            if not readers[name]:
                live.discard(name)
        live.update(name for name in node.outputs if readers[name])
        if len(live) == 1:
            cuts.append((i, *live))
    return cuts


def _layer_ends(
    nodes: Sequence[Node], cuts: Sequence[tuple[int, str]], tensors: Mapping[str, Tensor]
) -> list[tuple[int, str]]:
    """The cuts at which layers end: the smallest (of equals the last) between each kernel and the
    next, the output.
    """
    ends: list[tuple[int, str]] = []
    offered: list[tuple[int, str]] = []
    first = 0
    for last, tensor in cuts:
        kernel = any(node.kind for node in nodes[first : last + 1])
        if kernel and offered:
            ends.append(min(reversed(offered), key=lambda cut: tensors[cut[1]].bits))
            offered = []
        if kernel or offered:
            offered.append((last, tensor))
        first = last + 1
    return [*ends, cuts[-1]]


def _layer(
    nodes: Sequence[Node], begin: str, end: str, out: Tensor, numbers: Counter[str]
) -> Layer:
    kernels = [node for node in nodes if node.kind]
    kind = kernels[0].kind if len(kernels) == 1 else "block"
    numbers[kind] += 1
    weights = dict(
        itertools.chain.from_iterable(node.weights.items() for node in nodes)
    )  # shared ones once
    return Layer(
        name=f"{kind}{numbers[kind]}",
        flop=sum(node.flop for node in kernels),
        kernels=len(kernels),
        parameters=sum(weights.values()),
        begin=begin,
        end=end,
        out=out,
        labels=(kernels[0].label, kernels[-1].label),
    )
