"""Shares of one bandwidth and one server among devices, and what the choices of the devices then
cost.

With choice k, device i costs `a_ik + b_ik / x_i + c_ik / y_i`: `a` whatever its shares, `b` with
all the bandwidth, `c` with the whole server; the shares x and y each sum to one. Axes: D devices, C
choices of a device.
"""

import jax
import jax.numpy as jnp
from flax import struct


class FleetTables(struct.PyTreeNode):
    """Cost of every choice of every device, [D, C] float32, none negative.

    An absent device has zeros throughout: it costs nothing and takes nothing.
    """

    base: jax.Array  # a, cost without link and server; infinity where a choice is not allowed
    bandwidth: jax.Array  # b, cost of the link with all the bandwidth
    compute: jax.Array  # c, cost of the server with all of it


def allocate(bandwidth: jax.Array, compute: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the shares (x, y) [D] of least `sum_i bandwidth_i / x_i + compute_i / y_i`.

    `x_i = sqrt(bandwidth_i) / sum_j sqrt(bandwidth_j)`, likewise y: where the derivative of
    `sum_i b_i / x_i + mu (sum_i x_i - 1)` is zero (Karush-Kuhn-Tucker). Zero where nothing is sent
    or run; each sums to one unless all are zero. bandwidth, compute [D], none negative: cost with
    all of either.
    """
    return normalised(jnp.sqrt(bandwidth)), normalised(jnp.sqrt(compute))


def normalised(weight: jax.Array) -> jax.Array:
    """Returns shares in proportion to weight [D], none negative; zeros where all are zero."""
    # Divided by the largest first, so that neither sum nor quotient overflows.
    share = weight / jnp.maximum(weight.max(), jnp.finfo(weight.dtype).tiny)
    return share / jnp.maximum(share.sum(), 1.0)


def at(table: jax.Array, choice: jax.Array) -> jax.Array:
    """Returns the entry of a table [D, C] at each device's choice, [D] int32 inside [0, C)."""
    return jnp.take_along_axis(table, choice[:, None], axis=1, mode="promise_in_bounds")[:, 0]


def chosen(tables: FleetTables, choice: jax.Array) -> FleetTables:
    """Returns the costs [D] of each device's choice [D] int32."""
    return jax.tree.map(lambda table: at(table, choice), tables)


def total_cost(tables: FleetTables, choice: jax.Array) -> jax.Array:
    """Returns the cost of all devices with the best shares, scalar:
    `sum a + (sum sqrt b)^2 + (sum sqrt c)^2`.

    With `x_i = sqrt(b_i) / S` and `S = sum sqrt b`, `sum b_i / x_i = S sum sqrt(b_i) = S^2`.
    """
    costs = chosen(tables, choice)
    return (
        costs.base.sum() + jnp.sqrt(costs.bandwidth).sum() ** 2 + jnp.sqrt(costs.compute).sum() ** 2
    )


def cost_of_changes(tables: FleetTables, choice: jax.Array) -> jax.Array:
    """Returns by how much the cost of all devices changes if one changes its choice and the best
    shares follow, [D, C].

    `a' - a + d (2 S + d)` with `d = sqrt(b') - sqrt(b)`, `S = sum sqrt b`, and the same for c: O(1)
    per change, without the digits that are lost where two large totals are subtracted.
    """
    current = chosen(tables, choice)
    change = tables.base - current.base[:, None]
    for table, cost in (
        (tables.bandwidth, current.bandwidth),
        (tables.compute, current.compute),
    ):
        root = jnp.sqrt(cost)
        step = jnp.sqrt(table) - root[:, None]
        change = change + step * (2.0 * root.sum() + step)
    return change


def descend(tables: FleetTables, choice: jax.Array, max_changes: int) -> jax.Array:
    """Returns choices [D] int32 after repeating the best single change until none helps, or
    max_changes times.

    A change helps if it saves more than 1e-6 of the cost; without that, rounding could make it
    cycle. No step makes the cost rise.
    """
    n_choices = tables.base.shape[1]

    def best_change(choice: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Index of the best change in [D * C], and whether it helps."""
        change = cost_of_changes(tables, choice).ravel()
        index = jnp.argmin(change).astype(jnp.int32)
        return index, change[index] < -1e-6 * total_cost(tables, choice)

    def helps(carry: tuple) -> jax.Array:
        _, _, is_better, n_changes = carry
        return is_better & (n_changes < max_changes)

    def apply(carry: tuple) -> tuple:
        choice, index, _, n_changes = carry
        choice = choice.at[index // n_choices].set(index % n_choices)
        return choice, *best_change(choice), n_changes + 1

    return jax.lax.while_loop(helps, apply, (choice, *best_change(choice), jnp.int32(0)))[0]
