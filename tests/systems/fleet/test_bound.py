"""The bound of a fleet holds for every answer, and the answer found is close to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcoinfer.systems.fleet import bound as dual
from jaxcoinfer.systems.fleet.allocation import FleetTables, total_cost
from jaxcoinfer.systems.fleet.env import tables
from tests.helpers.fleets import random_fleet, random_tables
from tests.reference import fleet as reference

solve = jax.jit(dual.solve)
solve_many = jax.jit(jax.vmap(dual.solve))


def many_tables(n_devices, n):
    return jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(random_tables(seed, n_devices) for seed in range(n))
    )


def test_the_bound_by_hand():
    # One device, one choice: a = 1, b = 4, c = 9. g = 1 + 2 s 2 + 2 t 3 - s^2 - t^2 is greatest at
    # s = 2, t = 3, where it is 1 + 4 + 9 = 14: all of the band and the server cost 1 + 4 / 1 + 9 /
    # 1 = 14.
    of = FleetTables(*(jnp.full((1, 1), number) for number in (1.0, 4.0, 9.0)))
    found = solve(of)
    np.testing.assert_allclose([found.bound, found.cost], 14.0, rtol=1e-5)
    np.testing.assert_allclose(found.root_prices, [2.0, 3.0], rtol=1e-4)
    # Two devices that may each send at b = 1, or not at all for a = 2.5: both, 4; one, 3.5; none,
    # 5. At s they cost min(2 s, 2.5) each, so g = min(4 s, 5) - s^2 has its kink at s = 1.25, 5 -
    # 1.5625 = 3.4375, and 3.5 is best.
    of = FleetTables(jnp.array([[0.0, 2.5]] * 2), jnp.array([[1.0, 0.0]] * 2), jnp.zeros((2, 2)))
    found = solve(of)
    np.testing.assert_allclose([found.bound, found.cost], [3.4375, 3.5], rtol=1e-5)
    np.testing.assert_allclose(found.root_prices, [1.25, 0.0], atol=1e-4)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), cloud=st.booleans())
def test_bound_below_optimum_below_answer(seed, cloud):
    system = random_fleet(seed, 3 - cloud, cloud)
    given_numbers = system.reference(0, 1)
    best = reference.optimum(*given_numbers)
    found = solve(tables(system.state(0, 1).now, system.params()))
    assert float(found.bound) <= best * (1 + 1e-6) and float(found.cost) >= best * (1 - 1e-6)
    s, t = np.asarray(found.root_prices, np.float64)
    np.testing.assert_allclose(
        float(found.bound), reference.dual(*given_numbers, s * s, t * t), rtol=1e-4, atol=1e-6
    )


def test_no_other_prices_give_a_better_bound():
    for seed in range(4):
        system = random_fleet(seed, 3)
        found = solve(tables(system.state(0, 0).now, system.params()))
        s, t = np.asarray(found.root_prices, np.float64)
        rng = np.random.default_rng(seed)
        for scale in (1e-3, 0.1, 1.0):
            for ds, dt in scale * rng.normal(size=(20, 2)) * max(s, t, 0.1):
                other = reference.dual(
                    *system.reference(0, 0), max(s + ds, 0.0) ** 2, max(t + dt, 0.0) ** 2
                )
                assert other <= float(found.bound) + 1e-5 * (
                    abs(float(found.bound)) + s * s + t * t
                )


@pytest.mark.parametrize(("n_devices", "n", "mean_gap"), [(8, 60, 0.005), (64, 20, 0.001)])
def test_the_answer_is_close_to_the_bound(n_devices, n, mean_gap):
    found = solve_many(many_tables(n_devices, n))
    gap = np.asarray((found.cost - found.bound) / found.cost)
    assert (gap >= 0).all() and gap.mean() <= mean_gap, gap


def test_one_trace_for_new_numbers_and_for_absent_devices():
    traces = []

    def counted(of):
        traces.append(1)
        return dual.solve(of)

    count = jax.jit(counted)
    for seed in range(3):
        of = random_tables(seed, 6)
        count(jax.tree.map(lambda table, seed=seed: table.at[:seed].set(0.0), of))
    assert len(traces) == 1


def test_absent_devices_and_order_change_nothing():
    rng = np.random.default_rng(0)
    for seed in range(4):
        of = random_tables(seed, 6)
        found = solve(of)
        np.testing.assert_allclose(found.cost, total_cost(of, found.choice), rtol=1e-6)
        padded = solve(jax.tree.map(lambda table: jnp.pad(table, ((0, 3), (0, 0))), of))
        np.testing.assert_allclose(
            [padded.bound, padded.cost], [found.bound, found.cost], rtol=1e-5
        )
        np.testing.assert_array_equal(padded.choice[:6], found.choice)
        order = rng.permutation(6)
        moved = solve(jax.tree.map(lambda table, order=order: table[order], of))
        np.testing.assert_allclose([moved.bound, moved.cost], [found.bound, found.cost], rtol=1e-5)
        np.testing.assert_array_equal(moved.choice, np.asarray(found.choice)[order])


def test_nobody_there_costs_nothing():
    found = solve(jax.tree.map(jnp.zeros_like, random_tables(0, 6)))
    assert float(found.bound) == 0.0 and float(found.cost) == 0.0
