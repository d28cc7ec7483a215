"""`on-demand`: for each task an early exit, a cut between device and edge, and the bits of the
feature sent.

The system of Niu et al., *An Adaptive Device-Edge Co-Inference Framework Based on Soft
Actor-Critic* (arXiv 2201.02968), with deadline classes, and with a link and processors that vary.

One task a slot. Exit e, cut p and width q give, with the link rate r, device speed v_d and edge
speed v_e of the slot,

    T = t_dev(e, p) / v_d + bits(e, p, q) / r + rtt [p < end] + t_edge(e, p) / v_e,

at most `cap` deadlines, after which the task is given up; and pay
`omega acc - (1 - omega) T / deadline - penalty [T > deadline]`. Link and speeds are exogenous, and
seen `delay_slots` slots late; the class of the task is seen in time. Axes: A actions, G deadline
classes.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import Outcome, TimeStep
from jaxcoinfer.physics.energy import transmit_energy_j
from jaxcoinfer.physics.link import upload_s
from jaxcoinfer.systems.on_demand import exogenous
from jaxcoinfer.systems.on_demand.exogenous import Slot
from jaxcoinfer.systems.on_demand.params import Params

# Observation: the slot of `delay_slots` ago and the task in hand; then one number a class, 1 for
# the task's own.
OBSERVATION = ("rate", "device_speed", "edge_speed", "deadline")


class State(struct.PyTreeNode):
    """Where one device stands; scalars: row, slot int32; done bool; now: the record of the slot;
    seen: the one that the device knows, of `delay_slots` ago.
    """

    row: jax.Array
    slot: jax.Array
    done: jax.Array
    now: Slot
    seen: Slot


class Costs(struct.PyTreeNode):
    """What actions give, of any common shape: latency_s = device_s + upload_s + edge_s, seconds, at
    most `cap` deadlines, where upload_s counts the round trip; energy_j, joules; accuracy; utility,
    the reward.
    """

    device_s: jax.Array
    upload_s: jax.Array
    edge_s: jax.Array
    latency_s: jax.Array
    energy_j: jax.Array
    accuracy: jax.Array
    utility: jax.Array


@dataclass(frozen=True)
class OnDemand:
    """The environment; an action is the index of (exit, cut, width) in the flattened grid [n_exits,
    n_cuts, n_bits].

    Not all of the grid is valid: see `mask`. An action that is not valid is not replaced by
    another: its task is lost.
    """

    n_exits: int
    n_cuts: int
    n_bits: int
    n_classes: int

    @property
    def n_actions(self) -> int:
        return self.n_exits * self.n_cuts * self.n_bits

    @property
    def n_choices(self) -> int:
        """Choices of a task: every action."""
        return self.n_actions

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (len(OBSERVATION) + self.n_classes,)

    def unflatten(self, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns (exit, cut, width) of an action, each of its type; `action = (exit n_cuts + cut)
        n_bits + width`.
        """
        return (
            action // (self.n_cuts * self.n_bits),
            action // self.n_bits % self.n_cuts,
            action % self.n_bits,
        )

    def mask(self, state: State, params: Params) -> jax.Array:
        """Returns which actions are valid, bool [A]: the same in every state."""
        return params.valid

    def reset(self, key: jax.Array, params: Params) -> tuple[State, TimeStep]:
        """Starts at a random slot of a random row, O(1); consumes the key."""
        key_row, key_slot = jax.random.split(key)
        row = jax.random.randint(key_row, (), 0, params.bank.n_rows, jnp.int32)
        slot = jax.random.randint(key_slot, (), params.delay_slots, params.bank.n_slots, jnp.int32)
        return self.reset_at(row, slot, params)

    def reset_at(self, row: jax.Array, slot: jax.Array, params: Params) -> tuple[State, TimeStep]:
        """Starts at `slot` of `row`, int32; no earlier than slot `delay_slots`, before which
        nothing has been seen.
        """
        slot = jnp.maximum(slot, params.delay_slots)
        state = State(
            row=row,
            slot=slot,
            done=slot >= params.bank.n_slots,
            now=exogenous.slot_at(params.bank, row, slot),
            seen=exogenous.slot_at(params.bank, row, slot - params.delay_slots),
        )
        zero, count, no = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        none = Outcome(no, count, zero, zero, zero, zero, count)
        return state, TimeStep(observe(self, state, params), zero, no, state.done, none)

    def step(self, state: State, action: jax.Array, params: Params) -> tuple[State, TimeStep]:
        """Runs the slot's task as `action`, int32 in [0, A), says."""
        costs = price(params, state.now, state.now.task_class, action)
        alive = ~state.done
        slot = state.slot + alive.astype(jnp.int32)
        following = exogenous.slot_at(params.bank, state.row, slot)
        seen = jnp.where(params.delay_slots == 0, following.record, state.now.record)
        new = State(
            row=state.row,
            slot=slot,
            done=slot >= params.bank.n_slots,
            now=following,
            seen=Slot(jnp.where(alive, seen, state.seen.record)),
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
    """Returns what a task of `task_class` gives at the rate and speeds of `slot`, whose shapes fit;
    `action` int32.
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

    Rate `r / (r + mean rate of the bank)`, which is logistic in log r, and speeds `v / (v + 1)`, of
    the slot the device has seen; the task's deadline over the longest one; its class, one-hot.
    """
    task_class = state.now.task_class
    features = [
        state.seen.rate_bps / (state.seen.rate_bps + params.mean_rate_bps),
        state.seen.device_speed / (state.seen.device_speed + 1.0),
        state.seen.edge_speed / (state.seen.edge_speed + 1.0),
        params.deadline_s.at[task_class].get(mode="promise_in_bounds") / params.deadline_s.max(),
    ]
    return jnp.concatenate(
        [jnp.stack(features), jax.nn.one_hot(task_class, env.n_classes, dtype=jnp.float32)]
    )
