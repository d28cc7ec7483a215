"""Categorical laws some of whose actions are not allowed. Axes: A actions; a mask is bool [..., A], one true at least.

What is not allowed has probability zero exactly, and adds nothing to any value or gradient: also where a single action
is left, whose entropy is zero.
"""

import jax
import jax.numpy as jnp

_NEVER = -1e9  # a logit whose probability is zero in float32, and whose products with zero are not NaN


def log_probabilities(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns `log softmax` over the allowed actions, [..., A]; -1e9 for the others."""
    return jnp.where(mask, jax.nn.log_softmax(jnp.where(mask, logits, _NEVER), axis=-1), _NEVER)


def expectation(log_probability: jax.Array, values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns `sum_a p_a values_a` over the allowed actions, [...]; values [..., A]."""
    probability = jnp.where(mask, jnp.exp(log_probability), 0.0)
    return (probability * jnp.where(mask, values, 0.0)).sum(axis=-1)


def entropy(log_probability: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns `-sum_a p_a log p_a`, nats, [...]."""
    return -expectation(log_probability, log_probability, mask)


def best(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the allowed action with the largest value, int32 [...]."""
    return jnp.argmax(jnp.where(mask, values, -jnp.inf), axis=-1).astype(jnp.int32)


def take(values: jax.Array, action: jax.Array) -> jax.Array:
    """Returns `values[..., action]`, [...]; action int32 [...]."""
    return jnp.take_along_axis(values, action[..., None], axis=-1)[..., 0]


def nearness(values: jax.Array, mask: jax.Array, focus: jax.Array | float) -> jax.Array:
    """Returns `1 / (1 + ((max_a' values_a' - values_a) / focus)^2)` of the allowed actions, 0 of the others, [..., A].

    How much an error in the value of an action can matter: near the best, everything; far below it, nothing.
    """
    allowed = jnp.where(mask, values, -jnp.inf)
    below = jnp.where(mask, allowed.max(axis=-1, keepdims=True) - values, 0.0)
    return jnp.where(mask, 1.0 / (1.0 + jnp.square(below / focus)), 0.0)
