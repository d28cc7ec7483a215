"""Faces of other ecosystems: the same transitions, resets by themselves, and trainers of others
that run on them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.adapters import Gymnax, GymnaxFive
from jaxcoinfer.systems import registry
from tests.helpers.stopping import assert_trees_close

KEY = jax.random.key(0)


def made(name: str, slots: int):
    return jaxcoinfer.make(
        dataclasses.replace(registry.load_scenario(name), rows=4, slots=slots), jax.random.key(1)
    )


@pytest.mark.parametrize(("name", "slots"), [("reference", 2048), ("on-demand-markov", 64)])
def test_it_steps_as_the_environment_does_and_resets_by_itself(name, slots):
    env, params = made(name, slots)
    face = Gymnax(env)
    step, native = jax.jit(face.step), jax.jit(env.step)
    observation, state = face.reset(KEY, params)
    inner, timestep = env.reset(KEY, params)
    np.testing.assert_array_equal(observation, timestep.observation)
    n_resets = 0
    for i in range(300):
        key, action = jax.random.fold_in(KEY, i), jnp.int32(i % 2)
        observation, state, reward, terminated, truncated, info = step(key, state, action, params)
        inner, timestep = native(inner, action, params)
        np.testing.assert_array_equal(reward, timestep.reward)
        np.testing.assert_array_equal(info["final_observation"], timestep.observation)
        assert (bool(terminated), bool(truncated)) == (
            bool(timestep.terminated),
            bool(timestep.truncated),
        )
        if terminated or truncated:
            n_resets += 1
            inner, timestep = env.reset(key, params)
        np.testing.assert_array_equal(observation, timestep.observation)
    assert n_resets > 0


@pytest.mark.parametrize("n_envs", [5, 130])
def test_a_batch_restarts_those_that_ended_and_no_other(n_envs):
    env, params = made("on-demand-markov", 8)
    face, states = (
        Gymnax(env),
        jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(KEY, n_envs), params)[0],
    )
    step = jax.jit(jax.vmap(face.step, (0, 0, 0, None)))
    native = jax.jit(jax.vmap(env.step, (0, 0, None)))
    draw = jax.jit(jax.vmap(env.reset, (0, None)))
    action, n_ends = jnp.zeros(n_envs, jnp.int32), []
    for i in range(12):
        keys = jax.random.split(jax.random.fold_in(KEY, i), n_envs)
        following, stepped = native(states, action, params)
        observation, states, reward, *ends, _ = step(keys, states, action, params)
        over = np.asarray(ends[0] | ends[1])
        fresh = draw(keys, params)
        expected = jax.tree.map(
            lambda new, old, over=over: np.where(over.reshape(-1, *[1] * (old.ndim - 1)), new, old),
            (fresh[0], fresh[1].observation),
            (following, stepped.observation),
        )
        assert_trees_close((states, observation), expected, rtol=1e-5)
        np.testing.assert_allclose(reward, stepped.reward, rtol=1e-5)
        n_ends.append(over.sum())
    assert 0 < sum(n_ends) < 12 * n_envs and max(n_ends) > 1


@pytest.mark.slow
def test_batches_of_batches_and_of_worlds_are_those_of_one():
    env, params = made("on-demand-markov", 4)
    worlds = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
    face, keys = Gymnax(env), jax.random.split(KEY, (2, 3))
    raw = jax.random.key_data(keys)  # keys as uint32, which older trainers use
    states = jax.vmap(jax.vmap(env.reset, (0, None)), (0, None))(keys, params)[0]
    batch, one = jax.vmap(face.step, (0, 0, 0, None)), jax.jit(face.step)
    nested, of_worlds = jax.jit(jax.vmap(batch, (0, 0, 0, None))), jax.jit(jax.vmap(batch))
    action, n_ends = jnp.zeros((2, 3), jnp.int32), 0
    for _ in range(4):
        alone = [
            [one(keys[i, j], *at((states, action), i, j), params) for j in range(3)]
            for i in range(2)
        ]
        rows = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *row) for row in alone]
        expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
        for stepped in (
            nested(keys, states, action, params),
            of_worlds(keys, states, action, worlds),
        ):
            assert_trees_close(stepped, expected, rtol=1e-5)
        assert_trees_close(nested(raw, states, action, params), expected, rtol=1e-5)
        states, n_ends = expected[1], n_ends + int(expected[4].sum())
    assert n_ends > 0


def at(tree, i, j):
    return jax.tree.map(lambda leaf: leaf[i, j], tree)


def test_five_values_join_the_ends():
    env, params = made("on-demand-markov", 16)
    face = GymnaxFive(env)
    reset, step = jax.jit(face.reset), jax.jit(face.step)
    _, state = reset(KEY, params)
    ends = []
    for i in range(20):
        key = jax.random.fold_in(KEY, i)
        _, state, _, done, info = step(key, state, jnp.int32(0), params)
        assert bool(done) == bool(info["terminated"] | info["truncated"])
        ends.append(bool(done))
    assert any(ends) and not all(ends)


def test_spaces_hold_what_is_seen():
    pytest.importorskip(
        "gymnax", reason="gymnax is not installed: python -m pip install 'jaxcoinfer[bench]'"
    )
    env, params = made("reference", 2048)
    face = Gymnax(env)
    observation, _ = face.reset(KEY, params)
    assert bool(face.observation_space(params).contains(observation))
    assert face.action_space(params).n == face.num_actions == 2


def test_a_trainer_of_others_runs_unchanged():
    rejax = pytest.importorskip(
        "rejax", reason="rejax is not installed: python -m pip install 'jaxcoinfer[bench]'"
    )
    env, params = made("on-demand-markov", 256)
    shapes = {"num_envs": 8, "num_steps": 8, "num_minibatches": 2, "num_epochs": 1}
    trainer = (
        rejax.get_algo("ppo")
        .create(
            env=GymnaxFive(env),
            env_params=params,
            total_timesteps=256,
            eval_freq=128,
            **shapes,
        )
        .replace(eval_callback=lambda trainer, state, key: jnp.zeros(()))
    )  # theirs asks how long an episode is at most
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state, _ = jax.jit(trainer.train)(KEY)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.actor_ts.params))
