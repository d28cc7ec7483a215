"""Deep Q-learning: one network of action values, a slow copy to look ahead with, double and masked.

    target_a = r_a + gamma Q^(s', argmax_a' Q(s', a'))
    loss     = mean over the actions a that were seen, by weight w_a, of huber(Q(s, a) - target_a)

With the twin all actions are seen, and w_a is `distributions.advantage_weight`, as in `learn.sac`.
Mnih et al. (Nature 518, 2015), double after van Hasselt et al. (arXiv 1509.06461). Axes: N
transitions, A actions.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import Env
from jaxcoinfer.learn import distributions
from jaxcoinfer.learn.networks import cosine_adam, descend
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

    def algorithm(self, env: Env, hyper: Any) -> Algorithm:
        return algorithm(env, self, hyper)


class Hyper(struct.PyTreeNode):
    """Numbers of the training, so that a sweep is a `vmap`."""

    learning_rate: Any = 1e-3  # initial step size, decays to 0 on a cosine
    discount: Any = 0.0  # gamma
    exploration: Any = 0.1  # probability of a random valid action
    focus: Any = 0.05  # distance from the best value at which an error counts half
    tau: Any = 0.01  # share of the network that goes into its slow copy with every batch
    huber_delta: Any = 10.0  # the error from which on the loss grows linearly
    rule: Rule | None = None  # a pytree that the values correct; None: they start from zero


def loss(
    values: jax.Array,
    targets: jax.Array,
    weight: jax.Array,
    valid: jax.Array,
    huber_delta: jax.Array,
) -> jax.Array:
    """Returns the mean of `sum_a w_a huber(Q(a) - target_a) / sum_a w_a` over valid transitions.

    With d = huber_delta, `huber(x) = x^2 / 2` up to |x| = d, and `d (|x| - d / 2)` beyond. values,
    targets [N, A]; weight [N, A], 0 for actions that were not seen; valid [N], 0 or 1.
    """
    error = jnp.abs(values - targets)
    inner = jnp.minimum(error, huber_delta)
    huber = 0.5 * inner**2 + huber_delta * (error - inner)
    per_transition = (weight * huber).sum(axis=-1) / jnp.maximum(weight.sum(axis=-1), 1e-9)
    return (per_transition * valid).sum() / jnp.maximum(valid.sum(), 1.0)


def algorithm(env: Env, config: ReplayConfig, hyper: Hyper) -> Algorithm:
    """Returns what `replay.train` runs; a learner is (weights, slow weights, state of the
    optimiser).
    """
    net = network(env, config, hyper.rule)
    adam = cosine_adam(hyper.learning_rate, config.n_updates)

    def start(key: jax.Array, observation: jax.Array) -> tuple[Any, Any, Any]:
        weights = net.init(key, observation)
        return weights, weights, adam.init(weights)

    def explore(key: jax.Array, learner: Any, observation: jax.Array, mask: jax.Array) -> jax.Array:
        key_whether, key_which = jax.random.split(key)
        drawn = jax.random.categorical(key_which, jnp.where(mask, 0.0, -jnp.inf)).astype(jnp.int32)
        best = distributions.masked_argmax(net.apply(learner[0], observation), mask)
        return jnp.where(jax.random.bernoulli(key_whether, hyper.exploration), drawn, best)

    def learn(key: jax.Array, learner: Any, batch: Transition) -> tuple[Any, Any, Any]:
        weights, slow, state = learner
        next_action = distributions.masked_argmax(
            net.apply(weights, batch.next_observation), batch.next_mask
        )
        ahead = distributions.take_action(net.apply(slow, batch.next_observation), next_action)
        targets = batch.rewards + (hyper.discount * batch.not_terminated * ahead)[:, None]
        slow_values = net.apply(slow, batch.observation)
        weight = distributions.advantage_weight(slow_values, batch.mask, hyper.focus)
        weight = jnp.where(batch.reward_mask, weight, 0.0)

        def batch_loss(weights: Any) -> jax.Array:
            values = net.apply(weights, batch.observation)
            return loss(values, targets, weight, batch.valid, hyper.huber_delta)

        weights, state = descend(adam, jax.grad(batch_loss)(weights), weights, state)
        slow = jax.tree.map(lambda old, new: old + hyper.tau * (new - old), slow, weights)
        return weights, slow, state

    return Algorithm(start, explore, learn, lambda learner: learner[0])
