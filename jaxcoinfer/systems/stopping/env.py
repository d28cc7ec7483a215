"""`stopping`: before each layer, keep computing on the device or stop and upload.

The system of Hu et al., *Adaptive Device-Edge Collaboration on DNN Inference in AIoT: A Digital
Twin-Assisted Approach* (arXiv 2405.17664), with the server queue shared with others, a radio that
serves uploads one by one, and links and processors that vary.

Task n waits for the processor, starts at slot `s_n`, and before layer l+1 (l = 0..Le) stops and
uploads the output of layer l, or continues; continuing at Le runs the exit head and finishes on the
device. Axes: K rows, T slots, L = Le device layers, P = L+1 stopping points with an upload, P+1 =
L+2 choices.

A device may look at how sure the exit head is before it settles for the head's answer. The head
then counts as the last of the Le layers, and stopping after it sends what the layer before it put
out.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import Outcome, TimeStep
from jaxcoinfer.physics.compute import layer_slots, seconds
from jaxcoinfer.physics.energy import transmit_energy_j
from jaxcoinfer.physics.queueing import excess_left_s
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping import samples as stopping_samples
from jaxcoinfer.systems.stopping.exogenous import SPEED_ONE, TICKS, Slot
from jaxcoinfer.systems.stopping.params import Params

CONTINUE, STOP = 0, 1


class State(struct.PyTreeNode):
    """Where one device stands at a decision; scalars, int32 unless said otherwise.

    row; slot t_l; layer l; task n; arrival a_n; start s_n. radio_free: slot at which the radio has
    sent all it was given. excess_s (float32, seconds) of own work on the server when it has arrived
    there, and excess_idle, the server's idle ticks then. last_upload of the row; done (bool). now:
    the bank's record of slot t_l. The last three are what the device knows of uploads under way:
    radio_level, the count of `Slot.bits_sum` at which its uploads are through; known_s and
    known_idle, as excess but with work counted from the moment it is handed to the radio.
    """

    row: jax.Array
    slot: jax.Array
    layer: jax.Array
    task: jax.Array
    arrival: jax.Array
    start: jax.Array
    radio_free: jax.Array
    excess_s: jax.Array
    excess_idle: jax.Array
    last_upload: jax.Array
    done: jax.Array
    now: Slot
    radio_level: jax.Array
    known_s: jax.Array
    known_idle: jax.Array


class Upload(struct.PyTreeNode):
    """What stopping gives; begin, end: slots int32; idle: the server's ticks at `end`; the rest
    seconds, joules.
    """

    begin: jax.Array
    end: jax.Array
    server_wait_s: jax.Array
    server_s: jax.Array
    energy_j: jax.Array
    excess_s: jax.Array
    idle: jax.Array


class Known(struct.PyTreeNode):
    """What the device knows at a decision: numbers, float32, in units; `observe` normalises them.

    layer, of Le+1; waiting_tasks, beside the one in hand; wait_s, of the task in hand;
    server_backlog_s, as the server reports it, with own work on the way; radio_bits, still to be
    sent; slot_bits, what the link carries in this slot; speed of the device, 1 = nominal;
    confidence of the exit head, largest class probability, once it has run, else 0.
    """

    layer: jax.Array
    waiting_tasks: jax.Array
    wait_s: jax.Array
    server_backlog_s: jax.Array
    radio_bits: jax.Array
    slot_bits: jax.Array
    speed: jax.Array
    confidence: jax.Array


# Observation: `x / (x + half)` of each unbounded number, so that all lie in [0, 1] and small values
# stay apart. The last only where the device looks at the exit head's confidence.
OBSERVATION = (
    "layer",
    "waiting_tasks",
    "wait",
    "server_backlog",
    "radio_backlog",
    "rate",
    "speed",
    "confidence",
)
_HALF_TASKS, _HALF_S = 4.0, 1.0


@dataclass(frozen=True)
class Stopping:
    """The environment; `n_layers` = Le, layers on the device before it finishes a task by itself.

    observes_confidence: the last of them is the exit head, and its confidence is seen;
    `params.samples` then hold it.
    """

    n_layers: int
    observes_confidence: bool = False

    @property
    def n_actions(self) -> int:
        return 2

    @property
    def n_choices(self) -> int:
        """Stopping points of a task: after l = 0..Le layers, or on the device."""
        return self.n_layers + 2

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (len(OBSERVATION) - (not self.observes_confidence),)

    def mask(self, state: State, params: Params) -> jax.Array:
        """Returns which actions are valid, bool [2]: both, always."""
        return jnp.ones((self.n_actions,), bool)

    def reset(self, key: jax.Array, params: Params) -> tuple[State, TimeStep]:
        """Starts at a random slot of a random row, O(1); consumes the key."""
        key_row, key_slot = jax.random.split(key)
        row = jax.random.randint(key_row, (), 0, params.bank.n_rows, jnp.int32)
        latest = jnp.maximum(params.last_upload[row] - params.longest_local_slots, 1)
        return self.reset_at(row, jax.random.randint(key_slot, (), 0, latest, jnp.int32), params)

    def reset_at(self, row: jax.Array, slot: jax.Array, params: Params) -> tuple[State, TimeStep]:
        """Starts with an idle device at `slot` of `row`, int32; its first task is the first to
        arrive from then on.
        """
        bank = params.bank
        here = exogenous.slot_at(bank, row, slot)
        before = exogenous.slot_at(bank, row, jnp.maximum(slot - 1, 0)).arrived
        zero = jnp.zeros((), jnp.float32)
        idle_device = State(
            row=row,
            slot=slot,
            layer=jnp.zeros((), jnp.int32),
            task=jnp.where(slot > 0, before, 0) - 1,
            arrival=slot,
            start=slot,
            radio_free=slot,
            excess_s=zero,
            excess_idle=here.idle,
            last_upload=params.last_upload.at[row].get(mode="promise_in_bounds"),
            done=jnp.zeros((), bool),
            now=here,
            radio_level=here.bits_sum,
            known_s=zero,
            known_idle=here.idle,
        )
        state = next_task(idle_device, params, slot)
        state = state.replace(
            now=exogenous.slot_at(bank, row, jnp.minimum(state.slot, bank.n_slots))
        )
        count = jnp.zeros((), jnp.int32)
        none = Outcome(jnp.zeros((), bool), count, zero, zero, zero, zero, count)
        return state, TimeStep(observe(state, params), zero, jnp.zeros((), bool), state.done, none)

    def step(self, state: State, action: jax.Array, params: Params) -> tuple[State, TimeStep]:
        """Continues (0) or stops (1); action int32. Rewards of a task sum to `value` of the twin."""
        stop = action == STOP
        last = state.layer == self.n_layers
        ends = stop | last
        choice = jnp.where(stop, state.layer, self.n_layers + 1)
        layer_s, server_s, stop_energy_j, more_energy_j, upload_bits = _at_layer(
            params, state.layer
        )

        upload = upload_at(state, params, state.slot, state.layer, upload_bits, server_s)
        computed = state.slot + layer_slots(layer_s, _speed(state.now), params.slot_s)
        free = jnp.where(stop, state.slot, computed)
        sent = hand_over(state, upload, upload_bits, params)
        after = jax.tree.map(lambda a, b: jnp.where(stop, a, b), sent, state)
        following = next_task(after, params, free)
        going = state.replace(slot=computed, layer=state.layer + 1)
        moved = jax.tree.map(
            lambda a, b: jnp.where(ends, a, b), following.replace(now=None), going.replace(now=None)
        )
        new = jax.tree.map(lambda a, b: jnp.where(state.done, a, b), state.replace(now=None), moved)
        new = new.replace(
            now=exogenous.slot_at(params.bank, new.row, jnp.minimum(new.slot, params.bank.n_slots))
        )

        # Where nobody waits at the end of a task, nobody did while it ran, and the record at hand
        # is a later slot's.
        idled = ends & (new.slot > computed)
        waiting = jnp.where(
            idled, 0, waiting_slots(state.now, new.now, computed - state.slot, state.task)
        )
        accuracy = _accuracy(state, params, choice)
        on_server_s = upload.server_wait_s + upload.server_s
        upload_s = seconds(upload.end - state.slot, params.slot_s) + params.rtt_s
        compute_s = seconds(computed - state.slot, params.slot_s)
        reward_stop = -(upload_s + on_server_s) - params.energy_weight * upload.energy_j
        reward_go = (
            -compute_s - seconds(waiting, params.slot_s) - params.energy_weight * more_energy_j
        )
        first_energy_j = jnp.where(state.layer == 0, params.device_energy_j[0], 0.0)
        reward = jnp.where(stop, reward_stop, reward_go) - params.energy_weight * first_energy_j
        reward = reward + jnp.where(ends, params.accuracy_weight * accuracy, 0.0)

        latency_s = seconds(jnp.where(stop, upload.end, computed) - state.arrival, params.slot_s)
        latency_s = latency_s + jnp.where(stop, on_server_s + params.rtt_s, 0.0)
        energy_j = jnp.where(stop, stop_energy_j + upload.energy_j, params.device_energy_j[-1])
        alive = ~state.done
        outcome = Outcome(
            finished=ends & alive,
            choice=choice,
            latency_s=latency_s,
            energy_j=energy_j,
            accuracy=accuracy,
            utility=params.accuracy_weight * accuracy - latency_s - params.energy_weight * energy_j,
            reports=state.layer + 1,  # one before each decision
        )
        reward = jnp.where(alive, reward, 0.0)
        return new, TimeStep(observe(new, params), reward, jnp.zeros((), bool), new.done, outcome)


def _at_layer(params: Params, layer: jax.Array) -> list[jax.Array]:
    """What `step` looks up by layer. Selects from a few numbers, which costs less than gathering
    one.
    """
    columns = [
        params.layer_s,
        params.server_s,
        params.device_energy_j[:-1],
        jnp.diff(params.device_energy_j),
        params.upload_bits.astype(jnp.float32),
    ]
    return [_select(column, layer) for column in columns]


def _select(column: jax.Array, index: jax.Array) -> jax.Array:
    found = column[0]
    for i in range(1, column.shape[0]):
        found = jnp.where(index == i, column[i], found)
    return found


def _accuracy(state: State, params: Params, choice: jax.Array) -> jax.Array:
    if params.samples is None:
        return _select(params.accuracy, choice)
    return stopping_samples.number(params.samples, state.row, state.task, choice)


def accuracies(state: State, params: Params) -> jax.Array:
    """Returns what each choice gets right [P+1]: the task's image, 0 or 1, where there are samples;
    else the mean.
    """
    if params.samples is None:
        return params.accuracy
    return stopping_samples.record(params.samples, state.row, state.task)[:-1]


def accuracies_of_like(state: State, params: Params) -> jax.Array:
    """Returns what each choice gets right [P+1] on images of which the exit head is as sure as of
    the task's.
    """
    if params.samples is None:
        return params.accuracy
    sure = stopping_samples.record(params.samples, state.row, state.task)[-1]
    return stopping_samples.expected(params.samples, sure)


def _confidence(state: State, params: Params) -> jax.Array:
    if params.samples is None:
        return jnp.zeros((), jnp.float32)
    ran = state.layer == params.layer_s.shape[0] - 1
    column = jnp.asarray(params.accuracy.shape[0], jnp.int32)  # behind the choices
    return jnp.where(
        ran, stopping_samples.number(params.samples, state.row, state.task, column), 0.0
    )


def _speed(slot: Slot) -> jax.Array:
    return slot.speed.astype(jnp.float32) * (1.0 / SPEED_ONE)


def _tick_s(params: Params) -> jax.Array:
    return params.slot_s * (1.0 / TICKS)


def advance(state: State, params: Params) -> State:
    """Returns the state at the decision after the next layer (or at the end of the exit head) was
    computed.
    """
    layer_s = params.layer_s.at[state.layer].get(mode="promise_in_bounds")
    slot = state.slot + layer_slots(layer_s, _speed(state.now), params.slot_s)
    now = exogenous.slot_at(params.bank, state.row, jnp.minimum(slot, params.bank.n_slots))
    return state.replace(slot=slot, layer=state.layer + 1, now=now)


def waiting_slots(begin: Slot, end: Slot, slots: jax.Array, task: jax.Array) -> jax.Array:
    """Returns the number of waiting tasks summed over the slots in which task n holds the
    processor, int32.

    `(AA[t_j] - AA[t_i]) - (t_j - t_i)(n + 1)` with `begin`, `end` the records of t_i, t_j and slots
    = t_j - t_i.
    """
    return end.arrived_sum - begin.arrived_sum - slots * (task + 1)


def upload_at(state: State, params: Params, slot, layer, upload_bits, server_s) -> Upload:
    """Returns the upload of the output of `layer` that is handed to the radio at `slot`.

    It begins at `max(slot, radio_free)`, ends at the first tau with `C[tau] - C[begin] >= bits`,
    meets the backlog `Q[tau] + max(R - (I[tau] - I[t0]), 0)` and is served for `e_l` seconds. slot,
    layer int32; upload_bits bits, server_s seconds, of that layer.
    """
    begin = jnp.maximum(slot, state.radio_free)
    slots, backlog, idle = exogenous.upload_record(params.bank, state.row, begin, layer)
    tick_s = _tick_s(params)
    own_s = excess_left_s(state.excess_s, seconds(idle - state.excess_idle, tick_s))
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
    """Returns the state in which the radio and the server have been given the upload; upload_bits
    bits.
    """
    return state.replace(
        radio_free=upload.end,
        excess_s=upload.excess_s,
        excess_idle=upload.idle,
        radio_level=state.now.bits_sum + _radio_bits(state) + upload_bits.astype(jnp.int32),
        known_s=_known_own_s(state, params) + upload.server_s,
        known_idle=state.now.idle,
    )


def next_task(state: State, params: Params, free: jax.Array) -> State:
    """Returns the state at the start of the following task, `s = max(a, free)`; the caller looks up
    its `now`.

    Ends the episode where the row could end before every choice for that task is through: its last
    decision, or the radio if later, must come no later than `last_upload`.
    """
    arrival = exogenous.arrival(params.bank, state.row, state.task + 1)
    start = jnp.maximum(arrival, free)
    fits = jnp.maximum(start + params.longest_local_slots, state.radio_free) <= state.last_upload
    return state.replace(
        slot=start,
        layer=jnp.zeros_like(state.layer),
        task=state.task + 1,
        arrival=arrival,
        start=start,
        done=~fits,
    )


def _radio_bits(state: State) -> jax.Array:
    left = jnp.maximum(state.radio_level - state.now.bits_sum, 0)
    return jnp.where(state.slot < state.radio_free, left, 0)


def _known_own_s(state: State, params: Params) -> jax.Array:
    # While the radio sends, work counts from the moment it was handed over; once it is through, the
    # server tells.
    busy = state.slot < state.radio_free
    own_s = jnp.where(busy, state.known_s, state.excess_s)
    since = state.now.idle - jnp.where(busy, state.known_idle, state.excess_idle)
    return excess_left_s(own_s, seconds(since, _tick_s(params)))


def known(state: State, params: Params) -> Known:
    """Returns what the device knows at a decision: nothing that comes after the slot."""
    return Known(
        layer=state.layer.astype(jnp.float32),
        waiting_tasks=jnp.maximum(state.now.arrived - state.task - 1, 0).astype(jnp.float32),
        wait_s=seconds(jnp.maximum(state.start - state.arrival, 0), params.slot_s),
        server_backlog_s=seconds(state.now.backlog, _tick_s(params)) + _known_own_s(state, params),
        radio_bits=_radio_bits(state).astype(jnp.float32),
        slot_bits=state.now.bits.astype(jnp.float32),
        speed=_speed(state.now),
        confidence=_confidence(state, params),
    )


def observe(state: State, params: Params) -> jax.Array:
    """Returns the observation [7], or [8] with samples, float32, in the order of `OBSERVATION`, all
    in [0, 1].

    layer / (Le + 1); waiting tasks `x / (x + 4)`; wait, server backlog and radio backlog (at the
    rate of this slot) `x / (x + 1 s)`; rate and speed `x / (x + mean)`, with the mean rate of the
    bank and the nominal speed.
    """
    k = known(state, params)
    radio_s = k.radio_bits * params.slot_s / jnp.maximum(k.slot_bits, 1e-3 * params.mean_bits)
    features = [
        k.layer / params.layer_s.shape[0],
        k.waiting_tasks / (k.waiting_tasks + _HALF_TASKS),
        k.wait_s / (k.wait_s + _HALF_S),
        k.server_backlog_s / (k.server_backlog_s + _HALF_S),
        radio_s / (radio_s + _HALF_S),
        k.slot_bits / (k.slot_bits + params.mean_bits),
        k.speed / (k.speed + 1.0),
    ]
    return jnp.stack(features if params.samples is None else [*features, k.confidence])
