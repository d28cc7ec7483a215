"""Trains B-AlexNet with all its exits at once, one compression scale after another; a stopped run
goes on.

    python -m profiles.build train --data cifar10.npz --out RUN

Images are shifted by up to four pixels and mirrored; the loss is the weighted sum of the exits'
cross entropies; Nesterov's descent with weight decay, its rate rising over a fifth of the steps and
falling to zero on a cosine.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization

from jaxcoinfer.learn.networks import descend
from profiles.build.data import Images
from profiles.build.model import BAlexNet

WIDTHS = (1.0, 0.75, 0.5, 0.25)
# Of the training images, by channel.
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SHIFT = 4


@dataclasses.dataclass(frozen=True)
class Config:
    """How a network is trained."""

    seed: int = 0
    epochs: int = 12
    batch: int = 128  # images of a step
    rate: float = 0.05  # of descent, at its peak
    decay: float = 5e-4  # of the weights
    momentum: float = 0.9
    exit_weights: tuple[float, ...] = (0.3, 0.3, 1.0)  # [E], of the exits' losses


class State(NamedTuple):
    """A training between two epochs."""

    variables: dict[str, Any]  # params and batch_stats of the network
    descent: Any  # state of the optimiser
    epoch: int  # how many are done


def normalised(images: jax.Array) -> jax.Array:
    """Pixels of 0 to 255 to numbers of mean 0 and deviation 1 by channel, float32 [..., 3]."""
    mean, deviation = (
        jnp.broadcast_to(jnp.array(of, jnp.float32), images.shape) for of in (MEAN, DEVIATION)
    )
    return (images.astype(jnp.float32) / 255.0 - mean) / deviation


def augmented(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image shifted by up to SHIFT pixels both ways and mirrored half of the time, like images
    [N, H, W, 3].
    """
    n, height, width, _ = images.shape
    shift_key, mirror_key = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect")
    corners = jax.random.randint(shift_key, (n, 2), 0, 2 * SHIFT + 1)
    cut = jax.vmap(
        lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (height, width, 3))
    )
    mirrored = jax.random.bernoulli(mirror_key, shape=(n, 1, 1, 1))
    shifted = cut(padded, corners)
    return jnp.where(mirrored, shifted[:, :, ::-1], shifted)


