"""`fleet`: a model version, a cut, and shares of one link and one server, for each device of a
fleet.

The system of Qi et al., *Multi-Compression Scale DNN Inference Acceleration based on Cloud-Edge-End
Collaboration* (doi 10.1145/3634704), with links, loads and processors that vary.

In every slot each active device has one task of weight `w` in [0, 1]. It runs a model version up to
a cut and sends the feature with its share x of the band; the server finishes the task with its
share y (or, with a cloud, runs up to a second cut, and the cloud finishes it):

    T_i = device_s / v_i + fixed_s + bits / (x_i B eta_i) + flop / (y_i F),
    cost = sum_i (1 - w_i) (1 - accuracy_i) + w_i T_i / reference_s,

where sum x <= 1 and sum y <= 1, v is the speed of a processor, eta the efficiency of a link, and B
and F are the whole band and server. Links, speeds and what others leave of band and server are
known `delay_slots` slots late. Tasks end in the slot in which they came: a decision changes
nothing but its own reward. Axes: D devices, C choices.
"""

from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import Outcome, TimeStep, select
from jaxcoinfer.physics.energy import transmit_energy_j
from jaxcoinfer.systems.fleet.allocation import FleetTables, allocate, at, normalised
from jaxcoinfer.systems.fleet.exogenous import FleetSlot, seen_at, slot_at
from jaxcoinfer.systems.fleet.params import FleetParams


class FleetState(struct.PyTreeNode):
    """The state of a fleet. Policies do not receive `row` and `now`."""

    row: jax.Array  # int32, row of the bank
    slot: jax.Array  # int32, slot of the row
    done: jax.Array  # bool, whether the row is over
    now: FleetSlot  # the current slot
    seen: FleetSlot  # what is known of it, see `exogenous.seen_at`


class FleetAction(struct.PyTreeNode):
    """An action of an environment with `learned_shares`, [D] each.

    Shares are in proportion to the weights of the devices that use the link or the server.
    """

    choice: jax.Array  # int32
    bandwidth: jax.Array  # float32, weight of the share of the link; below zero counts as zero
    compute: jax.Array  # float32, weight of the share of the server; likewise


class FleetOutcome(Outcome):
    """How the tasks of a slot ended, [D] each; utility is the cost of a task, negative."""

    latency_sensitive: jax.Array  # bool, class of the task: w above one half


class Work(struct.PyTreeNode):
    """Seconds of every choice, [D, C] float32 each."""

    base_s: jax.Array  # whatever the shares
    send_s: jax.Array  # of the upload, with all the bandwidth
    run_s: jax.Array  # on the server, with all of it


# Observation of each device, all in [0, 1]: unbounded numbers as `x / (x + half)`, zeros where a
# device is absent.
OBSERVATION = (
    "active",
    "weight",
    "efficiency",  # half 1 bit/s/Hz
    "speed",  # half 1
    "device_time",  # of the first version on the device, half reference_s
    "upload_time",  # of the input with an equal share of the band, half reference_s
    "server_time",  # of the largest version with an equal share of the server, half reference_s
    "bandwidth",  # share that others leave, half 1
    "server",  # likewise
    "active_devices",  # half 16
)
_HALF_DEVICES = 16.0


