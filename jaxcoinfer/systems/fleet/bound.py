"""A certified lower bound on the cost of a fleet, and an answer that almost meets it.

Each device i takes one choice k; shares x, y of bandwidth and server each sum to at most one; the
cost is `sum_i a_ik + b_ik / x_i + c_ik / y_i`. With prices mu, nu >= 0 on the shares, every answer
costs at least

    g(mu, nu) = sum_i min_k [a_ik + 2 sqrt(mu b_ik) + 2 sqrt(nu c_ik)] - mu - nu,

because `b/x + mu x >= 2 sqrt(mu b)` for every x > 0 and `mu (sum x - 1) <= 0` (Lagrange; weak
duality). Any prices give a bound; the best ones give the optimum of a convexified problem, which
differs from the true optimum by no more than a device or two can contribute, whatever their number
D (Shapley-Folkman). Axes: D devices, C choices.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import select
from jaxcoinfer.systems.fleet.allocation import FleetTables, at, descend, total_cost

HALVINGS = 20  # of each of two brackets: to one millionth of the largest price there can be
MARGIN = 1e-6  # of the sum that the bound is made of: more than float32 loses in rounding
_MAX_CHANGES = 4  # per device, in the polish


class Certificate(struct.PyTreeNode):
    """What `solve` returns: bound <= optimal cost <= cost."""

    bound: jax.Array  # scalar, lowered by `MARGIN` for rounding
    cost: jax.Array  # scalar, of `choice` with the best shares for it
    choice: jax.Array  # int32 [D]
    root_prices: jax.Array  # [2], square roots of mu and nu


class _Reply(struct.PyTreeNode):
    """What the devices do at given prices."""

    value: jax.Array  # scalar, the dual function g
    sends: jax.Array  # scalar, sum of sqrt b over devices
    runs: jax.Array  # scalar, sum of sqrt c over devices
    choice: jax.Array  # int32 [D]


def _replies(tables: FleetTables) -> Callable[[jax.Array, jax.Array], _Reply]:
    """Returns the reply to the roots of the prices, `s = sqrt(mu)` and `t = sqrt(nu)`.

    As a function of them g is a sum of minima of linear functions less `s^2 + t^2`: strictly
    concave, with supergradient `2 (sum sqrt b - s, sum sqrt c - t)` at the choices made.
    """
    send, run = jnp.sqrt(tables.bandwidth), jnp.sqrt(tables.compute)

    def reply(s: jax.Array, t: jax.Array) -> _Reply:
        cost = tables.base + (2.0 * s) * send + (2.0 * t) * run
        choice = jnp.argmin(cost, axis=1).astype(jnp.int32)
        value = (1.0 - MARGIN) * cost.min(axis=1).sum() - (1.0 + MARGIN) * (s * s + t * t)
        return _Reply(value, at(send, choice).sum(), at(run, choice).sum(), choice)

    return reply


def _halve(
    at_price: Callable[[jax.Array], Any],
    excess: Callable[[Any, jax.Array], jax.Array],
    highest: jax.Array,
) -> tuple[jax.Array, jax.Array, Any, Any]:
    """Brackets the root of `excess(at_price(price), price)` in [0, highest]: it falls as the price
    rises, as the derivative of a concave function does.

    Returns the prices (low, high) around the root, and at_price of both.
    """

    def step(i: jax.Array, carry: tuple) -> tuple:
        low, high, below, above = carry
        # The ends are evaluated in the loop too, so that `at_price` is compiled once.
        price = jnp.where(i == 0, 0.0, jnp.where(i == 1, highest, 0.5 * (low + high)))
        here = at_price(price)
        more = (i == 0) | ((i > 1) & (excess(here, price) > 0.0))
        low, below = select(more, (price, here), (low, below))
        high, above = select(more, (high, above), (price, here))
        return low, high, below, above

    unknown = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(at_price, highest)
    )
    return jax.lax.fori_loop(0, HALVINGS + 2, step, (highest, highest, unknown, unknown))


def solve(tables: FleetTables) -> Certificate:
    """Returns the best bound and a polished answer; pure, O(D C) memory, the same work for any
    numbers.

    Bisection on t, with a bisection on s inside. At a kink in s the choices of both sides are
    optimal, and the derivative in t is that of the mixture of both whose derivative in s is zero.
    """
    reply = _replies(tables)
    highest = [
        jnp.sqrt(jnp.max(table, axis=1)).sum() for table in (tables.bandwidth, tables.compute)
    ]

    def best_send_price(t: jax.Array) -> tuple:
        """Brackets of s and replies at them, and the demand for the server at the best s."""
        low, high, below, above = _halve(
            lambda s: reply(s, t), lambda replied, s: replied.sends - s, highest[0]
        )
        width = below.sends - above.sends
        share = jnp.where(
            width > 0.0, (low - above.sends) / jnp.where(width > 0.0, width, 1.0), 0.0
        )
        share = jnp.clip(share, 0.0, 1.0)
        return (low, high), (below, above), share * below.runs + (1.0 - share) * above.runs

    low, high, below, above = _halve(best_send_price, lambda inner, t: inner[2] - t, highest[1])
    corners = [
        (replied.value, replied.choice, jnp.stack([s, t]))
        for t, (ends, replies, _) in ((low, below), (high, above))
        for s, replied in zip(ends, replies, strict=True)
    ]
    values, choices, roots = (jnp.stack(part) for part in zip(*corners, strict=True))
    choice, cost = polish(tables, choices)
    best = jnp.argmax(values)
    return Certificate(values[best], cost, choice, roots[best])


def polish(tables: FleetTables, choices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the best of several answers [N, D] int32 after single changes: its choice [D] and
    cost.
    """
    max_changes = _MAX_CHANGES * tables.base.shape[0]
    choices = jax.vmap(lambda choice: descend(tables, choice, max_changes))(choices)
    costs = jax.vmap(lambda choice: total_cost(tables, choice))(choices)
    best = jnp.argmin(costs)
    return choices[best], costs[best]
