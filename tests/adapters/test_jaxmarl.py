"""JaxMARL's face of a fleet: native transitions by agent, absent devices, its own LogWrapper under
vmap.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer.adapters import jaxmarl_env
from jaxcoinfer.systems.stopping.env import Stopping
from tests.helpers.fleets import random_fleet

REASON = "jaxmarl is not installed: python -m pip install 'jaxcoinfer[jaxmarl]'"
SYSTEM = random_fleet(3, 4)
KEY = jax.random.key(0)


def test_only_a_fleet_of_choices_has_one():
    for env in (Stopping(3), SYSTEM.env(learned_shares=True)):
        with pytest.raises(TypeError, match="no JaxMARL face"):
            jaxmarl_env(env, None)


@pytest.fixture
def face():
    pytest.importorskip("jaxmarl", reason=REASON)
    return jaxmarl_env(SYSTEM.env(), SYSTEM.params())


def test_agents_see_and_share_what_the_fleet_gives(face):
    env, params = SYSTEM.env(), SYSTEM.params()
    step, reset = jax.jit(env.step), jax.jit(env.reset)
    observations, state = face.reset(KEY)
    native, timestep = reset(KEY, params)
    n_absent, n_ends = 0, 0
    for i in range(12):
        seen = np.stack([observations[agent] for agent in face.agents])
        np.testing.assert_allclose(seen, timestep.observation, rtol=1e-5)
        available = face.get_avail_actions(state)
        mask = np.stack([available[agent] for agent in face.agents])
        np.testing.assert_array_equal(mask, env.mask(native, params))
        again = face.get_obs(state)
        np.testing.assert_allclose([again[agent] for agent in face.agents], seen, rtol=1e-5)
        n_absent += (mask.sum(axis=1) == 1).sum()
        choice = [np.flatnonzero(valid)[i % valid.sum()] for valid in mask]
        key = jax.random.fold_in(KEY, i)
        actions = {agent: jnp.int32(c) for agent, c in zip(face.agents, choice, strict=True)}
        observations, state, rewards, dones, _ = face.step(key, state, actions)
        native, timestep = step(native, jnp.asarray(choice, jnp.int32), params)
        (shared,) = {float(reward) for reward in rewards.values()}
        assert shared == pytest.approx(float(timestep.reward), rel=1e-5)
        assert {bool(done) for done in dones.values()} == {bool(timestep.truncated)}
        assert set(dones) == {*face.agents, "__all__"} and set(rewards) == set(face.agents)
        if dones["__all__"]:
            n_ends += 1
            native, timestep = reset(
                jax.random.split(key)[1], params
            )  # as JaxMARL's own step divides its key
    assert n_absent > 0 and n_ends > 1


def test_jaxmarls_own_wrapper_logs_a_batch(face):
    baselines = pytest.importorskip("jaxmarl.wrappers.baselines", reason=REASON)
    logged = baselines.LogWrapper(face)

    def step(carry, key):
        state, total = carry
        available = face.get_avail_actions(state.env_state)
        actions = {agent: jnp.argmax(mask).astype(jnp.int32) for agent, mask in available.items()}
        _, state, rewards, dones, info = logged.step(key, state, actions)
        total = jnp.where(dones["__all__"], 0.0, total + rewards["agent_0"])
        return (state, total), (info["returned_episode"], state.episode_returns, total)

    def play(key):
        _, state = logged.reset(key)
        return jax.lax.scan(step, (state, jnp.zeros(())), jax.random.split(key, 10))[1]

    with jax.numpy_dtype_promotion("standard"):
        ended, returns, totals = jax.jit(jax.vmap(play))(jax.random.split(KEY, 5))
    assert ended.any(axis=1).all() and ended.shape == (5, 10, face.num_agents)
    np.testing.assert_allclose(
        returns, np.broadcast_to(totals[..., None], returns.shape), rtol=1e-5
    )
    space = face.observation_space("agent_0")
    assert space.shape == SYSTEM.env().observation_shape[1:]
    assert face.action_space("agent_0").n == SYSTEM.env().n_choices
