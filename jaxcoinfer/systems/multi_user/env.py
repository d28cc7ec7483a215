"""`multi-user`: split, sub-channel and power for users that interfere; several tasks complete
inside a slot.

The environment of Hao et al., *Multi-Agent Collaborative Inference via DNN Decoupling* (arXiv
2205.11854), with the semantics of its public code (Hao840/MAHPPO), so that runs can be compared.
What happens within a slot is in `events`. The reward of a slot is `-(slot_s + beta e) / f`, with e
and f the means over users of joules and of finished tasks, f at least tasks_floor.

All randomness is in the bank of starts. The first power that the public code draws is left out:
every step sets powers before anything is sent. Axes: U users, S splits, C channels.
"""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp

from jaxcoinfer.core.contract import TimeStep
from jaxcoinfer.systems.multi_user.events import (
    UsersAction,
    UsersOutcome,
    UsersState,
    end_slot,
    play_slot,
    start_slot,
)
from jaxcoinfer.systems.multi_user.params import MultiUserParams

OBSERVATION = ("tasks_left", "compute_left", "upload_left", "distance")  # of each user


@dataclass(frozen=True)
class MultiUser:
    """The environment. An action is a `UsersAction`; once all users are free, no action changes
    anything.
    """

    n_users: int
    n_channels: int
    n_splits: int  # the input first, all on the device last

    @property
    def n_actions(self) -> int:
        """How many pairs of split and channel a user has; its power comes on top."""
        return self.n_splits * self.n_channels

    @property
    def n_choices(self) -> int:
        """How many splits a task has."""
        return self.n_splits

    @property
    def observation_shape(self) -> tuple[int, int]:
        """Shape of an observation, [U, 4]."""
        return (self.n_users, len(OBSERVATION))

    def mask(self, state: UsersState, params: MultiUserParams) -> UsersAction:
        """Returns which actions are valid, bool: all; split [U, S], channel [U, C], power_w [U]."""
        shapes = ((self.n_users, self.n_splits), (self.n_users, self.n_channels), (self.n_users,))
        return UsersAction(*(jnp.ones(shape, bool) for shape in shapes))

    def visible(
        self, state: UsersState, params: MultiUserParams
    ) -> tuple[UsersState, MultiUserParams]:
        """Returns state and params without the bank of starts."""
        return state, params.replace(bank=None)

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


def slot_reward(outcome: UsersOutcome, params: MultiUserParams) -> jax.Array:
    """Returns `-(slot_s + beta e) / f`; e joules, f finished tasks, means over users, f at least
    tasks_floor.
    """
    finished = jnp.maximum(outcome.tasks.astype(params.slot_s.dtype).mean(), params.tasks_floor)
    return -(params.slot_s + params.energy_weight * outcome.energy_j.mean()) / finished


def observe(state: UsersState, params: MultiUserParams) -> jax.Array:
    """Returns the observation [U, 4], columns as in `OBSERVATION`.

    Tasks left of all; seconds left to compute / scale_s; bits left to send (while computing: that
    will be) / scale_bits; distance, 0 at the nearest and 1 at the farthest. In [0, 1] unless a
    scale is less than the largest number of the table.
    """
    nearest_m, farthest_m = params.distances_m
    columns = [
        state.tasks.astype(state.distance_m.dtype) / state.all_tasks.astype(state.distance_m.dtype),
        state.compute_s / params.scale_s,
        state.upload_bits / params.scale_bits,
        (state.distance_m - nearest_m) / (farthest_m - nearest_m),
    ]
    return jnp.stack(columns, axis=1)