@dataclass(frozen=True)
class Fleet:
    """The environment. An action is the choice of each device, [D] int32, or with `learned_shares`
    a `FleetAction`.

    Without `learned_shares` the shares are those of least cost for the choices
    (`systems.fleet.allocation`). With it, a latency counts at most `cap_s`, so that a share of
    almost nothing does not cost a fortune. The bound on the cost holds for capped latencies too: a
    task given up costs `(1 - w)(1 - acc_v) + w cap_s / reference_s`, and `make_params` ensures that
    the same version wholly on the device, which takes no share, costs no more.

    A device that needs a share and has none, or takes an invalid choice, has a latency of `cap_s`;
    an invalid choice also has accuracy 0. With the best shares, only a task of w = 0 can lack one.
    """

    n_devices: int
    n_versions: int  # model versions
    n_cuts: int  # cut 0 sends the input, the last one sends nothing
    with_cloud: bool = False  # whether there is a second cut, between server and cloud
    learned_shares: bool = False  # whether actions hold shares

    @property
    def n_choices(self) -> int:
        return self.n_versions * self.n_cuts * (self.n_cuts if self.with_cloud else 1)

    @property
    def n_actions(self) -> int:
        """Choices of each device."""
        return self.n_choices

    @property
    def observation_shape(self) -> tuple[int, int]:
        return (self.n_devices, len(OBSERVATION))

    def parts(self, choice: Any) -> tuple[Any, Any, Any]:
        """Returns version, cut and second cut of a choice, an integer or an array of any shape.

        Without a cloud the second cut is the last one.
        """
        n_second = self.n_cuts if self.with_cloud else 1
        second = choice % n_second if self.with_cloud else choice * 0 + self.n_cuts - 1
        return choice // (n_second * self.n_cuts), choice // n_second % self.n_cuts, second

    def on_device(self, version: int) -> int:
        """Returns the choice that runs a version wholly on the device."""
        return (version + 1) * self.n_choices // self.n_versions - 1

    def mask(self, state: FleetState, params: FleetParams) -> jax.Array:
        """Returns which choices are valid, [D, C] bool; for an absent device, whose choice means
        nothing, only the first.
        """
        here = state.seen.active[:, None]
        return jnp.where(here, params.valid[None], (jnp.arange(self.n_choices) == 0)[None])

    def visible(self, state: FleetState, params: FleetParams) -> tuple[FleetState, FleetParams]:
        """Returns state and params without what only the world knows."""
        return state.replace(row=None, now=None), params.replace(bank=None)

    def reset(self, key: jax.Array, params: FleetParams) -> tuple[FleetState, TimeStep]:
        """Starts at a random slot of a random row, O(1); consumes the key."""
        key_row, key_slot = jax.random.split(key)
        row = jax.random.randint(key_row, (), 0, params.bank.n_rows, jnp.int32)
        return self.reset_at(
            row, jax.random.randint(key_slot, (), 0, params.bank.n_slots, jnp.int32), params
        )

    def reset_at(
        self, row: jax.Array, slot: jax.Array, params: FleetParams
    ) -> tuple[FleetState, TimeStep]:
        """Starts at `slot` of `row`, int32; all of the first slot of a row is known in time."""
        chex.assert_shape(params.bank.active, (None, None, self.n_devices))
        chex.assert_shape(params.fixed_s, (self.n_choices,))
        now = slot_at(params.bank, row, slot)
        delayed = slot_at(params.bank, row, jnp.maximum(slot - params.delay_slots, 0))
        seen = seen_at(now, delayed)
        state = FleetState(row, slot, slot >= params.bank.n_slots, now, seen)
        nothing, count = jnp.zeros(self.n_devices), jnp.zeros(self.n_devices, jnp.int32)
        no = jnp.zeros(self.n_devices, bool)
        no_tasks = FleetOutcome(no, count, nothing, nothing, nothing, nothing, count, no)
        return state, TimeStep(
            observe(self, state, params), jnp.zeros(()), jnp.zeros((), bool), state.done, no_tasks
        )

    def step(
        self, state: FleetState, action: Any, params: FleetParams
    ) -> tuple[FleetState, TimeStep]:
        """Serves the tasks of this slot; the reward is their mean cost, negative."""
        chex.assert_shape(jax.tree.leaves(action), (self.n_devices,))
        outcome = outcomes(self, state, action, params)
        tasks = jnp.maximum(outcome.finished.sum(), 1).astype(jnp.float32)
        reward = jnp.where(outcome.finished, outcome.utility, 0.0).sum() / tasks
        slot = jnp.where(state.done, state.slot, state.slot + 1)
        now = slot_at(params.bank, state.row, slot)
        seen = seen_at(now, select(params.delay_slots == 0, now, state.now))
        new = state.replace(
            slot=slot,
            done=slot >= params.bank.n_slots,
            now=now,
            seen=select(state.done, state.seen, seen),
        )
        return new, TimeStep(
            observe(self, new, params), reward, jnp.zeros((), bool), new.done, outcome
        )


def outcomes(env: Fleet, state: FleetState, action: Any, params: FleetParams) -> FleetOutcome:
    """Returns how the tasks of this slot end, [D]."""
    choice = action.choice if env.learned_shares else action
    now = state.now
    valid = params.valid.at[choice].get(mode="promise_in_bounds")
    own = jax.tree.map(lambda table: at(table, choice), work(now, params))
    served = now.active & valid
    send_s, run_s = jnp.where(served, own.send_s, 0.0), jnp.where(served, own.run_s, 0.0)
    bandwidth, compute = _shares(env, now, send_s, run_s, action)
    air_s, server_s = (
        _seconds_at(whole_s, share, params.cap_s)
        for whole_s, share in ((send_s, bandwidth), (run_s, compute))
    )
    starved = ((send_s > 0.0) & (bandwidth == 0.0)) | ((run_s > 0.0) & (compute == 0.0))
    latency_s = jnp.where(starved | ~valid, params.cap_s, own.base_s + air_s + server_s)
    if env.learned_shares:
        latency_s, air_s = jnp.minimum(latency_s, params.cap_s), jnp.minimum(air_s, params.cap_s)
    accuracy = jnp.where(valid, params.accuracy.at[choice].get(mode="promise_in_bounds"), 0.0)
    sent = jnp.where(served, params.upload_bits.at[choice].get(mode="promise_in_bounds"), 0.0)
    device_j = params.device_energy_j.at[now.kind, choice].get(mode="promise_in_bounds")
    return FleetOutcome(
        finished=now.active & ~state.done,
        choice=choice,
        latency_s=latency_s,
        energy_j=device_j
        + transmit_energy_j(air_s, params.transmit_w, sent, params.transmit_j_per_bit),
        accuracy=accuracy,
        utility=-(
            (1.0 - now.weight) * (1.0 - accuracy) + now.weight * latency_s / params.reference_s
        ),
        reports=jnp.ones_like(choice),  # each tells the server its link and its task
        latency_sensitive=now.weight > 0.5,
    )


