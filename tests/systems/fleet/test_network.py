"""The network of the fleet: permutations, absent devices, other numbers of devices; and that it
learns.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.core.rollout import mean_reward
from jaxcoinfer.learn import ppo
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import baselines, twin
from jaxcoinfer.systems.fleet.env import FleetAction
from jaxcoinfer.systems.fleet.network import Leveled, network, outcomes, view
from tests.helpers.fleets import random_fleet, step

KEY = jax.random.key(0)
CONFIG = ppo.Config(
    hidden=(16, 16),
    n_envs=32,
    n_steps=8,
    n_batches=4,
    n_evaluations=4,
    updates_per_evaluation=16,
    evaluation_envs=32,
    evaluation_steps=16,
    view=view,
    network=network,
)
DEVICES = 7


def random_network(cloud=False):
    """The network of a random fleet, random weights, and what it sees in one slot."""
    system = random_fleet(1, DEVICES, cloud)
    env, params = system.env(), system.params()
    state, timestep = env.reset_at(jnp.int32(1), jnp.int32(1), params)
    seen = view(env, state, timestep.observation, params)
    net = network(env, dataclasses.replace(CONFIG, hidden=(8, 8)))
    leaves, structure = jax.tree.flatten(jax.eval_shape(net.init, KEY, seen))
    rng = np.random.default_rng(0)
    noise = [jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves]
    return net, jax.tree.unflatten(structure, noise), seen


@partial(jax.jit, static_argnums=0)
def apply(net, weights, seen):
    return net.apply(weights, seen)


@pytest.mark.parametrize("cloud", [False, True])
def test_permuting_the_devices_permutes_the_answer(cloud):
    net, weights, seen = random_network(cloud)
    logits, value = apply(net, weights, seen)
    order = np.random.default_rng(0).permutation(DEVICES)
    permuted = jax.tree.map(lambda leaf: leaf[order], seen)
    other_logits, other_value = apply(net, weights, permuted)
    np.testing.assert_allclose(other_logits, logits[order], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other_value, value, rtol=1e-4)
    assert np.isfinite(logits).all() and np.std(logits) > 0


def test_absent_devices_change_nothing_and_weights_fit_any_number():
    net, weights, seen = random_network()
    here = np.asarray(seen.active)
    assert not here.all()
    # Of an absent device all numbers are zeros, and all choices are allowed.
    seen = jax.tree.map(
        lambda leaf: np.where(here.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0), seen
    )
    seen = seen.replace(active=here, valid=np.ones_like(seen.valid, bool))
    logits, value = apply(net, weights, seen)
    padded = jax.tree.map(
        lambda leaf: np.concatenate([leaf, np.zeros((5, *leaf.shape[1:]), leaf.dtype)]), seen
    )
    padded = padded.replace(valid=np.ones_like(padded.valid))
    more_logits, more_value = apply(net, weights, padded)
    np.testing.assert_allclose(more_logits[:DEVICES], logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(more_value, value, rtol=1e-4)


def test_gradients_are_finite_with_a_cloud_and_nobody_there():
    net, weights, seen = random_network(cloud=True)
    nobody = jax.tree.map(jnp.zeros_like, seen).replace(valid=seen.valid)

    @jax.jit
    @jax.grad
    def gradient(weights, seen):
        logits, value = net.apply(weights, seen)
        return jnp.where(seen.valid, logits, 0.0).sum() + value

    for case in (seen, nobody):
        leaves = jax.tree.leaves(gradient(weights, case))
        assert all(np.isfinite(leaf).all() for leaf in leaves)
        assert any(np.any(leaf != 0) for leaf in leaves)


def test_outcomes_are_what_the_environment_pays():
    system = random_fleet(2, 5)
    env, params, state = system.env(), system.params(), system.state(0, 3)
    choice = jnp.asarray([0, 3, 5, 4, 2], jnp.int32)
    rewards = jax.jit(outcomes, static_argnums=0)(env, state, choice, params)
    _, timestep = step(env, state, choice, params)
    at_choice = np.asarray(rewards)[np.arange(5), np.asarray(choice)]
    np.testing.assert_allclose(at_choice, float(timestep.reward), rtol=1e-5)
    tasks = float(state.now.active.sum())
    costs = twin.evaluate(env, state, params, choice)
    np.testing.assert_allclose(-rewards * tasks, costs, rtol=1e-5)


def test_levels_are_shares():
    system = random_fleet(6, 3)
    free, params, state = system.env(learned_shares=True), system.params(), system.state(0, 3)
    leveled = Leveled(free, 5)
    levels = jnp.asarray([0, 2, 4], jnp.int32)  # powers of the root of two: 1, 2, 4
    action = FleetAction(jnp.zeros(3, jnp.int32), levels, levels[::-1])
    by_hand = action.replace(
        bandwidth=jnp.asarray([1.0, 2.0, 4.0]), compute=jnp.asarray([4.0, 2.0, 1.0])
    )
    _, one = jax.jit(leveled.step)(state, action, params)
    _, other = step(free, state, by_hand, params)
    np.testing.assert_allclose(one.outcome.latency_s, other.outcome.latency_s, rtol=1e-6)
    mask = leveled.mask(state, params)
    here = np.asarray(state.now.active)
    assert here.any() and not here.all()
    np.testing.assert_array_equal(np.asarray(mask.bandwidth).sum(axis=1), np.where(here, 5, 1))


def made(devices, key=1):
    scenario = registry.load_scenario("fleet")
    scenario = dataclasses.replace(scenario, devices=devices, rows=4, slots=64)
    return jaxcoinfer.make(scenario, jax.random.key(key))


@pytest.mark.slow
def test_it_learns_to_beat_equal_shares_at_other_numbers_of_devices_too():
    env, params = made(8)
    hyper = ppo.Hyper(learning_rate=1e-2)
    learned = ppo.train(KEY, params, hyper, env=env, config=CONFIG, outcomes=outcomes)
    for devices in (2, 32):
        other, numbers = made(devices, key=9)
        start = jax.vmap(other.reset_at, (0, None, None))(jnp.arange(4), jnp.int32(0), numbers)
        rewards = {
            name: float(mean_reward(other, numbers, policy, start, 64))
            for name, policy in {
                "learned": ppo.policy(other, CONFIG, learned.weights),
                "equal": baselines.equal_shares(other),
                "best": baselines.dual_recovery(other),
            }.items()
        }
        assert rewards["equal"] < rewards["learned"] <= rewards["best"] + 1e-6, devices
        assert rewards["learned"] > 1.03 * rewards["best"], devices  # rewards are negative


@pytest.mark.slow
def test_learned_shares_train():
    system = random_fleet(4, 3)
    env, params = Leveled(system.env(learned_shares=True), 4), system.params()
    config = dataclasses.replace(
        CONFIG,
        hidden=(8, 8),
        n_envs=8,
        n_batches=1,
        n_evaluations=3,
        updates_per_evaluation=10,
        evaluation_envs=16,
        evaluation_steps=4,
        twin=False,
    )
    learned = ppo.train(KEY, params, ppo.Hyper(learning_rate=1e-2), env=env, config=config)
    curve = np.asarray(learned.curve)
    assert np.isfinite(curve).all() and curve[-1] > curve[0]
