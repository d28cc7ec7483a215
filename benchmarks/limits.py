"""The peak rates of this machine, measured in the same run as what is compared with them."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from training.common import measure


class _Sizes(NamedTuple):
    """float32 numbers per array, of which each sweep keeps two: past all caches, within one, and in
    registers; and multiply-adds on each number in registers.
    """

    memory: int
    cache: int
    registers: int
    fused: int


_CPU = _Sizes(1 << 24, 1 << 17, 1 << 22, 64)
_GPU = _Sizes(1 << 26, 1 << 22, 1 << 24, 512)  # a launch takes microseconds: each must be worth it


def limits() -> dict[str, float]:
    """Returns bytes/s of `b = b / 2 + c`, many times over, on arrays of 64 MiB and of 0.5 MiB, and
    FLOP/s of multiply-adds on numbers in registers: memory_bytes_per_s, cache_bytes_per_s,
    flop_per_s. On a GPU of 256 MiB and of 16 MiB.
    """
    sizes = _CPU if jax.default_backend() == "cpu" else _GPU
    return {
        "memory_bytes_per_s": _triad(sizes.memory, 16),
        "cache_bytes_per_s": _triad(sizes.cache, 256),
        "flop_per_s": _multiply_adds(sizes.registers, sizes.fused),
    }


def against(
    limit: dict[str, float], items_per_s: float, counted: dict[str, float]
) -> dict[str, float]:
    """Returns the counts per item and the share of each limit that the rate reaches."""
    return counted | {
        "share_of_memory": items_per_s * counted["bytes_per_item"] / limit["memory_bytes_per_s"],
        "share_of_cache": items_per_s * counted["bytes_per_item"] / limit["cache_bytes_per_s"],
        "share_of_flop": items_per_s * counted["flop_per_item"] / limit["flop_per_s"],
    }


def count(function: Any, items: int, size: int, *arguments: Any) -> dict[str, float]:
    """Returns bytes and FLOP per item of a program without loops that makes `items` from batches of
    `size`.

    Bytes: of every argument and result that has the batch as its first axis, once, and of all that
    is gathered; what a perfect program would move. FLOP: as the compiler counts them.
    """
    traced = jax.make_jaxpr(function)(*arguments)
    results = jax.tree.leaves(jax.eval_shape(function, *arguments))
    moved = sum(
        _bytes(leaf)
        for leaf in [*jax.tree.leaves(arguments), *results]
        if leaf.shape[:1] == (size,)
    )
    cost: Any = jax.jit(function).lower(*arguments).compile().cost_analysis() or {}
    cost = cost[0] if isinstance(cost, list) else cost
    flop = float(cost.get("flops", float("nan")))
    return {
        "bytes_per_item": (moved + _gathered(traced.jaxpr)) / items,
        "flop_per_item": flop / items,
    }


def _gathered(jaxpr: Any) -> int:
    """Bytes that gathers read, those of inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "gather":
            total += sum(_bytes(out.aval) for out in equation.outvars)
        total += sum(
            _gathered(inner.jaxpr) for inner in equation.params.values() if hasattr(inner, "jaxpr")
        )
    return total


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _triad(size: int, times: int) -> float:
    b, c = jnp.ones(size), jnp.full(size, 2.0)

    def sweep(b: jax.Array, c: jax.Array) -> jax.Array:
        # Each sweep reads two arrays and overwrites one of them, so none is copied between sweeps.
        return jax.lax.fori_loop(0, times, lambda _, b: 0.5 * b + c, b)

    timed = measure("triad", sweep, b, c)
    return 3 * 4 * size * times / timed["median_s"]


def _multiply_adds(size: int, fused: int) -> float:
    x = jnp.full(size, 0.5)
    chain = partial(_chain, fused, jnp.float32(0.999), jnp.float32(0.001))
    return 2.0 * fused * size / measure("multiply-add", chain, x)["median_s"]


def _chain(fused: int, a: jax.Array, b: jax.Array, x: jax.Array) -> jax.Array:
    for _ in range(fused):
        x = a * x + b
    return x
