"""The network of `multi-user`: distributions of the right shapes, that permute with the users;
training changes all of them without a new trace.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.learn import ppo
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.multi_user import network as users_network
from jaxcoinfer.systems.multi_user.env import MultiUser
from jaxcoinfer.systems.multi_user.network import UsersView
from jaxcoinfer.systems.multi_user.params import MultiUserParams

World = tuple[MultiUser, MultiUserParams]

CONFIG = ppo.Config(
    hidden=(8, 8),
    n_envs=4,
    n_steps=4,
    n_batches=2,
    n_epochs=1,
    n_evaluations=2,
    updates_per_evaluation=1,
    evaluation_envs=2,
    evaluation_steps=2,
    twin=False,
    view=users_network.view,
    network=users_network.network,
)


@pytest.fixture(scope="module")
def world() -> World:
    scenario = dataclasses.replace(
        registry.load_scenario("multi-user"), rows=16, users=3, tasks=5.0
    )
    return jaxcoinfer.make(scenario)


def test_distributions_and_their_view(world: World) -> None:
    env, params = world
    state, timestep = env.reset_at(jnp.int32(0), jnp.int32(0), params)
    view = users_network.view(env, state, timestep.observation, params)
    assert view.features.shape == (3, 4 + 2 + 3)
    # Signal to noise at d: 1e9 d^-3, whose logarithm to the base 10 is 9 - 3 log10 d.
    expected = (9.0 - 3.0 * np.log10(np.asarray(state.distance_m))) / 10.0
    np.testing.assert_allclose(view.features[:, 4], expected, atol=1e-3)
    net = users_network.network(env, CONFIG)
    weights = net.init(jax.random.key(0), view)
    action, value = net.apply(weights, view)
    assert action.split.shape == (3, 6) and action.channel.shape == (3, 2) and value.shape == ()
    # Before anything is learned: half the largest power.
    action = ppo.policy(env, CONFIG, weights)(
        jax.random.key(0), state, timestep.observation, params
    )
    np.testing.assert_allclose(action.power_w, [0.5] * 3, rtol=1e-6)


def test_the_order_of_users_means_nothing(world: World) -> None:
    env, params = world
    net = users_network.network(env, CONFIG)
    view = UsersView(jax.random.normal(jax.random.key(1), (3, 9)), params.max_w)
    noisy = jax.tree.map(lambda x: x + 0.1, net.init(jax.random.key(0), view))
    decisions, value = net.apply(noisy, view)
    order = np.array([2, 0, 1])
    turned, same = net.apply(noisy, view.replace(features=view.features[order]))
    np.testing.assert_allclose(turned.split, decisions.split[order], rtol=1e-5)
    np.testing.assert_allclose(turned.power_w.mean, decisions.power_w.mean[order], rtol=1e-5)
    np.testing.assert_allclose(same, value, rtol=1e-5)


@pytest.mark.slow
def test_training_changes_all_parts_and_does_not_retrace(world: World) -> None:
    env, params = world
    before = ppo.train._cache_size()
    first = ppo.train(
        jax.random.key(0), params, ppo.Hyper(learning_rate=1e-2), env=env, config=CONFIG
    )
    later = params.replace(noise_w=jnp.float32(1e-8))
    ppo.train(jax.random.key(1), later, ppo.Hyper(learning_rate=3e-3), env=env, config=CONFIG)
    assert ppo.train._cache_size() == before + 1
    assert np.isfinite(first.curve).all()
    state, timestep = env.reset_at(jnp.int32(0), jnp.int32(0), params)
    view = users_network.view(env, state, timestep.observation, params)
    decisions, value = users_network.network(env, CONFIG).apply(first.weights, view)
    for part in (
        decisions.split,
        decisions.channel,
        decisions.power_w.mean,
        decisions.power_w.log_deviation,
        value,
    ):
        assert (np.asarray(part) != 0).any()