def _shares(
    env: Fleet, now: FleetSlot, send_s: jax.Array, run_s: jax.Array, action: Any
) -> tuple[jax.Array, jax.Array]:
    """Shares of band and server [D]: of the action if they are learned, else of least cost."""
    if not env.learned_shares:
        return allocate(now.weight * send_s, now.weight * run_s)
    bandwidth = normalised(jnp.where(send_s > 0.0, jnp.maximum(action.bandwidth, 0.0), 0.0))
    compute = normalised(jnp.where(run_s > 0.0, jnp.maximum(action.compute, 0.0), 0.0))
    return bandwidth, compute


def _seconds_at(whole_s: jax.Array, share: jax.Array, cap_s: jax.Array) -> jax.Array:
    """Seconds with a share of what takes whole_s with all of it; cap_s with a share of zero."""
    needed = jnp.where(share > 0.0, whole_s / jnp.where(share > 0.0, share, 1.0), cap_s)
    return jnp.where(whole_s > 0.0, needed, 0.0)


def work(now: FleetSlot, params: FleetParams) -> Work:
    """Returns the seconds of every choice, [D, C]: `bits / (B eta)` with all the bandwidth,
    `flop / F` with the whole server.
    """
    device_s = params.device_s.at[now.kind].get(mode="promise_in_bounds")
    rate_bps = params.bandwidth_hz * now.bandwidth * now.efficiency
    run_s = params.server_flop / (params.server_flops * now.server)
    return Work(
        base_s=device_s / now.speed[:, None] + params.fixed_s[None],
        send_s=params.upload_bits[None] / rate_bps[:, None],
        run_s=jnp.broadcast_to(run_s[None], device_s.shape),
    )


def tables(now: FleetSlot, params: FleetParams) -> FleetTables:
    """Returns what every choice of every device costs in a slot, [D, C]: with `state.seen`, as far
    as is known; with `state.now`, in truth.

        a = (1 - w) (1 - accuracy) + w base_s / reference_s
        b = w send_s / reference_s
        c = w run_s / reference_s

    An invalid choice has infinity for a, and zeros.
    """
    seconds = work(now, params)
    here, valid = now.active[:, None], params.valid[None]
    per_second = (now.weight / params.reference_s)[:, None]
    base = (1.0 - now.weight)[:, None] * (1.0 - params.accuracy)[None] + per_second * seconds.base_s
    return FleetTables(
        base=jnp.where(here, jnp.where(valid, base, jnp.inf), 0.0),
        bandwidth=jnp.where(here & valid, per_second * seconds.send_s, 0.0),
        compute=jnp.where(here & valid, per_second * seconds.run_s, 0.0),
    )


def by_class(outcome: FleetOutcome) -> dict[str, jax.Array]:
    """Returns sums over the accuracy-sensitive and the latency-sensitive tasks, [2] each.

    Their names: tasks, accuracy, latency_s, energy_j, cost. Any leading axes of the outcome are
    summed over.
    """
    numbers = {
        "accuracy": outcome.accuracy,
        "latency_s": outcome.latency_s,
        "energy_j": outcome.energy_j,
    }
    numbers |= {"tasks": jnp.ones_like(outcome.accuracy), "cost": -outcome.utility}
    classes = (
        outcome.finished & ~outcome.latency_sensitive,
        outcome.finished & outcome.latency_sensitive,
    )
    return {
        name: jnp.stack([jnp.where(in_class, value, 0.0).sum() for in_class in classes])
        for name, value in numbers.items()
    }


def observe(env: Fleet, state: FleetState, params: FleetParams) -> jax.Array:
    """Returns the observation [D, 10] float32, columns as in `OBSERVATION`, each in [0, 1]."""
    now = state.seen
    seconds = work(now, params)
    n = now.active.sum().astype(jnp.float32)
    ones = jnp.ones_like(now.weight)

    def half(x: jax.Array, at_half: float | jax.Array) -> jax.Array:
        return x / (x + at_half)

    columns = [
        ones,
        now.weight,
        half(now.efficiency, 1.0),
        half(now.speed, 1.0),
        half(seconds.base_s[:, env.on_device(0)], params.reference_s),
        half(n * seconds.send_s[:, 0], params.reference_s),
        half(n * seconds.run_s.max(axis=1), params.reference_s),
        ones * half(now.bandwidth, 1.0),
        ones * half(now.server, 1.0),
        ones * half(n, _HALF_DEVICES),
    ]
    return jnp.where(now.active[:, None], jnp.stack(columns, axis=1), 0.0)
