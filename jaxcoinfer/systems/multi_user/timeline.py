"""The first tasks of an episode of `multi-user`, event by event, as a Chrome trace.

Axes: U users, E events.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy, act
from jaxcoinfer.evaluation import chrome_trace
from jaxcoinfer.systems.multi_user.env import MultiUser, observe
from jaxcoinfer.systems.multi_user.events import (
    Now,
    Plan,
    UsersAction,
    UsersState,
    end_slot,
    next_event,
    start_slot,
)
from jaxcoinfer.systems.multi_user.params import MultiUserParams

_EVENTS = 32  # of a jitted stretch


@dataclass(frozen=True)
class Phase:
    """One user computing or sending for one of its tasks."""

    user: int
    task: int  # which of the tasks of the user, from 0
    sends: bool  # whether it sends, else it computes
    begin_s: float  # since the episode began
    end_s: float  # since the episode began
    split: int  # of the task
    channel: int  # of the task
    power_w: float  # of the radio in the slot in which the phase ends


@dataclass(frozen=True)
class _Slot:
    """A slot as it was played."""

    tasks: np.ndarray  # int [U], left when it began
    action: UsersAction
    plan: Plan
    instants: Now  # leaves [E + 1, ...], from its first instant to its last


def chrome(
    env: MultiUser, params: MultiUserParams, policy: Policy, key: jax.Array, n_tasks: int
) -> dict[str, Any]:
    """Returns what users do from start 0 until n_tasks are finished, to the end of that slot, as a
    Chrome trace: one track per user; consumes the key.
    """
    names = {user: f"user {user}" for user in range(env.n_users)}
    events = chrome_trace.tracks("multi-user", names)
    for phase in phases(env, params, policy, key, n_tasks):
        numbers: dict[str, Any] = {"task": phase.task, "split": phase.split}
        if phase.sends:
            numbers |= {"channel": phase.channel, "power_w": round(phase.power_w, 6)}
        what = "sends" if phase.sends else "computes"
        begin_us, end_us = 1e6 * phase.begin_s, 1e6 * phase.end_s
        events.append(chrome_trace.slice_of(phase.user, what, begin_us, end_us, numbers))
    return {"displayTimeUnit": "ms", "traceEvents": events}


def phases(
    env: MultiUser, params: MultiUserParams, policy: Policy, key: jax.Array, n_tasks: int
) -> list[Phase]:
    """Returns what users do from start 0 until n_tasks are finished, to the end of that slot;
    consumes the key.
    """
    slot_s = float(params.slot_s)
    begin_s = np.zeros(env.n_users)  # of the phase of each user
    split = np.asarray(params.bank.split[0])  # of the task at hand when a slot begins
    done, n_finished = [], 0
    for number, slot in enumerate(_slots(env, params, policy, key)):
        phase, action = np.asarray(slot.instants.phase), jax.tree.map(np.asarray, slot.action)
        for event, user in np.argwhere(phase[:-1] != phase[1:]).tolist():
            end_s = (number + 1) * slot_s - float(slot.instants.rest_s[event + 1, 0])
            place = int(phase[event, user])  # 2n computes, 2n + 1 sends the n-th task of the slot
            first = place < 2
            channel = (slot.plan.channel if first else slot.plan.next_channel)[user]
            done.append(
                Phase(
                    user=user,
                    task=int(params.bank.tasks[0, user] - slot.tasks[user]) + place // 2,
                    sends=place % 2 == 1,
                    begin_s=float(begin_s[user]),
                    end_s=end_s,
                    split=int(split[user] if first else action.split[user]),
                    channel=int(channel),
                    power_w=float(slot.plan.power_w[user]),
                )
            )
            begin_s[user] = end_s
        split = np.where(phase[-1] < 2, split, action.split)
        n_finished += int(np.minimum(phase[-1] // 2, slot.tasks).sum())
        if n_finished >= n_tasks:
            break
    return done


def _slots(
    env: MultiUser, params: MultiUserParams, policy: Policy, key: jax.Array
) -> Iterator[_Slot]:
    """Plays the episode from start 0, slot by slot."""

    @jax.jit
    def start(key: jax.Array, state: UsersState) -> tuple[UsersAction, Plan, Now]:
        action = act(env, policy, key, state, observe(state, params), params)
        return action, *start_slot(state, action, params)

    @jax.jit
    def stretch(plan: Plan, now: Now) -> tuple[Now, Now]:
        def move(now: Now, _: None) -> tuple[Now, Now]:
            after = next_event(plan, now)
            return after, after

        return jax.lax.scan(move, now, length=_EVENTS)

    finish = jax.jit(end_slot)
    state, _ = jax.jit(env.reset_at)(jnp.int32(0), jnp.int32(0), params)
    while not bool(state.done):
        key, key_act = jax.random.split(key)
        action, plan, now = start(key_act, state)
        parts = [jax.tree.map(lambda leaf: leaf[None], now)]
        while float(now.rest_s[0]) > 0:
            now, after = stretch(plan, now)
            parts.append(after)
        instants = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        yield _Slot(np.asarray(state.tasks), action, plan, instants)
        state, _ = finish(state, plan, now)
