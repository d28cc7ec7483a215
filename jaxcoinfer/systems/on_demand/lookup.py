"""Baselines for `on-demand` that learn from the training rows without a network: a look-up table,
one that keeps to targets, and LinUCB.

Link and speeds move on by themselves, so a task is a contextual bandit. *Look-up table*: what every
action earned in the mean, by context; it needs what the twin tells of actions not taken. *Reliable
table*: the same with what a miss costs found rather than given: for each class the least multiplier
of the miss ratio at which its target is met, the dual of "most utility such that at most so many
tasks are late". *LinUCB* (Li et al., WWW 2010): a linear model of what each action earns, learned
from actions taken under optimism. Axes: A actions, F features, R bins of the observed rate, D, E
those of device and edge speed, G deadline classes.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.systems.on_demand import twin
from jaxcoinfer.systems.on_demand.env import OBSERVATION, OnDemand, State
from jaxcoinfer.systems.on_demand.exogenous import DEVICE_SPEED, EDGE_SPEED, OBSERVED_RATE
from jaxcoinfer.systems.on_demand.params import Params

_MAX_BINS = 12  # of each number of a context


class LookUp(struct.PyTreeNode):
    """What every action is worth by context, which one is taken, and the edges between contexts,
    all in the units of the observation; called with an observation it says what the actions are
    worth.
    """

    action: jax.Array  # int32 [R, D, E, G]
    values: jax.Array  # float32 [R, D, E, G, A], 0 where an action is invalid
    rate: jax.Array  # float32
    device_speed: jax.Array  # float32 [D-1]
    edge_speed: jax.Array  # float32 [E-1]

    def context(self, observation: jax.Array) -> jax.Array:
        """Returns the index of the context in the flattened table, int32 [...]; observation [...,
        F], of which the latest comes first.
        """
        edges = (self.rate, self.device_speed, self.edge_speed)
        bins = [
            jnp.searchsorted(edge, observation[..., i], side="right")
            for i, edge in enumerate(edges)
        ]
        first, n_classes = len(OBSERVATION), self.action.shape[-1]
        task_class = jnp.argmax(observation[..., first : first + n_classes], axis=-1)
        index = jnp.ravel_multi_index((*bins, task_class), self.action.shape, mode="clip")
        return index.astype(jnp.int32)

    def __call__(self, observation: jax.Array) -> jax.Array:
        """Returns what each action is worth in the mean of the context, [..., A]."""
        return self.values.reshape(-1, self.values.shape[-1])[self.context(observation)]


class Linear(struct.PyTreeNode):
    """A linear model of what each action earns."""

    weights: jax.Array  # float32 [A, F]


def look_up(env: OnDemand, params: Params, targets: Sequence[float] | None = None) -> LookUp:
    """Returns the table of a bank to learn from; a context that never occurs takes what is best in
    the mean of all. Call it outside jit.

    targets [G]: share of late tasks that each class may have on these rows, where the table is to
    keep to them; a class that cannot misses as few as it can.
    """
    edges = _edges(params)
    shape = (*(len(edge) + 1 for edge in edges), env.n_classes)
    action, values = jnp.zeros(shape, jnp.int32), jnp.zeros((*shape, env.n_actions))
    empty = LookUp(action, values, *(jnp.asarray(edge, jnp.float32) for edge in edges))
    total, late, count = (np.asarray(x, np.float64) for x in _sums(env, params, empty))

    def mean(sums: np.ndarray) -> np.ndarray:
        overall = sums.sum(axis=0) / count.sum()
        return np.where(count[:, None] > 0, sums / np.maximum(count, 1)[:, None], overall)

    utility, misses, best = mean(total), mean(late), mean(total).argmax(axis=1)
    for task_class, target in enumerate(targets or ()):
        own = np.arange(len(best)) % env.n_classes == task_class  # the class is the last axis
        best[own] = _within(utility[own], misses[own], count[own], target)
    worth = np.where(np.asarray(params.valid), utility, 0.0).reshape(*shape, env.n_actions)
    return empty.replace(
        action=jnp.asarray(best.reshape(shape), jnp.int32), values=jnp.asarray(worth, jnp.float32)
    )


def _within(
    utility: np.ndarray, misses: np.ndarray, count: np.ndarray, target: float
) -> np.ndarray:
    """The actions by context of most utility whose misses keep to a target, two standard errors of
    their share included; arrays [contexts, A], count [contexts].
    """
    n_tasks = max(count.sum(), 1.0)

    def at(multiplier: float) -> tuple[np.ndarray, float]:
        actions = (utility - multiplier * misses).argmax(axis=1)
        late = misses[np.arange(len(actions)), actions]
        share = (late * count).sum() / n_tasks
        return actions, float(share + 2.0 * np.sqrt(share / n_tasks))

    low, high = 0.0, 1.0
    if at(low)[1] <= target:
        return at(low)[0]
    while at(high)[1] > target and high < 1e9:
        low, high = high, 4.0 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle)[1] <= target else (middle, high)
    return at(high)[0]


def look_up_policy(table: LookUp) -> Policy:
    """Takes the action of the context."""

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params) -> jax.Array:
        return table.action.reshape(-1)[table.context(observation)]

    return act


def _edges(params: Params) -> list[np.ndarray]:
    """Edges of rate, device speed and edge speed, as they are observed."""
    slots = np.asarray(params.bank.slots[:, :-1])
    edges = [
        _between(slots[..., column]).astype(np.float32)
        for column in (OBSERVED_RATE, DEVICE_SPEED, EDGE_SPEED)
    ]
    middles = (np.float32(params.typical_bps), np.float32(1.0), np.float32(1.0))
    return [edge / (edge + middle) for edge, middle in zip(edges, middles, strict=True)]


def _between(values: np.ndarray) -> np.ndarray:
    """Edges between the distinct values, or between as many quantiles as there may be bins."""
    distinct = np.unique(values)
    if len(distinct) <= _MAX_BINS:
        return (distinct[1:] + distinct[:-1]) / 2
    return np.unique(np.quantile(values, np.arange(1, _MAX_BINS) / _MAX_BINS))


@partial(jax.jit, static_argnums=0)
def _sums(env: OnDemand, params: Params, table: LookUp) -> tuple[jax.Array, ...]:
    """What each action earned in each context, and how often it was late, [contexts, A] each, and
    how often each context occurred, [contexts].
    """
    n_contexts = table.action.size

    def in_slot(row: jax.Array, slot: jax.Array) -> tuple[jax.Array, ...]:
        state, timestep = env.reset_at(row, slot, params)
        choices = twin.evaluate(env, state, params)
        earned = jnp.where(jnp.isfinite(choices.utility), choices.utility, -1e9)
        late = choices.latency_s > params.deadline_s[state.task_class]
        return table.context(timestep.observation), earned, late.astype(jnp.float32)

    def in_row(row: jax.Array) -> tuple[jax.Array, ...]:
        slots = jnp.arange(1, params.bank.n_slots, dtype=jnp.int32)
        contexts, earned, late = jax.vmap(in_slot, (None, 0))(row, slots)
        return tuple(
            jax.ops.segment_sum(values, contexts, n_contexts)
            for values in (earned, late, jnp.ones(contexts.shape))
        )

    rows = jnp.arange(params.bank.n_rows, dtype=jnp.int32)
    return tuple(sums.sum(axis=0) for sums in jax.lax.map(in_row, rows))


def linear_features(observation: jax.Array) -> jax.Array:
    """Returns the observation, its squares and one, [F]."""
    return jnp.concatenate([observation, observation**2, jnp.ones((1,))])


@partial(jax.jit, static_argnames=("env", "n_rounds"))
def lin_ucb(
    key: jax.Array,
    params: Params,
    *,
    env: OnDemand,
    n_rounds: int = 1 << 14,
    optimism: float = 0.5,
) -> Linear:
    """Returns the model after n_rounds tasks at random places of a bank; consumes the key.

    Each takes the action of the largest `w_a x + optimism sqrt(x' V_a x)`, V_a the inverse of
    `1 + sum of x x'` over the tasks that took a, and learns what that action earned.
    """
    n_features = linear_features(jnp.zeros(env.observation_shape)).shape[0]

    def task(carry: tuple[jax.Array, jax.Array], key: jax.Array):
        inverse, earned = carry
        state, timestep = env.reset(key, params)
        x = linear_features(timestep.observation)
        spread = jnp.einsum("aij,j->ai", inverse, x)
        mean = jnp.einsum("ai,ai->a", spread, earned)
        bonus = optimism * jnp.sqrt(jnp.maximum(spread @ x, 0.0))
        action = jnp.argmax(jnp.where(params.valid, mean + bonus, -jnp.inf))
        reward = twin.evaluate(env, state, params).utility[action]
        # Sherman and Morrison: the inverse after one more observation.
        change = jnp.outer(spread[action], spread[action]) / (1.0 + x @ spread[action])
        return (inverse.at[action].add(-change), earned.at[action].add(reward * x)), None

    start = (
        jnp.broadcast_to(jnp.eye(n_features), (env.n_actions, n_features, n_features)),
        jnp.zeros((env.n_actions, n_features)),
    )
    (inverse, earned), _ = jax.lax.scan(task, start, jax.random.split(key, n_rounds))
    return Linear(jnp.einsum("aij,aj->ai", inverse, earned))


def linear_policy(model: Linear) -> Policy:
    """Takes the action that the model thinks best."""

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params) -> jax.Array:
        earned = model.weights @ linear_features(observation)
        return jnp.argmax(jnp.where(params.valid, earned, -jnp.inf)).astype(jnp.int32)

    return act
