"""Faces of other ecosystems: the same transitions, resets by themselves, and trainers of others that run on them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer import scenarios
from jaxcoinfer.adapters import Gymnax, GymnaxFive

KEY = jax.random.key(0)


def made(name: str, slots: int):
    return jaxcoinfer.make(dataclasses.replace(scenarios.load_scenario(name), rows=4, slots=slots), jax.random.key(1))


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
        assert (bool(terminated), bool(truncated)) == (bool(timestep.terminated), bool(timestep.truncated))
        if terminated or truncated:
            n_resets += 1
            inner, timestep = env.reset(key, params)
        np.testing.assert_array_equal(observation, timestep.observation)
    assert n_resets > 0


def test_five_values_join_the_ends():
    env, params = made("on-demand-markov", 16)
    _, state = GymnaxFive(env).reset(KEY, params)
    ends = []
    for i in range(20):
        key = jax.random.fold_in(KEY, i)
        _, state, _, done, info = GymnaxFive(env).step(key, state, jnp.int32(0), params)
        assert bool(done) == bool(info["terminated"] | info["truncated"])
        ends.append(bool(done))
    assert any(ends) and not all(ends)


def test_spaces_hold_what_is_seen():
    pytest.importorskip("gymnax", reason="gymnax is not installed: python -m pip install 'jaxcoinfer[bench]'")
    env, params = made("reference", 2048)
    face = Gymnax(env)
    observation, _ = face.reset(KEY, params)
    assert bool(face.observation_space(params).contains(observation))
    assert face.action_space(params).n == face.num_actions == 2


def test_a_trainer_of_others_runs_unchanged():
    rejax = pytest.importorskip("rejax", reason="rejax is not installed: python -m pip install 'jaxcoinfer[bench]'")
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
