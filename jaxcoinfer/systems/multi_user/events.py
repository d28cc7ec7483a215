"""The rules of `multi-user`: one slot, played event by event.

A user computes, sends or, with no task left, is free. A task computes `compute_s` of its split (not
at all at the first split), then sends `upload_bits` (nothing at the last), then the next begins at
the same instant. Split and channel of an action hold for tasks that begin from now on; its power
holds at once, also for an upload that is under way. While u sends on channel c its rate is

    W log2(1 + P_u d_u^-a / (sum over others v that send on c of P_v d_v^-a + noise)),

constant from event to event. Joules: watts of the split while computing, P while sending.

What is exact. Events are processed one after another, as many as there are: the loop ends with the
slot, not with a count. The user with the least time left ends its phase by construction, and so do
those within 1e-10 s of it. In float64 the events are those of the plain-Python simulator one by one
(`benchmarks/plain_multi_user.py`). In float32 a single slot agrees with it to 1e-6 J in 99 of 100
cases, and in the others to 1e-3: times are good to about 1e-7 s, and where a slow upload waits for
a fast one to end an error grows by the ratio of their rates. Two events nearer than the error may
change places, which changes no more than the error does; but a task that ends that near to the end
of a slot may be counted in the next one, and the task after it then takes the next action, so that
long trajectories part now and then.

How many events. A user has at most `2 + n slot_s / t` in a slot, with t the seconds of a task at
the new split and at its rate without interference, n the phases (computes, sends) of such a task:
up to 131 for ResNet18 at 1 m, but 15 on average, so that no fixed number is both enough and cheap.
Under `jax.vmap` the loop runs for the whole batch at once, on a CPU for a block of it, users as the
leading axis, until the last replica is through: 5 times as fast on a CPU as the loop that
`jax.vmap` would make of it. It cannot be differentiated in reverse.

Axes: U users.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxcoinfer.core import sharding
from jaxcoinfer.physics.link import snr
from jaxcoinfer.systems.multi_user.params import MultiUserParams

BLOCK = 64  # replicas that wait for each other on a CPU
TIE_S = 1e-10  # phases whose ends are less than this apart end at once


class UsersState(struct.PyTreeNode):
    """What each user still has to do."""

    distance_m: jax.Array  # float32 [U], to the receiver
    all_tasks: jax.Array  # int32 [U], tasks at the beginning
    tasks: jax.Array  # int32 [U], tasks not yet finished
    compute_s: jax.Array  # float32 [U], seconds left to compute of the task at hand
    upload_bits: jax.Array  # float32 [U], bits left to send of the task at hand
    watts: jax.Array  # float32 [U], of the task at hand while it computes
    channel: jax.Array  # int32 [U], of the task at hand
    done: jax.Array  # bool, whether all users are free


class UsersAction(struct.PyTreeNode):
    """What all users are told to do in a slot."""

    split: jax.Array  # int32 [U], of tasks that begin from now on
    channel: jax.Array  # int32 [U], of tasks that begin from now on
    power_w: jax.Array  # float32 [U], kept within least_w and max_w


class UsersOutcome(struct.PyTreeNode):
    """What the users got done in a slot."""

    tasks: jax.Array  # int32 [U], finished
    energy_j: jax.Array  # float32 [U], spent


class Plan(struct.PyTreeNode):
    """What does not change within a slot; `next_...` is of all tasks that begin in it."""

    upload_bits: jax.Array  # float32 [U, ...], of the task at hand
    watts: jax.Array  # float32 [U, ...], of the task at hand while it computes
    channel: jax.Array  # int32 [U, ...], of the task at hand
    next_compute_s: jax.Array  # float32 [U, ...], seconds
    next_upload_bits: jax.Array  # float32 [U, ...], bits
    next_watts: jax.Array  # float32 [U, ...], while computing
    next_channel: jax.Array  # int32 [U, ...]
    power_w: jax.Array  # float32 [U, ...], of the radio while it sends
    snr: jax.Array  # float32 [U, ...], signal-to-noise ratio while nobody else sends
    hertz: jax.Array  # float32 [U, ...], bandwidth of a sub-channel
    phases: jax.Array  # int32 [U, ...], twice the tasks left


class Now(struct.PyTreeNode):
    """An instant of a slot.

    Phase 2n computes and 2n + 1 sends the n-th task since the slot began.
    """

    phase: jax.Array  # int32 [U, ...]; from `Plan.phases` on the user is free
    left: jax.Array  # float32 [U, ...], seconds or bits left of that phase
    energy_j: jax.Array  # float32 [U, ...], spent since the slot began
    rest_s: jax.Array  # float32 [1, ...], seconds until the slot is over


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
        snr=snr(power_w, state.distance_m, params.path_loss, params.noise_w),
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
    """Returns how fast `left` falls, [U, ...]: by 1 while computing, by bit/s while sending."""
    sends = (now.phase & 1) == 1
    heard = jnp.where(sends & (now.phase < plan.phases), plan.snr, 0.0)
    channel = jnp.where(now.phase < 2, plan.channel, plan.next_channel)
    noise = jnp.ones_like(heard)
    # Sums over the others: the sum over all less one's own would lose digits of float32.
    for v in range(heard.shape[0]):
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
    passed_s = now.rest_s  # from this instant to the next
    for u in range(until_s.shape[0]):
        passed_s = jnp.minimum(passed_s, until_s[u : u + 1])
    passed_s = jax.lax.optimization_barrier(passed_s)
    watts = jnp.where(
        (now.phase & 1) == 1, plan.power_w, jnp.where(now.phase < 2, plan.watts, plan.next_watts)
    )
    ends = busy & (until_s - passed_s < TIE_S) & (now.rest_s > 0)
    phase, left = _following(plan, now)
    return Now(
        phase=jnp.where(ends, phase, now.phase),
        left=jnp.where(
            ends, left, jnp.where(busy, jnp.maximum(now.left - rate * passed_s, 0.0), now.left)
        ),
        energy_j=now.energy_j + jnp.where(busy, watts * passed_s, 0.0),
        rest_s=now.rest_s - passed_s,
    )


def _following(plan: Plan, now: Now) -> tuple[jax.Array, jax.Array]:
    """Returns the phase after this one, and what is left in it: phases with nothing to do are
    left out.
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
    """Returns the last instant of the slot; all axes after the first are of replicas, which wait
    for each other.

    On a CPU only those of one block do, whose numbers all fit the nearest cache, unless devices
    share the replicas.
    """
    if now.rest_s.size <= BLOCK or now.rest_s.size % BLOCK or sharding.n_shards() > 1:
        return _play(plan, now)

    def in_blocks(plan: Plan, now: Now) -> Now:
        split = jax.tree.map(
            lambda leaf: jnp.moveaxis(leaf.reshape(len(leaf), -1, BLOCK), 1, 0), (plan, now)
        )
        last = jax.lax.map(lambda block: _play(*block), split)
        return jax.tree.map(
            lambda leaf, whole: jnp.moveaxis(leaf, 0, 1).reshape(whole.shape), last, now
        )

    return jax.lax.platform_dependent(plan, now, cpu=in_blocks, default=_play)


def _play(plan: Plan, now: Now) -> Now:
    return jax.lax.while_loop(
        lambda now: (now.rest_s > 0).any(), lambda now: next_event(plan, now), now
    )


@play_slot.def_vmap
def _replicas_last(axis_size: int, in_batched: Any, plan: Plan, now: Now) -> tuple[Now, Any]:
    def last(leaf: jax.Array, batched: bool) -> jax.Array:
        if not batched:
            return jnp.broadcast_to(leaf[..., None], (*leaf.shape, axis_size))
        return jnp.moveaxis(leaf, 0, -1)

    end = play_slot(*jax.tree.map(last, (plan, now), tuple(in_batched)))
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), end), jax.tree.map(
        lambda _: True, end
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
