"""The `stopping` environment against the reference simulator, and what must hold whatever the
numbers are.
"""

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer.systems.stopping import env as stopping
from jaxcoinfer.systems.stopping import observation
from jaxcoinfer.systems.stopping.env import CONTINUE, STOP
from jaxcoinfer.systems.stopping.params import Params, make_params
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload
from tests.helpers.stopping import (
    ROWS,
    SLOTS,
    System,
    assert_trees_close,
    assert_trees_equal,
    flat,
    play,
    played,
    random_stops,
    random_system,
    reset_at,
    step,
)
from tests.reference.stopping import Task, View, simulate

N_LAYERS = 3  # of the tests that need one system only


def reference_tasks(system: System, row: int, stops: np.ndarray, slot: int):
    scenario, draw = system.reference(row)
    return simulate(
        scenario, draw, lambda n, layer, t, view: bool(stops[n, layer]), start_slot=slot
    )


# --- against the reference simulator --------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
def test_every_task_is_as_in_the_reference(n_layers: int):
    tasks_compared, waited, queued, radio_waited = 0, 0, 0, 0
    for seed in range(20):
        system = random_system(seed, n_layers)
        rng = np.random.default_rng([seed, 5])
        stops = random_stops(seed, n_layers, rng.choice([0.1, 0.4, 0.8]))
        slots = rng.integers(0, 60, ROWS) * (seed % 2)
        params = system.params()
        _, states, steps, (last, _) = played(system, params, stops, slots)
        assert last.done.all()
        for row in range(ROWS):
            expected = reference_tasks(system, row, stops, int(slots[row]))
            n = compare(
                system, jax.tree.map(lambda x, row=row: x[:, row], (states, steps)), expected
            )
            # The environment stopped early, so the next task must be one that might not fit.
            if n < len(expected):
                start = expected[n].start
                radio = max([task.upload_end or 0 for task in expected[:n]], default=0)
                assert max(start + params.longest_local_slots, radio) > params.last_upload[row]
            tasks_compared += n
            waited += sum(task.start > task.arrival for task in expected[:n])
            queued += sum(task.server_wait_s > 0 for task in expected[:n])
            radio_waited += sum((task.upload_begin or 0) > task.free for task in expected[:n])
    assert tasks_compared > 800  # and the draws do exercise what can go wrong
    assert min(waited, queued, radio_waited) > 100


def compare(system: System, trajectory: tuple[Any, Any], expected: Sequence[Task]) -> int:
    """Compares one row with the reference, task by task; returns how many tasks the environment
    finished.
    """
    states, steps = trajectory
    alive = ~states.done
    finished = steps.outcome.finished
    n = int(finished.sum())
    assert n <= len(expected)
    expected = expected[:n]
    outcome = jax.tree.map(lambda x: x[finished], steps.outcome)
    assert list(outcome.choice) == [task.choice for task in expected]
    # One before each decision.
    assert list(outcome.reports) == [len(task.decision_slots) for task in expected]
    begun = alive & (states.layer == 0)
    assert list(states.task[begun]) == [task.index for task in expected]
    assert list(states.arrival[begun]) == [task.arrival for task in expected]
    assert list(states.start[begun]) == [task.start for task in expected]
    assert list(states.slot[alive]) == [slot for task in expected for slot in task.decision_slots]
    close = dict(rtol=1e-4, atol=1e-5)  # float32 against float64
    rtt_s = [system.numbers["rtt_s"] * (task.upload_end is not None) for task in expected]
    delay_s = [task.delay_s + extra_s for task, extra_s in zip(expected, rtt_s, strict=True)]
    utility = [task.utility - extra_s for task, extra_s in zip(expected, rtt_s, strict=True)]
    np.testing.assert_allclose(outcome.latency_s, delay_s, **close)
    np.testing.assert_allclose(outcome.energy_j, [task.energy_j for task in expected], **close)
    np.testing.assert_allclose(outcome.accuracy, [task.accuracy for task in expected], **close)
    np.testing.assert_allclose(outcome.utility, utility, **close)
    ends = [
        [0.0] * (len(task.rewards) - 1) + [extra_s]
        for task, extra_s in zip(expected, rtt_s, strict=True)
    ]
    rewards = np.concatenate([task.rewards for task in expected] or [[]]) - np.concatenate(
        ends or [[]]
    )
    np.testing.assert_allclose(steps.reward[alive], rewards, **close)
    return n


