"""Learning from a replay buffer on the device: what soft actor-critic and deep Q share, which is
all but their losses.

With the twin, the buffer holds what every action would have earned, and not only the one taken.
That is the whole truth where actions do not move the world (`on-demand`: link and load are not the
device's doing), since the next state is then the same for all of them. Axes: N environments, M
places of the buffer, F features, A actions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.rollout import Policy, mean_reward, restart_ended
from jaxcoinfer.core.sharding import replicate, shard
from jaxcoinfer.learn import distributions, loop
from jaxcoinfer.learn.loop import TrainingLoop
from jaxcoinfer.learn.networks import Mlp, TrainResult

# (env, state, action, params) -> what each action earns [A]; the action taken matters only to who
# takes several at once
Outcomes = Callable[[Any, Any, Any, Any], jax.Array]


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(ABC):
    """What decides shapes and branches of learning from a replay buffer.

    n_envs environments take n_steps steps, then n_batches batches are learned from the latest
    `buffer_size` transitions; updates_per_evaluation times so, then a look at the greedy policy;
    n_evaluations times so. twin: learn from what every action would have earned.
    """

    hidden: tuple[int, ...] = (128, 128)
    n_envs: int = 64
    n_steps: int = 4
    n_batches: int = 16
    batch: int = 256
    buffer_size: int = 1 << 16
    n_evaluations: int = 20
    updates_per_evaluation: int = 20
    evaluation_envs: int = 256
    evaluation_steps: int = 100
    twin: bool = True

    @abstractmethod
    def algorithm(self, env: Any, hyper: Any) -> "Algorithm":
        """Returns the algorithm these are the shapes of."""

    @property
    def n_updates(self) -> int:
        """Batches learned in all."""
        return self.n_evaluations * self.updates_per_evaluation * self.n_batches


class Transition(struct.PyTreeNode):
    """One step: observation [F], mask [A] bool and action int32 before it; rewards [A]: what each
    action earns, of which `reward_mask` bool [A] were seen; next_observation [F], next_mask [A]
    after it; not_terminated: 0 where the world ended, 1 also where only the record did; valid: 0
    where the environment had ended before.
    """

    observation: jax.Array
    mask: jax.Array
    action: jax.Array
    rewards: jax.Array
    reward_mask: jax.Array
    next_observation: jax.Array
    next_mask: jax.Array
    not_terminated: jax.Array
    valid: jax.Array


@dataclass(frozen=True)
class Algorithm:
    """What is the algorithm's own; learner: its weights and all else it adapts.

    start(key, observation) -> learner; explore(key, learner, observation, mask) -> action;
    learn(key, learner, batch) -> learner; weights(learner) -> those `policy` takes.
    """

    start: Callable[[jax.Array, jax.Array], Any]
    explore: Callable[[jax.Array, Any, jax.Array, jax.Array], jax.Array]
    learn: Callable[[jax.Array, Any, Transition], Any]
    weights: Callable[[Any], Any]


def outcomes_of(
    reward: jax.Array, action: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns (earned, known) [A] where only the action taken was seen."""
    taken = jnp.arange(mask.shape[0], dtype=jnp.int32) == action
    return jnp.where(taken, reward, 0.0), taken


def collect(
    key: jax.Array,
    env: Any,
    params: Any,
    explore: Callable,
    start: tuple[Any, Any],
    n_steps: int,
    outcomes: Any,
) -> tuple[tuple[Any, Any], Transition]:
    """Returns (state, timestep) of N environments n_steps later, and the transitions [n_steps, N].

    explore(key, observation, mask) -> action; outcomes: None without the twin.
    """

    def one(key, state, timestep):
        mask = env.mask(state, params)
        action = explore(key, timestep.observation, mask)
        ended = timestep.terminated | timestep.truncated
        after, next_timestep = env.step(state, action, params)
        if outcomes is None:
            rewards, reward_mask = outcomes_of(next_timestep.reward, action, mask)
        else:
            rewards, reward_mask = jnp.where(mask, outcomes(env, state, action, params), 0.0), mask
        seen = Transition(
            timestep.observation,
            mask,
            action,
            rewards,
            reward_mask,
            next_timestep.observation,
            env.mask(after, params),
            (~next_timestep.terminated).astype(jnp.float32),
            (~ended).astype(jnp.float32),
        )
        return (after, next_timestep), seen

    def step(carry, key):
        keys = jax.random.split(key, carry[1].reward.shape[0])
        return jax.vmap(one)(keys, *carry)

    return jax.lax.scan(step, shard(start), jax.random.split(key, n_steps))


