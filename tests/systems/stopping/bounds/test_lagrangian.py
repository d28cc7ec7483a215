"""The bound by prices of every slot: no plan exceeds it, whatever the prices; good prices make it
close.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.evaluation import evaluate, executor
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import baselines
from jaxcoinfer.systems.stopping.bounds import isolated, lagrangian
from jaxcoinfer.systems.stopping.twin import workload
from tests.helpers.stopping import ROWS, SLOTS, System, random_system

N_LAYERS, N_TASKS = 2, 5
KEY = jax.random.key(0)


def bunched(seed: int) -> System:
    """Five tasks that arrive close together, so that they stand in each other's way."""
    rng = np.random.default_rng(seed)
    arrivals = np.zeros((ROWS, SLOTS), np.int64)
    for row in range(ROWS):
        np.add.at(arrivals[row], rng.integers(5, 25, N_TASKS), 1)
    return random_system(seed, N_LAYERS, arrivals=arrivals)


@jax.jit
def utilities(params, row, plans):
    """Mean utility of each plan [M, N_TASKS] of choices on a row, and whether its tasks all fit."""
    env = random_system(0, N_LAYERS).env

    def play(plan):
        def task(state, choice):
            replay = workload.evaluate(env, state, params)
            return workload.follow(replay, choice, params), (
                replay.choices.utility[choice],
                ~state.done,
            )

        state, _ = env.reset_at(row, jnp.int32(0), params)
        _, (utility, live) = jax.lax.scan(task, state, plan)
        return utility.mean(), live.all()

    return jax.lax.map(play, plans)


@pytest.mark.parametrize("seed", range(12))
def test_no_plan_at_all_exceeds_it(seed: int):
    system = bunched(seed)
    env, params = system.env, system.params()
    plans = jnp.asarray(list(itertools.product(range(N_LAYERS + 2), repeat=N_TASKS)), jnp.int32)
    best, counts = np.zeros(ROWS), np.full(ROWS, N_TASKS)
    for row in range(ROWS):
        utility, fits = (np.asarray(x) for x in utilities(params, jnp.int32(row), plans))
        if not fits.all():
            pytest.skip("the row is too short for some plan")
        best[row] = utility.max()
    found = lagrangian.solve(env, params, counts, best).by_row(counts)
    assert (found >= best - 1e-4).all()
    # Prices that are anything but good bound all the same.
    rng = np.random.default_rng(seed)
    rows = lagrangian.allowed(env, params)
    for scale in (0.0, 0.01, 1.0):
        prices = scale * rng.random((2, ROWS, SLOTS))
        assert (lagrangian.certify(rows, *prices).by_row(counts) >= best - 1e-4).all()
    # The best found is no worse than no prices at all, and that no worse than each task alone.
    free = lagrangian.certify(rows, *np.zeros((2, ROWS, SLOTS))).by_row(counts)
    assert (found <= free + 1e-6).all()
    alone = isolated.by_row(isolated.utility(env, params), counts)
    assert (free <= alone + 1e-4).all()


def test_it_is_exact_where_two_tasks_share_the_processor():
    """Two tasks at once, no server to speak of: both must compute, 4 slots each of 10 ms. One is
    through after .04 s, the other after .08 s: mean utility .9 - .06; alone each has .9 - .04.
    """
    arrivals = np.zeros((ROWS, SLOTS), np.int64)
    arrivals[:, 10] = 2
    system = System(
        numbers=dict(
            slot_s=0.01,
            layer_s=(0.02, 0.02, 0.0),
            upload_bits=(10**6, 10**6, 10**6),
            server_s=(50.0, 50.0, 50.0),
            device_energy_j=(0.0, 0.0, 0.0, 0.0),
            accuracy=(0.9, 0.9, 0.9, 0.9),
            transmit_w=0.0,
        ),
        arrivals=arrivals,
        edge_work=np.zeros((ROWS, SLOTS), np.int64),
        slot_bits=np.full((ROWS, SLOTS), 10**5),
        observed_bits=np.full((ROWS, SLOTS), 10**5),
        speed=np.ones((ROWS, SLOTS)),
    )
    counts = np.full(ROWS, 2)
    alone = isolated.by_row(isolated.utility(system.env, system.params()), counts)
    np.testing.assert_allclose(alone, 0.86, rtol=1e-5)
    found = lagrangian.solve(system.env, system.params(), counts, np.full(ROWS, 0.84), 400)
    assert (found.by_row(counts) >= 0.84 - 1e-6).all()
    np.testing.assert_allclose(found.by_row(counts), 0.84, atol=0.004)


def test_no_policy_exceeds_it_on_a_shipped_world_and_it_is_closer_than_each_task_alone():
    scenario = dataclasses.replace(registry.load_scenario("reference-busy"), rows=3, slots=4096)
    env, params = jaxcoinfer.make(scenario, KEY, split="test")
    policies = {
        "waiting": baselines.adaptive_waiting(env),
        "device": baselines.fixed(env.n_layers + 1),
        "clairvoyant": baselines.clairvoyant(env),
        "random": baselines.random_choice(),
    }
    (played,) = executor.play(env, policies, [params], KEY)
    reached = {name: evaluate.by_row(tasks, tasks.utility) for name, (tasks,) in played.items()}
    counts = {name: evaluate.count_by_row(tasks) for name, (tasks,) in played.items()}
    bound = lagrangian.solve(env, params, counts["waiting"], reached["waiting"])
    alone = isolated.utility(env, params)
    for name, utility in reached.items():
        above = bound.by_row(counts[name])
        assert (above >= utility - 1e-4).all(), name
    gaps = [
        (one - reached["waiting"]).mean()
        for one in (
            bound.by_row(counts["waiting"]),
            isolated.by_row(alone, counts["waiting"]),
        )
    ]
    assert gaps[0] < 0.95 * gaps[1]


@pytest.mark.parametrize("length", [1, 127, 128, 129, 700])
def test_scans_in_blocks_are_scans(length: int):
    rng = np.random.default_rng(length)
    values = rng.normal(size=(length, 3)).astype(np.float32)
    best, at = lagrangian.suffix_max(jnp.asarray(values))
    wanted = np.maximum.accumulate(values[::-1])[::-1]
    np.testing.assert_array_equal(best, wanted)
    np.testing.assert_array_equal(np.take_along_axis(values, np.asarray(at), axis=0), wanted)
    assert (np.asarray(at) >= np.arange(length)[:, None]).all()
    np.testing.assert_allclose(
        lagrangian.sums(jnp.asarray(values)), np.cumsum(values, axis=0), rtol=1e-4, atol=1e-4
    )
