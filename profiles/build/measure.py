"""What a trained B-AlexNet costs and gets right: cut by cut, exit by exit, width by width, image by
image.

Axes: V versions, E exits (the last is the whole network), P = L + 1 cuts (0: the input), Q bit
widths, S test images, L layers. A feature is sent as integers of q bits, `round((x - low) / step)`
with one low and one step for the whole tensor: from the least value that training images give up to
where the mean square error is least. 32 bits stand for the feature as it is.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from profiles.build.model import CHANNELS, EXIT_LAYERS, LAYERS, POOLED, BAlexNet, exit_layers
from profiles.build.train import normalised

BITS = (2, 4, 8, 32)
UNQUANTISED = 32
IMAGE = (32, 32, 3)
_CHUNK = 500
_CALIBRATION = 1000  # training images
_ENDS = np.linspace(0.05, 1.0, 39)  # shares of the range of values that are tried


class Costs(NamedTuple):
    """What a network consists of, counted."""

    flop: np.ndarray  # [L]
    elements: np.ndarray  # [L], of the layers' outputs
    parameters: np.ndarray  # [L]
    head_flop: np.ndarray  # [E-1], of the exit heads


class Answers(NamedTuple):
    """What a network says of every test image."""

    correct: np.ndarray  # bool [E, P, Q, S], whether it is right
    confidence: np.ndarray  # [E, S], the largest class probability
    entropy: np.ndarray  # [E, S], nats, of the class probabilities


def costs(width: float) -> Costs:
    """Counts a network from its own weights and shapes, normalisation folded into the convolutions.

    2 FLOP for each multiply-add of a convolution or linear layer, 1 for each element of a pooling
    window.
    """
    net = BAlexNet(width)
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *IMAGE), jnp.float32))
    shapes = [IMAGE]
    for layer in range(len(LAYERS)):
        shapes.append(
            _shape(net, variables, shapes[-1], lambda net, x, n=layer: net.part(x, n, n + 1))
        )
    of_layer = [variables["params"][f"layers_{i}"] for i in range(len(LAYERS))]
    counted = [
        _multiply_adds(weights, shapes[i], name in CHANNELS, name in POOLED, shapes[i + 1])
        for i, (name, weights) in enumerate(zip(LAYERS, of_layer, strict=True))
    ]
    return Costs(
        flop=np.array([flop for flop, _ in counted]),
        elements=np.array([np.prod(shape) for shape in shapes[1:]]),
        parameters=np.array([parameters for _, parameters in counted]),
        head_flop=np.array(
            [
                _head_flop(variables["params"][f"heads_{i}"], shapes[at])
                for i, at in enumerate(EXIT_LAYERS)
            ]
        ),
    )


def answers(
    width: float,
    variables: dict[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    calibration: np.ndarray,
) -> Answers:
    """Runs every image through every cut, bit width and exit; calibration: training images, uint8
    [N, 32, 32, 3].
    """
    net, ends = BAlexNet(width), exit_layers()
    ranges = _ranges(net, variables, jnp.asarray(calibration[:_CALIBRATION]))
    correct = np.zeros((len(ends), len(LAYERS) + 1, len(BITS), len(images)), bool)
    surest, entropy = [], []
    for begin in range(0, len(images), _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        feature = normalised(jnp.asarray(images[rows]))
        for cut in range(len(LAYERS)):
            following, scores = _cut_at(net, variables, feature, ranges[cut], cut=cut)
            right = np.asarray(scores.argmax(axis=-1)) == labels[rows]  # [E behind the cut, Q, N]
            correct[-len(right) :, cut, :, rows] = right
            if cut == 0:
                shares = jax.nn.softmax(scores[:, 0])
                surest.append(np.asarray(shares.max(axis=-1)))
                entropy.append(np.asarray(-jax.scipy.special.xlogy(shares, shares).sum(axis=-1)))
                for e, end in enumerate(ends):  # where nothing is sent, nothing is lost
                    correct[e, end, :, rows] = right[e]
            feature = following
    return Answers(correct, np.concatenate(surest, axis=1), np.concatenate(entropy, axis=1))


Ranges = dict[int, tuple[jax.Array, jax.Array]]  # of a feature, by bit width: its low and high end


@partial(jax.jit, static_argnames="net")
def _ranges(net: BAlexNet, variables: Any, images: jax.Array) -> list[Ranges]:
    """The range of the feature at each cut before the last, by bit width."""
    feature, ranges = normalised(images), []
    for layer in range(len(LAYERS)):
        ranges.append({bits: best_range(feature, bits) for bits in BITS[:-1]})
        feature = net.apply(variables, feature, layer, layer + 1, method="part")
    return ranges


def best_range(x: jax.Array, bits: int) -> tuple[jax.Array, jax.Array]:
    """Returns the low and high end between which integers of `bits` bits lose least of x in mean
    square.
    """
    low, high = x.min(), x.max()
    tops = low + (high - low) * jnp.asarray(_ENDS, jnp.float32)
    lost = jax.lax.map(lambda top: jnp.mean((x - quantised(x, low, top, bits)) ** 2), tops)
    return low, tops[jnp.argmin(lost)]


@partial(jax.jit, static_argnames=("net", "cut"))
def _cut_at(
    net: BAlexNet, variables: Any, feature: jax.Array, ranges: Ranges, *, cut: int
) -> tuple[jax.Array, jax.Array]:
    """Of the feature [N, ...] at a cut: that behind the next layer, and the class scores of all
    exits behind the cut [E', Q, N, classes] when it is sent at each width; the input (Q = 1) is
    sent as it is.
    """
    widths = BITS if cut else (UNQUANTISED,)
    sent = [
        feature if bits == UNQUANTISED else quantised(feature, *ranges[bits], bits)
        for bits in widths
    ]
    x, at, scores = jnp.concatenate(sent), cut, []
    for e, end in enumerate(exit_layers()):
        if end > cut:
            x, at = net.apply(variables, x, at, end, method="part"), end
            scores.append(
                net.apply(variables, x, e, method="leave").reshape(len(widths), len(feature), -1)
            )
    return net.apply(variables, feature, cut, cut + 1, method="part"), jnp.stack(scores)


def quantised(x: jax.Array, low: jax.Array, high: jax.Array, bits: int) -> jax.Array:
    """Returns what arrives if x is sent as integers of `bits` bits: `low + step * clip(round((x -
    low) / step))`.

    step = (high - low) / (2^bits - 1).
    """
    largest = 2**bits - 1
    step = (high - low) / largest
    return low + step * jnp.clip(jnp.round((x - low) / step), 0, largest)


def seconds(width: float, variables: dict[str, Any], repeats: int = 300) -> np.ndarray:
    """Returns the median seconds of each layer [L] for one image on this machine: compiled, warm,
    blocked.
    """
    net = BAlexNet(width)
    x = jnp.zeros((1, *IMAGE), jnp.float32)
    medians_s = []
    for layer in range(len(LAYERS)):
        run = jax.jit(lambda v, x, n=layer: net.apply(v, x, n, n + 1, method="part"))
        following = jax.block_until_ready(run(variables, x))
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            jax.block_until_ready(run(variables, x))
            times.append(time.perf_counter() - begin)
        medians_s.append(np.median(times[repeats // 10 :]))
        x = following
    return np.array(medians_s)


def _shape(
    net: BAlexNet, variables: Any, shape: tuple[int, ...], run: Callable[..., jax.Array]
) -> tuple[int, ...]:
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return jax.eval_shape(lambda v, x: net.apply(v, x, method=run), variables, x).shape[1:]


def _multiply_adds(
    weights: Any,
    before: tuple[int, ...],
    convolution: bool,
    pooled: bool,
    after: tuple[int, ...],
) -> tuple[int, int]:
    """(FLOP, parameters) of one layer."""
    if not convolution:
        kernel = weights["Dense_0"]["kernel"].shape
        return 2 * int(np.prod(kernel)), int(np.prod(kernel)) + kernel[-1]
    kernel = weights["Conv_0"]["kernel"].shape
    flop = 2 * int(np.prod(kernel)) * before[0] * before[1]
    return flop + 9 * int(np.prod(after)) * pooled, int(np.prod(kernel)) + kernel[-1]


def _head_flop(weights: Any, before: tuple[int, ...]) -> int:
    halved = (
        before[0] // 2,
        before[1] // 2,
        weights["Convolution_0"]["Conv_0"]["kernel"].shape[-1],
    )
    convolution, _ = _multiply_adds(weights["Convolution_0"], before, True, True, halved)
    return convolution + _multiply_adds(weights["Dense_0"], (), False, False, ())[0]
