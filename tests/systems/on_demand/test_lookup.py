"""The baselines of `on-demand` that learn without a network: the look-up table is the mean by
context, and LinUCB is ridge regression.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.core.rollout import act
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.on_demand import lookup, misses
from tests.helpers.on_demand import ROWS, SLOTS, random_system
from tests.reference import on_demand as reference

KEY = jax.random.key(0)


def earned(system, row, slot):
    """What each action earns, by the reference; minus infinity where it is not valid."""
    env, draw = system.env, system.draw(row)
    rewards = np.full(env.n_actions, -np.inf)
    for action in np.flatnonzero(np.asarray(system.params().valid)):
        exit_, cut, width = (int(x) for x in env.unflatten(int(action)))
        rewards[action] = reference.run_task(system.scenario, draw, slot, exit_, cut, width).reward
    return rewards


def discrete(system, seed):
    """The system in a world of three rates, two speeds of the device, one of the edge."""
    rng, shape = np.random.default_rng(seed), (ROWS, SLOTS)
    draws = (rng.choice([0.0, 1e6, 3e6], shape), rng.choice([0.5, 1.0], shape), np.ones(shape))
    draws = tuple(np.float32(values) for values in draws)
    return dataclasses.replace(system, draws=(*draws, system.draws[3]))


def inside(edges, value):
    return int(np.sum(value >= np.asarray(edges)))


def observed(value, middle=1.0):
    """A rate or speed in the observation."""
    return np.float32(value) / (np.float32(value) + np.float32(middle))


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("world", ["discrete", "continuous"])
def test_the_table_is_the_best_mean_by_context(world, delay):
    system = random_system(4, delay_slots=delay)
    system = discrete(system, 0) if world == "discrete" else system
    env, params = system.env, system.params()
    table, typical = lookup.look_up(env, params), np.float32(params.typical_bps)
    if world == "discrete":
        assert table.action.shape == (3, 2, 1, 2)
        edges = [0.5e6 / (0.5e6 + typical), 2e6 / (2e6 + typical)]
        np.testing.assert_allclose(table.rate, edges, rtol=1e-6)
        np.testing.assert_allclose(table.device_speed, [0.75 / 1.75], rtol=1e-6)
    else:
        # Twelve of each, but for quantiles of the rate that are one: the link is often out.
        quantiles = np.quantile(system.draws[0], np.arange(1, 12) / 12)
        assert quantiles[0] == 0.0 and len(np.unique(quantiles)) < 11
        assert table.action.shape == (len(np.unique(quantiles)) + 1, 12, 12, 2)
        distinct = np.unique(quantiles)
        np.testing.assert_allclose(table.rate, distinct / (distinct + typical), rtol=1e-5)
        # About as many slots in each bin.
        speeds = observed(system.draws[1].ravel())
        count = np.bincount([inside(table.device_speed, v) for v in speeds], minlength=12)
        assert count.min() >= ROWS * SLOTS // 12 - 1 and count.max() <= ROWS * SLOTS // 12 + 1
    by_context, everything = {}, []
    for row in range(ROWS):
        rates, device, edge, kinds = (values[row] for values in system.draws)
        for slot in range(1, SLOTS):
            known = slot - delay
            context = (
                inside(table.rate, observed(rates[known], typical)),
                inside(table.device_speed, observed(device[known])),
                inside(table.edge_speed, observed(edge[known])),
                int(kinds[slot]),
            )
            rewards = earned(system, row, slot)
            by_context.setdefault(context, []).append(rewards)
            everything.append(rewards)
    action = np.asarray(table.action)
    assert action.dtype == np.int32 and len(set(action.ravel().tolist())) > 1
    for context in np.ndindex(action.shape):
        mean = np.mean(by_context.get(context, everything), axis=0)
        # Where it is not the best, it is a tie.
        np.testing.assert_allclose(mean[action[context]], mean.max(), rtol=1e-5, atol=1e-6)
        worth = np.where(np.isfinite(mean), mean, 0.0)
        np.testing.assert_allclose(table.values[context], worth, rtol=1e-4, atol=1e-5)
    assert len(by_context) < action.size or world == "discrete"
    # The policy reads what the device knows.
    policy = lookup.look_up_policy(table)
    for row, slot in ((0, 5), (1, 9), (2, 30)):
        rates, device, edge, kinds = (values[row] for values in system.draws)
        state, timestep = env.reset_at(jnp.int32(row), jnp.int32(slot), params)
        known = slot - delay
        wanted = action[
            inside(table.rate, observed(rates[known], typical)),
            inside(table.device_speed, observed(device[known])),
            inside(table.edge_speed, observed(edge[known])),
            int(kinds[slot]),
        ]
        assert int(act(env, policy, KEY, state, timestep.observation, params)) == wanted
        # Called with observations, of which the latest comes first, it says what actions are worth.
        older = jnp.full_like(timestep.observation, 9.0)
        worth = table(jnp.concatenate([timestep.observation, older])[None])
        assert worth.shape == (1, env.n_actions)
        valid = np.asarray(params.valid)
        assert valid[wanted] and float(worth[0, wanted]) == worth[0, valid].max()


def test_a_link_of_one_rate_has_one_context():
    system = random_system(4)
    same = np.ones((ROWS, SLOTS), np.float32)
    system = dataclasses.replace(system, draws=(1e6 * same, same, same, system.draws[3]))
    table = lookup.look_up(system.env, system.params())
    assert table.action.shape == (1, 1, 1, 2)
    best = [
        np.mean(
            [
                earned(system, row, slot)
                for row in range(ROWS)
                for slot in range(1, SLOTS)
                if system.draws[3][row, slot] == kind
            ],
            axis=0,
        ).argmax()
        for kind in range(2)
    ]
    np.testing.assert_array_equal(np.asarray(table.action).ravel(), best)


def features(observation):
    x = np.asarray(observation, np.float64)
    return np.concatenate([x, x**2, [1.0]])


@pytest.mark.parametrize("seed", [1, 4])
def test_linucb_keeps_the_inverse_of_what_it_observed(seed):
    system, n_rounds, optimism = random_system(seed), 200, 0.5
    env, params = system.env, system.params()
    valid = np.flatnonzero(np.asarray(params.valid))
    states, timesteps = jax.vmap(env.reset, (0, None))(jax.random.split(KEY, n_rounds), params)
    n_features = 2 * env.observation_shape[0] + 1
    seen = {action: ([], []) for action in valid}  # what was observed, and what it earned
    for i in range(n_rounds):
        x, value = features(timesteps.observation[i]), np.full(env.n_actions, -np.inf)
        for action in valid:
            x_a, r_a = (np.array(values) for values in seen[action])
            x_a = x_a.reshape(-1, n_features)
            inverse = np.linalg.inv(np.eye(n_features) + x_a.T @ x_a)
            value[action] = inverse @ (x_a.T @ r_a) @ x + optimism * np.sqrt(x @ inverse @ x)
        action = int(value.argmax())
        seen[action][0].append(x)
        seen[action][1].append(earned(system, int(states.row[i]), int(states.slot[i]))[action])
    model = lookup.lin_ucb(KEY, params, env=env, n_rounds=n_rounds, optimism=optimism)
    weights = np.asarray(model.weights)
    assert weights.shape == (env.n_actions, n_features)
    for action in range(env.n_actions):
        x_a, r_a = (np.array(values) for values in seen.get(action, ([], [])))
        x_a = x_a.reshape(-1, n_features)
        wanted = np.linalg.inv(np.eye(n_features) + x_a.T @ x_a) @ (x_a.T @ r_a)
        np.testing.assert_allclose(weights[action], wanted, rtol=2e-3, atol=2e-4)
    assert sum(len(x) > 0 for x, _ in seen.values()) == len(valid)  # all were tried
    assert max(len(x) for x, _ in seen.values()) > n_rounds / len(valid)  # some more than others
    # The policy takes what is best in the mean.
    policy = lookup.linear_policy(model)
    for i in range(5):
        state, timestep = jax.tree.map(lambda leaf, i=i: leaf[i], (states, timesteps))
        value = weights @ features(timestep.observation)
        taken = int(act(env, policy, KEY, state, timestep.observation, params))
        assert taken in valid and value[taken] == pytest.approx(value[valid].max(), rel=1e-5)


def test_the_reliable_table_keeps_to_its_targets_at_the_least_cost():
    # One context. Action 0 earns most and is late in 3 of 10 tasks, 1 in 1 of 10, 2 never.
    utility, misses = np.array([[0.9, 0.7, 0.5]]), np.array([[0.3, 0.1, 0.0]])
    count = np.array([1e8])  # of which two standard errors are nothing
    for target, action in ((0.5, 0), (0.31, 0), (0.2, 1), (0.11, 1), (0.05, 2), (0.0, 2)):
        assert lookup._within(utility, misses, count, target).tolist() == [action], target
    # Few tasks say less: .1 + 2 sqrt(.1 / 40) = .2.
    assert lookup._within(utility, misses, np.array([40.0]), 0.15).tolist() == [2]
    # Where no action keeps to it, the one that misses least.
    assert lookup._within(utility, misses + 0.2, count, 0.1).tolist() == [2]


def test_the_reliable_table_is_the_table_where_nothing_is_late():
    system = random_system(4)
    env, params = system.env, system.params()
    table = lookup.look_up(env, params)
    kept = lookup.look_up(env, params, [1.0] * env.n_classes)
    np.testing.assert_array_equal(table.action, kept.action)


def test_the_reliable_table_misses_less_on_rows_it_has_not_seen():
    scenario = dataclasses.replace(registry.load_scenario("on-demand-markov"), rows=16)
    env, params = jaxcoinfer.make(scenario, KEY)
    _, fresh = jaxcoinfer.make(scenario, jax.random.key(1), split="test")
    targets = [c.target_miss_ratio for c in scenario.classes]
    late = {}
    for name, wanted in (("best", None), ("reliable", targets)):
        policy = lookup.look_up_policy(lookup.look_up(env, params, wanted))
        counted = jax.jit(partial(misses.count, env, policy=policy))(params=fresh, key=KEY)
        missed, tasks = (np.asarray(x).sum(axis=0) for x in counted)
        late[name] = missed / tasks
    assert (late["reliable"] <= late["best"]).all() and (late["best"] > targets).any()
    assert (late["reliable"] <= targets).all()
