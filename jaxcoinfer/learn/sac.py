"""Discrete soft actor-critic: expectations over the masked policy in every loss, two critics, a
learned temperature.

With pi the policy, Q_1, Q_2 the critics, Q^ their slow copies and tau the temperature,

    V(s)   = sum_a pi(a|s) (min_i Q^_i(s, a) - tau log pi(a|s))
    critic:  mean over the actions a that were seen, by weight w_a, of (Q_i(s, a) - r_a - gamma
    V(s'))^2 actor:   sum_a pi(a|s) (tau log pi(a|s) - min_i Q_i(s, a)) temperature: tau (H(pi(.|s))
    - h log n), with n the valid actions of the state and h in (0, 1)

With the twin all actions are seen, and most are far from being taken: w_a is
`distributions.advantage_weight`, so that the critics do not spend themselves on how bad a deadline
missed is. It depends on what is known only and so moves no mean.

Haarnoja et al., *Soft Actor-Critic Algorithms and Applications* (arXiv 1812.05905), discrete after
Christodoulou (arXiv 1910.07207): the method of Niu et al. (arXiv 2201.02968); networks and numbers
are ours. Axes: N transitions, A actions.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.learn import distributions
from jaxcoinfer.learn.networks import cosine_adam, descend
from jaxcoinfer.learn.replay import (
    Algorithm,
    ReplayConfig,
    Transition,
    network,
    policy,
    train,
    training_loop,
)

__all__ = ["Config", "Hyper", "algorithm", "network", "policy", "train", "training_loop"]


@dataclass(frozen=True, kw_only=True)
class Config(ReplayConfig):
    """What decides shapes and branches: see `ReplayConfig`."""

    def algorithm(self, env: Any, hyper: Any) -> Algorithm:
        return algorithm(env, self, hyper)


class Hyper(struct.PyTreeNode):
    """Numbers of the training, so that a sweep is a `vmap`.

    learning_rate: initial step size, decays to 0 on a cosine; discount: gamma; entropy_share: h,
    the entropy that is held, of the largest possible; focus: distance from the best value at which
    an error counts half; tau: share of the critics that goes into their slow copies with every
    batch.
    """

    learning_rate: Any = 1e-3
    discount: Any = 0.0
    entropy_share: Any = 0.1
    focus: Any = 0.05
    tau: Any = 0.01


class Weights(struct.PyTreeNode):
    """actor; critic: both, stacked [2]; slow: their copies; log_temperature."""

    actor: Any
    critic: Any
    slow: Any
    log_temperature: jax.Array


def state_value(
    log_pi: jax.Array, values: jax.Array, mask: jax.Array, temperature: jax.Array
) -> jax.Array:
    """Returns `V = sum_a pi_a (min_i Q_i(a) - tau log pi_a)`, [...]; values [2, ..., A]."""
    return distributions.masked_expectation(log_pi, values.min(axis=0) - temperature * log_pi, mask)


def critic_loss(
    values: jax.Array, targets: jax.Array, weight: jax.Array, valid: jax.Array
) -> jax.Array:
    """Returns the mean of `sum_a w_a (Q_i(a) - goal_a)^2 / sum_a w_a` over critics and the
    transitions that count.

    values [2, N, A]; targets [N, A]; weight [N, A], 0 for actions that were not seen; valid [N], 0
    or 1.
    """
    share = weight * valid[:, None] / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1e-9)
    return (jnp.square(values - targets[None]) * share[None]).sum() / (
        2.0 * jnp.maximum(valid.sum(), 1.0)
    )


def actor_loss(
    log_pi: jax.Array, values: jax.Array, mask: jax.Array, temperature: jax.Array, valid
) -> jax.Array:
    """Returns the mean of `-V` with the critics' own values, [2, N, A], over the transitions that
    count.
    """
    return -_mean(state_value(log_pi, values, mask, temperature), valid)


def temperature_loss(
    log_temperature: jax.Array, entropy: jax.Array, target: jax.Array, valid
) -> jax.Array:
    """Returns the mean of `tau (H - target)`; entropy, target [N] nats."""
    return jnp.exp(log_temperature) * _mean(entropy - target, valid)


def entropy_target(mask: jax.Array, share: jax.Array) -> jax.Array:
    """Returns `h log n`, nats [...], with n the valid actions; mask bool [..., A]."""
    return share * jnp.log(mask.sum(axis=-1).astype(jnp.float32))


def _mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    return (values * valid).sum() / jnp.maximum(valid.sum(), 1.0)


def algorithm(env: Any, config: ReplayConfig, hyper: Hyper) -> Algorithm:
    """Returns what `replay.train` runs; a learner is (Weights, states of the three optimisers)."""
    net: Any = network(env, config)
    both = jax.vmap(net.apply, (0, None))
    adam = cosine_adam(hyper.learning_rate, config.n_updates)

    def start(key, observation):
        key_actor, key_critic = jax.random.split(key)
        critic = jax.vmap(net.init, (0, None))(jax.random.split(key_critic), observation)
        weights = Weights(
            net.init(key_actor, observation), critic, critic, jnp.log(jnp.float32(0.1))
        )
        return weights, tuple(
            adam.init(part) for part in (weights.critic, weights.actor, weights.log_temperature)
        )

    def explore(key, learner, observation, mask):
        logits = distributions.masked_log_softmax(net.apply(learner[0].actor, observation), mask)
        return jax.random.categorical(key, logits).astype(jnp.int32)

    def losses(batch: Transition, weights: Weights):
        """The three losses as functions of their own weights, all at the weights as they are."""
        temperature = jnp.exp(weights.log_temperature)
        log_next = distributions.masked_log_softmax(
            net.apply(weights.actor, batch.next_observation), batch.next_mask
        )
        ahead = state_value(
            log_next, both(weights.slow, batch.next_observation), batch.next_mask, temperature
        )
        targets = batch.rewards + (hyper.discount * batch.not_terminated * ahead)[:, None]
        values = both(weights.critic, batch.observation)
        near = distributions.advantage_weight(
            both(weights.slow, batch.observation).min(axis=0), batch.mask, hyper.focus
        )
        weight = jnp.where(batch.reward_mask, near, 0.0)

        def of_critic(critic):
            return critic_loss(both(critic, batch.observation), targets, weight, batch.valid)

        def of_actor(actor):
            log_pi = distributions.masked_log_softmax(
                net.apply(actor, batch.observation), batch.mask
            )
            return actor_loss(log_pi, values, batch.mask, temperature, batch.valid)

        def of_temperature(log_temperature):
            log_pi = distributions.masked_log_softmax(
                net.apply(weights.actor, batch.observation), batch.mask
            )
            target = entropy_target(batch.mask, hyper.entropy_share)
            return temperature_loss(
                log_temperature,
                distributions.masked_entropy(log_pi, batch.mask),
                target,
                batch.valid,
            )

        return of_critic, of_actor, of_temperature

    def learn(key, learner, batch):
        weights, states = learner
        parts = (weights.critic, weights.actor, weights.log_temperature)
        gradients = [
            jax.grad(loss)(part) for loss, part in zip(losses(batch, weights), parts, strict=True)
        ]
        stepped = [descend(adam, *each) for each in zip(gradients, parts, states, strict=True)]
        (critic, actor, log_temperature), states = zip(*stepped, strict=True)
        slow = jax.tree.map(lambda old, new: old + hyper.tau * (new - old), weights.slow, critic)
        return Weights(actor, critic, slow, log_temperature), states

    return Algorithm(start, explore, learn, lambda learner: learner[0].actor)
