"""The network of the fleet: permutations, absent devices, other numbers of devices; and that it
learns.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.core.rollout import mean_reward
from jaxcoinfer.learn import ppo
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import baselines, twin
from jaxcoinfer.systems.fleet import env as fleet
from jaxcoinfer.systems.fleet import network as fleet_actor

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
    view=fleet_actor.view,
    network=fleet_actor.network,
)


def made(devices: int, name: str = "fleet", key: int = 1):
    scenario = dataclasses.replace(registry.load_scenario(name), devices=devices, rows=4, slots=64)
    return jaxcoinfer.make(scenario, jax.random.key(key))


def begun(env, params, slot: int = 3):
    return env.reset_at(jnp.int32(0), jnp.int32(slot), params)


def random_weights(env, params):
    state, timestep = begun(env, params)
    net = fleet_actor.network(env, CONFIG)
    view = fleet_actor.view(env, state, timestep.observation, params)
    weights = net.init(KEY, view)
    noise = [
        0.1 * jax.random.normal(jax.random.fold_in(KEY, i), leaf.shape)
        for i, leaf in enumerate(jax.tree.leaves(weights))
    ]
    return net, jax.tree.unflatten(jax.tree.structure(weights), noise), view


@pytest.mark.parametrize("name", ["fleet", "fleet-cloud"])
def test_permuting_the_devices_permutes_the_answer(name):
    env, params = made(7, name)
    net, weights, view = random_weights(env, params)
    logits, value = net.apply(weights, view)
    order = np.random.default_rng(0).permutation(7)
    other_logits, other_value = net.apply(weights, jax.tree.map(lambda leaf: leaf[order], view))
    np.testing.assert_allclose(other_logits, logits[order], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other_value, value, rtol=1e-4)
    assert np.isfinite(logits).all() and np.std(logits) > 0


def test_absent_devices_change_nothing_and_weights_fit_any_number():
    env, params = made(7)
    net, weights, view = random_weights(env, params)
    here = view.active[:, None]
    view = jax.tree.map(
        lambda leaf: jnp.where(here if leaf.ndim == 2 else here[:, 0], leaf, jnp.zeros_like(leaf)),
        view,
    )
    view = view.replace(
        valid=jnp.ones_like(view.valid)
    )  # the tables of an absent device are zeros, and all allowed
    assert not bool(view.active.all())
    logits, value = net.apply(weights, view)
    padded = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, jnp.zeros((5, *leaf.shape[1:]), leaf.dtype)]), view
    )
    padded = padded.replace(valid=jnp.ones_like(padded.valid))
    more_logits, more_value = net.apply(weights, padded)
    np.testing.assert_allclose(more_logits[:7], logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(more_value, value, rtol=1e-4)


def test_gradients_are_finite_with_a_cloud_and_nobody_there():
    env, params = made(3, "fleet-cloud")
    net, weights, view = random_weights(env, params)
    nobody = jax.tree.map(jnp.zeros_like, view).replace(valid=view.valid)

    def total(weights, view):
        logits, value = net.apply(weights, view)
        return jnp.where(view.valid, logits, 0.0).sum() + value

    for seen in (view, nobody):
        assert all(
            np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(total)(weights, seen))
        )


def test_outcomes_are_what_the_environment_pays():
    env, params = made(5)
    state, _ = begun(env, params)
    choice = jnp.asarray([0, 3, 7, 11, 2], jnp.int32)
    found = fleet_actor.outcomes(env, state, choice, params)
    _, timestep = env.step(state, choice, params)
    at_choice = np.asarray(found)[np.arange(5), np.asarray(choice)]
    np.testing.assert_allclose(at_choice, float(timestep.reward), rtol=1e-5)
    tasks = float(fleet.active(state, params).sum())
    np.testing.assert_allclose(-found * tasks, twin.evaluate(state, choice, params), rtol=1e-5)


def test_levels_are_shares():
    env, params = made(3)
    free = dataclasses.replace(env, learned_shares=True)
    leveled = fleet_actor.Leveled(free, 5)
    state, _ = begun(env, params)
    levels = jnp.asarray([0, 2, 4], jnp.int32)  # powers of the root of two: 1, 2, 4
    action = fleet.FleetAction(jnp.zeros(3, jnp.int32), levels, levels[::-1])
    by_hand = action.replace(
        bandwidth=jnp.asarray([1.0, 2.0, 4.0]), compute=jnp.asarray([4.0, 2.0, 1.0])
    )
    _, one = leveled.step(state, action, params)
    _, other = free.step(state, by_hand, params)
    np.testing.assert_allclose(one.outcome.latency_s, other.outcome.latency_s, rtol=1e-6)
    mask = leveled.mask(state, params)
    here = np.asarray(fleet.active(state, params))
    np.testing.assert_array_equal(np.asarray(mask.bandwidth).sum(axis=1), np.where(here, 5, 1))


def test_it_learns_to_beat_equal_shares_at_other_numbers_of_devices_too():
    env, params = made(8)
    learned = ppo.train(
        KEY,
        params,
        ppo.Hyper(learning_rate=1e-2),
        env=env,
        config=CONFIG,
        outcomes=fleet_actor.outcomes,
    )
    for devices in (8, 2, 32):
        other, numbers = made(devices, key=9)
        start = jax.vmap(other.reset_at, (0, None, None))(jnp.arange(4), jnp.int32(0), numbers)
        earned = {
            name: float(mean_reward(other, numbers, policy, start, 64))
            for name, policy in {
                "learned": ppo.policy(other, CONFIG, learned.weights),
                "equal": baselines.equal_shares(other),
                "best": baselines.dual_recovery(other),
            }.items()
        }
        assert earned["equal"] < earned["learned"] <= earned["best"] + 1e-6, devices
        assert earned["learned"] > 1.03 * earned["best"], devices  # rewards are negative


def test_learned_shares_train():
    env, params = made(4)
    leveled = fleet_actor.Leveled(dataclasses.replace(env, learned_shares=True), 8)
    config = dataclasses.replace(CONFIG, twin=False, n_evaluations=3)
    learned = ppo.train(KEY, params, ppo.Hyper(learning_rate=1e-2), env=leveled, config=config)
    curve = np.asarray(learned.curve)
    assert np.isfinite(curve).all() and curve[-1] > curve[0]
