"""`multi-user`: split, sub-channel and power for users that interfere; several tasks complete
inside a slot.

The environment of Hao et al., *Multi-Agent Collaborative Inference via DNN Decoupling* (arXiv
2205.11854), with the semantics of its public code (Hao840/MAHPPO), so that runs can be compared. A
user computes, sends or, with no task left, is free. A task computes `compute_s` of its split (not
at all at the first), then sends `upload_bits` (nothing at the last), then the next begins at the
same instant. Split and channel of an action hold for tasks that begin from now on; its power holds
at once, also for an upload that is under way. While u sends on channel c its rate is

    W log2(1 + P_u d_u^-a / (sum over others v that send on c of P_v d_v^-a + noise)),

constant from event to event. Joules: watts of the split while computing, P while sending. The
reward of a slot is `-(slot_s + beta e) / f`, with e and f the means over users of joules and of
finished tasks, f at least tasks_floor.

What is exact. Events are processed one after another, as many as there are: the loop ends with the
slot, not with a count. Who has the least remaining time is done by construction, and so is who is
within 1e-10 s of it. In float64 the events are those of the plain-Python reference one by one
(`tests/test_multi_user.py`). In float32 a single slot agrees with it to 1e-6 J in 99 of 100 cases,
and in the others to 1e-3: times are good to about 1e-7 s, and where a slow upload waits for a fast
one to end an error grows by the ratio of their rates. Two events nearer than the error may change
places, which changes no more than the error does; but a task that ends that near to the end of a
slot may be counted in the next one, and the task after it then takes the next action, so that long
trajectories part now and then.

How many events. A user has at most `2 + n slot_s / t` in a slot, with t the seconds of a task at
the new split and at its rate without interference, n the phases (computes, sends) of such a task:
up to 131 for ResNet18 at 1 m, but 15 on the average, so that no fixed number is both enough and
cheap. Under `jax.vmap` the loop runs for the whole batch at once, on a CPU for a block of it, users
as the leading axis, until the last replica is through: 5 times as fast on a CPU as the loop that
`jax.vmap` would make of it. It cannot be differentiated in reverse.

All randomness is in the bank of starts. The first power that the public code draws is left out:
every step sets powers before anything is sent. Axes: U users, S splits, C channels.
"""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxcoinfer.core import sharding
from jaxcoinfer.core.contract import TimeStep
from jaxcoinfer.systems.multi_user.params import MultiUserParams

OBSERVATION = ("tasks_left", "compute_left", "upload_left", "distance")  # of each user
BLOCK = 64  # replicas that wait for each other on a CPU
TIE_S = 1e-10  # whose remaining time differs by less ends at once


class UsersState(struct.PyTreeNode):
    """Where the users stand, [U], but done, a bool.

    distance_m; all_tasks, tasks int32: at the beginning, and not yet finished. Of the task at hand:
    compute_s and upload_bits that are left, watts of its split, channel int32.
    """

    distance_m: jax.Array
    all_tasks: jax.Array
    tasks: jax.Array
    compute_s: jax.Array
    upload_bits: jax.Array
    watts: jax.Array
    channel: jax.Array
    done: jax.Array


class UsersAction(struct.PyTreeNode):
    """An action, [U]: split and channel int32; power_w, kept within least_w and max_w."""

    split: jax.Array
    channel: jax.Array
    power_w: jax.Array


class UsersOutcome(struct.PyTreeNode):
    """What the users got done in a slot, [U]: tasks int32 finished; energy_j spent."""

    tasks: jax.Array
    energy_j: jax.Array


class Plan(struct.PyTreeNode):
    """What does not change within a slot, [U, ...].

    Of the task at hand and, as next_..., of all that follow it in this slot: compute_s (of the
    followers alone), upload_bits, watts, channel. power_w; snr at the receiver with nobody else;
    hertz; phases: twice the tasks left.
    """

    upload_bits: jax.Array
    watts: jax.Array
    channel: jax.Array
    next_compute_s: jax.Array
    next_upload_bits: jax.Array
    next_watts: jax.Array
    next_channel: jax.Array
    power_w: jax.Array
    snr: jax.Array
    hertz: jax.Array
    phases: jax.Array


class Now(struct.PyTreeNode):
    """An instant of a slot, [U, ...]: phase int32, left, energy_j; rest_s [1, ...] until the slot
    is over.

    Phase 2n computes and 2n + 1 sends the n-th task since the slot began; left: seconds or bits of
    that phase.
    """

    phase: jax.Array
    left: jax.Array
    energy_j: jax.Array
    rest_s: jax.Array


