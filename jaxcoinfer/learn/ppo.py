"""Proximal policy optimisation, for one decision or many at once.

An action is an array (or a tree) of decisions. Masks and logits of a categorical one have one more
axis: [A] for one decision, [D, C] for a fleet; where a number is decided, the network gives a
`learn.distributions.LogitNormal`, and masks have no more axes. With rho the ratio of new to old
probability of each decision and G its advantage,

    policy:  -mean min(rho G, clip(rho, 1 - eps, 1 + eps) G)
    value:   mean (V - R)^2
    bonus:   entropy

Rewards are centred by task (`learn.advantages`), with the mean of the tasks of the same update.

G by generalised advantage estimation, shared by all decisions of a step. With the twin each
decision has its counterfactual advantage instead: its reward less what the policy would have earned
in its place, the other decisions unchanged.

Schulman et al. (arXiv 1707.06347, 1506.02438); decisions that share a value, as in Yu et al. (arXiv
2103.01955). Axes: N environments, T steps, A actions of a decision.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from jaxcoinfer.core.contract import Env, Outcome, TimeStep
from jaxcoinfer.core.rollout import Policy, mean_reward, restart_ended
from jaxcoinfer.core.sharding import replicate, shard
from jaxcoinfer.learn import distributions, loop
from jaxcoinfer.learn.advantages import advantages, centred_rewards
from jaxcoinfer.learn.loop import TrainingLoop
from jaxcoinfer.learn.networks import (
    RULE_SHARPNESS,
    Corrected,
    Mlp,
    TrainResult,
    cosine_adam,
    descend,
)
from jaxcoinfer.learn.replay import Outcomes, Rule

# (env, state, observation, params) -> what the network takes
View = Callable[[Any, Any, Any, Any], Any]


def observed(env: Env, state: Any, observation: jax.Array, params: Any) -> jax.Array:
    """The view that is the observation alone."""
    return observation


class ActorCritic(nn.Module):
    """[F] -> (logits [A], value); two networks that share nothing."""

    hidden: tuple[int, ...]
    n_actions: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return Mlp(self.hidden, self.n_actions)(x), Mlp(self.hidden, 1)(x)[..., 0]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What decides shapes and branches.

    An update: n_envs environments take n_steps steps, from which the network learns n_epochs times,
    in n_batches batches each.
    """

    hidden: tuple[int, ...] = (128, 128)  # widths of the layers of the network
    n_envs: int = 256
    n_steps: int = 16
    n_epochs: int = 4
    n_batches: int = 8
    n_evaluations: int = 20  # of the greedy policy
    updates_per_evaluation: int = 5
    evaluation_envs: int = 256
    evaluation_steps: int = 100
    twin: bool = True  # learn from counterfactual advantages
    centred: bool = True  # pay finished tasks what they give above the mean
    view: View = observed  # what the network sees
    # (env, config) -> module, view -> (distributions, value)
    network: Callable[[Any, Any], Any] = lambda env, config: ActorCritic(
        config.hidden, env.n_actions
    )


class Hyper(struct.PyTreeNode):
    """Numbers of the training, so that a sweep is a `vmap`."""

    learning_rate: Any = 1e-3  # initial step size, decays to 0 on a cosine
    discount: Any = 0.0  # gamma
    gae_lambda: Any = 0.95  # lambda
    clip: Any = 0.2  # eps
    entropy_weight: Any = 0.001  # of the bonus in the loss
    value_weight: Any = 0.5  # of the value in the loss
    rule: Rule | None = None  # a pytree whose values the logits correct; None: they start from zero