@pytest.mark.parametrize("seed", range(8))
def test_what_the_device_knows_is_what_the_reference_shows(seed: int):
    system = random_system(seed, N_LAYERS)
    params = system.params()
    stops = random_stops(seed, N_LAYERS, 0.3)
    _, states, _, _ = played(system, params, stops)
    known = jax.tree.map(np.asarray, know(states, params))
    slot_s = system.numbers["slot_s"]
    for row in range(ROWS):
        views = []

        def stop(n: int, layer: int, slot: int, view: View, views: list = views):
            views.append((layer, view))
            return bool(stops[n, layer])

        scenario, draw = system.reference(row)
        simulate(scenario, draw, stop)
        alive = ~states.done[:, row]
        mine = jax.tree.map(lambda x, row=row, alive=alive: x[:, row][alive], known)
        views = views[: alive.sum()]
        assert list(mine.layer) == [layer for layer, _ in views]
        assert list(mine.waiting_tasks) == [view.waiting_tasks for _, view in views]
        np.testing.assert_allclose(
            mine.wait_s, [view.wait_slots * slot_s for _, view in views], rtol=1e-6
        )
        assert list(mine.slot_bits) == [np.float32(view.rate_bits) for _, view in views]
        assert list(mine.speed) == [view.speed for _, view in views]
        # The report counts own work from the moment the radio has it. So it equals the server's
        # backlog up to the first upload, which tests the work of the others, and all work is in it
        # where the radio is done.
        first = next(
            (i for i, (layer, _) in enumerate(views) if stops[states.task[alive, row][i], layer]),
            len(views),
        )
        backlog = [view.server_backlog_s for _, view in views[: first + 1]]
        np.testing.assert_allclose(
            mine.server_backlog_s[: first + 1], backlog, rtol=1e-5, atol=1e-6
        )
        # At the rate of each slot, the radio has bits to send only while the reference says so.
        busy = np.array([view.radio_backlog_slots > 0 for _, view in views], bool)
        assert (mine.radio_bits[~busy] == 0).all()
        assert (mine.radio_bits >= 0).all()


@jax.jit
def know(states: State, params: Params):
    each = jax.vmap(observation.known, (0, None))
    return jax.vmap(each, (0, None))(states, params)


# --- identities -----------------------------------------------------------------------------------


@jax.jit
def all_choices(states: State, params: Params):
    """The twin's choices at every state of an episode, [n_steps, rows, P+1]."""
    evaluate = jax.vmap(lambda state: workload.evaluate(stopping.Stopping(N_LAYERS), state, params))
    replay = jax.vmap(evaluate)(states)
    return replay.choices, jnp.concatenate(
        [replay.states.slot, replay.end.slot[..., None]], axis=-1
    )


def with_quiet_end(system: System) -> System:
    """Three tasks each 80 slots and a link without outages, so that all that arrives is served
    within the row.

    A task takes 12 slots of layers and 3 of the head at most, twice that at half speed: three take
    90 only if all are slow all the time, and the seeds below have none such.
    """
    arrivals = np.zeros((ROWS, SLOTS), np.int64)
    arrivals[:, [10, 90, 170]] = 3
    bits = np.full((ROWS, SLOTS), system.slot_bits.max())
    return dataclasses.replace(system, arrivals=arrivals, slot_bits=bits, observed_bits=bits)