@dataclass(frozen=True)
class MultiUser:
    """The environment. An action is a `UsersAction`; after the end, when all users are free, none
    changes anything.
    """

    n_users: int
    n_channels: int
    n_splits: int

    @property
    def observation_shape(self) -> tuple[int, int]:
        return (self.n_users, len(OBSERVATION))

    def mask(self, state: UsersState, params: MultiUserParams) -> UsersAction:
        """Returns which actions are valid, bool: all; split [U, S], channel [U, C], power_w [U]."""
        shapes = ((self.n_users, self.n_splits), (self.n_users, self.n_channels), (self.n_users,))
        return UsersAction(*(jnp.ones(shape, bool) for shape in shapes))

    def reset(self, key: jax.Array, params: MultiUserParams) -> tuple[UsersState, TimeStep]:
        """Starts as a random row of the bank says, O(1); consumes the key."""
        return self.reset_at(
            jax.random.randint(key, (), 0, params.bank.n_rows, jnp.int32), jnp.int32(0), params
        )

    def reset_at(
        self, row: jax.Array, slot: jax.Array, params: MultiUserParams
    ) -> tuple[UsersState, TimeStep]:
        """Starts as `row` of the bank says, int32; an episode has one start, so `slot` does not
        matter.
        """
        chex.assert_shape(params.bank.distance_m, (None, self.n_users))
        chex.assert_shape(params.compute_s, (self.n_splits,))
        start = jax.tree.map(lambda column: column[row], params.bank)
        state = UsersState(
            distance_m=start.distance_m,
            all_tasks=start.tasks,
            tasks=start.tasks,
            compute_s=params.compute_s[start.split],
            upload_bits=params.upload_bits[start.split],
            watts=params.compute_w[start.split],
            channel=start.channel,
            done=jnp.zeros((), bool),
        )
        none = UsersOutcome(jnp.zeros_like(start.tasks), jnp.zeros_like(start.distance_m))
        no = jnp.zeros((), bool)
        return state, TimeStep(observe(state, params), jnp.zeros_like(params.slot_s), no, no, none)

    def step(
        self, state: UsersState, action: UsersAction, params: MultiUserParams
    ) -> tuple[UsersState, TimeStep]:
        """Plays one slot."""
        chex.assert_shape(jax.tree.leaves(action), (self.n_users,))
        plan, now = start_slot(state, action, params)
        new, outcome = end_slot(state, plan, play_slot(plan, now))
        reward = jnp.where(state.done, 0.0, slot_reward(outcome, params))
        return new, TimeStep(observe(new, params), reward, new.done, jnp.zeros((), bool), outcome)


def start_slot(state: UsersState, action: UsersAction, params: MultiUserParams) -> tuple[Plan, Now]:
    """Returns what holds for the slot, and its first instant."""
    power_w = jnp.clip(action.power_w, params.least_w, params.max_w)
    computes = state.compute_s > 0
    plan = Plan(
        upload_bits=state.upload_bits,
        watts=state.watts,
        channel=state.channel,
        next_compute_s=params.compute_s[action.split],
        next_upload_bits=params.upload_bits[action.split],
        next_watts=params.compute_w[action.split],
        next_channel=action.channel,
        power_w=power_w,
        snr=power_w * state.distance_m**-params.path_loss / params.noise_w,
        hertz=jnp.full_like(power_w, params.bandwidth_hz),
        phases=2 * state.tasks,
    )
    return plan, Now(
        phase=jnp.where(computes | (state.tasks == 0), 0, jnp.ones_like(state.tasks)),
        left=jnp.where(computes, state.compute_s, state.upload_bits),
        energy_j=jnp.zeros_like(power_w),
        rest_s=jnp.full_like(power_w[:1], params.slot_s),
    )


def rates(plan: Plan, now: Now) -> jax.Array:
    """Returns what `left` falls by in a second, [U, ...]: 1 while computing, bit/s while sending."""
    sends = (now.phase & 1) == 1
    heard = jnp.where(sends & (now.phase < plan.phases), plan.snr, 0.0)
    channel = jnp.where(now.phase < 2, plan.channel, plan.next_channel)
    noise = jnp.ones_like(heard)
    for v in range(
        heard.shape[0]
    ):  # sums over the others: the sum over all less one's own would lose float32's digits
        others = np.arange(heard.shape[0]).reshape(-1, *[1] * (heard.ndim - 1)) != v
        noise = noise + jnp.where(others & (channel == channel[v : v + 1]), heard[v : v + 1], 0.0)
    return jnp.where(sends, plan.hertz * jnp.log1p(plan.snr / noise) * (1.0 / np.log(2.0)), 1.0)


def next_event(plan: Plan, now: Now) -> Now:
    """Returns the instant of the next event or, if that is sooner, the end of the slot."""
    rate = rates(plan, now)
    busy = now.phase < plan.phases
    until_s = jnp.where(busy, now.left / rate, jnp.inf)
    # The compiler would compute both again for everything that follows.
    rate, until_s = jax.lax.optimization_barrier((rate, until_s))
    least_s = now.rest_s
    for u in range(until_s.shape[0]):
        least_s = jnp.minimum(least_s, until_s[u : u + 1])
    least_s = jax.lax.optimization_barrier(least_s)
    watts = jnp.where(
        (now.phase & 1) == 1, plan.power_w, jnp.where(now.phase < 2, plan.watts, plan.next_watts)
    )
    ends = busy & (until_s - least_s < TIE_S) & (now.rest_s > 0)
    phase, left = _following(plan, now)
    return Now(
        phase=jnp.where(ends, phase, now.phase),
        left=jnp.where(
            ends, left, jnp.where(busy, jnp.maximum(now.left - rate * least_s, 0.0), now.left)
        ),
        energy_j=now.energy_j + jnp.where(busy, watts * least_s, 0.0),
        rest_s=now.rest_s - least_s,
    )


