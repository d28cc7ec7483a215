"""The learner of continuation values: its targets by hand, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import baselines as policies
from jaxcoinfer.systems.stopping import continuation_value

VALUES = jnp.asarray([1.0, 5.0, 2.0, 3.0])  # stopping at 0, 1, 2, and on the device


def test_targets_follow_the_device():
    # G[2] = 3 (the device); at 2 it stops, so G[1] = 2; at 1 it goes on, so G[0] = G[1] = 2.
    stops = jnp.asarray([False, False, True])
    np.testing.assert_array_equal(continuation_value.targets(VALUES, stops), [2.0, 2.0, 3.0])
    # It stops at 1 too: G[0] = 5. Whether it stops at 0 says nothing about continuing there.
    np.testing.assert_array_equal(
        continuation_value.targets(VALUES, jnp.asarray([True, True, True])), [5.0, 2.0, 3.0]
    )
    np.testing.assert_array_equal(
        continuation_value.targets(VALUES, jnp.zeros(3, bool)), [3.0, 3.0, 3.0]
    )


def test_the_path_taken_gives_less():
    continuation = jnp.asarray([0.1, 0.2, 0.3])
    # Stopped at 2: it continued at 0, which the network values by its next 0.2, and at 1, of which
    # 2 came.
    goals, known = continuation_value.path_targets(VALUES, continuation, jnp.int32(2))
    np.testing.assert_array_equal(known, [True, True, False])
    np.testing.assert_allclose(goals[:2], [0.2, 2.0])
    # Stopped at once: nothing was continued, nothing is learned.
    assert not continuation_value.path_targets(VALUES, continuation, jnp.int32(0))[1].any()
    # Finished on the device: 0.2, 0.3, and of the last step came 3.
    goals, known = continuation_value.path_targets(VALUES, continuation, jnp.int32(3))
    assert known.all()
    np.testing.assert_allclose(goals, [0.2, 0.3, 3.0])


def test_first_stop():
    assert int(continuation_value.first_stop(jnp.asarray([False, True, True]))) == 1
    assert int(continuation_value.first_stop(jnp.zeros(3, bool))) == 3


@pytest.mark.slow
def test_it_learns_to_beat_greedy_and_traces_once():
    scenario = dataclasses.replace(registry.load_scenario("reference-busy"), rows=12, slots=16384)
    env, params = jaxcoinfer.make(scenario, jax.random.key(1))
    config = continuation_value.Config(
        n_devices=64, n_evaluations=2, updates_per_evaluation=200, evaluation_devices=16
    )
    before = continuation_value.train._cache_size()
    learned = continuation_value.train(
        jax.random.key(2), params, continuation_value.Hyper(), env=env, config=config
    )
    other = jaxcoinfer.make(scenario, jax.random.key(3))[1]
    continuation_value.train(
        jax.random.key(4),
        other,
        continuation_value.Hyper(learning_rate=1e-3),
        env=env,
        config=config,
    )
    assert continuation_value.train._cache_size() == before + 1
    assert np.isfinite(learned.curve).all() and int(learned.steps[-1]) == 64 * 400
    held_out = jaxcoinfer.make(scenario, jax.random.key(5))[1]
    baselines = {
        "greedy": policies.one_time_greedy(env),
        "learned": continuation_value.policy(env, config, learned.weights),
    }
    tasks = evaluate.evaluate(env, held_out, baselines, jax.random.key(6))
    assert evaluate.difference(tasks["learned"], tasks["greedy"]).low > 0
