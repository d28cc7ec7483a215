"""Learning from a replay buffer on the device: what soft actor-critic and deep Q share, which is
all but their losses.

With the twin, the buffer holds what every action would have earned, and not only the one taken.
That is exact where actions do not change the world (in `on-demand` link and load do not depend on
the device), since the next state is then the same for all of them. Axes: N environments, M places
of the buffer, F features, A actions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import Env, TimeStep
from jaxcoinfer.core.rollout import Policy, mean_reward, restart_ended
from jaxcoinfer.core.sharding import replicate, shard
from jaxcoinfer.learn import distributions, loop
from jaxcoinfer.learn.loop import TrainingLoop
from jaxcoinfer.learn.networks import Corrected, Mlp, TrainResult

# (env, state, action, params) -> what each action earns [A]; the action taken matters only where
# several are taken at once
Outcomes = Callable[[Any, Any, Any, Any], jax.Array]
# observation [..., F] -> what each action is worth [..., A]
Rule = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(ABC):
    """What decides shapes and branches of learning from a replay buffer.

    An update: n_envs environments take n_steps steps, then n_batches batches are learned from the
    latest `buffer_size` transitions.
    """

    hidden: tuple[int, ...] = (128, 128)  # widths of the layers of each network
    n_envs: int = 64
    n_steps: int = 4
    n_batches: int = 16
    batch: int = 256  # transitions
    buffer_size: int = 1 << 16  # transitions
    n_evaluations: int = 20  # of the greedy policy
    updates_per_evaluation: int = 20
    evaluation_envs: int = 256
    evaluation_steps: int = 100
    twin: bool = True  # learn from what every action would have earned

    rule_scale: ClassVar[float] = 1.0  # of a rule's values in what `policy` compares

    @abstractmethod
    def algorithm(self, env: Env, hyper: Any) -> "Algorithm":
        """Returns the algorithm that these shapes belong to."""

    @property
    def n_updates(self) -> int:
        """Batches of the whole training."""
        return self.n_evaluations * self.updates_per_evaluation * self.n_batches


class Transition(struct.PyTreeNode):
    """One step of one environment."""

    observation: jax.Array  # float32 [F], before the step
    mask: jax.Array  # bool [A], valid actions before the step
    action: jax.Array  # int32
    rewards: jax.Array  # float32 [A], of each action
    reward_mask: jax.Array  # bool [A], which of the rewards were seen
    next_observation: jax.Array  # float32 [F], after the step
    next_mask: jax.Array  # bool [A], valid actions after the step
    not_terminated: jax.Array  # float32, 0 where the world ended; 1 where only the record did
    valid: jax.Array  # float32, 0 where the environment had ended before


@dataclass(frozen=True)
class Algorithm:
    """What one algorithm adds; its learner is its weights and all else that it adapts."""

    # (key, observation) -> learner
    start: Callable[[jax.Array, jax.Array], Any]
    # (key, learner, observation, mask) -> action
    explore: Callable[[jax.Array, Any, jax.Array, jax.Array], jax.Array]
    # (key, learner, batch) -> learner
    learn: Callable[[jax.Array, Any, Transition], Any]
    # learner -> weights that `policy` takes
    weights: Callable[[Any], Any]


def outcomes_of(
    reward: jax.Array, action: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns (rewards, reward_mask) [A] where only the action taken was seen."""
    taken = jnp.arange(mask.shape[0], dtype=jnp.int32) == action
    return jnp.where(taken, reward, 0.0), taken