def _following(plan: Plan, now: Now) -> tuple[jax.Array, jax.Array]:
    """Returns the phase after this one, and what is left in it: phases in which nothing is to be
    done are left out.
    """
    bits = jnp.where(now.phase < 2, plan.upload_bits, plan.next_upload_bits)
    sends_now = ((now.phase & 1) == 0) & (bits > 0)
    sends_next = ~sends_now & (plan.next_compute_s == 0)
    begun = now.phase - (now.phase & 1)  # of the task at hand
    phase = begun + jnp.where(sends_now, 1, jnp.where(sends_next, 3, 2))
    left = jnp.where(
        sends_now, bits, jnp.where(sends_next, plan.next_upload_bits, plan.next_compute_s)
    )
    return phase, left


@jax.custom_batching.custom_vmap
def play_slot(plan: Plan, now: Now) -> Now:
    """Returns the last instant of the slot; any axes after the first are of replicas, which wait
    for each other.

    On a CPU only those of a block do, of which all numbers fit the nearest cache, unless devices
    share the replicas.
    """
    if now.rest_s.size <= BLOCK or now.rest_s.size % BLOCK or sharding.n_shards() > 1:
        return _play(plan, now)

    def in_blocks(plan, now):
        split = jax.tree.map(
            lambda leaf: jnp.moveaxis(leaf.reshape(len(leaf), -1, BLOCK), 1, 0), (plan, now)
        )
        ended = jax.lax.map(lambda block: _play(*block), split)
        return jax.tree.map(
            lambda leaf, whole: jnp.moveaxis(leaf, 0, 1).reshape(whole.shape), ended, now
        )

    return jax.lax.platform_dependent(plan, now, cpu=in_blocks, default=_play)


def _play(plan: Plan, now: Now) -> Now:
    return jax.lax.while_loop(
        lambda now: (now.rest_s > 0).any(), lambda now: next_event(plan, now), now
    )


@play_slot.def_vmap
def _replicas_last(axis_size: int, in_batched, plan: Plan, now: Now):
    def last(leaf, batched):
        if not batched:
            return jnp.broadcast_to(leaf[..., None], (*leaf.shape, axis_size))
        return jnp.moveaxis(leaf, 0, -1)

    ended = play_slot(*jax.tree.map(last, (plan, now), tuple(in_batched)))
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), ended), jax.tree.map(
        lambda _: True, ended
    )


def end_slot(state: UsersState, plan: Plan, now: Now) -> tuple[UsersState, UsersOutcome]:
    """Returns the state after a slot, given its last instant, and what was done."""
    busy, same, computes = now.phase < plan.phases, now.phase < 2, (now.phase & 1) == 0
    finished = jnp.minimum(now.phase // 2, state.tasks)
    bits = jnp.where(computes, jnp.where(same, plan.upload_bits, plan.next_upload_bits), now.left)
    tasks = state.tasks - finished
    new = state.replace(
        tasks=tasks,
        compute_s=jnp.where(busy & computes, now.left, 0.0),
        upload_bits=jnp.where(busy, bits, 0.0),
        watts=jnp.where(same, plan.watts, plan.next_watts),
        channel=jnp.where(same, plan.channel, plan.next_channel),
        done=(tasks == 0).all(),
    )
    return new, UsersOutcome(finished, now.energy_j)


def slot_reward(outcome: UsersOutcome, params: MultiUserParams) -> jax.Array:
    """Returns `-(slot_s + beta e) / f`; e joules, f finished tasks, means over users, f at least
    tasks_floor.
    """
    finished = jnp.maximum(outcome.tasks.astype(params.slot_s.dtype).mean(), params.tasks_floor)
    return -(params.slot_s + params.energy_weight * outcome.energy_j.mean()) / finished


def observe(state: UsersState, params: MultiUserParams) -> jax.Array:
    """Returns the observation [U, 4], columns as in `OBSERVATION`.

    Tasks left of all; seconds left to compute / scale_s; bits left to send (while computing: that
    will be) / scale_bits; distance, 0 at the nearest and 1 at the farthest. In [0, 1] but where a
    scale is less than the table.
    """
    nearest_m, farthest_m = params.distances_m
    columns = [
        state.tasks.astype(state.distance_m.dtype) / state.all_tasks.astype(state.distance_m.dtype),
        state.compute_s / params.scale_s,
        state.upload_bits / params.scale_bits,
        (state.distance_m - nearest_m) / (farthest_m - nearest_m),
    ]
    return jnp.stack(columns, axis=1)
