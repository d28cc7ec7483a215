"""`on-demand`: for each task an early exit, a cut between device and edge, and the bit width of
the feature that is sent.

The system of Niu et al., *An Adaptive Device-Edge Co-Inference Framework Based on Soft
Actor-Critic* (arXiv 2201.02968), with deadline classes, and with a link and processors that vary.

One task a slot. Exit e, cut p and width q give, with the link rate r, device speed v_d and edge
speed v_e of the slot,

    T = t_dev(e, p) / v_d + bits(e, p, q) / r + rtt [p < end] + t_edge(e, p) / v_e,

at most `cap` deadlines, after which the task is given up, and the reward

    omega acc - (1 - omega) T / deadline - penalty [T > deadline].

Link and speeds are exogenous and observed `delay_slots` slots late, a recorded link as its last
finished sample; the class of the task is observed in time. Axes: A actions, G deadline classes.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import Outcome, TimeStep, select
from jaxcoinfer.physics.energy import transmit_energy_j
from jaxcoinfer.physics.link import upload_s
from jaxcoinfer.systems.on_demand import exogenous
from jaxcoinfer.systems.on_demand.exogenous import Slot
from jaxcoinfer.systems.on_demand.params import Params

# Observation: the slot of `delay_slots` ago and the current task; then one number per class, 1 for
# the task's own.
OBSERVATION = ("rate", "device_speed", "edge_speed", "deadline")


class State(struct.PyTreeNode):
    """The state of one device; all scalars. Policies do not receive `row` and `now`."""

    row: jax.Array  # int32, row of the bank
    slot: jax.Array  # int32, slot of the row
    done: jax.Array  # bool, whether the row is over
    task_class: jax.Array  # int32, of the task in hand
    now: Slot  # the current slot
    seen: Slot  # what the device knows of it, see `exogenous.seen_at`


class Costs(struct.PyTreeNode):
    """What actions cost and give; all float32, of any common shape."""

    device_s: jax.Array  # seconds on the device
    upload_s: jax.Array  # seconds of the upload, with the round trip
    edge_s: jax.Array  # seconds on the edge
    latency_s: jax.Array  # the sum of the three, at most `cap` deadlines
    energy_j: jax.Array  # joules of the device
    accuracy: jax.Array  # in [0, 1]
    utility: jax.Array  # the reward


@dataclass(frozen=True)
class OnDemand:
    """The environment; an action is the index of (exit, cut, width) in the flattened grid [n_exits,
    n_cuts, n_bits].

    Not all of the grid is valid: see `mask`. An invalid action is not replaced by another: its task
    is lost.
    """

    n_exits: int  # the last exit is the full network
    n_cuts: int  # cut 0 sends the input, the last one sends nothing
    n_bits: int  # bit widths of a feature
    n_classes: int  # deadline classes

    @property
    def n_actions(self) -> int:
        return self.n_exits * self.n_cuts * self.n_bits

    @property
    def n_choices(self) -> int:
        """Choices for a task: every action."""
        return self.n_actions

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (len(OBSERVATION) + self.n_classes,)

    def unflatten(self, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns (exit, cut, width) of an action, each of its shape and type.

        `action = (exit * n_cuts + cut) * n_bits + width`.
        """
        return (
            action // (self.n_cuts * self.n_bits),
            action // self.n_bits % self.n_cuts,
            action % self.n_bits,
        )

    def mask(self, state: State, params: Params) -> jax.Array:
        """Returns which actions are valid, bool [A]: the same in every state."""
        return params.valid

    def visible(self, state: State, params: Params) -> tuple[State, Params]:
        """Returns state and params without what only the world knows."""
        return state.replace(row=None, now=None), params.replace(bank=None)

    def reset(self, key: jax.Array, params: Params) -> tuple[State, TimeStep]:
        """Starts at a random slot of a random row, O(1); consumes the key."""
        key_row, key_slot = jax.random.split(key)
        row = jax.random.randint(key_row, (), 0, params.bank.n_rows, jnp.int32)
        slot = jax.random.randint(key_slot, (), params.delay_slots, params.bank.n_slots, jnp.int32)
        return self.reset_at(row, slot, params)

    def reset_at(self, row: jax.Array, slot: jax.Array, params: Params) -> tuple[State, TimeStep]:
        """Starts at `slot` of `row`, int32; no earlier than slot `delay_slots`, before which the
        device has observed nothing.
        """
        slot = jnp.maximum(slot, params.delay_slots)
        now = exogenous.slot_at(params.bank, row, slot)
        delayed = exogenous.slot_at(params.bank, row, slot - params.delay_slots)
        state = State(
            row=row,
            slot=slot,
            done=slot >= params.bank.n_slots,
            task_class=now.task_class,
            now=now,
            seen=exogenous.seen_at(now, delayed),
        )
        zero, count, no = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        no_task = Outcome(no, count, zero, zero, zero, zero, count)
        return state, TimeStep(observe(self, state, params), zero, no, state.done, no_task)

    def step(self, state: State, action: jax.Array, params: Params) -> tuple[State, TimeStep]:
        """Runs the task of the slot as decided by `action`, int32 in [0, A)."""
        costs = price(params, state.now, state.task_class, action)
        alive = ~state.done
        slot = state.slot + alive.astype(jnp.int32)
        following = exogenous.slot_at(params.bank, state.row, slot)
        delayed = select(params.delay_slots == 0, following, state.now)
        new = State(
            row=state.row,
            slot=slot,
            done=slot >= params.bank.n_slots,
            task_class=following.task_class,
            now=following,
            seen=select(alive, exogenous.seen_at(following, delayed), state.seen),
        )
        outcome = Outcome(
            finished=alive,
            choice=action,
            latency_s=costs.latency_s,
            energy_j=costs.energy_j,
            accuracy=costs.accuracy,
            utility=costs.utility,
            reports=jnp.ones((), jnp.int32),  # what the device knows, before it decides
        )
        reward = jnp.where(alive, costs.utility, 0.0)
        return new, TimeStep(
            observe(self, new, params), reward, jnp.zeros((), bool), new.done, outcome
        )