def collect(
    key: jax.Array,
    env: Env,
    params: Any,
    explore: Callable,
    start: tuple[Any, TimeStep],
    n_steps: int,
    outcomes: Outcomes | None,
) -> tuple[tuple[Any, TimeStep], Transition]:
    """Returns (state, timestep) of N environments n_steps later, and the transitions [n_steps, N].

    explore(key, observation, mask) -> action; outcomes: None without the twin.
    """

    def one(
        key: jax.Array, state: Any, timestep: TimeStep
    ) -> tuple[tuple[Any, TimeStep], Transition]:
        mask = env.mask(state, params)
        action = explore(key, timestep.observation, mask)
        ended = timestep.terminated | timestep.truncated
        after, next_timestep = env.step(state, action, params)
        if outcomes is None:
            rewards, reward_mask = outcomes_of(next_timestep.reward, action, mask)
        else:
            rewards, reward_mask = jnp.where(mask, outcomes(env, state, action, params), 0.0), mask
        transition = Transition(
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
        return (after, next_timestep), transition

    def step(envs: tuple[Any, TimeStep], key: jax.Array) -> tuple[tuple[Any, TimeStep], Transition]:
        keys = jax.random.split(key, envs[1].reward.shape[0])
        return jax.vmap(one)(keys, *envs)

    return jax.lax.scan(step, shard(start), jax.random.split(key, n_steps))


def network(env: Env, config: ReplayConfig, rule: Rule | None = None) -> Corrected:
    """Logits, or values, of all actions [A] from one observation [F]; rule: what they correct."""
    return Corrected(Mlp(config.hidden, env.n_actions), rule, config.rule_scale)


def policy(env: Env, config: ReplayConfig, weights: Any, rule: Rule | None = None) -> Policy:
    """The valid action of the largest logit, or value; rule: as in its `Hyper`."""
    net = network(env, config, rule)

    def act(key: jax.Array, state: Any, observation: jax.Array, params: Any) -> jax.Array:
        return distributions.masked_argmax(net.apply(weights, observation), env.mask(state, params))

    return act


@dataclass(frozen=True)
class _Training:
    """What all updates of one training share; its learner state is (learner, environments, buffer,
    transitions so far), where environments are (state, timestep) of N.
    """

    env: Env
    params: Any
    config: ReplayConfig
    outcomes: Outcomes | None  # None without the twin
    algorithm: Algorithm
    rule: Rule | None

    def init(self, key: jax.Array) -> tuple[Any, Any, jax.Array]:
        """As `TrainingLoop.init`."""
        key_start, key_envs, key_test, key_run = jax.random.split(key, 4)
        reset = jax.vmap(self.env.reset, (0, None))
        envs = reset(jax.random.split(key_envs, self.config.n_envs), self.params)
        test = reset(jax.random.split(key_test, self.config.evaluation_envs), self.params)
        observation = jax.tree.map(lambda leaf: leaf[0], envs[1].observation)
        learner = self.algorithm.start(key_start, observation)
        return (learner, envs, self._empty_buffer(learner, envs), jnp.int32(0)), test, key_run

    def update(self, learner_state: Any, key: jax.Array) -> Any:
        """As `TrainingLoop.update`."""
        learner, envs, buffer, count = learner_state
        key_collect, key_restart, key_learn = jax.random.split(key, 3)
        envs, transitions = self._collect(key_collect, learner, envs, self.config.n_steps)
        envs = restart_ended(self.env, self.params, key_restart, *envs)
        buffer = _write(buffer, transitions, count)
        count = count + self.config.n_envs * self.config.n_steps

        def learn(learner: Any, key: jax.Array) -> tuple[Any, None]:
            key_places, key_own = jax.random.split(key)
            n_filled = jnp.minimum(count, self.config.buffer_size)
            places = shard(jax.random.randint(key_places, (self.config.batch,), 0, n_filled))
            batch = jax.tree.map(lambda leaf: leaf[places], buffer)
            return self.algorithm.learn(key_own, learner, batch), None

        batches = jax.random.split(key_learn, self.config.n_batches)
        learner, _ = jax.lax.scan(learn, learner, batches)
        return learner, envs, buffer, count

    def evaluate(self, learner_state: Any, test: Any) -> jax.Array:
        """As `TrainingLoop.evaluate`."""
        act = policy(self.env, self.config, self.weights(learner_state), self.rule)
        return mean_reward(self.env, self.params, act, test, self.config.evaluation_steps)

    def weights(self, learner_state: Any) -> Any:
        """As `TrainingLoop.weights`."""
        return self.algorithm.weights(learner_state[0])

    def _collect(
        self, key: jax.Array, learner: Any, envs: tuple[Any, TimeStep], n_steps: int
    ) -> tuple[tuple[Any, TimeStep], Transition]:
        def explore(key: jax.Array, observation: jax.Array, mask: jax.Array) -> jax.Array:
            return self.algorithm.explore(key, learner, observation, mask)

        return collect(key, self.env, self.params, explore, envs, n_steps, self.outcomes)

    def _empty_buffer(self, learner: Any, envs: tuple[Any, TimeStep]) -> Transition:
        size = self.config.buffer_size
        shapes = jax.eval_shape(lambda: self._collect(jax.random.key(0), learner, envs, 1)[1])
        return jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape[2:]), leaf.dtype), shapes)


def training_loop(
    params: Any, hyper: Any, *, env: Env, config: ReplayConfig, outcomes: Outcomes | None = None
) -> TrainingLoop:
    """Returns what `learn.loop` runs; outcomes: as in `train`."""
    if config.twin and outcomes is None:
        raise ValueError(
            "twin=True needs `outcomes`, what every action earns; give it, or set twin=False."
        )
    if config.buffer_size % (config.n_envs * config.n_steps):
        raise ValueError(
            f"buffer_size: {config.buffer_size}; must be a multiple of n_envs * n_steps, "
            "which is written at once."
        )
    outcomes = outcomes if config.twin else None
    algorithm = config.algorithm(env, hyper)
    training = _Training(env, params, config, outcomes, algorithm, hyper.rule)
    return TrainingLoop(
        training.init,
        training.update,
        training.evaluate,
        training.weights,
        n_stages=config.n_evaluations,
        n_updates=config.updates_per_evaluation,
        n_steps=config.n_steps * config.n_envs,
    )


@partial(jax.jit, static_argnames=("env", "config", "outcomes"))
def train(
    key: jax.Array,
    params: Any,
    hyper: Any,
    *,
    env: Env,
    config: ReplayConfig,
    outcomes: Outcomes | None = None,
) -> TrainResult:
    """Trains in one scan; consumes the key. Keys, params and hyper-parameters can be vmapped.

    outcomes(env, state, action, params) -> what each action earns [A], for the twin; actions must
    not change the world.
    """
    return loop.train(key, training_loop(params, hyper, env=env, config=config, outcomes=outcomes))


def _write(buffer: Transition, transitions: Transition, count: jax.Array) -> Transition:
    """Writes transitions [n_steps, N] over the oldest."""

    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        flat = replicate(new.reshape(-1, *new.shape[2:]))
        place = (count % old.shape[0],) + (0,) * (old.ndim - 1)
        return jax.lax.dynamic_update_slice(old, flat, place)

    return jax.tree.map(write, buffer, transitions)
