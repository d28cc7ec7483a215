"""Fresh starts for the environments of a batch that are done, and work for those only.

A start draws random numbers and gathers a whole state, which costs several steps, and in most steps
few environments end. Code for one environment would, under `jax.vmap`, make a start for all of them
in every step and throw nearly all away. Here the batch is handled as a whole: those that are done
are searched for and started one by one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.core.contract import Env, TimeStep

_ROW = 128  # width of the grid that is searched for those that are done, first by row


def restarted(
    env: Env, key: jax.Array, state: Any, timestep: TimeStep, params: Any
) -> tuple[Any, jax.Array]:
    """Returns (state, observation) of `env.reset(key, params)` where the time step is the last one,
    else as they are.

    For one environment; any number of `jax.vmap` make one batch of it. Cannot be differentiated in
    reverse.
    """

    def start(key: jax.Array, params: Any):
        fresh, first = env.reset(key, params)
        return fresh, first.observation

    def one(key: jax.Array, over: jax.Array, kept: Any, params: Any):
        return jax.lax.cond(over, lambda: start(key, params), lambda: kept)

    @jax.custom_batching.custom_vmap
    def batch(keys: jax.Array, over: jax.Array, kept: Any, params: Any):
        return _restart_some(start, keys, over, kept, params)

    @batch.def_vmap
    def _batches(
        axis_size: int, in_batched: Any, keys: jax.Array, over: jax.Array, kept: Any, params: Any
    ):
        if any(jax.tree.leaves(in_batched[3])):  # each batch has a world of its own
            axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched))
            each = jax.vmap(jax.vmap(one, (0, 0, 0, None)), axes, axis_size=axis_size)
            return _all_batched(each(keys, over, kept, params))
        parts = _broadcast((keys, over, kept), in_batched[:3], axis_size)
        n_envs = over.shape[-1]
        flat = jax.tree.map(lambda leaf: leaf.reshape(axis_size * n_envs, *leaf.shape[2:]), parts)
        ended = batch(*flat, params)
        return _all_batched(
            jax.tree.map(lambda leaf: leaf.reshape(axis_size, n_envs, *leaf.shape[1:]), ended)
        )

    single = jax.custom_batching.custom_vmap(one)

    @single.def_vmap
    def _batch(
        axis_size: int, in_batched: Any, keys: jax.Array, over: jax.Array, kept: Any, params: Any
    ):
        if any(jax.tree.leaves(in_batched[3])):
            axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched))
            return _all_batched(jax.vmap(one, axes, axis_size=axis_size)(keys, over, kept, params))
        return _all_batched(
            batch(*_broadcast((keys, over, kept), in_batched[:3], axis_size), params)
        )

    return single(
        key, timestep.terminated | timestep.truncated, (state, timestep.observation), params
    )


def _all_batched(out: Any):
    return out, jax.tree.map(lambda _: True, out)


def _broadcast(parts: Any, batched: Any, axis_size: int):
    """Gives every leaf the batch's axis, first."""
    return jax.tree.map(
        lambda leaf, has: leaf if has else jnp.broadcast_to(leaf, (axis_size, *leaf.shape)),
        parts,
        tuple(batched),
    )


def _restart_some(
    start: Callable[..., Any], keys: jax.Array, over: jax.Array, kept: Any, params: Any
) -> Any:
    """Returns `kept` with `start(key, params)` in place of every environment that is over, [B]; one
    after another.
    """
    n_envs = over.shape[0]
    n_rows = -(-n_envs // _ROW)
    grid = jnp.pad(over, (0, n_rows * _ROW - n_envs)).reshape(n_rows, _ROW)

    def next_one(carry: Any):
        in_row, grid, kept = carry
        row = jnp.argmax(in_row).astype(jnp.int32)
        column = jnp.argmax(grid[row]).astype(jnp.int32)
        index = row * _ROW + column
        fresh = start(keys[index], params)
        rest = grid[row] & (jnp.arange(_ROW) != column)
        kept = jax.tree.map(lambda new, old: old.at[index].set(new), fresh, kept)
        return in_row.at[row].set(rest.any()), grid.at[row].set(rest), kept

    return jax.lax.while_loop(
        lambda carry: carry[0].any(), next_one, (grid.any(axis=1), grid, kept)
    )[2]