def price(params: Params, slot: Slot, task_class: jax.Array, action: jax.Array) -> Costs:
    """Returns what a task of `task_class` costs and gives at the rate and speeds of `slot`.

    The shapes of slot, task_class and action, both int32, must broadcast.
    """
    t_dev_s, t_edge_s, bits, offloads, accuracy, device_energy_j = (
        table.at[action].get(mode="promise_in_bounds")
        for table in (
            params.t_dev_s,
            params.t_edge_s,
            params.upload_bits,
            params.offloads,
            params.accuracy,
            params.device_energy_j,
        )
    )
    deadline_s, omega, penalty = (
        table.at[task_class].get(mode="promise_in_bounds")
        for table in (params.deadline_s, params.accuracy_weight, params.penalty)
    )
    longest_s = params.cap * deadline_s
    device_s = t_dev_s / slot.device_speed
    air_s = upload_s(bits, slot.rate_bps, longest_s)
    edge_s = t_edge_s / slot.edge_speed
    sent_s = air_s + jnp.where(offloads, params.rtt_s, 0.0)
    latency_s = jnp.minimum(device_s + sent_s + edge_s, longest_s)
    missed = (latency_s > deadline_s).astype(jnp.float32)
    return Costs(
        device_s=device_s,
        upload_s=sent_s,
        edge_s=edge_s,
        latency_s=latency_s,
        energy_j=device_energy_j
        + transmit_energy_j(air_s, params.transmit_w, bits, params.transmit_j_per_bit),
        accuracy=accuracy,
        utility=omega * accuracy - (1.0 - omega) * latency_s / deadline_s - penalty * missed,
    )


def observe(env: OnDemand, state: State, params: Params) -> jax.Array:
    """Returns the observation [4 + G] float32, in the order of `OBSERVATION`, then the class; each
    in [0, 1].

    Of what the device knows: rate `r / (r + typical_bps)`, which is logistic in log r, and speeds
    `v / (v + 1)`. Of the task: its deadline over the longest one, and its class, one-hot.
    """
    task_class = state.task_class
    features = [
        state.seen.rate_bps / (state.seen.rate_bps + params.typical_bps),
        state.seen.device_speed / (state.seen.device_speed + 1.0),
        state.seen.edge_speed / (state.seen.edge_speed + 1.0),
        params.deadline_s.at[task_class].get(mode="promise_in_bounds") / params.deadline_s.max(),
    ]
    return jnp.concatenate(
        [jnp.stack(features), jax.nn.one_hot(task_class, env.n_classes, dtype=jnp.float32)]
    )
