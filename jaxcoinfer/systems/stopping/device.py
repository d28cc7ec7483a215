"""What one device of `stopping` goes through: it begins idle, observes, computes a layer, hands an
upload over, begins the next task.

Axes: L = Le device layers, P = L+1 stopping points with an upload.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import select
from jaxcoinfer.physics.compute import layer_slots, seconds
from jaxcoinfer.physics.energy import transmit_energy_j
from jaxcoinfer.physics.queueing import excess_left_s
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping import samples as stopping_samples
from jaxcoinfer.systems.stopping.exogenous import Slot
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import Hidden, Observed, State


class Upload(struct.PyTreeNode):
    """What stopping gives; scalars, float32 unless said otherwise."""

    begin: jax.Array  # int32, slot in which the radio begins to send
    end: jax.Array  # int32, slot in which all is sent
    server_wait_s: jax.Array  # at the server, before its own work is begun
    server_s: jax.Array  # of its own work there
    energy_j: jax.Array  # of the radio
    excess_s: jax.Array  # own work on the server at `end`, this upload's included
    idle: jax.Array  # int32, idle ticks of the server at `end`


def idle_device(
    row: jax.Array, slot: jax.Array, task: jax.Array, now: Slot, last_upload: jax.Array
) -> State:
    """Returns a device that has nothing to compute, to send or on the server, at the start of
    `task`, which arrives at `slot`; now: the record of that slot, last_upload: of the row.
    """
    zero, free = jnp.zeros((), jnp.float32), jnp.zeros((), bool)
    idle = Observed(
        now=now, unsent_bits=jnp.zeros((), jnp.int32), radio_busy=free, own_backlog_s=zero
    )
    return State(
        slot=slot,
        layer=jnp.zeros((), jnp.int32),
        task=task,
        arrival=slot,
        start=slot,
        done=jnp.zeros((), bool),
        observed=idle,
        at_start=idle,
        confidence=zero,
        hidden=Hidden(
            row=row,
            last_upload=last_upload,
            radio_free=slot,
            radio_level=now.bits_sum,
            excess_s=zero,
            excess_idle=now.idle,
            counted_s=zero,
            counted_idle=now.idle,
        ),
    )


def lone_task(
    params: Params,
    task: jax.Array,
    layer: jax.Array,
    waiting_tasks: jax.Array,
    backlog: jax.Array,
    slot_bits: jax.Array,
) -> State:
    """Returns a device at `layer` of `task` that was idle before: nothing on the radio, no own work
    on the server, nominal speed.

    waiting_tasks: behind it, backlog: of the others, in ticks, slot_bits: of the link; all int32.
    The task arrived at slot 0 of row 0.
    """
    zero, one = jnp.int32(0), jnp.int32(exogenous.SPEED_ONE)
    now = exogenous.make_slot(task + waiting_tasks + 1, backlog, slot_bits, one)
    slots = layer_slots(params.layer_s, jnp.float32(1.0), params.slot_s)
    done_layers = jnp.arange(slots.shape[0]) < layer
    spent = jnp.where(done_layers, slots, 0).sum(dtype=jnp.int32)
    start = idle_device(zero, zero, task, now, params.last_upload[0])
    here = start.replace(slot=spent, layer=layer)
    return here.replace(confidence=_confidence(here, params))


def observed(state: State, params: Params) -> State:
    """Returns the state with what the device observes in its slot, the last one of the row where
    that is over.
    """
    hidden = state.hidden
    slot = jnp.minimum(state.slot, params.bank.n_slots)
    now = exogenous.slot_at(params.bank, hidden.row, slot)
    busy = state.slot < hidden.radio_free
    # While the radio sends, own work counts from the moment it was handed over; once it is through,
    # the server reports it.
    own_s = jnp.where(busy, hidden.counted_s, hidden.excess_s)
    since = now.idle - jnp.where(busy, hidden.counted_idle, hidden.excess_idle)
    own = Observed(
        now=now,
        unsent_bits=jnp.where(busy, jnp.maximum(hidden.radio_level - now.bits_sum, 0), 0),
        radio_busy=busy,
        own_backlog_s=excess_left_s(own_s, seconds(since, exogenous.tick_s(params.slot_s))),
    )
    return state.replace(
        observed=own,
        at_start=select(state.layer == 0, own, state.at_start),
        confidence=_confidence(state, params),
    )


def _confidence(state: State, params: Params) -> jax.Array:
    if params.samples is None:
        return jnp.zeros((), jnp.float32)
    ran = state.layer == params.layer_s.shape[0] - 1
    column = jnp.asarray(params.accuracy.shape[0], jnp.int32)  # behind the choices
    return jnp.where(
        ran, stopping_samples.number(params.samples, state.row, state.task, column), 0.0
    )


def advance(state: State, params: Params) -> State:
    """Returns the state at the decision after the next layer (or at the end of the exit head) was
    computed.
    """
    layer_s = params.layer_s.at[state.layer].get(mode="promise_in_bounds")
    speed = exogenous.relative_speed(state.now.speed)
    slot = state.slot + layer_slots(layer_s, speed, params.slot_s)
    return observed(state.replace(slot=slot, layer=state.layer + 1), params)


def waiting_slots(begin: Slot, end: Slot, slots: jax.Array, task: jax.Array) -> jax.Array:
    """Returns the number of waiting tasks summed over the slots in which task n holds the
    processor, int32.

    `(AA[t_j] - AA[t_i]) - (t_j - t_i)(n + 1)` with `begin`, `end` the records of t_i, t_j and
    slots = t_j - t_i.
    """
    return end.arrived_sum - begin.arrived_sum - slots * (task + 1)


def upload_at(
    state: State,
    params: Params,
    slot: jax.Array,
    layer: jax.Array,
    upload_bits: jax.Array,
    server_s: jax.Array,
) -> Upload:
    """Returns the upload of the output of `layer` that is handed to the radio at `slot`.

    It begins at `max(slot, radio_free)`, ends at the first tau with `C[tau] - C[begin] >= bits`,
    meets the backlog `Q[tau] + max(R - (I[tau] - I[t0]), 0)` and is served for `e_l` seconds. slot,
    layer int32; upload_bits bits, server_s seconds, of that layer.
    """
    hidden = state.hidden
    begin = jnp.maximum(slot, hidden.radio_free)
    slots, backlog, idle = exogenous.upload_record(params.bank, hidden.row, begin, layer)
    tick_s = exogenous.tick_s(params.slot_s)
    own_s = excess_left_s(hidden.excess_s, seconds(idle - hidden.excess_idle, tick_s))
    return Upload(
        begin=begin,
        end=begin + slots,
        server_wait_s=seconds(backlog, tick_s) + own_s,
        server_s=server_s,
        energy_j=transmit_energy_j(
            seconds(slots, params.slot_s), params.transmit_w, upload_bits, params.transmit_j_per_bit
        ),
        excess_s=own_s + server_s,
        idle=idle,
    )


def hand_over(state: State, upload: Upload, upload_bits: jax.Array, params: Params) -> State:
    """Returns the state after the upload was handed to the radio, and by it to the server;
    upload_bits bits.
    """
    own = state.observed
    sent = state.hidden.replace(
        radio_free=upload.end,
        radio_level=own.now.bits_sum + own.unsent_bits + upload_bits.astype(jnp.int32),
        excess_s=upload.excess_s,
        excess_idle=upload.idle,
        counted_s=own.own_backlog_s + upload.server_s,
        counted_idle=own.now.idle,
    )
    return state.replace(hidden=sent)


def next_task(state: State, params: Params, free: jax.Array) -> State:
    """Returns the state at the start of the following task, `s = max(a, free)`; the caller has it
    observe.

    Ends the episode where the row could end before every choice for that task is through: its last
    decision, or the radio if later, must come no later than `last_upload`.
    """
    arrival = exogenous.arrival(params.bank, state.row, state.task + 1)
    start = jnp.maximum(arrival, free)
    hidden = state.hidden
    end = jnp.maximum(start + params.longest_local_slots, hidden.radio_free)
    return state.replace(
        slot=start,
        layer=jnp.zeros_like(state.layer),
        task=state.task + 1,
        arrival=arrival,
        start=start,
        done=end > hidden.last_upload,
    )
