"""Memory of the past: the last observations, and what they are worth where outages last."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.core.stacked import Stacked
from jaxcoinfer.learn import sac
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.on_demand import twin

KEY = jax.random.key(0)


def made():
    scenario = dataclasses.replace(registry.load_scenario("on-demand-outages"), rows=4, slots=256)
    return jaxcoinfer.make(scenario, jax.random.key(1))


def test_it_holds_the_last_observations_latest_first():
    env, params = made()
    stacked, step = Stacked(env, 3), jax.jit(env.step)
    (state, first), (inner, plain) = stacked.reset(KEY, params), env.reset(KEY, params)
    np.testing.assert_array_equal(
        first.observation.reshape(3, -1), np.tile(plain.observation, (3, 1))
    )
    past = [plain.observation] * 3
    for action in (0, 5, 17, 3):
        state, timestep = stacked.step(state, jnp.int32(action), params)
        inner, plain = step(inner, jnp.int32(action), params)
        past = [plain.observation, *past[:2]]
        np.testing.assert_array_equal(timestep.observation, jnp.concatenate(past))
        assert float(timestep.reward) == float(plain.reward)
    assert stacked.observation_shape == (3 * env.observation_shape[0],)
    np.testing.assert_array_equal(stacked.mask(state, params), env.mask(inner, params))


@pytest.mark.slow
def test_a_learner_takes_it():
    env, params = made()
    stacked = Stacked(env, 4)
    config = sac.Config(
        hidden=(8,), n_envs=8, n_steps=2, n_batches=1, batch=16, buffer_size=64, n_evaluations=1
    )

    def outcomes(env, state, action, params):
        return twin.evaluate(env.env, state.state, params).utility

    learned = sac.train(KEY, params, sac.Hyper(), env=stacked, config=config, outcomes=outcomes)
    state, timestep = stacked.reset(KEY, params)
    action = sac.policy(stacked, config, learned.weights)(KEY, state, timestep.observation, params)
    assert bool(stacked.mask(state, params)[action])
