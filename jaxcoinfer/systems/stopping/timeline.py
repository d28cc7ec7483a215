"""What a policy does: task by task, as a timeline in the Chrome trace format (which Perfetto
opens), and over a grid of situations.

Axes: N tasks, P = Le+1 decisions of a task, W numbers of waiting tasks, X backlogs.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxcoinfer.core.rollout import Policy, act
from jaxcoinfer.evaluation.chrome_trace import PROCESSOR, RADIO, SERVER, slice_of, tracks
from jaxcoinfer.systems.stopping import device, exogenous
from jaxcoinfer.systems.stopping.env import STOP, Stopping
from jaxcoinfer.systems.stopping.observation import observe
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload


class Trips(struct.PyTreeNode):
    """How N tasks went; uploads and server mean something for choices below P."""

    valid: Any  # bool [N], false after the end of the row
    task: Any  # int32 [N], n
    arrival: Any  # int32 [N], slot a_n
    choice: Any  # int32 [N]
    slots: Any  # int32 [N, P+1], of each decision, last the end of the exit head
    upload_begin: Any  # int32 [N], slot
    upload_end: Any  # int32 [N], slot
    server_wait_s: Any  # float32 [N]
    server_s: Any  # float32 [N]
    latency_s: Any  # float32 [N]
    energy_j: Any  # float32 [N]
    utility: Any  # float32 [N]


def record(env: Stopping, params: Params, policy: Policy, key: jax.Array, n_tasks: int) -> Trips:
    """Returns the first n_tasks tasks of `policy` on row 0, NumPy arrays [N]; consumes the key."""

    def task(params: Params, state: State, key: jax.Array) -> tuple[State, Trips]:
        replay = workload.evaluate(env, state, params)
        observations = jax.vmap(observe, (0, None))(replay.states, params)
        keys = jax.random.split(key, env.n_layers + 1)
        decide = jax.vmap(partial(act, env, policy), (0, 0, 0, None))
        stops = decide(keys, replay.states, observations, params) == STOP
        choice = jnp.argmax(jnp.concatenate([stops, jnp.ones((1,), bool)])).astype(jnp.int32)
        point = jnp.minimum(choice, env.n_layers)
        trip = Trips(
            valid=~state.done,
            task=state.task,
            arrival=state.arrival,
            choice=choice,
            slots=jnp.append(replay.states.slot, replay.end.slot),
            upload_begin=replay.uploads.begin[point],
            upload_end=replay.uploads.end[point],
            server_wait_s=replay.uploads.server_wait_s[point],
            server_s=params.server_s[point],
            latency_s=replay.choices.latency_s[choice],
            energy_j=replay.choices.energy_j[choice],
            utility=replay.choices.utility[choice],
        )
        return workload.follow(replay, choice, params), trip

    @jax.jit
    def play(
        params: Params, keys: jax.Array
    ) -> Trips:  # an argument: closed over, the whole bank would be compiled in
        state, _ = env.reset_at(jnp.int32(0), jnp.int32(0), params)
        return jax.lax.scan(partial(task, params), state, keys)[1]

    return jax.tree.map(np.asarray, play(params, jax.random.split(key, n_tasks)))


def chrome_trace(trips: Trips, slot_s: float) -> dict[str, Any]:
    """Returns trips as a Chrome trace, ready for JSON: times in microseconds since slot 0.

    One track each for processor (a slice per task, within it one per layer), radio and server (own
    work), and a counter of the tasks that wait for the processor. A task that uploads its input at
    once leaves no slice on the processor.
    """
    slot_us = slot_s * 1e6
    events = tracks("stopping")
    began, arrived = [], []
    for i in np.flatnonzero(trips.valid):
        trip = jax.tree.map(lambda leaf, i=i: leaf[i], trips)
        events += _task_slices(trip, slot_us)
        arrived.append(trip.arrival * slot_us)
        began.append(trip.slots[0] * slot_us)
    for at_us in sorted({*arrived, *began}):
        waiting = sum(a <= at_us for a in arrived) - sum(b <= at_us for b in began)
        counted = {"tasks": int(waiting)}
        events.append(
            {
                "ph": "C",
                "pid": 1,
                "name": "waiting tasks",
                "ts": round(float(at_us), 3),
                "args": counted,
            }
        )
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _task_slices(trip: Trips, slot_us: float) -> list[dict[str, Any]]:
    n_points = len(trip.slots) - 1
    name, last = f"task {int(trip.task)}", int(trip.choice)
    numbers = {
        "arrival_us": round(float(trip.arrival * slot_us), 3),
        "choice": f"upload after {last} layers" if last < n_points else "finished on the device",
        "latency_s": round(float(trip.latency_s), 6),
        "energy_j": round(float(trip.energy_j), 6),
        "utility": round(float(trip.utility), 6),
    }
    begins_us = trip.slots * slot_us
    slices = [slice_of(PROCESSOR, name, begins_us[0], begins_us[last], numbers)] if last else []
    for layer in range(last):
        what = f"layer {layer + 1}" if layer < n_points - 1 else "exit head"
        slices.append(
            slice_of(
                PROCESSOR, what, begins_us[layer], begins_us[layer + 1], {"task": int(trip.task)}
            )
        )
    if last < n_points:
        sent_us = float(trip.upload_end * slot_us)
        served_us = sent_us + float(trip.server_wait_s) * 1e6
        sending = {"layers_done": last, **numbers}
        waited = {"server_wait_s": round(float(trip.server_wait_s), 6), **numbers}
        slices.append(slice_of(RADIO, name, trip.upload_begin * slot_us, sent_us, sending))
        slices.append(
            slice_of(SERVER, name, served_us, served_us + float(trip.server_s) * 1e6, waited)
        )
    return slices


# --- over a grid of situations ------------------------------------------------------------------


@dataclass(frozen=True)
class Regions:
    """Where a policy stops."""

    stops: np.ndarray  # bool [P, W, X]
    waiting_tasks: np.ndarray  # int [W], other tasks that wait
    backlog_s: np.ndarray  # float [X], of the server


def stop_regions(env: Stopping, params: Params, policy: Policy) -> Regions:
    """Returns where a policy stops that goes by `known` alone: radio idle, mean rate, nominal
    speed, own wait 0.

    Where the exit head's confidence is observed, it is that of the median image.
    Backlogs reach to the 95th percentile of the others' in the bank, or to 1 s if that is less.
    """
    tick_s = float(params.slot_s) / exogenous.TICKS
    others_s = np.percentile(np.asarray(params.bank.slots[:, :, exogenous.BACKLOG]), 95) * tick_s
    backlog_s, waiting = np.linspace(0.0, max(float(others_s), 1.0), 81), np.arange(11)
    bits = np.asarray(params.bank.slots[:, :, exogenous.BITS], np.float64)
    mean_bits = jnp.int32(round(bits.mean()))
    task = jnp.int32(0)
    if params.samples is not None:
        confidence = np.asarray(params.samples.records[:, -1])
        # The task that has this image in row 0.
        task = jnp.int32(np.argsort(confidence)[len(confidence) // 2])

    def stops(
        params: Params, layer: jax.Array, waiting: jax.Array, backlog: jax.Array
    ) -> jax.Array:
        state = device.lone_task(params, task, layer, waiting, backlog, mean_bits)
        observation = observe(state, params)
        return act(env, policy, jax.random.key(0), state, observation, params) == STOP

    grid = stops
    for axes in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None)):
        grid = jax.vmap(grid, axes)
    layers = jnp.arange(env.n_layers + 1, dtype=jnp.int32)
    ticks = jnp.asarray(np.round(backlog_s / tick_s), jnp.int32)
    each = jax.jit(grid)(params, layers, jnp.asarray(waiting, jnp.int32), ticks)
    return Regions(np.asarray(each), waiting, backlog_s)