def joint_loss(scores: jax.Array, labels: jax.Array, weights: tuple[float, ...]) -> jax.Array:
    """Returns `sum_e weights_e * mean cross entropy of exit e`; scores [E, N, classes], labels
    int32 [N].
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels[None, :]).mean(axis=1)
    return jnp.dot(jnp.array(weights, jnp.float32), losses)


def optimiser_of(config: Config, steps: int) -> optax.GradientTransformation:
    """The optimiser of a run of `steps` steps; biases and normalisation are not decayed."""
    rate = optax.cosine_onecycle_schedule(steps, config.rate, pct_start=0.2, div_factor=10.0)
    matrices = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)  # noqa: E731
    return optax.chain(
        optax.add_decayed_weights(config.decay, mask=matrices),
        optax.sgd(rate, momentum=config.momentum, nesterov=True),
    )


def train(
    width: float,
    images: Images,
    config: Config,
    folder: Path,
    *,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> dict[str, Any]:
    """Returns the variables of the trained network of `width`; goes on from the last epoch kept in
    `folder`.
    """
    _agree(folder, config)
    net, steps = BAlexNet(width), len(images.train) // config.batch
    optimiser = optimiser_of(config, config.epochs * steps)
    init_key, key = jax.random.split(
        jax.random.fold_in(jax.random.key(config.seed), round(100 * width))
    )
    state = _resumed(_path(folder, width), _fresh(net, optimiser, init_key))
    step = _step(net, optimiser, config)
    train_images, labels = jnp.asarray(images.train), jnp.asarray(images.train_labels)
    began, first = time.monotonic(), state.epoch
    for epoch in range(first, config.epochs):
        variables, descended, losses = state.variables, state.descent, []
        for rows, step_key in _batches(
            jax.random.fold_in(key, epoch), len(images.train), config.batch
        ):
            variables, descended, loss = step(
                variables, descended, step_key, train_images, labels, rows
            )
            losses.append(loss)
        state = State(variables, descended, epoch + 1)
        _keep(_path(folder, width), state)
        shown = accuracy(net, state.variables, images.train[-5000:], images.train_labels[-5000:])
        left_s = (time.monotonic() - began) / (epoch + 1 - first) * (config.epochs - epoch - 1)
        report(
            f"width {width:g}  epoch {epoch + 1}/{config.epochs}  "
            f"loss {np.mean(jax.device_get(losses)):.3f}  "
            f"train accuracy {' '.join(f'{a:.3f}' for a in shown)}  {left_s / 60:.0f} min left"
        )
    return state.variables


def trained(width: float, folder: Path) -> tuple[dict[str, Any], Config]:
    """Returns the variables of a trained network and how it was trained.

    Raises FileNotFoundError, or ValueError where it is not trained to its end.
    """
    config = Config(**json.loads((folder / "config.json").read_text()))
    kept = serialization.msgpack_restore(_path(folder, width).read_bytes())
    if kept["epoch"] < config.epochs:
        raise ValueError(
            f"{folder}: width {width:g} has seen {kept['epoch']} of {config.epochs} epochs; "
            "go on with `train`"
        )
    return kept["variables"], config


def accuracy(
    net: BAlexNet, variables: dict[str, Any], images: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Share of images that each exit gets right, float64 [E]."""
    scores = jax.jit(lambda v, x: net.apply(v, normalised(x)).argmax(axis=-1))
    right = [
        np.asarray(scores(variables, part))
        for part in np.array_split(images, max(1, len(images) // 1000))
    ]
    return (np.concatenate(right, axis=1) == labels).mean(axis=1)


def _fresh(net: BAlexNet, optimiser: optax.GradientTransformation, key: jax.Array) -> State:
    variables = jax.jit(net.init)(key, jnp.zeros((1, 32, 32, 3), jnp.float32))
    return State(variables, optimiser.init(variables["params"]), 0)


def _step(net: BAlexNet, optimiser: optax.GradientTransformation, config: Config) -> Any:
    # One step per call: within a loop on the device, XLA on a CPU runs a convolution 25 times
    # slower.
    @jax.jit
    def step(
        variables: dict[str, Any],
        descended: Any,
        key: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        rows: jax.Array,
    ) -> tuple[dict[str, Any], Any, jax.Array]:
        shift_key, dropout_key = jax.random.split(key)
        batch = normalised(augmented(shift_key, images[rows]))

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            current = {"params": params, "batch_stats": variables["batch_stats"]}
            scores, changed = net.apply(
                current, batch, True, rngs={"dropout": dropout_key}, mutable=["batch_stats"]
            )
            return joint_loss(scores, labels[rows], config.exit_weights), changed

        (loss, changed), gradient = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        params, descended = descend(optimiser, gradient, variables["params"], descended)
        return {"params": params, "batch_stats": changed["batch_stats"]}, descended, loss

    return step


def _batches(key: jax.Array, n: int, batch: int) -> Iterator[tuple[jax.Array, jax.Array]]:
    order_key, key = jax.random.split(key)
    order = np.asarray(jax.random.permutation(order_key, n))
    for i in range(n // batch):
        yield jnp.asarray(order[i * batch : (i + 1) * batch]), jax.random.fold_in(key, i)


def _path(folder: Path, width: float) -> Path:
    return folder / f"width-{width:g}.msgpack"


def _agree(folder: Path, config: Config) -> None:
    """Writes how the networks of a run are trained, and refuses to go on with a run that was begun
    otherwise.
    """
    path, ours = folder / "config.json", json.loads(json.dumps(dataclasses.asdict(config)))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(ours, indent=1))
    elif (begun := json.loads(path.read_text())) != ours:
        raise ValueError(
            f"{folder} was begun with {begun}, not {ours}; take another folder, or the same numbers"
        )


def _keep(path: Path, state: State) -> None:
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(serialization.to_bytes(state))
    unfinished.replace(path)  # whole or not at all


def _resumed(path: Path, fresh: State) -> State:
    return serialization.from_bytes(fresh, path.read_bytes()) if path.exists() else fresh
