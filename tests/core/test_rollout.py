"""Environment × policy × time: unrolling, restarting, reducing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import restart_ended, rollout, unroll
from jaxcoinfer.systems.stopping.baselines import random_choice
from jaxcoinfer.systems.stopping.env import CONTINUE, STOP
from tests.helpers.stopping import assert_trees_close, assert_trees_equal, random_system, step

N_ENVS = 16
SYSTEM = random_system(8, 3)  # busy, so that episodes end after some hundred steps


@jax.jit
def start(params):
    return jax.vmap(SYSTEM.env.reset, (0, None))(
        jax.random.split(jax.random.key(0), N_ENVS), params
    )


@partial(jax.jit, static_argnums=(0, 1))
def run(policy, n_steps, params, key, state, timestep):
    return unroll(SYSTEM.env, params, policy, key, state, timestep, n_steps)


restart = jax.jit(partial(restart_ended, SYSTEM.env))


def stop_when_others_wait(key, state, observation, params):
    """Uses what a policy gets, so that a mix-up of states and observations shows."""
    return jnp.where((observation[1] > 0) | (state.layer == 2), STOP, CONTINUE)


def test_unroll_is_a_loop_of_steps():
    params = SYSTEM.params()
    state, timestep = start(params)
    last, last_step, steps = run(
        stop_when_others_wait, 12, params, jax.random.key(1), state, timestep
    )
    assert steps.reward.shape == (12, N_ENVS)
    state, timestep, last, last_step, steps = jax.tree.map(
        np.asarray, (state, timestep, last, last_step, steps)
    )
    assert_trees_equal(last_step, jax.tree.map(lambda x: x[-1], steps))
    for i in range(3):
        one, seen = jax.tree.map(lambda x, i=i: x[i], (state, timestep))
        for t in range(12):
            action = stop_when_others_wait(None, one, seen.observation, params)
            one, seen = step(SYSTEM.env, one, action, params)
            assert_trees_close(seen, jax.tree.map(lambda x, t=t, i=i: x[t, i], steps), rtol=1e-5)
        assert_trees_close(one, jax.tree.map(lambda x, i=i: x[i], last), rtol=1e-5)


def test_a_random_policy_draws_anew_for_each_step_and_environment():
    params = SYSTEM.params()
    state, timestep = start(params)
    # All environments begin alike, so only the keys can make them differ.
    state, timestep = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), (state, timestep))
    policy = random_choice()

    def played(seed):
        return run(policy, 64, params, jax.random.key(seed), state, timestep)[2]

    first, again, other = played(0), played(0), played(1)
    assert_trees_equal(first, again)
    rewards = np.asarray(first.reward)
    assert len({tuple(column) for column in rewards.T}) == N_ENVS
    assert (rewards != np.asarray(other.reward)).any()
    # A fair coin at the first decision: 16 equal ones have probability 2 / 2**16, and the key is
    # fixed.
    stopped = np.asarray(first.outcome.finished)[0]
    assert 0 < stopped.sum() < N_ENVS


def test_the_coin_of_the_random_policy_is_fair():
    keys = jax.random.split(jax.random.key(2), 4096)
    actions = jax.vmap(lambda key: random_choice()(key, None, None, None))(keys)
    assert abs(np.asarray(actions).mean() - 0.5) < 4 * 0.5 / np.sqrt(4096)


def test_restart_gives_fresh_starts_to_the_ended_only():
    params = SYSTEM.params()
    state, timestep = start(params)
    ended = jnp.arange(N_ENVS) % 2 == 0
    state, timestep = state.replace(done=ended), timestep.replace(truncated=ended)
    new, new_step = restart(params, jax.random.key(5), state, timestep)
    kept = np.flatnonzero(~np.asarray(ended))
    assert_trees_equal(
        jax.tree.map(lambda x: x[kept], (new, new_step)),
        jax.tree.map(lambda x: x[kept], (state, timestep)),
    )
    fresh = np.flatnonzero(np.asarray(ended))
    assert not np.asarray(new.done)[fresh].any() and not np.asarray(new_step.truncated)[fresh].any()
    # Starts are drawn from the key: they differ between environments and from one restart to the
    # next.
    begun = list(zip(np.asarray(new.row)[fresh], np.asarray(new.start)[fresh], strict=True))
    assert len(set(begun)) > 1
    other, _ = restart(params, jax.random.key(6), state, timestep)
    assert (
        list(zip(np.asarray(other.row)[fresh], np.asarray(other.start)[fresh], strict=True))
        != begun
    )


def test_a_terminated_environment_is_restarted_too():
    params = SYSTEM.params()
    state, timestep = start(params)
    state, timestep = (
        state.replace(done=jnp.ones(N_ENVS, bool)),
        timestep.replace(terminated=jnp.ones(N_ENVS, bool)),
    )
    new, new_step = restart(params, jax.random.key(5), state, timestep)
    assert not np.asarray(new.done).any() and not np.asarray(new_step.terminated).any()


def test_rollout_reduces_block_by_block_and_starts_anew():
    params = SYSTEM.params()

    def reduce(steps):
        assert steps.reward.shape == (50, N_ENVS)
        return dict(
            finished=steps.outcome.finished.sum(),
            reward=steps.reward.sum(),
            ended=steps.truncated[-1].sum(),
        )

    go = jax.jit(
        lambda key: rollout(SYSTEM.env, params, random_choice(), key, N_ENVS, 20, 50, reduce)
    )
    got = jax.tree.map(np.asarray, go(jax.random.key(3)))
    assert all(value.shape == (20,) for value in got.values())
    # 1000 steps are several episodes: environments end, and there are tasks all the same in every
    # block.
    assert got["ended"].sum() > N_ENVS
    assert (got["finished"] > 0).all() and (got["reward"] != 0).all()
    assert_trees_equal(got, jax.tree.map(np.asarray, go(jax.random.key(3))))
    assert (go(jax.random.key(4))["finished"] != got["finished"]).any()
