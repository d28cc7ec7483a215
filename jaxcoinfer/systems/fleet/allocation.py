"""Shares of one bandwidth and one server among devices, and what a choice of each then costs all of
them.

Device i with choice c costs `a_ic + b_ic / x_i + c_ic / y_i`: `a` whatever its shares, `b` with the
whole bandwidth, `c` with the whole server; shares x and y each sum to one. Axes: D devices, C
choices of a device.
"""

import jax
import jax.numpy as jnp
from flax import struct


class Tables(struct.PyTreeNode):
    """Cost of every choice of every device, [D, C] float32, none negative.

    base: cost without link and server, plus infinity where a choice is not allowed; bandwidth,
    compute: cost with the whole of either. An absent device has zeros throughout: it costs nothing
    and takes nothing.
    """

    base: jax.Array
    bandwidth: jax.Array
    compute: jax.Array


def allocate(weight_bits: jax.Array, weight_flop: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the shares (x, y) [D] of least `sum_i weight_bits_i / x_i + weight_flop_i / y_i`.

    `x_i = sqrt(weight_bits_i) / sum_j sqrt(weight_bits_j)`, likewise y: where the derivative of
    `sum_i b_i / x_i + mu (sum_i x_i - 1)` is zero (Karush-Kuhn-Tucker). Zero where nothing is sent
    or run; each sums to one unless all are zero. weight_bits, weight_flop [D], none negative: cost
    with the whole of either.
    """
    return normalised(jnp.sqrt(weight_bits)), normalised(jnp.sqrt(weight_flop))


def normalised(weight: jax.Array) -> jax.Array:
    """Returns shares in proportion to weight [D], which none is negative; zeros where all are zero."""
    share = weight / jnp.maximum(
        weight.max(), jnp.finfo(weight.dtype).tiny
    )  # neither sum nor quotient overflows
    return share / jnp.maximum(share.sum(), 1.0)


def at(table: jax.Array, choice: jax.Array) -> jax.Array:
    """Returns of a table [D, C] the entry of each device's choice [D] int32, which must be inside
    it.
    """
    return jnp.take_along_axis(table, choice[:, None], axis=1, mode="promise_in_bounds")[:, 0]


def chosen(tables: Tables, choice: jax.Array) -> Tables:
    """Returns the costs [D] of each device's choice [D] int32."""
    return jax.tree.map(lambda table: at(table, choice), tables)


def total_cost(tables: Tables, choice: jax.Array) -> jax.Array:
    """Returns the cost of all devices with the best shares, `sum a + (sum sqrt b)^2 + (sum sqrt
    c)^2`, scalar.

    With `x_i = sqrt(b_i) / S` and `S = sum sqrt b`, `sum b_i / x_i = S sum sqrt(b_i) = S^2`.
    """
    of = chosen(tables, choice)
    return of.base.sum() + jnp.sqrt(of.bandwidth).sum() ** 2 + jnp.sqrt(of.compute).sum() ** 2


def cost_of_changes(tables: Tables, choice: jax.Array) -> jax.Array:
    """Returns by how much the cost of all changes if one device changes its choice and shares
    follow, [D, C].

    `a' - a + d (2 S + d)` with `d = sqrt(b') - sqrt(b)`, `S = sum sqrt b`, and the same of c: O(1)
    for each change, and free of the digits that are lost where two large totals are subtracted.
    """
    of = chosen(tables, choice)
    change = tables.base - of.base[:, None]
    for table, now in ((tables.bandwidth, of.bandwidth), (tables.compute, of.compute)):
        root = jnp.sqrt(now)
        step = jnp.sqrt(table) - root[:, None]
        change = change + step * (2.0 * root.sum() + step)
    return change


def descend(tables: Tables, choice: jax.Array, max_changes: int) -> jax.Array:
    """Returns choices [D] int32 after the best single change, again and again, until none helps or
    after max_changes.

    A change counts as help above 1e-6 of the cost, or rounding could turn in a circle. No step
    makes the cost rise.
    """
    n_choices = tables.base.shape[1]

    def best(choice):
        change = cost_of_changes(tables, choice).ravel()
        where = jnp.argmin(change).astype(jnp.int32)
        return where, change[where] < -1e-6 * total_cost(tables, choice)

    def go_on(carry):
        _, _, helps, n = carry
        return helps & (n < max_changes)

    def change(carry):
        choice, where, _, n = carry
        choice = choice.at[where // n_choices].set(where % n_choices)
        return choice, *best(choice), n + 1

    return jax.lax.while_loop(go_on, change, (choice, *best(choice), jnp.int32(0)))[0]
