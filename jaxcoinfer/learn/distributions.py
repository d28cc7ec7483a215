"""Distributions that decisions are drawn from: masked categorical ones, and `LogitNormal` for a
real number.

A categorical distribution is an array of logits [..., A], and a mask, bool [..., A] with at least
one true, says which actions are valid. An invalid action has a probability of exactly zero and adds
nothing to any value or gradient, also where a single valid one is left, with an entropy of zero. A
tree of distributions has the structure of the actions of `learn.ppo`; the mask of a real number is
ignored. Axes: A actions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

# A logit whose probability is zero in float32, and whose products with zero are not NaN.
_NEVER = -1e9
# Shares of the bound stay this far from 0 and 1, where the log density is infinite.
_EDGE = 1e-6
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(16)


def masked_log_softmax(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns `log softmax` over the valid actions, [..., A]; -1e9 for the others."""
    return jnp.where(mask, jax.nn.log_softmax(jnp.where(mask, logits, _NEVER), axis=-1), _NEVER)


def masked_expectation(log_probability: jax.Array, values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns `sum_a p_a values_a` over the valid actions, [...]; values [..., A]."""
    probability = jnp.where(mask, jnp.exp(log_probability), 0.0)
    return (probability * jnp.where(mask, values, 0.0)).sum(axis=-1)


def masked_entropy(log_probability: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns `-sum_a p_a log p_a`, nats, [...]."""
    return -masked_expectation(log_probability, log_probability, mask)


def masked_argmax(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the valid action with the largest value, int32 [...]."""
    return jnp.argmax(jnp.where(mask, values, -jnp.inf), axis=-1).astype(jnp.int32)


def take_action(values: jax.Array, action: jax.Array) -> jax.Array:
    """Returns `values[..., action]`, [...]; action int32 [...]."""
    return jnp.take_along_axis(values, action[..., None], axis=-1)[..., 0]


def advantage_weight(values: jax.Array, mask: jax.Array, focus: jax.Array | float) -> jax.Array:
    """Returns `1 / (1 + ((max_a' values_a' - values_a) / focus)^2)` for valid actions, 0 for the
    others, [..., A].

    How much an error in the value of an action matters: near the best value fully, far below it not
    at all.
    """
    allowed = jnp.where(mask, values, -jnp.inf)
    below = jnp.where(mask, allowed.max(axis=-1, keepdims=True) - values, 0.0)
    return jnp.where(mask, 1.0 / (1.0 + jnp.square(below / focus)), 0.0)


class LogitNormal(struct.PyTreeNode):
    """A number `high * sigmoid(u)` in (0, high), u normal: the logit-normal distribution (Aitchison
    and Shen, Biometrika 1980), whose density vanishes at both bounds.
    """

    mean: jax.Array  # float32 [...], of u
    log_deviation: jax.Array  # float32 [...], logarithm of the standard deviation of u
    high: jax.Array  # float32 [...]


Distribution = jax.Array | LogitNormal


def is_distribution(node: Any) -> bool:
    """Whether a node of a tree is one distribution: an `is_leaf` for `jax.tree.map`."""
    return isinstance(node, LogitNormal)


def normalise(distribution: Distribution, mask: jax.Array) -> Distribution:
    """Returns the distribution as the functions below take it: logits become logarithms of masked
    probabilities.
    """
    return (
        distribution
        if isinstance(distribution, LogitNormal)
        else masked_log_softmax(distribution, mask)
    )


def sample(key: jax.Array, distribution: Distribution) -> jax.Array:
    """Draws from a normalised distribution, int32 or float32 [...]; consumes the key."""
    if not isinstance(distribution, LogitNormal):
        return jax.random.categorical(key, distribution).astype(jnp.int32)
    u = distribution.mean + jnp.exp(distribution.log_deviation) * jax.random.normal(
        key, distribution.mean.shape, distribution.mean.dtype
    )
    return distribution.high * jnp.clip(jax.nn.sigmoid(u), _EDGE, 1.0 - _EDGE)


def log_prob(distribution: Distribution, value: jax.Array) -> jax.Array:
    """Returns log probability, or log density, of a value under a normalised distribution, [...].

    LogitNormal: `log N(u; mean, deviation) - log(high x (1 - x))` with `x = value / high` and
    `u = log(x / (1 - x))`.
    """
    if not isinstance(distribution, LogitNormal):
        return take_action(distribution, value)
    x = jnp.clip(value / distribution.high, _EDGE, 1.0 - _EDGE)
    z = (jnp.log(x) - jnp.log1p(-x) - distribution.mean) * jnp.exp(-distribution.log_deviation)
    normal = -0.5 * jnp.square(z) - distribution.log_deviation - 0.5 * np.log(2.0 * np.pi)
    return normal - jnp.log(distribution.high) - jnp.log(x) - jnp.log1p(-x)


def entropy(distribution: Distribution, mask: jax.Array) -> jax.Array:
    """Returns the entropy of a normalised distribution, nats, [...]; the differential entropy for a
    real number.

    LogitNormal: `log(high deviation sqrt(2 pi e)) + E[log(s(u) s(-u))]`, s the sigmoid; the mean by
    Gauss-Hermite quadrature. Unlike the entropy of u it has a maximum: a wide distribution has most
    of its mass near the bounds, and so little entropy.
    """
    if not isinstance(distribution, LogitNormal):
        return masked_entropy(distribution, mask)
    nodes = jnp.asarray(_NODES, distribution.mean.dtype).reshape(*[1] * distribution.mean.ndim, -1)
    u = distribution.mean[..., None] + jnp.exp(distribution.log_deviation)[..., None] * nodes
    slope = -jax.nn.softplus(u) - jax.nn.softplus(-u)
    weights = jnp.asarray(_WEIGHTS / np.sqrt(2.0 * np.pi), distribution.mean.dtype)
    return (
        distribution.log_deviation
        + 0.5 * np.log(2.0 * np.pi * np.e)
        + jnp.log(distribution.high)
        + slope @ weights
    )


def mode(distribution: Distribution, mask: jax.Array) -> jax.Array:
    """Returns the most probable category, int32, or the median of a real number, float32 [...]; the
    distribution need not be normalised.
    """
    return (
        distribution.high * jax.nn.sigmoid(distribution.mean)
        if isinstance(distribution, LogitNormal)
        else masked_argmax(distribution, mask)
    )
