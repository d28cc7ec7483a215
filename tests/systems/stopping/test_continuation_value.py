"""The learner of continuation values: its targets by hand, what it is before it learns, and that
it learns.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.core.rollout import act
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import baselines as policies
from jaxcoinfer.systems.stopping import continuation_value, price_rule
from jaxcoinfer.systems.stopping.device import waiting_slots
from jaxcoinfer.systems.stopping.price_rule import Prices
from jaxcoinfer.systems.stopping.twin import rollout, workload
from tests.helpers.stopping import random_system

VALUES = jnp.asarray([1.0, 5.0, 2.0, 3.0])  # stopping at 0, 1, 2, and on the device


def test_targets_follow_the_device():
    # Nothing is paid: every decision sees the same values.
    values = jnp.stack([VALUES] * 3)
    # G[2] = 3 (the device); at 2 it stops, so G[1] = 2; at 1 it goes on, so G[0] = G[1] = 2.
    stops = jnp.asarray([False, False, True])
    np.testing.assert_array_equal(continuation_value.targets(values, stops), [2.0, 2.0, 3.0])
    # It stops at 1 too: G[0] = 5. Whether it stops at 0 says nothing about continuing there.
    np.testing.assert_array_equal(
        continuation_value.targets(values, jnp.asarray([True, True, True])), [5.0, 2.0, 3.0]
    )
    np.testing.assert_array_equal(
        continuation_value.targets(values, jnp.zeros(3, bool)), [3.0, 3.0, 3.0]
    )


def test_targets_are_less_what_is_paid_at_the_decision_itself():
    # Seen from l, choice c gave 10 l + V[c]. The device stops at 1 alone: from 0 it stops there,
    # 5; from 1 and 2 it finishes on the device, 10 + 3 and 20 + 3.
    values = VALUES[None] + 10.0 * jnp.arange(3.0)[:, None]
    stops = jnp.asarray([False, True, False])
    np.testing.assert_array_equal(continuation_value.targets(values, stops), [5.0, 13.0, 23.0])


def test_exploration_draws_only_what_is_worth_trying():
    stops, worth = jnp.asarray([False, True, False]), jnp.asarray([True, False, False, True])
    explore = jax.vmap(continuation_value._explore, (0, None, None, None))
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = jax.vmap(rollout.first_stop)(explore(keys, stops, jnp.float32(1.0), worth))
    counts = np.bincount(np.asarray(drawn), minlength=4)
    assert (counts[[1, 2]] == 0).all() and counts[[0, 3]].min() > 70
    never = explore(keys, stops, jnp.float32(0.0), worth)
    np.testing.assert_array_equal(never, np.broadcast_to(stops, never.shape))


def test_the_published_method_tries_no_choice_that_the_twin_rules_out():
    env, params = jaxcoinfer.make("reference", jax.random.key(0))
    state, _ = env.reset(jax.random.key(1), params)
    replay = workload.evaluate(env, state, params)
    published = continuation_value.Config(published=True)
    worth = continuation_value._worth_trying(published, replay, params)
    # One more layer costs energy and saves the server next to nothing: only all or none.
    np.testing.assert_array_equal(worth, [True, False, False, True])
    assert continuation_value._worth_trying(continuation_value.Config(), replay, params).all()


def test_published_targets_by_hand():
    # G[2] = 3 (the device); G[1] = max(V[2] = 2, C[2] = 2.5); G[0] = max(V[1] = 5, C[1] = 9). What
    # the network says of continuing at 0 is no part of it.
    continuation = jnp.asarray([7.0, 9.0, 2.5])
    goals = continuation_value.published_targets(VALUES, continuation)
    np.testing.assert_array_equal(goals, [9.0, 2.5, 3.0])
    # With nothing thought of continuing, the best of the next stop: 5, 2, and the device's 3.
    low = jnp.full(3, -100.0)
    np.testing.assert_array_equal(
        continuation_value.published_targets(VALUES, low), [5.0, 2.0, 3.0]
    )
    # A single decision: stop at 0, or finish on the device.
    np.testing.assert_array_equal(
        continuation_value.published_targets(VALUES[:2], continuation[:1]), [5.0]
    )


def path_targets(continuation: jax.Array, choice: int):
    """On a path on which nobody waits and nothing is paid."""
    return continuation_value.path_targets(
        jnp.stack([VALUES] * 3), continuation, jnp.int32(choice), jnp.zeros(3)
    )


def test_what_others_waited_already_is_no_part_of_what_comes():
    # C counts from its decision on. Between decisions 0 and 1 others waited .5 s, then .25 s: what
    # continuing at 0 is worth is C[1] = .2 less .5, at 1 it is C[2] = .3 less .25.
    goals, _ = continuation_value.path_targets(
        jnp.stack([VALUES] * 3),
        jnp.asarray([0.1, 0.2, 0.3]),
        jnp.int32(3),
        jnp.asarray([0.0, 0.5, 0.75]),
    )
    np.testing.assert_allclose(goals, [-0.3, 0.05, 3.0], rtol=1e-6)


def test_in_a_world_without_chance_the_forecast_needs_no_correction():
    # Three tasks at once, an idle server, one rate, one speed: what came of a choice, counted from
    # each decision on, is what was forecast there, though two tasks wait all the time.
    arrivals = np.zeros((2, 320), np.int64)
    arrivals[:, 10] = 3
    system = random_system(3, 3, arrivals=arrivals, edge_work=np.zeros_like(arrivals))
    bits = np.full(arrivals.shape, int(system.slot_bits.max()))
    system = dataclasses.replace(
        system, slot_bits=bits, observed_bits=bits, speed=np.ones(arrivals.shape)
    )
    env, params = system.env, system.params()
    state, _ = env.reset_at(jnp.int32(0), jnp.int32(10), params)
    replay = workload.evaluate(env, state, params)
    waited_s = np.asarray(replay.choices.waiting_cost_s)
    assert waited_s[-1] > 0
    forecasts = jax.vmap(workload.forecast, (None, 0, None))(env, replay.states, params).value
    came = np.asarray(replay.choices.value)[None] + waited_s[:-1, None]
    for layer in range(4):
        np.testing.assert_allclose(came[layer, layer:], forecasts[layer, layer:], rtol=1e-4)


def test_the_path_taken_gives_less():
    continuation = jnp.asarray([0.1, 0.2, 0.3])
    # Stopped at 2: it continued at 0, which the network values by its next 0.2, and at 1, of which
    # 2 came.
    goals, known = path_targets(continuation, 2)
    np.testing.assert_array_equal(known, [True, True, False])
    np.testing.assert_allclose(goals[:2], [0.2, 2.0])
    # Stopped at once: nothing was continued, nothing is learned.
    assert not path_targets(continuation, 0)[1].any()
    # Finished on the device: 0.2, 0.3, and of the last step came 3.
    goals, known = path_targets(continuation, 3)
    assert known.all()
    np.testing.assert_allclose(goals, [0.2, 0.3, 3.0])


def test_first_stop():
    assert int(rollout.first_stop(jnp.asarray([False, True, True]))) == 1
    assert int(rollout.first_stop(jnp.zeros(3, bool))) == 3


KEY = jax.random.key(0)
PRICES = jnp.asarray([0.3, 0.2, 0.4, 0.1, 0.05, 0.6])


def met_states(env, params, policy, n_devices=64, n_steps=120):
    """Returns states [n_steps * n_devices] of devices that play `policy`, some at every layer."""

    def move(carry, key):
        state, timestep = carry
        keys = jax.random.split(key, n_devices)
        decide = jax.vmap(partial(act, env, policy), (0, 0, 0, None))
        action = decide(keys, state, timestep.observation, params)
        return jax.vmap(env.step, (0, 0, None))(state, action, params), (state, timestep)

    @jax.jit
    def play():
        start = jax.vmap(env.reset, (0, None))(jax.random.split(KEY, n_devices), params)
        met = jax.lax.scan(move, start, jax.random.split(KEY, n_steps))[1]
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), met)

    return play()


def decided(env, params, policy, met):
    states, timesteps = met
    decide = jax.vmap(partial(act, env, policy), (None, 0, 0, None))
    return np.asarray(jax.jit(decide)(KEY, states, timesteps.observation, params))


def untrained(env, params, config, prices):
    """Returns weights of a network that has learned nothing, as a training begins with them."""
    hyper = continuation_value.Hyper(prices=prices)
    training = continuation_value.training_loop(params, hyper, env=env, config=config)
    return training.weights(jax.jit(lambda key: training.init(key)[0])(KEY))


@pytest.mark.parametrize("name", ["reference-busy", "camera"])
def test_with_nothing_learned_it_acts_as_the_rule_it_corrects(name):
    scenario = dataclasses.replace(registry.load_scenario(name), rows=4, slots=4096)
    env, params = jaxcoinfer.make(scenario, jax.random.key(1))
    config = continuation_value.Config(hidden=(8,), n_devices=4, evaluation_devices=2)
    met = met_states(env, params, policies.random_choice())
    assert set(np.unique(met[0].layer)) == set(range(env.n_layers + 1))
    rules = {
        "adaptive waiting": (None, policies.adaptive_waiting(env)),
        "price rule": (
            prices := Prices(PRICES, price_rule.tasks_per_s(params)),
            price_rule.policy(env, prices),
        ),
    }
    taken = {}
    for rule, (prices, policy) in rules.items():
        weights = untrained(env, params, config, prices)
        learner = continuation_value.policy(env, config, weights)
        taken[rule] = decided(env, params, policy, met)
        np.testing.assert_array_equal(decided(env, params, learner, met), taken[rule], rule)
        assert 0.02 < taken[rule].mean() < 0.98  # both decisions are there
    assert (taken["adaptive waiting"] != taken["price rule"]).any()


def test_the_published_method_corrects_nothing():
    """Its network says 0 before it has learned, whatever the prices: it stops where stopping is
    expected to be worth 0 or more, what others have waited since the task began taken off.
    """
    scenario = dataclasses.replace(registry.load_scenario("reference-busy"), rows=4, slots=4096)
    env, params = jaxcoinfer.make(scenario, jax.random.key(1))
    config = continuation_value.Config(
        hidden=(8,), n_devices=4, evaluation_devices=2, published=True
    )
    prices = Prices(PRICES, price_rule.tasks_per_s(params))
    weights = untrained(env, params, config, prices)
    np.testing.assert_array_equal(weights.prices.weights, np.zeros(6))
    states, timesteps = met = met_states(env, params, policies.random_choice())
    value = jax.jit(jax.vmap(lambda state: workload.forecast(env, state, params).value))(states)
    expected = np.take_along_axis(np.asarray(value), np.asarray(states.layer)[:, None], axis=1)
    stops = decided(env, params, continuation_value.policy(env, config, weights), met)
    waited = jax.vmap(waiting_slots)(
        states.at_start.now, states.now, states.slot - states.start, states.task
    )
    waited_s = np.asarray(waited) * float(params.slot_s)
    assert (waited_s > 0).any()
    np.testing.assert_array_equal(stops == 1, expected[:, 0] - waited_s >= 0)
    # It sees the observation, not the features.
    kernel = weights.net["params"]["Dense_0"]["kernel"]
    assert kernel.shape == (timesteps.observation.shape[-1], 8)


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
