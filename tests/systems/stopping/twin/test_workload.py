"""The workload twin against the environment: whatever it says of a choice is what happens when that
choice is made.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer.core.contract import TimeStep
from jaxcoinfer.systems.stopping.env import CONTINUE, STOP, Stopping
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload
from tests.helpers.stopping import (
    ROWS,
    SLOTS,
    System,
    assert_trees_close,
    assert_trees_equal,
    play,
    random_stops,
    random_system,
    reset_at,
    step,
)

PAIRS = 500  # of one system


@partial(jax.jit, static_argnums=(0,))
def force(env: Stopping, state: State, choice: jax.Array, params: Params):
    """Steps from `state` until its task ends at `choice`.

    Returns the state after it, its time step, and the rewards [Le+1] in the order of the steps,
    zero after the end.
    """

    def one(state: State, choice: jax.Array):
        def move(carry: Any, _: None):
            action = jnp.where(carry[0].layer == choice, STOP, CONTINUE)
            ended = carry[1].outcome.finished
            new = env.step(carry[0], action, params)
            reward = jnp.where(ended, 0.0, new[1].reward)
            return jax.tree.map(lambda old, new: jnp.where(ended, old, new), carry, new), reward

        # A time step in which nothing has finished.
        blank = env.reset_at(state.row, state.slot, params)[1]
        (state, timestep), rewards = jax.lax.scan(move, (state, blank), length=env.n_layers + 1)
        return state, timestep, rewards

    return jax.vmap(one)(state, choice)


@partial(jax.jit, static_argnums=(0,))
def replay(env: Stopping, state: State, choice: jax.Array, params: Params):
    def one(state: State, choice: jax.Array):
        twin = workload.evaluate(env, state, params)
        return twin, workload.follow(twin, choice, params)

    return jax.vmap(one)(state, choice)


forecast = jax.jit(workload.forecast, static_argnums=0)
forecast_all = jax.jit(jax.vmap(workload.forecast, (None, 0, None)), static_argnums=0)


def pairs(seed: int, n_layers: int):
    """Random decisions of random episodes: params, states at the start of the task and now,
    choices, [PAIRS].
    """
    system = random_system(seed, n_layers)
    # A task more every twelve slots, else a light draw would give a handful of states again and
    # again.
    changes = dict(arrivals=system.arrivals + (np.arange(SLOTS) % 12 == 0))
    system = random_system(seed, n_layers, **changes)
    params = system.params()
    stops = jnp.asarray(random_stops(seed, n_layers, 0.3))
    rows, slots = jnp.arange(ROWS, dtype=jnp.int32), jnp.zeros(ROWS, jnp.int32)
    states = numpy(play(system.env, params, stops, rows, slots)[1])
    rng = np.random.default_rng([seed, 3])
    step, row = np.nonzero(~states.done)
    pick = rng.integers(0, len(step), PAIRS)
    step, row = step[pick], row[pick]
    now = at(states, (step, row))
    begun = at(states, (step - now.layer, row))  # each layer was one step
    assert (begun.layer == 0).all() and (begun.task == now.task).all()
    return system.env, params, begun, now, rng.integers(0, n_layers + 2, PAIRS).astype(np.int32)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_ten_thousand_choices_are_as_in_the_environment(n_layers: int):
    # 2 x 10 systems of 500 pairs.
    for seed in range(10):
        env, params, begun, now, choice = pairs(seed, n_layers)
        twin, following = numpy(replay(env, now, choice, params))
        after, timestep, rewards = numpy(force(env, begun, choice, params))
        check(twin.choices, choice, timestep, rewards)
        assert_trees_close(following, after)
        # The same from where the task stands, if the choice is still open: one reward for each
        # layer to come.
        ahead = choice >= now.layer
        assert 0.3 < ahead.mean() < 1.0
        mine = numpy(force(env, now, choice, params))
        assert_trees_close(at(mine[0], ahead), at(after, ahead))
        assert_trees_close(at(mine[1], ahead), at(timestep, ahead))
        for i in np.flatnonzero(ahead):
            begun_at = now.layer[i]
            np.testing.assert_allclose(
                mine[2][i, : n_layers + 1 - begun_at], rewards[i, begun_at:], rtol=1e-6, atol=1e-6
            )


def numpy(tree: Any):
    return jax.tree.map(np.asarray, tree)


def many(tree: Any):
    """Repeated up to PAIRS, the one length for which the functions above are compiled."""
    return jax.tree.map(lambda x: np.resize(x, (PAIRS, *x.shape[1:])), tree)


def at(tree: Any, index: Any):
    return jax.tree.map(lambda x: x[index], tree)


def check(choices: workload.Choices, choice: np.ndarray, timestep: TimeStep, rewards: np.ndarray):
    chosen, outcome = at(choices, (np.arange(PAIRS), choice)), timestep.outcome
    assert outcome.finished.all()
    np.testing.assert_array_equal(outcome.choice, choice)
    np.testing.assert_array_equal(outcome.accuracy, chosen.accuracy)
    np.testing.assert_allclose(outcome.latency_s, chosen.latency_s, rtol=1e-6)
    np.testing.assert_allclose(outcome.energy_j, chosen.energy_j, rtol=1e-6)
    # Float32 sums in another order differ in the last digits of their largest term.
    scale = 1.0 + chosen.latency_s + chosen.energy_j
    assert (np.abs(outcome.utility - chosen.utility) <= 1e-6 * scale).all()
    rewards = rewards.astype(np.float64)
    scale = 1.0 + np.abs(rewards).sum(axis=1)
    assert (np.abs(rewards.sum(axis=1) - chosen.value) <= 1e-6 * scale).all()
    parts = (
        chosen.wait_s + chosen.compute_s + chosen.upload_s + chosen.server_wait_s + chosen.server_s
    )
    np.testing.assert_allclose(parts, chosen.latency_s, rtol=1e-6)
    np.testing.assert_allclose(
        chosen.value,
        chosen.utility + chosen.wait_s - chosen.waiting_cost_s,
        atol=2e-6 * scale.max(),
    )


def test_what_the_twin_says_does_not_depend_on_how_far_the_task_is():
    env, params, begun, now, choice = pairs(31, 3)
    from_start, _ = replay(env, begun, choice, params)
    from_now, _ = replay(env, now, choice, params)
    assert_trees_equal(from_start.choices, from_now.choices)


def test_states_of_the_replay_are_the_decisions_of_the_environment():
    env, params, state, _, choice = pairs(40, 3)
    twin, _ = replay(env, state, choice, params)
    step_all = jax.jit(jax.vmap(env.step, (0, 0, None)))
    for layer in range(env.n_layers + 1):
        assert_trees_close(jax.tree.map(lambda x, layer=layer: x[:, layer], twin.states), state)
        state, _ = step_all(state, jnp.full(PAIRS, CONTINUE, jnp.int32), params)
    assert (
        np.asarray(twin.end.slot) <= np.asarray(state.slot)
    ).all()  # the next task begins then, or when it arrives


def test_following_an_ended_state_stays_ended():
    system = random_system(1, 3)
    params = system.params()
    rows, slots = jnp.arange(ROWS, dtype=jnp.int32), jnp.zeros(ROWS, jnp.int32)
    _, _, _, (last, _) = play(system.env, params, jnp.asarray(random_stops(1, 3, 0.3)), rows, slots)
    _, following = replay(system.env, many(last), np.zeros(PAIRS, np.int32), params)
    assert np.asarray(following.done).all()


# --- forecast -------------------------------------------------------------------------------------


def still_world(arrivals: np.ndarray):
    """Slots of 10 ms, speed .75: layers of ceil(8 / .75) = 11, ceil(23.5 / .75) = 32 and 4, a head
    of 3 slots.
    """
    return System(
        numbers=dict(
            slot_s=0.01,
            layer_s=(0.08, 0.235, 0.03, 0.02),
            upload_bits=(250, 120, 30, 0),
            server_s=(0.0143, 0.0129, 0.0084, 0.0),
            device_energy_j=(0.0, 0.007, 0.029, 0.030, 0.031),
            accuracy=(0.9, 0.9, 0.9, 0.9, 0.6),
            transmit_w=0.1,
            transmit_j_per_bit=1e-5,
            energy_weight=2.0,
        ),
        arrivals=np.ones((ROWS, 1), np.int64) * arrivals,
        edge_work=np.zeros((ROWS, SLOTS), np.int64),
        slot_bits=np.full((ROWS, SLOTS), 100),
        observed_bits=np.full((ROWS, SLOTS), 100),
        speed=np.full((ROWS, SLOTS), 0.75),
    )


def test_forecast_is_the_truth_when_the_world_stands_still():
    # One task every 80 slots: nobody waits, radio and server are idle when the next one comes.
    params = still_world(np.arange(SLOTS) % 80 == 3).params()
    env = Stopping(3)
    state, _ = reset_at(env, jnp.int32(0), jnp.int32(0), params)
    for action in (CONTINUE, CONTINUE, STOP, STOP, CONTINUE, CONTINUE, CONTINUE, CONTINUE):
        expected = numpy(forecast(env, state, params))
        alone = many(at(numpy(state), None))
        true = at(numpy(replay(env, alone, np.zeros(PAIRS, np.int32), params)[0].choices), 0)
        behind = np.arange(5) < int(state.layer)
        assert (
            np.isneginf(expected.utility[behind]).all()
            and np.isneginf(expected.value[behind]).all()
        )
        assert_trees_close(at(expected, ~behind), at(true, ~behind))
        assert not true.waiting_cost_s.any() and not true.server_wait_s.any()
        state, _ = step(env, state, jnp.int32(action), params)
    assert int(state.task) == 3  # two layers and a stop; a stop; three layers and the head


def test_forecast_by_hand():
    # Two tasks in slot 3 and nothing else.
    params = still_world(2 * (np.arange(SLOTS) == 3)).params()
    env = Stopping(3)
    state, _ = reset_at(env, jnp.int32(0), jnp.int32(0), params)
    first = forecast(env, state, params)
    np.testing.assert_allclose(first.compute_s, [0.0, 0.11, 0.43, 0.47, 0.50], rtol=1e-6)
    # 250, 120, 30 bits, 100 a slot.
    np.testing.assert_allclose(first.upload_s, [0.03, 0.02, 0.01, 0.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(first.waiting_cost_s, first.compute_s, rtol=1e-6)  # one task waits
    np.testing.assert_allclose(first.latency_s, [0.0443, 0.1429, 0.4484, 0.47, 0.50], rtol=1e-5)
    # Stop at 0: the radio has 250 bits = 2.5 slots to send. The second task finds the radio busy
    # for 2.5 slots if it stops at once, not after 11 slots of a layer; the device knows of e_0 =
    # 14.3 ms on its way to the server.
    state, _ = step(env, state, jnp.int32(STOP), params)
    second = forecast(env, state, params)
    np.testing.assert_allclose(second.upload_s, [0.025 + 0.03, 0.02, 0.01, 0.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(
        second.server_wait_s, [0.0143, 0.0143, 0.0143, 0.0143, 0.0], rtol=1e-6
    )
    np.testing.assert_allclose(second.wait_s, 0.0)
    np.testing.assert_allclose(second.waiting_cost_s, 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_forecast_is_finite_and_marks_what_lies_behind(seed: int):
    env, params, _, now, _ = pairs(50 + seed, 3)
    expected = forecast_all(env, now, params)
    behind = np.arange(5) < np.asarray(now.layer)[:, None]
    for name, leaf in vars(expected).items():
        hidden = behind if name in ("utility", "value") else np.zeros_like(behind)
        assert np.isfinite(np.asarray(leaf)[~hidden]).all(), name
    assert np.isneginf(np.asarray(expected.utility)[behind]).all()
