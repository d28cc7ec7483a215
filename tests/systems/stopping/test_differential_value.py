"""The learner of differential values: its parts by hand, that pairs tell the truth, and that it
learns.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import baselines as policies
from jaxcoinfer.systems.stopping import differential_value, price_rule
from jaxcoinfer.systems.stopping.differential_value import (
    Config,
    Hyper,
    Learner,
    Pair,
    Samples,
    View,
    Weights,
)
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import rollout, workload

KEY = jax.random.key(0)
SMALL = Config(
    hidden=(16,),
    n_pairs=128,
    n_evaluations=2,
    updates_per_evaluation=10,
    batch=512,
    buffer_size=4096,
    evaluation_tasks=20,
)


@pytest.fixture(scope="module")
def busy():
    scenario = dataclasses.replace(registry.load_scenario("reference-busy"), rows=12, slots=16384)
    return jaxcoinfer.make(scenario, jax.random.key(1))


def test_loss_by_hand():
    # Focus .1: an error counts 1 / (1 + (A / .1)^2). A = 0: weight 1, error 0 - .5: .25. A = .1:
    # weight 1/2, sample 7 within the limit 2: error 1.9^2 = 3.61, half 1.805. Mean (.25 + 1.805) /
    # 2 = 1.0275.
    predicted, gain = jnp.asarray([0.0, 0.1]), jnp.asarray([0.5, 7.0])
    np.testing.assert_allclose(
        differential_value.loss(predicted, gain, jnp.float32(0.1), jnp.float32(2.0)),
        1.0275,
        rtol=1e-5,
    )
    # The weight depends on what is known alone: the gradient is that of the square. d/dA at A = .1:
    # 1/2 * 2 * -1.9 / 2.
    slope = jax.grad(
        lambda a: differential_value.loss(a, gain, jnp.float32(0.1), jnp.float32(2.0))
    )(predicted)
    np.testing.assert_allclose(slope, [-0.5, -0.95], rtol=1e-5)


def test_first_stop_after():
    stops = jnp.asarray([True, False, True])
    found = [int(rollout.first_stop_after(stops, jnp.int32(layer))) for layer in range(3)]
    assert found == [2, 2, 3]  # the next one that stops; past the last decision the device finishes


def test_decisions_that_are_tried():
    stops, keys = jnp.asarray([False, True, False, False]), jax.random.split(KEY, 2000)
    tried = np.asarray(
        jax.vmap(differential_value.try_layer, (0, None, None))(keys, stops, jnp.float32(0.0))
    )
    # What the policy reaches: it stops at 1.
    np.testing.assert_array_equal(np.unique(tried), [0, 1])
    tried = np.asarray(
        jax.vmap(differential_value.try_layer, (0, None, None))(keys, stops, jnp.float32(0.5))
    )
    # half of them anywhere, each of the four an eighth; half on the path, 0 and 1 a quarter each
    np.testing.assert_allclose(np.bincount(tried) / 2000, [3 / 8, 3 / 8, 1 / 8, 1 / 8], atol=0.04)


def test_samples_overwrite_the_oldest():
    def view(n: int):
        zeros = jnp.zeros(n)
        return View(jnp.arange(n, dtype=jnp.int32), jnp.zeros((n, 7)), jnp.ones(n), zeros, zeros)

    samples = Samples(view(4), jnp.full(4, -1.0), jnp.int32(3))
    pairs = Pair(
        jnp.zeros((3, 2)), view(3), jnp.asarray([10.0, 11.0, 12.0]), *jnp.zeros((2, 3), jnp.int32)
    )
    after = differential_value.remember(samples, pairs, jnp.asarray([True, False, True]))
    # The 4th goes to place 3, the 5th to place 0 again; what is no sample is dropped.
    np.testing.assert_array_equal(after.gain, [12.0, -1.0, -1.0, 10.0])
    np.testing.assert_array_equal(after.parted.layer, [2, 1, 2, 0])
    assert int(after.count) == 5


PRICES = jnp.asarray([0.3, 0.2, 0.4, 0.1, 0.05, 0.6])


@pytest.mark.parametrize("priced", [False, True])
def test_without_training_it_decides_as_the_rule_it_corrects(
    busy: tuple[Stopping, Params], priced: bool
):
    env, params = busy
    states, _ = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(KEY, 200), params)
    # The last layer starts at zero.
    net = differential_value.network(env, SMALL).init(KEY, jnp.zeros(7))
    prices = price_rule.free(params)
    adaptive = policies.adaptive_waiting(env)
    if priced:
        prices = prices.replace(weights=PRICES)
    rule = price_rule.policy(env, prices) if priced else adaptive
    learned = differential_value.policy(env, SMALL, Weights(net, prices))
    observation = jnp.zeros(env.observation_shape)
    three = jax.jit(
        jax.vmap(lambda s: [one(KEY, s, observation, params) for one in (learned, rule, adaptive)])
    )
    by_learner, by_rule, without_prices = three(states)
    np.testing.assert_array_equal(by_learner, by_rule)
    assert bool((by_rule != without_prices).any()) == priced


def test_a_training_begins_with_the_prices_it_is_given(busy: tuple[Stopping, Params]):
    env, params = busy
    given = price_rule.free(params).replace(weights=PRICES)
    for prices, expected in ((None, price_rule.free(params)), (given, given)):
        loop = differential_value.training_loop(params, Hyper(prices=prices), env=env, config=SMALL)
        weights = jax.jit(lambda key, loop=loop: loop.weights(loop.init(key)[0]))(KEY)
        np.testing.assert_array_equal(weights.prices.weights, expected.weights)
        np.testing.assert_allclose(weights.prices.tasks_per_s, expected.tasks_per_s, rtol=1e-6)


def test_a_pair_earns_what_two_devices_earn(busy: tuple[Stopping, Params]):
    """Parts a pair at a start, plays both devices until they meet by hand, compares the sums."""
    env, params = busy
    learner, net = Learner(env, SMALL), differential_value.network(env, SMALL)
    start_pairs = jax.jit(differential_value.start_pairs, static_argnums=(1, 3))
    prices = price_rule.free(params).replace(weights=PRICES)
    pairs = start_pairs(KEY, 32, params, env, prices)
    weights = Weights(net.init(KEY, pairs.parted.features[0]), prices)

    @jax.jit
    def move(key: jax.Array, pairs: Pair):
        def one(key: jax.Array, pair: Pair):
            return differential_value.advance_pair(learner, key, pair, weights, params, Hyper())

        return jax.vmap(one)(jax.random.split(key, 32), pairs)

    def choice_of(state: State):
        replay = workload.evaluate(env, state, params)
        return replay, differential_value.decide(env, net, weights, params, replay)

    @jax.jit
    def follow(states: State):
        def one(state: State):
            replay, choice = choice_of(state)
            return workload.follow(replay, choice, params), replay.choices.value[choice]

        return jax.vmap(jax.vmap(one))(states)

    key_first, key = jax.random.split(KEY)
    pairs, was_sample = move(key_first, pairs)
    assert not was_sample.any()  # they had not parted yet
    devices, gain = pairs.devices, np.asarray(pairs.gain, np.float64)
    n_met = 0
    for key_task in jax.random.split(key, 30):
        before = pairs
        pairs, is_sample = move(key_task, pairs)
        np.testing.assert_allclose(
            np.where(is_sample, before.gain, 0), np.where(is_sample, gain, 0), atol=1e-4
        )
        n_met += int(is_sample.sum())
        devices, value = follow(devices)
        gain = gain + np.asarray(value[:, 0] - value[:, 1], np.float64)
        # Those that met parted anew: go on from what they are now.
        anew = np.asarray(pairs.age == 1)
        devices = jax.tree.map(
            lambda a, b, anew=anew: jnp.where(anew.reshape((-1,) + (1,) * (a.ndim - 1)), b, a),
            devices,
            pairs.devices,
        )
        gain = np.where(anew, pairs.gain, gain)
    assert n_met > 32


@pytest.mark.slow
def test_the_exported_function_is_the_policy(busy: tuple[Stopping, Params]):
    env, params = busy
    states, _ = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(KEY, 50), params)
    net = differential_value.network(env, SMALL).init(KEY, jnp.zeros(7))
    net = jax.tree.map(lambda leaf: leaf + 0.1, net)  # not zero
    weights = Weights(net, price_rule.free(params).replace(weights=PRICES))
    look = jax.vmap(differential_value.view, (None, 0, None, None))
    seen = look(env, states, params, weights.prices)
    function, face = differential_value.interface(env, SMALL, weights)
    assert seen.features.shape == (50, len(face.features))
    each = function(seen.features)[jnp.arange(50), states.layer]
    network = differential_value.network(env, SMALL)
    np.testing.assert_allclose(
        each, differential_value.advantage(network, weights.net, seen), rtol=1e-5, atol=1e-6
    )
    policy, observation = differential_value.policy(env, SMALL, weights), jnp.zeros(7)
    stops = jax.vmap(lambda state: policy(KEY, state, observation, params))(states)
    np.testing.assert_array_equal(stops == 1, each >= 0)


@pytest.mark.slow
def test_it_beats_every_rule_and_the_clairvoyant_under_load_and_traces_once(
    busy: tuple[Stopping, Params],
):
    env, params = busy
    config = Config(
        n_pairs=256,
        n_evaluations=4,
        batch=2048,
        buffer_size=16384,
        evaluation_devices=64,
        evaluation_tasks=50,
    )
    before = differential_value.train._cache_size()
    learned = differential_value.train(jax.random.key(2), params, Hyper(), env=env, config=config)
    other = params.replace(accuracy_weight=params.accuracy_weight * 2)
    differential_value.train(
        jax.random.key(4), other, Hyper(learning_rate=1e-3), env=env, config=config
    )
    assert differential_value.train._cache_size() == before + 1
    assert np.isfinite(learned.curve).all()
    scenario = dataclasses.replace(registry.load_scenario("reference-busy"), rows=12, slots=65536)
    held_out = jaxcoinfer.make(scenario, jax.random.key(5))[1]
    baselines = {
        "adaptive": policies.adaptive_waiting(env),
        "clairvoyant": policies.clairvoyant(env),
    }
    everyone = baselines | {"learned": differential_value.policy(env, config, learned.weights)}
    tasks = evaluate.evaluate(env, held_out, everyone, jax.random.key(6))
    for baseline in baselines:
        assert evaluate.difference(tasks["learned"], tasks[baseline]).low > 0