def network(env: Any, config: ReplayConfig) -> Mlp:
    """Logits, or values, of all actions [A] from one observation [F]."""
    return Mlp(config.hidden, env.n_actions)


def policy(env: Any, config: ReplayConfig, weights: Any) -> Policy:
    """The valid action of the largest logit, or value."""
    net: Any = network(env, config)

    def act(key, state, observation, params):
        return distributions.masked_argmax(net.apply(weights, observation), env.mask(state, params))

    return act


def training_loop(
    params: Any, hyper: Any, *, env: Any, config: ReplayConfig, outcomes: Outcomes | None = None
) -> TrainingLoop:
    """Returns what `stages` goes through; a carry is (learner, environments, buffer, transitions
    seen).
    """
    if config.twin and outcomes is None:
        raise ValueError(
            "twin=True needs `outcomes`, what every action earns; give it, or set twin=False."
        )
    asked = outcomes if config.twin else None
    if config.buffer_size % (config.n_envs * config.n_steps):
        raise ValueError(
            f"buffer_size: {config.buffer_size}; must be a multiple of n_envs * n_steps, which is written at once."
        )
    algorithm = config.algorithm(env, hyper)

    def init(key):
        key_start, key_envs, key_test, key_run = jax.random.split(key, 4)
        reset = jax.vmap(env.reset, (0, None))
        begun = reset(jax.random.split(key_envs, config.n_envs), params)
        test = reset(jax.random.split(key_test, config.evaluation_envs), params)
        learner = algorithm.start(
            key_start, jax.tree.map(lambda leaf: leaf[0], begun[1].observation)
        )
        empty = _empty(key, env, params, algorithm, learner, begun, config, asked)
        return (learner, begun, empty, jnp.int32(0)), test, key_run

    def update(carry, key):
        learner, envs, buffer, count = carry
        key_collect, key_restart, key_learn = jax.random.split(key, 3)
        explore = partial(_explore, algorithm, learner)
        envs, seen = collect(key_collect, env, params, explore, envs, config.n_steps, asked)
        envs = restart_ended(env, params, key_restart, *envs)
        buffer = _write(buffer, seen, count)
        count = count + config.n_envs * config.n_steps

        def learn(learner, key):
            key_places, key_own = jax.random.split(key)
            places = shard(
                jax.random.randint(
                    key_places, (config.batch,), 0, jnp.minimum(count, config.buffer_size)
                )
            )
            return algorithm.learn(
                key_own, learner, jax.tree.map(lambda leaf: leaf[places], buffer)
            ), None

        learner, _ = jax.lax.scan(learn, learner, jax.random.split(key_learn, config.n_batches))
        return learner, envs, buffer, count

    def evaluate(carry, test):
        act = policy(env, config, algorithm.weights(carry[0]))
        return mean_reward(env, params, act, test, config.evaluation_steps)

    n_steps = config.n_steps * config.n_envs
    n_stages, n_updates = config.n_evaluations, config.updates_per_evaluation
    return TrainingLoop(
        init,
        update,
        evaluate,
        lambda carry: algorithm.weights(carry[0]),
        n_stages,
        n_updates,
        n_steps,
    )


@partial(jax.jit, static_argnames=("env", "config", "outcomes"))
def train(
    key: jax.Array,
    params: Any,
    hyper: Any,
    *,
    env: Any,
    config: ReplayConfig,
    outcomes: Outcomes | None = None,
) -> TrainResult:
    """Trains in one scan; consumes the key. Keys, params and hyper-parameters can be vmapped.

    outcomes(env, state, action, params) -> what each action earns [A], for the twin; actions must
    not move the world.
    """
    return loop.train(key, training_loop(params, hyper, env=env, config=config, outcomes=outcomes))


def _explore(algorithm, learner, key, observation, mask):
    return algorithm.explore(key, learner, observation, mask)


def _empty(key, env, params, algorithm, learner, begun, config, asked) -> Transition:
    explore = partial(_explore, algorithm, learner)
    shapes = jax.eval_shape(
        lambda k, b: collect(k, env, params, explore, b, 1, asked)[1], key, begun
    )
    return jax.tree.map(
        lambda leaf: jnp.zeros((config.buffer_size, *leaf.shape[2:]), leaf.dtype), shapes
    )


def _write(buffer: Transition, seen: Transition, count: jax.Array) -> Transition:
    """Writes seen [n_steps, N] over the oldest."""

    def write(old, new):
        flat = replicate(new.reshape(-1, *new.shape[2:]))
        place = (count % old.shape[0],) + (0,) * (old.ndim - 1)
        return jax.lax.dynamic_update_slice(old, flat, place)

    return jax.tree.map(write, buffer, seen)
