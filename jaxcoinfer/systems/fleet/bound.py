"""A certified lower bound on the cost of a fleet, and an answer that almost meets it.

Each device i takes one choice c; shares x, y of bandwidth and server each sum to at most one; the
cost is `sum_i a_ic + b_ic / x_i + c_ic / y_i`. With prices mu, nu >= 0 on the shares, every answer
costs at least

    g(mu, nu) = sum_i min_c [a_ic + 2 sqrt(mu b_ic) + 2 sqrt(nu c_ic)] - mu - nu,

because `b/x + mu x >= 2 sqrt(mu b)` for every x > 0 and `mu (sum x - 1) <= 0` (Lagrange; weak
duality). Any prices give a bound; the best ones give the bound of a convexified problem, which
differs from the true one by what a device or two can make of it, whatever their number D
(Shapley-Folkman). Axes: D devices, C choices.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.systems.fleet.allocation import Tables, at, descend, total_cost

HALVINGS = (
    20  # of each of two brackets: to one part in a million of the largest price that could be
)
MARGIN = 1e-6  # of the sum the bound is made of: more than float32 loses in rounding it
_CHANGES_A_DEVICE = 4  # the most the polish may make


class Certificate(struct.PyTreeNode):
    """What `solve` finds: bound <= best cost there is <= cost; `MARGIN` is taken off the bound for
    rounding.

    bound, cost: scalars; choice [D] int32 of cost `cost` with closed-form shares; root_prices [2]:
    square roots of mu and nu.
    """

    bound: jax.Array
    cost: jax.Array
    choice: jax.Array
    root_prices: jax.Array


class _Reply(struct.PyTreeNode):
    """What devices do at some prices: dual value, sums of sqrt b and sqrt c over devices, choices
    [D].
    """

    value: jax.Array
    sends: jax.Array
    runs: jax.Array
    choice: jax.Array


def _replies(tables: Tables):
    """Returns the function `(s, t) -> _Reply` of the roots of the prices, `s = sqrt(mu)`, `t =
    sqrt(nu)`.

    In them g is a sum of minima of linear functions less `s^2 + t^2`: strictly concave, with
    supergradient `2 (sum sqrt b - s, sum sqrt c - t)` of the choices made.
    """
    send, run = jnp.sqrt(tables.bandwidth), jnp.sqrt(tables.compute)

    def reply(s, t):
        cost = tables.base + (2.0 * s) * send + (2.0 * t) * run
        choice = jnp.argmin(cost, axis=1).astype(jnp.int32)
        value = (1.0 - MARGIN) * cost.min(axis=1).sum() - (1.0 + MARGIN) * (s * s + t * t)
        return _Reply(value, at(send, choice).sum(), at(run, choice).sum(), choice)

    return reply


def _choose(condition, a, b):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _halve(at_price, excess, highest):
    """Brackets the price at which what is asked for meets it; returns replies (below, above).

    `excess(reply, price)` falls as the price rises, as the derivative of a concave function does.
    """

    def step(i, carry):
        low, high, below, above = carry
        # The ends first, within the loop too: what is evaluated is then compiled once.
        price = jnp.where(i == 0, 0.0, jnp.where(i == 1, highest, 0.5 * (low + high)))
        here = at_price(price)
        more = (i == 0) | ((i > 1) & (excess(here, price) > 0.0))
        low, below = _choose(more, (price, here), (low, below))
        high, above = _choose(more, (high, above), (price, here))
        return low, high, below, above

    unknown = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(at_price, highest)
    )
    return jax.lax.fori_loop(0, HALVINGS + 2, step, (highest, highest, unknown, unknown))


def solve(tables: Tables) -> Certificate:
    """Returns the best bound and a polished answer; pure, O(D C) memory, the same work for any
    numbers.

    Bisection on t with a bisection on s within it. At a kink in s the choices of both sides of it
    are optimal and the derivative in t is their mixture for which that in s is zero.
    """
    reply = _replies(tables)
    highest = [
        jnp.sqrt(jnp.max(table, axis=1)).sum() for table in (tables.bandwidth, tables.compute)
    ]

    def best_send_price(t):
        low, high, below, above = _halve(
            lambda s: reply(s, t), lambda r, s: r.sends - s, highest[0]
        )
        width = below.sends - above.sends
        share = jnp.where(
            width > 0.0, (low - above.sends) / jnp.where(width > 0.0, width, 1.0), 0.0
        )
        share = jnp.clip(share, 0.0, 1.0)
        return (low, high), (below, above), share * below.runs + (1.0 - share) * above.runs

    low, high, below, above = _halve(best_send_price, lambda inner, t: inner[2] - t, highest[1])
    corners = [
        (reply_.value, reply_.choice, jnp.stack([s, t]))
        for t, (sends, replies, _) in ((low, below), (high, above))
        for s, reply_ in zip(sends, replies, strict=True)
    ]
    values, choices, roots = (jnp.stack(part) for part in zip(*corners, strict=True))
    choice, cost = polish(tables, choices)
    best = jnp.argmax(values)
    return Certificate(values[best], cost, choice, roots[best])


def polish(tables: Tables, choices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the best of several answers [N, D] int32 after single changes: (choice [D], its
    cost).
    """
    max_changes = _CHANGES_A_DEVICE * tables.base.shape[0]
    choices = jax.vmap(lambda choice: descend(tables, choice, max_changes))(choices)
    costs = jax.vmap(lambda choice: total_cost(tables, choice))(choices)
    best = jnp.argmin(costs)
    return choices[best], costs[best]
