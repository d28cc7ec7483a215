"""Shares in closed form: nothing else is better, and what they cost is what the formula says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer.systems.fleet.allocation import (
    FleetTables,
    allocate,
    chosen,
    cost_of_changes,
    descend,
    total_cost,
)
from tests.helpers.fleets import random_tables

allocate_many = jax.jit(jax.vmap(allocate))


def test_shares_by_hand():
    # Roots of 4, 1, 0, 9 are 2, 1, 0, 3, their sum 6. Roots of 0, 0, 25, 0 are 0, 0, 5, 0, their
    # sum 5.
    x, y = allocate(jnp.array([4.0, 1.0, 0.0, 9.0]), jnp.array([0.0, 0.0, 25.0, 0.0]))
    np.testing.assert_allclose(x, [2 / 6, 1 / 6, 0, 3 / 6], rtol=1e-6)
    np.testing.assert_array_equal(y, [0, 0, 1, 0])


def test_shares_sum_to_one_and_none_is_negative_in_1e5_cases():
    rng = np.random.default_rng(0)
    weights = 10.0 ** rng.uniform(-30, 30, (2, 100_000, 5)) * (rng.random((2, 100_000, 5)) < 0.6)
    weights[:, :10] = 0.0
    for shares, given in zip(
        allocate_many(*jnp.asarray(weights, jnp.float32)), weights, strict=True
    ):
        shares = np.asarray(shares)
        assert np.isfinite(shares).all() and (shares >= 0).all() and (shares <= 1).all()
        assert (shares[given == 0] == 0).all()
        some = (given > 0).any(axis=1)
        np.testing.assert_allclose(shares[some].sum(axis=1), 1.0, atol=1e-6)
        assert (shares[~some] == 0).all() and (~some).any()


def test_moving_any_share_to_another_device_never_helps():
    rng = np.random.default_rng(1)
    for weights in rng.uniform(0.0, 1.0, (50, 6)):
        shares = np.asarray(
            allocate(jnp.asarray(weights, jnp.float32), jnp.zeros(6))[0], np.float64
        )
        best = (weights / shares).sum()
        np.testing.assert_allclose(best, np.sqrt(weights).sum() ** 2, rtol=1e-5)
        for giver in range(6):
            for taker in set(range(6)) - {giver}:
                for part in (1e-3, 0.1, 0.9):
                    moved = shares.copy()
                    moved[giver] -= part * shares[giver]
                    moved[taker] += part * shares[giver]
                    assert (weights / moved).sum() >= best * (1 - 1e-9)


def test_total_cost_by_hand():
    # Choices 1 and 0: alone 2 + 3, roots of bandwidth 1 and 2, of compute 0 and 1: 5 + (1 + 2)^2 +
    # (0 + 1)^2 = 15. The first device at choice 0 instead: alone 1 + 3, roots 2 + 2 and 1 + 1: 4 +
    # 16 + 4 = 24, 9 more. The second at choice 1: alone 2 + 9, roots 1 + 0 and 0 + 0: 11 + 1 + 0 =
    # 12, 3 less, and that is the best.
    tables = FleetTables(
        base=jnp.array([[1.0, 2.0], [3.0, 9.0]]),
        bandwidth=jnp.array([[4.0, 1.0], [4.0, 0.0]]),
        compute=jnp.array([[1.0, 0.0], [1.0, 0.0]]),
    )
    choice = jnp.array([1, 0], jnp.int32)
    assert float(total_cost(tables, choice)) == 15.0
    np.testing.assert_array_equal(cost_of_changes(tables, choice), [[9.0, 0.0], [0.0, -3.0]])
    np.testing.assert_array_equal(descend(tables, choice, 10), [1, 1])
    np.testing.assert_array_equal(descend(tables, choice, 0), choice)


@pytest.mark.parametrize("n_devices", [3, 8])
def test_every_change_costs_what_the_total_says(n_devices):
    tables = random_tables(3, n_devices)
    rng = np.random.default_rng(2)
    choice = jnp.asarray(rng.integers(0, 24, n_devices), jnp.int32)
    changes = np.asarray(cost_of_changes(tables, choice))
    total = jax.jit(total_cost)
    of = chosen(tables, choice)
    x, y = allocate(of.bandwidth, of.compute)
    spent = [
        np.divide(cost, share, out=np.zeros_like(share), where=share > 0)
        for cost, share in map(np.asarray, ((of.bandwidth, x), (of.compute, y)))
    ]
    np.testing.assert_allclose(
        total(tables, choice), float(of.base.sum()) + sum(map(np.sum, spent)), rtol=1e-5
    )
    for device in range(n_devices):
        for c in range(24):
            other = total(tables, choice.at[device].set(c))
            np.testing.assert_allclose(
                changes[device, c], float(other - total(tables, choice)), atol=2e-5
            )


def test_no_single_change_helps_after_the_descent():
    for seed in range(5):
        tables = random_tables(seed, 8)
        start = jnp.zeros(8, jnp.int32)
        end = jax.jit(descend, static_argnums=2)(tables, start, 100)
        assert float(total_cost(tables, end)) <= float(total_cost(tables, start))
        assert float(cost_of_changes(tables, end).min()) >= -1e-5 * float(total_cost(tables, end))