class Step(struct.PyTreeNode):
    """One step of one environment; records of a training have leading axes [T, N] or [T N]."""

    view: Any  # what the network saw
    mask: Any  # bool, valid actions of each decision
    action: Any  # of each decision
    log_pi: Any  # float32, logarithm of the probability of each action
    counterfactual_advantage: Any  # float32, of each decision; 0 without the twin
    reward: jax.Array  # float32
    utility: jax.Array  # float32, of the task that finished
    finished: jax.Array  # float32, 1 where a task finished in this step, and tasks do one by one
    not_terminated: jax.Array  # float32, 0 where the world ended
    ended: jax.Array  # float32, 1 where the world or the record ended
    valid: jax.Array  # float32, 0 where it had ended before


def _task(timestep: TimeStep) -> tuple[jax.Array, jax.Array]:
    """Utility of the task that a step finished, and whether it did; nothing where many tasks of a
    step share one reward.
    """
    outcome = timestep.outcome
    if isinstance(outcome, Outcome) and jnp.ndim(outcome.finished) == 0:
        return outcome.utility, outcome.finished
    return jnp.zeros((), jnp.float32), jnp.zeros((), bool)


def policy_loss(
    log_pi: jax.Array, old_log_pi: jax.Array, advantage: jax.Array, clip: Any
) -> jax.Array:
    """Returns `-min(rho G, clip(rho, 1 - eps, 1 + eps) G)` of each decision, with
    `rho = exp(log_pi - old_log_pi)`.
    """
    ratio = jnp.exp(log_pi - old_log_pi)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)


