"""What policies of `multi-user` do in episodes that all begin alike: rewards, tasks, joules,
decisions.

Axes: K starts of a bank, T slots, U users, N decisions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxcoinfer.core.contract import TimeStep, Wrapper
from jaxcoinfer.core.rollout import Oracle, Policy, unroll
from jaxcoinfer.evaluation.executor import (
    Learned,
    MultiPolicyEnv,
    PolicyWorld,
    weights_by_seed,
)
from jaxcoinfer.systems.multi_user import baselines
from jaxcoinfer.systems.multi_user.env import MultiUser
from jaxcoinfer.systems.multi_user.events import UsersAction, UsersOutcome, UsersState
from jaxcoinfer.systems.multi_user.params import MultiUserParams

_STRETCH = 32  # slots of a jitted stretch; after each the host checks whether all episodes are done
_MAX_SLOTS = 512  # after which an episode counts as it is


@dataclass(frozen=True)
class Decisions:
    """What a policy decided for users that had tasks left."""

    distance_m: np.ndarray  # float [N], of the user
    split: np.ndarray  # int [N]
    channel: np.ndarray  # int [N]
    power_w: np.ndarray  # float [N]


@dataclass(frozen=True)
class Episodes:
    """What one policy did from every start of a bank."""

    reward: np.ndarray  # float [K], sum over the slots
    slots: np.ndarray  # int [K], until all users were free
    tasks: np.ndarray  # int [K], that all users finished
    energy_j: np.ndarray  # float [K], that all users spent
    ended: np.ndarray  # bool [K], whether all users were free within the slots that were played
    decisions: Decisions  # of all episodes


class _Recorded(struct.PyTreeNode):
    """The outcome of a slot, and the decisions that it followed from."""

    outcome: UsersOutcome
    action: UsersAction
    busy: jax.Array  # bool [U], whether the user had tasks left


@dataclass(frozen=True)
class _Recorder(Wrapper):
    """The environment with decisions in its outcome."""

    def reset_at(
        self, row: jax.Array, slot: jax.Array, params: MultiUserParams
    ) -> tuple[UsersState, TimeStep]:
        """Starts as `env` does; no decision led there."""
        state, timestep = self.env.reset_at(row, slot, params)
        none = UsersAction(state.channel, state.channel, state.distance_m)
        return state, self._with(timestep, none, state)

    def step(
        self, state: UsersState, action: UsersAction, params: MultiUserParams
    ) -> tuple[UsersState, TimeStep]:
        """Steps as `env` does."""
        after, timestep = self.env.step(state, action, params)
        return after, self._with(timestep, action, state)

    def _with(self, timestep: TimeStep, action: UsersAction, state: UsersState) -> TimeStep:
        return timestep.replace(outcome=_Recorded(timestep.outcome, action, state.tasks > 0))


def play(
    env: MultiUser,
    policies: Mapping[str, Policy | Learned],
    params: MultiUserParams,
    key: jax.Array,
) -> dict[str, list[Episodes]]:
    """Returns what each policy does from every start of the bank, of each seed it was learned from,
    all with the same draws; consumes the key.
    """
    n_seeds, by_seed = weights_by_seed(policies)
    shared = MultiPolicyEnv(_Recorder(env), tuple(policies.values()))

    @jax.jit  # compiled once for all policies, with the numbers as constants
    def stretch(
        policy: jax.Array, weights: Any, key: jax.Array, state: UsersState, timestep: TimeStep
    ) -> tuple[UsersState, TimeStep, tuple[jax.Array, ...], _Recorded]:
        return _stretch(shared, PolicyWorld(params, policy, weights), key, state, timestep)

    rows = jnp.arange(params.bank.n_rows, dtype=jnp.int32)
    reset = jax.jit(jax.vmap(shared.env.reset_at, (0, None, None)))
    state, timestep = reset(rows, jnp.int32(0), params)
    return {
        name: [
            _play(partial(stretch, jnp.int32(place), by_seed[seed]), state, timestep, key)
            for seed in range(n_seeds[name])
        ]
        for place, name in enumerate(policies)
    }


def best_fixed(env: MultiUser, params: MultiUserParams, key: jax.Array, n_rows: int = 128) -> int:
    """Returns the split that, always taken by all, gives the most reward from the first starts of
    the bank; consumes the key.
    """
    policies = {str(split): baselines.fixed_split(env, split) for split in range(env.n_splits)}
    episodes = play(env, policies, first_starts(params, n_rows), key)
    return int(np.argmax([one.reward.mean() for (one,) in episodes.values()]))


def _stretch(
    env: MultiPolicyEnv, world: PolicyWorld, key: jax.Array, state: UsersState, timestep: TimeStep
) -> tuple[UsersState, TimeStep, tuple[jax.Array, ...], _Recorded]:
    """Plays some slots; returns where they end, sums over them by episode [K], and their records
    [T, K, ...].
    """
    alive = ~timestep.terminated
    state, timestep, steps = unroll(env, world, Oracle(env.act), key, state, timestep, _STRETCH)
    slots = jnp.concatenate([alive[None], ~steps.terminated[:-1]]).sum(axis=0)
    users = steps.outcome.outcome
    tasks, energy_j = users.tasks.sum((0, 2)), users.energy_j.sum((0, 2))
    return state, timestep, (steps.reward.sum(axis=0), slots, tasks, energy_j), steps.outcome


def _play(
    stretch: Callable[..., tuple], state: UsersState, timestep: TimeStep, key: jax.Array
) -> Episodes:
    """Plays from the starts of all episodes, a stretch at a time."""
    distance_m = np.asarray(state.distance_m)  # which no slot changes
    sums, records = [], []
    while not bool(timestep.terminated.all()) and len(sums) * _STRETCH < _MAX_SLOTS:
        key, key_stretch = jax.random.split(key)
        state, timestep, *rest = stretch(key_stretch, state, timestep)
        stretch_sums, stretch_records = jax.tree.map(np.asarray, rest)
        sums.append(stretch_sums)
        records.append(stretch_records)
    totals = [np.sum(stretches, axis=0) for stretches in zip(*sums, strict=True)]
    decisions = _decisions(records, distance_m)
    return Episodes(*totals, ended=np.asarray(timestep.terminated), decisions=decisions)


def _decisions(records: list[_Recorded], distance_m: np.ndarray) -> Decisions:
    """The decisions for users with tasks left, of records [T, K, U] one after another."""
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *records)
    action, busy = whole.action, whole.busy
    return Decisions(
        distance_m=np.broadcast_to(distance_m, busy.shape)[busy],
        split=action.split[busy],
        channel=action.channel[busy],
        power_w=action.power_w[busy],
    )


def first_starts(params: MultiUserParams, n_rows: int) -> MultiUserParams:
    """Returns the numbers with the first n_rows starts of the bank only."""
    return params.replace(bank=jax.tree.map(lambda column: column[:n_rows], params.bank))
