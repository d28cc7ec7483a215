"""Laws that decisions of `agents.ppo` are drawn from: categorical, as logits [..., A], or `Bounded`, a real number.

A tree of them has the structure of the actions; a mask says which categories are allowed, and is not looked at for a
real number.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxcoinfer.agents import masked

_EDGE = 1e-6  # shares of the bound are kept this far from 0 and 1, where the logarithm of the density is infinite
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(16)


class Bounded(struct.PyTreeNode):
    """A number `high * sigmoid(u)` in (0, high), u normal; mean and log_deviation of u, and high, [...].

    The logit-normal law (Aitchison and Shen, Biometrika 1980). Its density vanishes at both bounds.
    """

    mean: jax.Array
    log_deviation: jax.Array
    high: jax.Array


Law = jax.Array | Bounded


def is_law(node: Any) -> bool:
    """Whether a node of a tree is a whole law: what `is_leaf` of `jax.tree.map` asks for."""
    return isinstance(node, Bounded)


def normalised(law: Law, mask: jax.Array) -> Law:
    """Returns the law ready for the functions below: logits become logarithms of masked probabilities."""
    return law if isinstance(law, Bounded) else masked.log_probabilities(law, mask)


def draw(key: jax.Array, law: Law) -> jax.Array:
    """Draws from a normalised law, int32 or float32 [...]; consumes the key."""
    if not isinstance(law, Bounded):
        return jax.random.categorical(key, law).astype(jnp.int32)
    u = law.mean + jnp.exp(law.log_deviation) * jax.random.normal(key, law.mean.shape, law.mean.dtype)
    return law.high * jnp.clip(jax.nn.sigmoid(u), _EDGE, 1.0 - _EDGE)


def log_density(law: Law, value: jax.Array) -> jax.Array:
    """Returns log probability, or log density, of a value under a normalised law, [...].

    Bounded: `log N(u; mean, deviation) - log(high x (1 - x))` with `x = value / high` and `u = log(x / (1 - x))`.
    """
    if not isinstance(law, Bounded):
        return masked.take(law, value)
    x = jnp.clip(value / law.high, _EDGE, 1.0 - _EDGE)
    z = (jnp.log(x) - jnp.log1p(-x) - law.mean) * jnp.exp(-law.log_deviation)
    normal = -0.5 * jnp.square(z) - law.log_deviation - 0.5 * np.log(2.0 * np.pi)
    return normal - jnp.log(law.high) - jnp.log(x) - jnp.log1p(-x)


def entropy(law: Law, mask: jax.Array) -> jax.Array:
    """Returns the entropy of a normalised law, nats, [...]; of a real number the differential one.

    Bounded: `log(high deviation sqrt(2 pi e)) + E[log(s(u) s(-u))]`, s the sigmoid; the mean by quadrature of Gauss and
    Hermite. Other than that of u it has a maximum: wide laws, which crowd at the bounds, have little of it.
    """
    if not isinstance(law, Bounded):
        return masked.entropy(law, mask)
    nodes = jnp.asarray(_NODES, law.mean.dtype).reshape(*[1] * law.mean.ndim, -1)
    u = law.mean[..., None] + jnp.exp(law.log_deviation)[..., None] * nodes
    slope = -jax.nn.softplus(u) - jax.nn.softplus(-u)
    weights = jnp.asarray(_WEIGHTS / np.sqrt(2.0 * np.pi), law.mean.dtype)
    return law.log_deviation + 0.5 * np.log(2.0 * np.pi * np.e) + jnp.log(law.high) + slope @ weights


def best(law: Law, mask: jax.Array) -> jax.Array:
    """Returns the most probable category, int32, or the median of a real number, float32 [...]; of any law."""
    return law.high * jax.nn.sigmoid(law.mean) if isinstance(law, Bounded) else masked.best(law, mask)
