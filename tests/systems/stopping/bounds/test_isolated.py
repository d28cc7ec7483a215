"""The bound on what a task can get: no policy exceeds it, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.systems.stopping import baselines as policies
from jaxcoinfer.systems.stopping.bounds import isolated
from jaxcoinfer.systems.stopping.exogenous import SPEED
from tests.helpers.stopping import random_system

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))]
)
def test_no_task_of_any_policy_exceeds_it(seed: int):
    system = random_system(seed, 2)
    env, params = system.env, system.params()
    bound = np.asarray(isolated.utility(env, params))
    everyone = {"clairvoyant": policies.clairvoyant(env), "random": policies.random_choice()}
    everyone |= {f"always {i}": policies.fixed(i) for i in range(env.n_choices)}
    for name, tasks in evaluate.evaluate(env, params, everyone, KEY).items():
        for row in range(tasks.n_rows):
            own = tasks.utility[tasks.row == row]  # in the order of arrival
            assert (own <= bound[row, : len(own)] + 1e-4).all(), name


def test_a_task_that_meets_nobody_reaches_it():
    """With one task a row nothing is left out: the clairvoyant gets the bound, but for energy of
    the best link.
    """
    system = random_system(5, 2)
    env, params = system.env, system.params()
    never = params.bank.n_slots + 1
    only = jnp.where(
        jnp.arange(params.bank.arrival_slot.shape[1])[None] == 0, params.bank.arrival_slot, never
    )
    slots = params.bank.slots.at[:, :, SPEED].set(params.bank.slots[:, :, SPEED].max())  # one speed
    params = params.replace(
        bank=params.bank.replace(arrival_slot=only, slots=slots), energy_weight=jnp.float32(0.0)
    )
    bound = np.asarray(isolated.utility(env, params))[:, 0]
    tasks = evaluate.evaluate(env, params, {"c": policies.clairvoyant(env)}, KEY)["c"]
    assert len(tasks.utility) == tasks.n_rows
    np.testing.assert_allclose(tasks.utility[np.argsort(tasks.row)], bound, atol=1e-4)


def test_by_row_counts_the_first_tasks():
    bound = jnp.asarray([[1.0, 3.0, -jnp.inf], [5.0, 7.0, 9.0]])
    np.testing.assert_array_equal(isolated.by_row(bound, np.array([2, 3])), [2.0, 7.0])
    np.testing.assert_array_equal(isolated.by_row(bound, np.array([1, 1])), [1.0, 5.0])
