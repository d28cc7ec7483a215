"""Model-predictive control: adaptive waiting where nothing of a choice reaches the next task, and
its plan against one that is made step by step in plain Python.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer.systems.stopping import predictive_control
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.observation import known
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.predictive_control import HORIZON
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload
from tests.helpers.stopping import SLOTS, System, played, random_stops, random_system


@partial(jax.jit, static_argnums=0)
def looked_at(env: Stopping, states: State, params: Params, tasks_per_s: float):
    """Returns plan and forecast of states [B], and what is known there."""

    def one(state: State):
        plan = predictive_control.plan(env, state, params, tasks_per_s)
        return plan, workload.forecast(env, state, params), known(state, params)

    return jax.vmap(one)(states)


def met(system: System, seed: int) -> State:
    """States that a device meets, of all kinds, that is at work."""
    stops = random_stops(seed, system.n_layers, 0.3)
    _, states, _, _ = played(system, system.params(), stops)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), states)
    return jax.tree.map(lambda leaf: leaf[~flat.done], flat)


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_far_from_the_next_task_it_decides_as_adaptive_waiting(seed, n_layers):
    """An idle server, an idle radio, nobody waiting, the next tasks far away: what a choice does to
    later tasks is nothing, and the forecast is the plan.
    """
    system = random_system(seed, n_layers)
    arrivals = np.zeros((2, SLOTS), int)
    arrivals[:, 5::80] = 1
    system = dataclasses.replace(
        system, arrivals=arrivals, edge_work=np.zeros_like(system.edge_work)
    )
    states, params = met(system, seed), system.params()
    rate = 1.0 / (1000 * system.numbers["slot_s"])
    plan, expected, k = jax.tree.map(np.asarray, looked_at(system.env, states, params, rate))
    idle = (k.waiting_tasks == 0) & (k.server_backlog_s == 0) & (k.radio_bits == 0)
    # A plan is no forecast where a task lasts until the next one arrives (a link that is dead).
    longest = np.where(np.isfinite(expected.value), expected.latency_s, 0).max(axis=1)
    idle &= longest < 0.5 / rate
    assert idle.sum() >= 5
    plan, value = plan[idle], expected.value[idle]
    ours, theirs = np.argmax(plan, axis=1), np.argmax(value, axis=1)
    ordered = np.sort(value, axis=1)
    equal = ordered[:, -1] - ordered[:, -2] < 1e-4  # of floats, either may be the larger
    np.testing.assert_array_equal(ours[~equal], theirs[~equal])
    assert (~equal).any()
    # All that sets choices apart is this task: differences are those of the forecast.
    open_ = np.isfinite(value)
    np.testing.assert_array_equal(open_, np.isfinite(plan))
    best = (
        np.take_along_axis(plan, theirs[:, None], 1),
        np.take_along_axis(value, theirs[:, None], 1),
    )
    np.testing.assert_allclose(
        (plan - best[0])[open_], (value - best[1])[open_], rtol=1e-3, atol=2e-3
    )


def plan_in_python(system: System, k, own_s: float, layer: int, rate: float, first: int):
    """What `plan` says of a first choice: each task in turn, in seconds from now; no samples."""
    numbers, slot_s = system.numbers, system.numbers["slot_s"]
    uploads, n_points = np.array(numbers["upload_bits"]), system.n_layers + 1
    others_s = float(k.server_backlog_s) - own_s
    slots = np.ceil(np.array(numbers["layer_s"]) / (float(k.speed) * slot_s) - 1e-4)
    air_s = np.ceil(uploads / float(k.slot_bits) - 1e-4) * slot_s
    energy = np.array(numbers["device_energy_j"])
    energy[:n_points] += air_s * numbers["transmit_w"] + uploads * numbers["transmit_j_per_bit"]
    gain = numbers["accuracy_weight"] * np.array(numbers["accuracy"])
    gain -= numbers["energy_weight"] * energy
    radio_s, server_s, processor_s = float(k.radio_bits) * slot_s / float(k.slot_bits), own_s, 0.0

    def task(compute_s, arrival_s, start_s, choice, radio_s, server_s):
        computed_s = start_s + compute_s
        if choice == n_points:
            return gain[choice] - (computed_s - arrival_s), computed_s, radio_s, server_s
        radio_s = max(computed_s, radio_s) + air_s[choice]
        server_s = max(radio_s, server_s) + numbers["server_s"][choice]
        end_s = server_s + others_s + numbers["rtt_s"]
        return gain[choice] - (end_s - arrival_s), computed_s, radio_s, server_s

    total, processor_s, radio_s, server_s = task(
        slots[layer:first].sum() * slot_s, 0.0, 0.0, first, radio_s, server_s
    )
    for number in range(HORIZON):
        behind = int(k.waiting_tasks) - number
        arrival_s = max(1.0 - behind, 0.0) / rate
        start_s = max(arrival_s, processor_s)
        waiting = max(behind - 1.0, 0.0) + rate * (start_s - arrival_s)
        tried = []
        for choice in range(n_points + 1):
            compute_s = slots[:choice].sum() * slot_s
            after = task(compute_s, arrival_s, start_s, choice, radio_s, server_s)
            tried.append((after[0] - waiting * compute_s, after))
        utility, processor_s, radio_s, server_s = max(tried, key=lambda one: one[0])[1]
        total += utility
    return total


@pytest.mark.parametrize("seed", range(4))
def test_its_plan_is_that_of_plain_python(seed):
    """Loaded servers, busy radios, queues: every choice that is open, in states of all kinds."""
    system = random_system(seed, 2)
    states, params = met(system, seed), system.params()
    rate = 0.2 / system.numbers["slot_s"]
    rng = np.random.default_rng(seed)
    n_states = len(np.asarray(states.slot))
    picked = rng.choice(n_states, min(40, n_states), replace=False)
    states = jax.tree.map(lambda leaf: leaf[picked], states)
    plan, _, k = jax.tree.map(np.asarray, looked_at(system.env, states, params, rate))
    checked = 0
    for i in range(len(picked)):
        here = jax.tree.map(lambda leaf, i=i: leaf[i], k)
        if float(here.slot_bits) <= 1:  # an outage: the rate is not what was measured
            continue
        layer, own_s = int(states.layer[i]), float(states.observed.own_backlog_s[i])
        assert (plan[i, :layer] == -np.inf).all()
        expected = [
            plan_in_python(system, here, own_s, layer, rate, first)
            for first in range(layer, system.env.n_choices)
        ]
        # But for what all have in common.
        found = plan[i, layer:]
        np.testing.assert_allclose(
            found - found[0], np.array(expected) - expected[0], rtol=1e-3, atol=2e-3
        )
        checked += 1
    assert checked > 10


def test_it_stops_where_the_plan_is_best():
    system = random_system(2, 2)
    states, params, rate = met(system, 2), system.params(), jnp.float32(3.0)
    policy = predictive_control.policy(system.env, rate)
    act = jax.jit(jax.vmap(lambda state: policy(None, state, None, params)))
    plan, _, _ = looked_at(system.env, states, params, rate)
    best = np.argmax(np.asarray(plan), axis=1)
    np.testing.assert_array_equal(np.asarray(act(states)) == 1, best == np.asarray(states.layer))