def advantage_of_actions(
    log_pi: jax.Array, outcomes: jax.Array, action: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns the reward of each decision less what the policy expects in its place, [...];
    outcomes [..., A].
    """
    return distributions.take_action(outcomes, action) - distributions.masked_expectation(
        log_pi, outcomes, mask
    )


def policy(env: Env, config: Config, weights: Any, rule: Rule | None = None) -> Policy:
    """The most probable valid action of each decision, the median where it is a number; rule: as in
    `Hyper`.
    """
    net = Corrected(config.network(env, config), rule, RULE_SHARPNESS)

    def act(key: jax.Array, state: Any, observation: jax.Array, params: Any) -> Any:
        decisions, _ = net.apply(weights, config.view(env, state, observation, params))
        return _map(distributions.mode, decisions, env.mask(state, params))

    return act


def _map(function: Callable, decisions: Any, *others: Any) -> Any:
    """Maps a function over the distributions of a tree, and over `others` of the same structure."""
    return jax.tree.map(function, decisions, *others, is_leaf=distributions.is_distribution)


def _weighted(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean over the valid steps, and over the decisions of each; valid [N]."""
    per_step = values.reshape(valid.shape[0], -1).mean(axis=1)
    return (per_step * valid).sum() / jnp.maximum(valid.sum(), 1.0)


def loss(
    net: Any, weights: Any, batch: Step, advantage: Any, targets: jax.Array, hyper: Hyper
) -> jax.Array:
    """Returns the loss of a batch [N]; advantage: of each decision, of unit size; targets [N]: of
    the value.
    """
    decisions, value = net.apply(weights, batch.view)

    def decision_loss(
        distribution: Any, mask: jax.Array, action: jax.Array, old: jax.Array, advantage: jax.Array
    ) -> jax.Array:
        distribution = distributions.normalise(distribution, mask)
        log_pi = distributions.log_prob(distribution, action)
        surrogate = policy_loss(log_pi, old, advantage, hyper.clip)
        bonus = hyper.entropy_weight * distributions.entropy(distribution, mask)
        return _weighted(surrogate - bonus, batch.valid)

    parts = _map(decision_loss, decisions, batch.mask, batch.action, batch.log_pi, advantage)
    value_loss = _weighted(jnp.square(value - targets), batch.valid)
    return sum(jax.tree.leaves(parts)) + hyper.value_weight * value_loss


@dataclass(frozen=True)
class _Training:
    """What all updates of one training share; its learner state is ((weights, state of the
    optimiser), environments), where environments are (state, timestep) of N.
    """

    env: Env
    params: Any
    hyper: Hyper
    config: Config
    outcomes: Outcomes | None  # None without the twin
    net: Corrected
    optimiser: optax.GradientTransformation

    def init(self, key: jax.Array) -> tuple[Any, Any, jax.Array]:
        """As `TrainingLoop.init`."""
        key_net, key_envs, key_test, key_run = jax.random.split(key, 4)
        reset = jax.vmap(self.env.reset, (0, None))
        envs = reset(jax.random.split(key_envs, self.config.n_envs), self.params)
        test = reset(jax.random.split(key_test, self.config.evaluation_envs), self.params)
        state, timestep = jax.tree.map(lambda leaf: leaf[0], envs)
        view = self.config.view(self.env, state, timestep.observation, self.params)
        weights = self.net.init(key_net, view)
        return ((weights, self.optimiser.init(weights)), envs), test, key_run

    def update(self, learner_state: Any, key: jax.Array) -> Any:
        """As `TrainingLoop.update`."""
        learner, envs = learner_state
        key_play, key_restart, key_order = jax.random.split(key, 3)
        envs, steps = self._play(key_play, learner[0], envs)
        advantage, targets = self._prepare(learner[0], envs, steps)
        size = self.config.n_envs * self.config.n_steps
        samples = replicate(
            jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), (steps, advantage, targets))
        )

        def epoch(learner: Any, key: jax.Array) -> tuple[Any, None]:
            order = jax.random.permutation(key, size).reshape(self.config.n_batches, -1)
            return jax.lax.scan(
                lambda learner, places: self._fit(
                    learner, jax.tree.map(lambda x: x[shard(places)], samples)
                ),
                learner,
                order,
            )

        epochs = jax.random.split(key_order, self.config.n_epochs)
        learner, _ = jax.lax.scan(epoch, learner, epochs)
        return learner, restart_ended(self.env, self.params, key_restart, *envs)

    def evaluate(self, learner_state: Any, test: Any) -> jax.Array:
        """As `TrainingLoop.evaluate`."""
        act = policy(self.env, self.config, learner_state[0][0], self.hyper.rule)
        return mean_reward(self.env, self.params, act, test, self.config.evaluation_steps)

    def _play(self, key: jax.Array, weights: Any, envs: Any) -> tuple[Any, Step]:
        """Returns the environments n_steps later, and the steps [T, N]."""

        def step(envs: Any, key: jax.Array) -> tuple[Any, Step]:
            keys = jax.random.split(key, self.config.n_envs)
            return jax.vmap(partial(self._step, weights))(keys, *envs)

        return jax.lax.scan(step, shard(envs), jax.random.split(key, self.config.n_steps))

    def _step(
        self, weights: Any, key: jax.Array, state: Any, timestep: TimeStep
    ) -> tuple[Any, Step]:
        """Draws an action in one environment, and takes it."""
        env, params = self.env, self.params
        view = self.config.view(env, state, timestep.observation, params)
        mask = env.mask(state, params)
        decisions = _map(distributions.normalise, self.net.apply(weights, view)[0], mask)
        leaves, tree = jax.tree.flatten(decisions, is_leaf=distributions.is_distribution)
        keys = jax.random.split(key, len(leaves))
        drawn = [distributions.sample(k, leaf) for k, leaf in zip(keys, leaves, strict=True)]
        action = jax.tree.unflatten(tree, drawn)
        after, following = env.step(state, action, params)
        log_pi = _map(distributions.log_prob, decisions, action)
        counterfactual_advantage = jax.tree.map(jnp.zeros_like, log_pi)
        if self.outcomes is not None:  # categories only: of a number there is a continuum
            outcomes = self.outcomes(env, state, action, params)
            counterfactual_advantage = jax.tree.map(
                advantage_of_actions, decisions, outcomes, action, mask
            )
        over = following.terminated | following.truncated
        valid = ~(timestep.terminated | timestep.truncated)
        utility, finished = _task(following)
        flags = [
            jnp.asarray(flag, jnp.float32)
            for flag in (finished & valid, ~following.terminated, over, valid)
        ]
        return (after, following), Step(
            view, mask, action, log_pi, counterfactual_advantage, following.reward, utility, *flags
        )

    def _prepare(self, weights: Any, envs: Any, steps: Step) -> tuple[Any, jax.Array]:
        """Returns the advantage of each decision, of unit size, and the targets of the value, both
        with the axes [T, N, ...] of the steps.
        """
        state, timestep = envs
        last = jax.vmap(self.config.view, (None, 0, 0, None))(
            self.env, state, timestep.observation, self.params
        )
        views = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), steps.view, last)
        values = jax.vmap(jax.vmap(lambda view: self.net.apply(weights, view)[1]))(views)
        shared = advantages(
            self._rewards(steps),
            values,
            steps.not_terminated,
            steps.ended,
            self.hyper.discount,
            self.hyper.gae_lambda,
        )

        def share(like: jax.Array) -> jax.Array:
            return jnp.broadcast_to(
                shared.reshape(shared.shape + (1,) * (like.ndim - 2)), like.shape
            )

        advantage = steps.counterfactual_advantage
        if self.outcomes is None:
            advantage = jax.tree.map(share, advantage)

        def unit(x: jax.Array) -> jax.Array:
            valid = steps.valid.reshape(-1)
            size = jnp.sqrt(_weighted(jnp.square(x).reshape(valid.shape[0], -1), valid))
            return x / jnp.maximum(size, 1e-8)

        return jax.tree.map(unit, advantage), shared + values[:-1]

    def _rewards(self, steps: Step) -> jax.Array:
        if not self.config.centred:
            return steps.reward
        return centred_rewards(steps.reward, steps.utility, steps.finished)

    def _fit(self, learner: Any, batch: tuple[Step, Any, jax.Array]) -> tuple[Any, None]:
        """Returns (weights, state of the optimiser) after one batch."""
        weights, optimiser_state = learner
        gradient = jax.grad(lambda w: loss(self.net, w, *batch, self.hyper))(weights)
        return descend(self.optimiser, gradient, weights, optimiser_state), None


