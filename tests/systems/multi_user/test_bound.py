"""The bound on the reward of an episode: its parts by hand, and no policy exceeds it."""

import jax
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.systems.multi_user import baselines, bound
from jaxcoinfer.systems.multi_user.evaluation import first_starts, play

KEY = jax.random.key(4)


def test_users_that_share_a_channel_send_little_more_than_one():
    # Alone: one. Two of ratio 1000: the second adds log2(2001 / 1001) / log2(1001) = .1002.
    assert bound.at_once(np.array([1000.0])) == 1.0
    np.testing.assert_allclose(bound.at_once(np.array([1000.0, 1000.0])), 1.10025, rtol=1e-4)
    # A weak one first: 1 + log2((1 + 1 + 1000) / 2) / log2(1001) = 1 + 8.9687 / 9.9672
    np.testing.assert_allclose(bound.at_once(np.array([1000.0, 1.0])), 1.89982, rtol=1e-4)
    # No rates of users that treat each other as noise exceed it, in solo rates.
    rng = np.random.default_rng(0)
    for _ in range(200):
        snr = 10.0 ** rng.uniform(-1, 6, 4)
        sent = snr * rng.uniform(0, 1, (500, 4)) * (rng.random((500, 4)) < 0.7)
        noise = 1.0 + sent.sum(axis=1, keepdims=True) - sent
        rates = np.log2(1.0 + sent / noise) / np.log2(1.0 + snr)
        assert rates.sum(axis=1).max() <= bound.at_once(snr) + 1e-9


def test_the_energy_of_an_episode_by_hand():
    # Two users, one task each. Split 0: no joules, 1 s on air; split 1: 3 J, nothing on air, 2 s.
    joules, each_s = np.array([0.0, 3.0]), np.array([[1.0, 2.0], [1.0, 2.0]])
    air_s, tasks = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([1.0, 1.0])
    # In 2 s of one channel both send: no joules. In 1.5 s only 1.5 s are on air, and the half of a
    # task that is not takes 2 * .5 + .5 = 1.5 s of its user: 1.5 J, a mean of .75.
    assert bound.least_energy_j(joules, each_s, air_s, tasks, 2.0, 1.0) == pytest.approx(0.0)
    assert bound.least_energy_j(joules, each_s, air_s, tasks, 1.5, 1.0) == pytest.approx(0.75)
    assert bound.least_energy_j(joules, each_s, air_s, tasks, 0.9, 1.0) == np.inf


def test_no_policy_exceeds_it():
    env, params = jaxcoinfer.make("multi-user", KEY, split="test")
    params = first_starts(params, 8)
    policies = {
        f"split {split}": baselines.fixed_split(env, split) for split in range(env.n_splits)
    }
    policies |= {"greedy": baselines.greedy(env), "random": baselines.random_valid(env)}
    most = bound.reward(params, env.n_channels)
    assert (most < 0).all()
    for name, (episodes,) in play(env, policies, params, KEY).items():
        assert (episodes.reward <= most).all(), name


def test_more_of_anything_raises_it():
    env, params = jaxcoinfer.make("multi-user", KEY, split="test")
    params = first_starts(params, 4)
    most = bound.reward(params, env.n_channels)
    assert (bound.reward(params, 2 * env.n_channels) >= most - 1e-9).all()
    assert (bound.reward(params.replace(noise_w=params.noise_w * 1e3), 2) <= most + 1e-9).all()
    assert (bound.reward(params.replace(compute_s=params.compute_s * 2), 2) < most).all()