@pytest.mark.parametrize("quiet_end", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_rewards_sum_to_values_and_waits_to_waiting_costs(seed: int, quiet_end: bool):
    system = random_system(seed, N_LAYERS)
    system = with_quiet_end(system) if quiet_end else system
    params = system.params()
    _, states, steps, (last, _) = played(system, params, random_stops(seed, N_LAYERS, 0.3))
    choices, slots = jax.tree.map(np.asarray, all_choices(states, params))
    for row in range(ROWS):
        finished = steps.outcome.finished[:, row]
        at = (
            np.flatnonzero(finished),
            np.full(finished.sum(), row),
            steps.outcome.choice[finished, row],
        )
        scale = np.abs(steps.reward[:, row]).sum() + 1.0
        np.testing.assert_allclose(
            steps.reward[:, row].sum(dtype=np.float64),
            choices.value[at].sum(dtype=np.float64),
            atol=1e-6 * scale,
        )
        # Tasks that have arrived and not begun when the last one leaves the processor have waited
        # since they arrived. Those waits were charged to the tasks that ran, and nobody has
        # reported them yet.
        n_done, free = last.task[row], slots[at][-1] if finished.any() else 0
        numbers = np.repeat(np.arange(SLOTS), system.arrivals[row])[n_done:]
        outstanding_s = np.maximum(free - numbers, 0).sum() * system.numbers["slot_s"]
        if quiet_end:
            assert outstanding_s == 0
        charged, waited = choices.waiting_cost_s[at].sum(), choices.wait_s[at].sum()
        np.testing.assert_allclose(charged, waited + outstanding_s, rtol=1e-5, atol=1e-6 * scale)
        # The same without the twin: values are utilities with waits replaced by charges.
        np.testing.assert_allclose(
            steps.reward[:, row].sum(dtype=np.float64),
            steps.outcome.utility[finished, row].sum(dtype=np.float64) - outstanding_s,
            atol=1e-6 * (scale + np.abs(steps.outcome.utility[finished, row]).sum()),
        )


# --- the end of a row -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_every_choice_of_every_task_ends_within_the_row(seed: int):
    system = random_system(seed, N_LAYERS, arrivals=np.ones((ROWS, SLOTS), np.int64))
    params = system.params()
    _, states, _, _ = played(system, params, random_stops(seed, N_LAYERS, 0.3))
    ends, computed = jax.tree.map(np.asarray, upload_ends(states, params))
    alive = ~states.done
    assert alive.any(axis=0).all()
    assert ends[alive].max() <= SLOTS and computed[alive].max() <= SLOTS


@jax.jit
def upload_ends(states: State, params: Params):
    def one(state: State):
        replay = workload.evaluate(stopping.Stopping(N_LAYERS), state, params)
        return replay.uploads.end, replay.end.slot

    return jax.vmap(jax.vmap(one))(states)


@pytest.mark.parametrize("seed", range(4))
def test_the_other_row_of_a_bank_is_never_read(seed: int):
    # All rows lie behind one another in memory, so a slot past the end of row 0 would be a slot of
    # row 1.
    system = random_system(seed, N_LAYERS)
    params = system.params()
    stops = random_stops(seed, N_LAYERS, 0.3)
    _, states, steps, _ = played(system, params, stops)
    rng = np.random.default_rng(seed)
    for mine in range(ROWS):

        def garbage(leaf: jax.Array, mine: jax.Array = mine):
            other = rng.integers(-(2**31), 2**31, leaf.shape).astype(np.int32)
            other[mine] = leaf[mine]
            return jnp.asarray(other)

        bank = jax.tree.map(garbage, params.bank)
        spoilt = params.replace(bank=bank)
        _, spoilt_states, spoilt_steps, _ = played(system, spoilt, stops)
        alive = ~states.done[:, mine]
        for a, b in zip(flat((states, steps)), flat((spoilt_states, spoilt_steps)), strict=True):
            np.testing.assert_array_equal(a[:, mine][alive], b[:, mine][alive])


def test_an_ended_environment_stays_and_pays_nothing():
    system = random_system(1, N_LAYERS)
    params = system.params()
    _, _, _, (last, timestep) = played(system, params, random_stops(1, N_LAYERS, 0.3))
    assert last.done.all() and timestep.truncated.all() and not timestep.terminated.any()
    step_all = jax.jit(jax.vmap(system.env.step, (0, 0, None)))
    for action in (CONTINUE, STOP):
        state, after = step_all(last, jnp.full(ROWS, action, jnp.int32), params)
        assert_trees_equal(state, last)
        np.testing.assert_array_equal(after.reward, 0.0)
        np.testing.assert_array_equal(after.observation, timestep.observation)
        assert np.asarray(after.truncated).all() and not np.asarray(after.outcome.finished).any()


def test_an_episode_begun_after_the_last_arrival_has_ended():
    system = random_system(0, N_LAYERS)
    params = system.params()
    state, timestep = reset_at(system.env, jnp.int32(0), jnp.int32(SLOTS), params)
    assert bool(state.done) and bool(timestep.truncated)
    assert np.isfinite(timestep.observation).all()


# --- causality ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_nothing_shown_depends_on_what_comes_later(seed: int):
    # Two rows of one bank, equal up to slot t: work that others bring in slot t is met in t+1. Both
    # worlds share every number of `params`, so whatever differs was read from the future.
    t = 40 + 15 * seed
    system = random_system(seed, N_LAYERS)
    slots = np.arange(SLOTS)
    other = random_system(100 + seed, N_LAYERS)
    mean_bits = int(system.slot_bits.mean())

    def later(now: jax.Array, then: jax.Array, last: jax.Array):
        return np.stack([now[0], np.where(slots <= last, now[0], then[1])])

    system = dataclasses.replace(
        system,
        arrivals=later(system.arrivals + (slots % 16 == 0), other.arrivals + (slots % 5 == 0), t),
        edge_work=later(system.edge_work, other.edge_work + 3000, t - 1),
        # What the link carries in slot t is not known when it begins, only what was measured.
        slot_bits=later(system.slot_bits, np.full((ROWS, SLOTS), mean_bits // 2 + 1), t - 1),
        observed_bits=later(system.observed_bits, other.observed_bits, t),
        speed=later(system.speed, np.full((ROWS, SLOTS), 0.5), t),
    )
    params = system.params()
    stops = random_stops(seed, N_LAYERS, 0.3)
    first, states, steps, _ = played(system, params, stops)
    observations = np.concatenate([first[1].observation[None], steps.observation[:-1]])
    shown = jax.tree.map(np.asarray, (observations, know(states, params), expect(states, params)))
    alive = ~states.done
    together = alive.all(axis=1) & (states.slot <= t).all(axis=1)
    until = len(together) if together.all() else int(np.argmin(together))
    assert until > 4
    # Up to t both worlds come to the same decisions. Only the end of an episode may come sooner in
    # one of them: it is a matter of the record, not of what the device knows, that an upload would
    # not end within the row.
    if until < len(together) and alive[until].all():
        assert (states.slot[until] > t).all()
    for leaf in flat(shown):
        np.testing.assert_array_equal(leaf[:until, 0], leaf[:until, 1])
    assert (observations[until:, 0] != observations[until:, 1]).any()  # the worlds do part


@jax.jit
def expect(states: State, params: Params):
    forecast = jax.vmap(lambda state: workload.forecast(stopping.Stopping(N_LAYERS), state, params))
    return jax.vmap(forecast)(states)


# --- transformations ------------------------------------------------------------------------------


def test_jit_is_eager():
    system = random_system(3, N_LAYERS)
    params = system.params()
    env = system.env
    state, timestep = env.reset_at(jnp.int32(0), jnp.int32(0), params)
    assert_trees_close((state, timestep), reset_at(env, jnp.int32(0), jnp.int32(0), params))
    for action in (0, 1, 0, 0, 0, 0, 1, 0, 0, 1):
        jitted = step(env, state, jnp.int32(action), params)
        state, timestep = env.step(state, jnp.int32(action), params)
        assert_trees_close((state, timestep), jitted, rtol=1e-5)


def test_vmap_is_a_loop():
    system = random_system(8, N_LAYERS)
    params = system.params()
    stops = jnp.asarray(random_stops(8, N_LAYERS, 0.3))
    slots = jnp.asarray([5, 40], jnp.int32)
    together = play(system.env, params, stops, jnp.arange(ROWS, dtype=jnp.int32), slots)
    for row in range(ROWS):
        alone = play(system.env, params, stops, jnp.full(1, row, jnp.int32), slots[row : row + 1])
        mine = (jax.tree.map(lambda x, row=row: x[row : row + 1], together[0]),)
        mine += tuple(
            jax.tree.map(lambda x, row=row: x[:, row : row + 1], part) for part in together[1:3]
        )
        mine += (jax.tree.map(lambda x, row=row: x[row : row + 1], together[3]),)
        assert_trees_close(alone, mine, rtol=1e-5)


def test_systems_can_be_mapped_over():
    # Scenarios are numbers, so a stack of them is one program.
    systems = [random_system(seed, N_LAYERS) for seed in (3, 8)]
    params = [system.params() for system in systems]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    env = systems[0].env

    @jax.jit
    def all_systems(params: Params):
        state, _ = jax.vmap(env.reset_at, (None, None, 0))(jnp.int32(0), jnp.int32(0), params)
        return jax.vmap(env.step, (0, None, 0))(state, jnp.int32(STOP), params)

    after = all_systems(stacked)
    for i, numbers in enumerate(params):
        state, _ = reset_at(env, jnp.int32(0), jnp.int32(0), numbers)
        alone = step(env, state, jnp.int32(STOP), numbers)
        assert_trees_close(alone, jax.tree.map(lambda x, i=i: x[i], after), rtol=1e-5)


def test_new_numbers_never_retrace():
    chex.clear_trace_counter()
    env = stopping.Stopping(N_LAYERS)
    reset = jax.jit(chex.assert_max_traces(env.reset, n=1))
    once = jax.jit(chex.assert_max_traces(env.step, n=1))
    for seed in (3, 4):  # two scenarios, two calls of make_params
        params = random_system(seed, N_LAYERS).params()
        state, _ = reset(jax.random.key(seed), params)
        for action in (CONTINUE, STOP, CONTINUE):
            state, _ = once(state, jnp.int32(action), params)  # the output fed back
    # The count counts: another dtype is another trace.
    with pytest.raises(AssertionError, match="traced"):
        once(state, jnp.uint32(0), params)


def test_an_equal_environment_shares_the_trace():
    assert stopping.Stopping(3) == stopping.Stopping(3) and hash(stopping.Stopping(3)) == hash(
        stopping.Stopping(3)
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        stopping.Stopping(3).n_layers = 4


def test_import_starts_no_backend():
    code = """
import jaxcoinfer.systems.stopping.env, jaxcoinfer.systems.stopping.twin.workload
import jaxcoinfer.systems.stopping.baselines, jaxcoinfer.core.rollout
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "importing the library touched a device"
import jax
jax.devices()
assert xla_bridge.backends_are_initialized()  # the question can be answered with yes
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# --- what make_params refuses ---------------------------------------------------------------------

REFUSED = {
    "not_finite": (
        dict(transmit_w=np.nan),
        r"transmit_w: nan; every number must be finite and at least 0",
    ),
    "negative": (
        dict(energy_weight=-1.0),
        r"energy_weight: -1\.0; every number must be finite and at least 0",
    ),
    "infinite_layer": (dict(layer_s=(0.01, np.inf, 0.01, 0.0)), r"layer_s: .*inf.*finite"),
    "accuracy": (
        dict(accuracy=(0.9, 0.9, 0.9, 0.9, 1.1)),
        r"accuracy: \[.*1\.1.*\]; allowed: 0 to 1",
    ),
    "length": (
        dict(server_s=(0.1, 0.1)),
        r"server_s: shape \(2,\); must be \(4,\) for 3 layers and an exit",
    ),
    "choices": (dict(accuracy=(0.9,) * 4), r"accuracy: shape \(4,\); must be \(5,\)"),
    "scalar": (dict(slot_s=(0.1, 0.1)), r"slot_s: shape \(2,\); must be \(\)"),
    "slot": (dict(slot_s=0.0), r"slot_s .*must be above 0"),
    "layer": (dict(layer_s=(0.0, 0.01, 0.01, 0.0)), r"seconds of every layer must be above 0"),
    "bits": (
        dict(upload_bits=(2.0**31, 0, 0, 0)),
        r"upload_bits: \[2\.147.*\]; allowed: below 2\*\*31",
    ),
    "never_sent": (
        dict(upload_bits=(2.0**31 - 200, 0, 0, 0)),
        r"row 0 of the bank \(320 slots.*too short.*Use longer",
    ),
    "never_computed": (
        dict(layer_s=(9.9, 0.01, 0.01, 0.0)),
        r"row 0 .*too short.*a task takes up to 9\d\d slots",
    ),
}

PLAIN = System(
    numbers=dict(
        slot_s=0.01,
        layer_s=(0.02, 0.01, 0.01, 0.0),
        upload_bits=(300, 200, 100, 0),
        server_s=(0.1, 0.1, 0.1, 0.1),
        device_energy_j=(0.0, 0.1, 0.2, 0.3, 0.4),
        accuracy=(0.9, 0.9, 0.9, 0.9, 0.6),
        transmit_w=0.1,
    ),
    arrivals=np.ones((ROWS, SLOTS), np.int64) * (np.arange(SLOTS) % 8 == 0),
    edge_work=np.zeros((ROWS, SLOTS), np.int64),
    slot_bits=np.full((ROWS, SLOTS), 100),
    observed_bits=np.full((ROWS, SLOTS), 100),
    speed=np.ones((ROWS, SLOTS)),
)


@pytest.mark.parametrize("name", REFUSED)
def test_make_params_refuses_and_says_what_is_allowed(name: str):
    changes, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAIN, numbers=PLAIN.numbers | changes).params()


BAD_RECORDS = {
    "stands_still": (dict(speed=np.zeros((ROWS, SLOTS))), "speed"),
    "runs_backwards": (dict(speed=-np.ones((ROWS, SLOTS))), "speed"),
    "unsends": (
        dict(slot_bits=np.where(np.arange(SLOTS) == 9, -5, 100) * np.ones((ROWS, 1), np.int64)),
        "slot_bits",
    ),
    # A bank lists the arrivals of one task more than it has slots; the next would seem to have
    # arrived in the past.
    "too_many_tasks": (dict(arrivals=np.full((ROWS, SLOTS), 2)), "arriv|tasks"),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_make_params_refuses_records_that_cannot_be(name: str):
    changes, message = BAD_RECORDS[name]
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAIN, **changes).params()


def test_make_params_refuses_bits_of_another_shape():
    bank = PLAIN.params().bank
    with pytest.raises(ValueError, match="slot_bits"):
        make_params(bank, jnp.full((ROWS + 1, SLOTS), 100, jnp.int32), **PLAIN.numbers)


def test_make_params_takes_what_it_should():
    params = PLAIN.params()
    # last upload of 3 slots begins at 317 = 320 - 3; 2 + 1 + 1 + 0 slots on the device
    np.testing.assert_array_equal(params.last_upload, [317, 317])
    assert int(params.longest_local_slots) == 4
    # 300 bits in the .04 s that all layers take: 75 bits a slot of .01 s
    np.testing.assert_allclose(params.typical_bits, 75.0)
    for leaf in jax.tree.leaves(params):
        assert leaf.dtype in (jnp.float32, jnp.int32) and not leaf.weak_type


def test_a_hand_worked_episode():
    # Slots of 10 ms, 100 bits a slot. Task 0 arrives at 0, computes layer 1 in slots 0 and 1, stops
    # at 2, sends 200 bits in slots 2 and 3; idle server: T = 0.04 + 0.1. E = 0.1 + 0.1 W 0.02 s =
    # 0.102.
    params = PLAIN.params()
    env = PLAIN.env
    state, timestep = reset_at(env, jnp.int32(0), jnp.int32(0), params)
    # layer 0 of 4; nobody waits, nothing is queued; 100 / (100 + 75); speed 1 / (1 + 1)
    np.testing.assert_allclose(timestep.observation, [0, 0, 0, 0, 0, 4 / 7, 0.5])
    state, timestep = step(env, state, jnp.int32(CONTINUE), params)
    assert int(state.slot) == 2 and not bool(timestep.outcome.finished)
    np.testing.assert_allclose(timestep.reward, -0.02 - 0.1, rtol=1e-6)  # its time, its energy
    np.testing.assert_allclose(timestep.observation, [0.25, 0, 0, 0, 0, 4 / 7, 0.5])
    state, timestep = step(env, state, jnp.int32(STOP), params)
    outcome = timestep.outcome
    assert bool(outcome.finished) and int(outcome.choice) == 1
    np.testing.assert_allclose(outcome.latency_s, 0.14, rtol=1e-6)
    np.testing.assert_allclose(outcome.energy_j, 0.102, rtol=1e-6)
    np.testing.assert_allclose(outcome.utility, 0.9 - 0.14 - 0.102, rtol=1e-6)
    np.testing.assert_allclose(timestep.reward, 0.9 - 0.02 - 0.1 - 0.002, rtol=1e-6)
    # Task 1 arrives at 8. At 4 the server got 0.1 s of work; four slots of it are done.
    assert (int(state.task), int(state.arrival), int(state.start), int(state.slot)) == (1, 8, 8, 8)
    idle_s = int(state.now.idle - state.hidden.excess_idle) * 0.01 / 1024
    np.testing.assert_allclose(float(state.hidden.excess_s) - idle_s, 0.06, rtol=1e-5)
    # The radio is through since slot 4, so the server reports all of it, and 0.06 / 1.06 is shown.
    np.testing.assert_allclose(
        timestep.observation, [0, 0, 0, 0.06 / 1.06, 0, 4 / 7, 0.5], rtol=1e-5
    )