def training_loop(
    params: Any, hyper: Hyper, *, env: Env, config: Config, outcomes: Outcomes | None = None
) -> TrainingLoop:
    """Returns what `learn.loop` runs; outcomes: as in `train`."""
    if config.twin and outcomes is None:
        raise ValueError(
            "twin=True needs `outcomes`, what every action earns; give it, or set twin=False."
        )
    if config.n_envs * config.n_steps % config.n_batches:
        raise ValueError(f"n_batches: {config.n_batches}; must divide n_envs * n_steps.")
    n_fits = config.n_epochs * config.n_batches
    training = _Training(
        env,
        params,
        hyper,
        config,
        outcomes if config.twin else None,
        Corrected(config.network(env, config), hyper.rule, RULE_SHARPNESS),
        cosine_adam(
            hyper.learning_rate, config.n_evaluations * config.updates_per_evaluation * n_fits
        ),
    )
    return TrainingLoop(
        training.init,
        training.update,
        training.evaluate,
        weights=lambda learner_state: learner_state[0][0],
        n_stages=config.n_evaluations,
        n_updates=config.updates_per_evaluation,
        n_steps=config.n_envs * config.n_steps,
    )


@partial(jax.jit, static_argnames=("env", "config", "outcomes"))
def train(
    key: jax.Array,
    params: Any,
    hyper: Hyper,
    *,
    env: Env,
    config: Config,
    outcomes: Outcomes | None = None,
) -> TrainResult:
    """Trains in one scan; consumes the key. Keys, params and hyper-parameters can be vmapped.

    outcomes(env, state, action, params) -> what each action of each decision would have earned,
    [..., A], the other decisions unchanged; for the twin.
    """
    return loop.train(key, training_loop(params, hyper, env=env, config=config, outcomes=outcomes))
