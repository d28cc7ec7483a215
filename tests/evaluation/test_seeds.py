"""Training from several seeds: the same as one after another, and where its curves end, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer.evaluation import seeds
from jaxcoinfer.evaluation.executor import Executor
from jaxcoinfer.learn.networks import TrainResult


def train_once(key: jax.Array) -> TrainResult:
    weights = {"kernel": jax.random.normal(key, (2,))}
    steps = jnp.asarray([10, 20, 30], jnp.int32)
    return TrainResult(weights, weights["kernel"].sum() * steps.astype(jnp.float32), steps)


def test_every_seed_is_as_if_it_were_alone():
    keys = jax.random.split(jax.random.key(0), 3)
    results = seeds.train(keys, train_once)
    for seed, key in enumerate(keys):
        alone = jax.jit(train_once)(key)
        for one, all_seeds in zip(jax.tree.leaves(alone), jax.tree.leaves(results), strict=True):
            np.testing.assert_array_equal(one, all_seeds[seed])
        picked = seeds.pick(results.weights, seed)["kernel"]
        np.testing.assert_array_equal(picked, alone.weights["kernel"])
    assert seeds.n_steps(results) == 90
    steps, values = seeds.curve(results)
    np.testing.assert_array_equal(steps, [10, 20, 30])
    assert values.shape == (3, 3)


def test_trainings_are_started_by_name_and_reported():
    lines = []
    keys = jax.random.split(jax.random.key(0), 2)
    with Executor(lambda *line: lines.append(line), 5) as work:
        futures = seeds.start(work, 5, keys, {"x": lambda keys: seeds.train(keys, train_once)})
        assert futures["x"].result().curve.shape == (2, 3)
    assert lines[1][0].startswith("learned x 2 times: 60 tasks, ") and lines[1][1:] == (5, 5)


def test_ends_and_sheet_by_hand():
    curves = {"x": (np.array([10, 20]), np.array([[1.0, 2.0], [3.0, 4.0]]))}
    end = seeds.ends(curves)["x"]
    # t_{.975, 1} = 12.706, deviation sqrt(2), over sqrt(2)
    assert end["steps"] == 20 and end["utility"]["mean"] == 3.0
    assert end["utility"]["half_width"] == pytest.approx(12.706, abs=1e-3)
    header, points = seeds.sheet(curves)
    assert header == ("learner", "seed", "steps", "utility")
    assert points == [("x", 0, 10, 1.0), ("x", 0, 20, 2.0), ("x", 1, 10, 3.0), ("x", 1, 20, 4.0)]
