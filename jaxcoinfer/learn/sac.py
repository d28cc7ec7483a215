"""Discrete soft actor-critic: expectations over the masked policy in every loss, two critics, a
learned temperature.

With pi the policy, Q_1, Q_2 the critics, Q^ their slow copies and tau the temperature,

    V(s) = sum_a pi(a|s) (min_i Q^_i(s, a) - tau log pi(a|s))

and the losses are

    critic:       mean over the actions a that were seen, by weight w_a, of
                  (Q_i(s, a) - r_a - gamma V(s'))^2
    actor:        sum_a pi(a|s) (tau log pi(a|s) - min_i Q_i(s, a))
    temperature:  tau (H(pi(.|s)) - h log n), n the valid actions of the state, h in (0, 1)

With the twin all actions are seen, and most are far from being taken: w_a is
`distributions.advantage_weight`, so that the critics spend no capacity on how bad a missed deadline
is. It depends only on the slow critics and the state, not on the rewards, and so shifts no mean.

Haarnoja et al., *Soft Actor-Critic Algorithms and Applications* (arXiv 1812.05905), discrete after
Christodoulou (arXiv 1910.07207): the method of Niu et al. (arXiv 2201.02968); networks and numbers
are ours. Axes: N transitions, A actions.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import Env
from jaxcoinfer.learn import distributions
from jaxcoinfer.learn.networks import RULE_SHARPNESS, Corrected, cosine_adam, descend
from jaxcoinfer.learn.replay import (
    Algorithm,
    ReplayConfig,
    Rule,
    Transition,
    network,
    policy,
    train,
    training_loop,
)

__all__ = ["Config", "Hyper", "network", "policy", "train", "training_loop"]  # as of any learner


@dataclass(frozen=True, kw_only=True)
class Config(ReplayConfig):
    """What decides shapes and branches: see `ReplayConfig`."""

    rule_scale: ClassVar[float] = RULE_SHARPNESS  # the policy compares logits

    def algorithm(self, env: Env, hyper: Any) -> Algorithm:
        return algorithm(env, self, hyper)


class Hyper(struct.PyTreeNode):
    """Numbers of the training, so that a sweep is a `vmap`."""

    learning_rate: Any = 1e-3  # initial step size, decays to 0 on a cosine
    discount: Any = 0.0  # gamma
    entropy_share: Any = 0.1  # h: the entropy that is kept, as a share of the largest possible
    focus: Any = 0.05  # distance from the best value at which an error counts half
    tau: Any = 0.01  # share of the critics that goes into their slow copies with every batch
    rule: Rule | None = None  # a pytree that policy and critics correct; None: they start from zero


class Weights(struct.PyTreeNode):
    """Everything that the algorithm learns."""

    actor: Any
    critic: Any  # of both critics, every leaf [2, ...]
    slow: Any  # their slow copies, likewise
    log_temperature: jax.Array  # float32


def state_value(
    log_pi: jax.Array, values: jax.Array, mask: jax.Array, temperature: jax.Array
) -> jax.Array:
    """Returns `V = sum_a pi_a (min_i Q_i(a) - tau log pi_a)`, [...]; values [2, ..., A]."""
    return distributions.masked_expectation(log_pi, values.min(axis=0) - temperature * log_pi, mask)


def critic_loss(
    values: jax.Array, targets: jax.Array, weight: jax.Array, valid: jax.Array
) -> jax.Array:
    """Returns the mean of `sum_a w_a (Q_i(a) - target_a)^2 / sum_a w_a` over critics and valid
    transitions.

    values [2, N, A]; targets [N, A]; weight [N, A], 0 for actions that were not seen; valid [N], 0
    or 1.
    """
    share = weight * valid[:, None] / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1e-9)
    return (jnp.square(values - targets[None]) * share[None]).sum() / (
        2.0 * jnp.maximum(valid.sum(), 1.0)
    )


def actor_loss(
    log_pi: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    temperature: jax.Array,
    valid: jax.Array,
) -> jax.Array:
    """Returns the mean of `-V` over valid transitions; values [2, N, A]: of the critics."""
    return -_mean(state_value(log_pi, values, mask, temperature), valid)


def temperature_loss(
    log_temperature: jax.Array, entropy: jax.Array, target: jax.Array, valid: jax.Array
) -> jax.Array:
    """Returns the mean of `tau (H - target)`; entropy, target [N] nats."""
    return jnp.exp(log_temperature) * _mean(entropy - target, valid)


def entropy_target(mask: jax.Array, share: jax.Array) -> jax.Array:
    """Returns `h log n`, nats [...], with n the valid actions; mask bool [..., A]."""
    return share * jnp.log(mask.sum(axis=-1).astype(jnp.float32))


def _mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    return (values * valid).sum() / jnp.maximum(valid.sum(), 1.0)


def algorithm(env: Env, config: ReplayConfig, hyper: Hyper) -> Algorithm:
    """Returns what `replay.train` runs; a learner is (Weights, states of the three optimisers)."""
    actor_net = network(env, config, hyper.rule)
    critic_net = dataclasses.replace(actor_net, scale=1.0)
    adam = cosine_adam(hyper.learning_rate, config.n_updates)

    def start(key: jax.Array, observation: jax.Array) -> tuple[Weights, tuple]:
        key_actor, key_critic = jax.random.split(key)
        critic = jax.vmap(critic_net.init, (0, None))(jax.random.split(key_critic), observation)
        actor = actor_net.init(key_actor, observation)
        weights = Weights(actor, critic, critic, jnp.log(jnp.float32(0.1)))
        return weights, tuple(adam.init(part) for part in _learned(weights))

    def explore(key: jax.Array, learner: Any, observation: jax.Array, mask: jax.Array) -> jax.Array:
        logits = distributions.masked_log_softmax(
            actor_net.apply(learner[0].actor, observation), mask
        )
        return jax.random.categorical(key, logits).astype(jnp.int32)

    def learn(key: jax.Array, learner: Any, batch: Transition) -> tuple[Weights, tuple]:
        weights, states = learner
        parts = _learned(weights)
        losses = _losses(actor_net, critic_net, hyper, batch, weights)
        gradients = [jax.grad(loss)(part) for loss, part in zip(losses, parts, strict=True)]
        stepped = [descend(adam, *each) for each in zip(gradients, parts, states, strict=True)]
        (critic, actor, log_temperature), states = zip(*stepped, strict=True)
        slow = jax.tree.map(lambda old, new: old + hyper.tau * (new - old), weights.slow, critic)
        return Weights(actor, critic, slow, log_temperature), states

    return Algorithm(start, explore, learn, lambda learner: learner[0].actor)


def _learned(weights: Weights) -> tuple[Any, Any, jax.Array]:
    """The three parts that gradients change, in the order of `_losses`."""
    return weights.critic, weights.actor, weights.log_temperature


def _losses(
    actor_net: Corrected, critic_net: Corrected, hyper: Hyper, batch: Transition, weights: Weights
) -> tuple[Callable[[Any], jax.Array], ...]:
    """Returns the losses of critic, actor and temperature, each a function of its own weights, with
    all other weights as they are.
    """
    both = jax.vmap(critic_net.apply, (0, None))
    temperature = jnp.exp(weights.log_temperature)
    log_next = distributions.masked_log_softmax(
        actor_net.apply(weights.actor, batch.next_observation), batch.next_mask
    )
    ahead = state_value(
        log_next, both(weights.slow, batch.next_observation), batch.next_mask, temperature
    )
    targets = batch.rewards + (hyper.discount * batch.not_terminated * ahead)[:, None]
    values = both(weights.critic, batch.observation)
    slow_values = both(weights.slow, batch.observation).min(axis=0)
    weight = distributions.advantage_weight(slow_values, batch.mask, hyper.focus)
    weight = jnp.where(batch.reward_mask, weight, 0.0)

    def log_policy(actor: Any) -> jax.Array:
        logits = actor_net.apply(actor, batch.observation)
        return distributions.masked_log_softmax(logits, batch.mask)

    def of_critic(critic: Any) -> jax.Array:
        return critic_loss(both(critic, batch.observation), targets, weight, batch.valid)

    def of_actor(actor: Any) -> jax.Array:
        return actor_loss(log_policy(actor), values, batch.mask, temperature, batch.valid)

    def of_temperature(log_temperature: jax.Array) -> jax.Array:
        log_pi = log_policy(weights.actor)
        target = entropy_target(batch.mask, hyper.entropy_share)
        entropy = distributions.masked_entropy(log_pi, batch.mask)
        return temperature_loss(log_temperature, entropy, target, batch.valid)

    return of_critic, of_actor, of_temperature
