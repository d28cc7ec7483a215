"""`stopping`: before each layer, keep computing on the device or stop and upload.

The system of Hu et al., *Adaptive Device-Edge Collaboration on DNN Inference in AIoT: A Digital
Twin-Assisted Approach* (arXiv 2405.17664), with the server queue shared with others, a radio that
serves uploads one by one, and links and processors that vary.

Task n waits for the processor, starts at slot `s_n`, and before layer l+1 (l = 0..Le) stops and
uploads the output of layer l, or continues; continuing at Le runs the exit head and finishes on the
device. Axes: K rows, T slots, L = Le device layers, P = L+1 stopping points with an upload, P+1 =
L+2 choices.

A device may observe how sure the exit head is before it settles for the head's answer. The head
then counts as the last of the Le layers, and stopping after it sends what the layer before it put
out.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import Outcome, TimeStep, select
from jaxcoinfer.physics.compute import layer_slots, seconds
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping import samples as stopping_samples
from jaxcoinfer.systems.stopping.device import (
    Upload,
    hand_over,
    idle_device,
    next_task,
    observed,
    upload_at,
    waiting_slots,
)
from jaxcoinfer.systems.stopping.observation import OBSERVATION, observe
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State

CONTINUE, STOP = 0, 1


class LayerNumbers(struct.PyTreeNode):
    """The numbers of a decision that depend on its layer l; float32 scalars."""

    layer_s: jax.Array  # seconds of layer l+1, or of the exit head
    server_s: jax.Array  # seconds of the remaining layers on the server
    stop_energy_j: jax.Array  # that the device has computed away when it stops here
    more_energy_j: jax.Array  # that layer l+1 takes
    upload_bits: jax.Array  # of the output of layer l


class Decision(struct.PyTreeNode):
    """One decision, and what either action at it would give; scalars."""

    stop: jax.Array  # bool, whether the device stops
    ends: jax.Array  # bool, whether the task ends for the processor
    choice: jax.Array  # int32, what the task ends with where it ends
    computed: jax.Array  # int32, slot at which the next layer has been computed
    numbers: LayerNumbers
    upload: Upload  # where it stops
    accuracy: jax.Array  # float32, of `choice`


@dataclass(frozen=True)
class Stopping:
    """The environment."""

    n_layers: int  # Le, layers on the device before it finishes a task by itself
    # Whether the last of them is the exit head, whose confidence is observed; `params.samples` then
    # holds it.
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

    def visible(self, state: State, params: Params) -> tuple[State, Params]:
        """Returns state and params without what only the world knows."""
        samples = params.samples and params.samples.replace(records=None)
        return state.replace(hidden=None), params.replace(
            bank=None, last_upload=None, samples=samples
        )

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
        before = exogenous.slot_at(bank, row, jnp.maximum(slot - 1, 0)).arrived
        task = jnp.where(slot > 0, before, 0) - 1
        last_upload = params.last_upload.at[row].get(mode="promise_in_bounds")
        idle = idle_device(row, slot, task, exogenous.slot_at(bank, row, slot), last_upload)
        state = observed(next_task(idle, params, slot), params)
        zero, count = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
        none = Outcome(jnp.zeros((), bool), count, zero, zero, zero, zero, count)
        return state, TimeStep(observe(state, params), zero, jnp.zeros((), bool), state.done, none)

    def step(self, state: State, action: jax.Array, params: Params) -> tuple[State, TimeStep]:
        """Continues (0) or stops (1); action int32. A task's rewards sum to `value` of the twin."""
        decision = self._decision(state, action, params)
        new = _transition(state, decision, params)
        reward = _reward(state, new, decision, params)
        outcome = _outcome(state, decision, params)
        return new, TimeStep(observe(new, params), reward, jnp.zeros((), bool), new.done, outcome)

    def _decision(self, state: State, action: jax.Array, params: Params) -> Decision:
        stop = action == STOP
        numbers = _numbers_at(params, state.layer)
        choice = jnp.where(stop, state.layer, self.n_layers + 1)
        upload_bits, server_s = numbers.upload_bits, numbers.server_s
        speed = exogenous.relative_speed(state.now.speed)
        return Decision(
            stop=stop,
            ends=stop | (state.layer == self.n_layers),
            choice=choice,
            computed=state.slot + layer_slots(numbers.layer_s, speed, params.slot_s),
            numbers=numbers,
            upload=upload_at(state, params, state.slot, state.layer, upload_bits, server_s),
            accuracy=_accuracy(state, params, choice),
        )


