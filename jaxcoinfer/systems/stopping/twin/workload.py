"""Every stopping point of a task at once, as if each had been chosen.

`evaluate` replays the recorded world around one task: it reads past the decision, so it serves to
learn from tasks that are over and to say what a clairvoyant would do. `forecast` says what each
choice is expected to give from what is known now. Axes: P = Le+1 stopping points with an upload,
P+1 choices, F features.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import select
from jaxcoinfer.physics.compute import layer_slots, seconds
from jaxcoinfer.physics.energy import transmit_energy_j
from jaxcoinfer.physics.link import positive_rate
from jaxcoinfer.systems.stopping import device
from jaxcoinfer.systems.stopping import env as stopping
from jaxcoinfer.systems.stopping import samples as stopping_samples
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.observation import Known, known
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State


class Choices(struct.PyTreeNode):
    """What each choice of one task gives, float32 [P+1]; the last finishes on the device."""

    wait_s: jax.Array  # from arrival to start
    compute_s: jax.Array
    upload_s: jax.Array  # with waiting for the radio and the round trip
    server_wait_s: jax.Array
    server_s: jax.Array
    latency_s: jax.Array  # the sum of the five above
    energy_j: jax.Array  # of the device
    accuracy: jax.Array  # in [0, 1]
    utility: jax.Array  # `alpha acc - T - beta E`
    waiting_cost_s: jax.Array  # that other tasks wait because this one holds the processor
    # The utility with waiting_cost_s in place of the task's own wait: what its rewards sum to.
    value: jax.Array


class Replay(struct.PyTreeNode):
    """One task replayed."""

    choices: Choices  # [P+1]
    states: State  # [P], at each decision
    uploads: device.Upload  # [P]
    end: State  # after the exit head


def evaluate(env: Stopping, state: State, params: Params) -> Replay:
    """Replays the task in hand from its start for every choice; exact: equal to what the
    environment would do.

    state: one device, at any decision of the task.
    """
    first_layer = jnp.zeros_like(state.layer)
    path = [device.observed(state.replace(slot=state.start, layer=first_layer), params)]
    for _ in range(env.n_layers + 1):
        path.append(device.advance(path[-1], params))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *path)
    states = jax.tree.map(lambda leaf: leaf[:-1], stacked)
    uploads = jax.vmap(device.upload_at, in_axes=(0, None, 0, 0, 0, 0))(
        states,
        params,
        states.slot,
        states.layer,
        params.upload_bits.astype(jnp.float32),
        params.server_s,
    )
    first = jax.tree.map(lambda leaf: leaf[:1], stacked.now)
    waiting = device.waiting_slots(first, stacked.now, stacked.slot - state.start, state.task)
    choices = _assemble(
        params,
        accuracy=stopping.accuracies(state, params),
        wait_s=seconds(state.start - state.arrival, params.slot_s),
        compute_s=seconds(stacked.slot - state.start, params.slot_s),
        upload_s=seconds(uploads.end - states.slot, params.slot_s) + params.rtt_s,
        server_wait_s=uploads.server_wait_s,
        upload_energy_j=uploads.energy_j,
        waiting_cost_s=seconds(waiting, params.slot_s),
    )
    return Replay(choices, states, uploads, path[-1])


def follow(replay: Replay, choice: jax.Array, params: Params) -> State:
    """Returns the state at the start of the next task if `choice` (int32, 0..P) ends this one: one
    step per task.
    """
    n_points = replay.uploads.end.shape[0]
    point = jnp.minimum(choice, n_points - 1)
    state, upload = jax.tree.map(lambda leaf: leaf[point], (replay.states, replay.uploads))
    sent = device.hand_over(state, upload, params.upload_bits[point].astype(jnp.float32), params)
    after = select(choice < n_points, sent, replay.end)
    following = device.observed(device.next_task(after, params, after.slot), params)
    return select(replay.end.done, replay.end, following)


def forecast(env: Stopping, state: State, params: Params) -> Choices:
    """Returns what each choice of the task in hand is expected to give if the world stays as it is
    now, [P+1].

    Rate and speed stay; the server's backlog stays as reported; the tasks that wait now wait for
    the time still to be computed. Choices that lie behind (stopping before the present layer) get
    value and utility of minus infinity.
    """
    k = known(state, params)
    slots = layer_slots(params.layer_s, k.speed, params.slot_s)
    slots = jnp.where(jnp.arange(env.n_layers + 1) < state.layer, 0, slots)
    ahead = jnp.concatenate([jnp.zeros((1,), jnp.int32), jnp.cumsum(slots, dtype=jnp.int32)])
    spent_s = seconds(state.slot - state.start, params.slot_s)
    ahead_s = seconds(ahead, params.slot_s)
    on_air_s = air_s(k, params)
    radio_s = jnp.maximum(radio_backlog_s(k, params) - ahead_s[:-1], 0.0)
    choices = _assemble(
        params,
        accuracy=expected_accuracy(env, state, params),
        wait_s=k.wait_s,
        compute_s=spent_s + ahead_s,
        upload_s=radio_s + on_air_s + params.rtt_s,
        server_wait_s=jnp.broadcast_to(k.server_backlog_s, on_air_s.shape),
        upload_energy_j=transmit_energy_j(
            on_air_s,
            params.transmit_w,
            params.upload_bits.astype(jnp.float32),
            params.transmit_j_per_bit,
        ),
        waiting_cost_s=k.waiting_tasks * ahead_s,
    )
    behind = jnp.arange(env.n_choices) < state.layer
    gone = jnp.where(behind, -jnp.inf, 0.0)
    return choices.replace(utility=choices.utility + gone, value=choices.value + gone)


def air_s(known: Known, params: Params) -> jax.Array:
    """Returns the seconds that each upload would be on air at the rate last measured, [P]."""
    rate_bits = positive_rate(known.slot_bits, params.typical_bits)
    slots = jnp.ceil(params.upload_bits.astype(jnp.float32) / rate_bits - 1e-4)
    return slots * params.slot_s


def radio_backlog_s(known: Known, params: Params) -> jax.Array:
    """Returns the seconds that the radio still has to send at the rate last measured."""
    rate_bits = positive_rate(known.slot_bits, params.typical_bits)
    return known.radio_bits * params.slot_s / rate_bits


def expected_accuracy(env: Stopping, state: State, params: Params) -> jax.Array:
    """Returns the accuracy to be expected of each choice [P+1]: the mean, or once the confidence of
    the exit head is known, that of images of which it is as sure.
    """
    if params.samples is None:
        return params.accuracy
    sure = stopping_samples.expected(params.samples, known(state, params).confidence)
    return jnp.where(state.layer == env.n_layers, sure, params.accuracy)


def _assemble(
    params: Params,
    *,
    accuracy: jax.Array,
    wait_s: jax.Array,
    compute_s: jax.Array,
    upload_s: jax.Array,
    server_wait_s: jax.Array,
    upload_energy_j: jax.Array,
    waiting_cost_s: jax.Array,
) -> Choices:
    """Joins the parts; compute_s, waiting_cost_s [P+1], wait_s scalar, the others [P]: zero for the
    last choice.
    """
    zero = jnp.zeros((1,), jnp.float32)
    upload_s, server_wait_s, server_s, upload_energy_j = (
        jnp.concatenate([part, zero])
        for part in (upload_s, server_wait_s, params.server_s, upload_energy_j)
    )
    own_s = compute_s + upload_s + server_wait_s + server_s
    energy_j = params.device_energy_j + upload_energy_j
    gain = params.accuracy_weight * accuracy - params.energy_weight * energy_j - own_s
    return Choices(
        wait_s=jnp.broadcast_to(wait_s, own_s.shape),
        compute_s=compute_s,
        upload_s=upload_s,
        server_wait_s=server_wait_s,
        server_s=server_s,
        latency_s=wait_s + own_s,
        energy_j=energy_j,
        accuracy=accuracy,
        utility=gain - wait_s,
        waiting_cost_s=waiting_cost_s,
        value=gain - waiting_cost_s,
    )
