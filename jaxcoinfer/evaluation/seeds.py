"""Learners that train from several seeds, and what their learning curves show. Axis: S seeds."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.comparison import pair
from jaxcoinfer.evaluation.executor import Executor
from jaxcoinfer.evaluation.types import Sheet
from jaxcoinfer.learn.networks import TrainResult

Training = Callable[[jax.Array], TrainResult]  # from one key, or from keys [S]: every leaf [S, ...]
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]  # learner -> (steps [n], values [S, n])


def train(keys: jax.Array, train_once: Training) -> TrainResult:
    """Returns the results of a training from each of the keys [S]; consumes them."""
    # One after another: on two cores as fast as side by side, and compiled in half the time.
    return jax.block_until_ready(jax.jit(lambda keys: jax.lax.map(train_once, keys))(keys))


def start(
    work: Executor, seconds: int, keys: jax.Array, trainings: Mapping[str, Training]
) -> dict[str, Future[TrainResult]]:
    """Starts every training, each from all keys [S]; seconds: that one is reckoned to take."""
    return {
        name: work.start(
            f"learned {name} {len(keys)} times", seconds, training, keys, tasks_in=n_steps
        )
        for name, training in trainings.items()
    }


def n_steps(result: TrainResult) -> int:
    """Returns how many steps were learned from, of all seeds."""
    return int(result.steps[:, -1].sum())


def pick(tree: Any, seed: int) -> Any:
    """Returns what belongs to one seed: entry `seed` of every leaf."""
    return jax.tree.map(lambda leaf: leaf[seed], tree)


def curve(result: TrainResult) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps [n], values [S, n])."""
    return np.asarray(result.steps)[0], np.asarray(result.curve)


def ends(curves: Curves) -> dict[str, Any]:
    """Returns where learning ended, the mean over seeds, ready for JSON."""
    return {
        name: {"steps": int(steps[-1]), "utility": pair(evaluate.interval(values[:, -1]))}
        for name, (steps, values) in curves.items()
    }


def sheet(curves: Curves) -> Sheet:
    """Returns every point of the curves."""
    points = [
        (name, seed, step, value)
        for name, (steps, values) in curves.items()
        for seed, line in enumerate(values)
        for step, value in zip(steps, line, strict=True)
    ]
    return ("learner", "seed", "steps", "utility"), points
