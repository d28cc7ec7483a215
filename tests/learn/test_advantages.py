"""Rewards centred by task."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.learn.advantages import advantages, centred_rewards


def test_finished_tasks_are_paid_what_they_give_above_the_mean():
    # Tasks of 1 and 3 finish, mean 2; a step in which none does keeps its reward.
    rewards = jnp.asarray([[0.5], [-0.25], [3.0]])
    utility = jnp.asarray([[1.0], [9.0], [3.0]])
    finished = jnp.asarray([[1.0], [0.0], [1.0]])
    found = centred_rewards(rewards, utility, finished)
    np.testing.assert_allclose(found, [[-1.5], [-0.25], [1.0]])
    # Where none finishes nothing is taken off.
    np.testing.assert_allclose(centred_rewards(rewards, utility, 0.0 * finished), rewards)


def test_haste_pays_no_more():
    """Two ways to do equal tasks, of utility 1 each: in one step, or in three. A discount favours
    the hasty one by half; centred, both are worth nothing above the mean.
    """
    rewards = jnp.asarray([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    finished = jnp.asarray([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    nothing, on = jnp.zeros((4, 2)), jnp.ones((3, 2))
    worth = advantages(rewards, nothing, on, 0.0 * on, 0.5, 1.0)[0]
    assert worth[0] > 1.5 * worth[1]
    even = centred_rewards(rewards, finished, finished)
    np.testing.assert_allclose(advantages(even, nothing, on, 0.0 * on, 0.5, 1.0), 0.0)


def test_a_constant_on_every_utility_changes_nothing():
    key = jax.random.key(0)
    rewards, utility = jax.random.normal(key, (2, 5, 4))
    finished = jax.random.bernoulli(key, 0.4, (5, 4)).astype(jnp.float32)
    more = centred_rewards(rewards + 7.0 * finished, utility + 7.0, finished)
    np.testing.assert_allclose(more, centred_rewards(rewards, utility, finished), atol=1e-5)