def _transition(state: State, decision: Decision, params: Params) -> State:
    """Returns the state at the next decision; a state that is done stays as it is."""
    stop, computed = decision.stop, decision.computed
    free = jnp.where(stop, state.slot, computed)
    sent = hand_over(state, decision.upload, decision.numbers.upload_bits, params)
    after = select(stop, sent, state)
    following = next_task(after, params, free)
    going = state.replace(slot=computed, layer=state.layer + 1)
    moved = select(decision.ends, following.replace(observed=None), going.replace(observed=None))
    return observed(select(state.done, state.replace(observed=None), moved), params)


def _reward(state: State, new: State, decision: Decision, params: Params) -> jax.Array:
    """Returns the reward of a step from `state` to `new`: seconds, energy and accuracy of what the
    decision adds to its task.
    """
    stop, ends, computed = decision.stop, decision.ends, decision.computed
    upload = decision.upload
    # Where nobody waits at the end of a task, nobody did while it ran, and the record at hand is a
    # later slot's.
    idled = ends & (new.slot > computed)
    waiting = jnp.where(
        idled, 0, waiting_slots(state.now, new.now, computed - state.slot, state.task)
    )
    upload_s = seconds(upload.end - state.slot, params.slot_s) + params.rtt_s
    compute_s = seconds(computed - state.slot, params.slot_s)
    on_server_s = upload.server_wait_s + upload.server_s
    reward_stop = -(upload_s + on_server_s) - params.energy_weight * upload.energy_j
    more_energy_j = decision.numbers.more_energy_j
    reward_go = -compute_s - seconds(waiting, params.slot_s) - params.energy_weight * more_energy_j
    first_energy_j = jnp.where(state.layer == 0, params.device_energy_j[0], 0.0)
    reward = jnp.where(stop, reward_stop, reward_go) - params.energy_weight * first_energy_j
    reward = reward + jnp.where(ends, params.accuracy_weight * decision.accuracy, 0.0)
    return jnp.where(~state.done, reward, 0.0)


def _outcome(state: State, decision: Decision, params: Params) -> Outcome:
    """Returns how the task in hand ended, if it ended with this decision."""
    stop, upload, accuracy = decision.stop, decision.upload, decision.accuracy
    end = jnp.where(stop, upload.end, decision.computed)
    on_server_s = upload.server_wait_s + upload.server_s
    latency_s = seconds(end - state.arrival, params.slot_s)
    latency_s = latency_s + jnp.where(stop, on_server_s + params.rtt_s, 0.0)
    stop_energy_j = decision.numbers.stop_energy_j
    energy_j = jnp.where(stop, stop_energy_j + upload.energy_j, params.device_energy_j[-1])
    return Outcome(
        finished=decision.ends & ~state.done,
        choice=decision.choice,
        latency_s=latency_s,
        energy_j=energy_j,
        accuracy=accuracy,
        utility=params.accuracy_weight * accuracy - latency_s - params.energy_weight * energy_j,
        reports=state.layer + 1,  # one before each decision
    )


def _numbers_at(params: Params, layer: jax.Array) -> LayerNumbers:
    """Selects from a few numbers, which costs less than gathering one."""
    return LayerNumbers(
        layer_s=_number_at(params.layer_s, layer),
        server_s=_number_at(params.server_s, layer),
        stop_energy_j=_number_at(params.device_energy_j[:-1], layer),
        more_energy_j=_number_at(jnp.diff(params.device_energy_j), layer),
        upload_bits=_number_at(params.upload_bits.astype(jnp.float32), layer),
    )


def _number_at(column: jax.Array, index: jax.Array) -> jax.Array:
    number = column[0]
    for i in range(1, column.shape[0]):
        number = jnp.where(index == i, column[i], number)
    return number


def _accuracy(state: State, params: Params, choice: jax.Array) -> jax.Array:
    if params.samples is None:
        return _number_at(params.accuracy, choice)
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
