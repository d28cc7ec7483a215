"""Waiting on a server that is shared with others."""

import jax
import jax.numpy as jnp

TICKS = 1024  # of server work in one slot


def excess_left_s(excess_s: jax.Array, idle_s: jax.Array) -> jax.Array:
    """Returns what is left of our excess after the others alone would have left the server idle for
    `idle_s`.

    Let `Q` be the backlog under the work of the others alone, `I` the time the server idles under
    it, and let our tasks have left excess `R` at slot t0, so that the total backlog is `Q[t0] + R`.
    Then at every t >= t0

        total[t] = Q[t] + max(R - (I[t] - I[t0]), 0).

    Proof, by induction over slots with `E[t] = total[t] - Q[t]`, `D` one slot of service, `W[t]`
    the others' work: `total[t+1] = max(Q[t] + E[t] - D, 0) + W[t]` and `Q[t+1] = max(Q[t] - D, 0) +
    W[t]`. If `Q[t] >= D` both lose D and E stays; nobody idles, `I[t+1] = I[t]`. If `Q[t] < D` the
    others leave `D - Q[t] = I[t+1] - I[t]` idle and `E[t+1] = max(E[t] - (D - Q[t]), 0)`. So E
    falls exactly by the idle time and stops at zero, which gives `E[t] = max(R - (I[t] - I[t0]),
    0)`. Our later work e adds to E. (Skorokhod reflection; first-come first-served.)

    excess_s: seconds of own work left at t0; idle_s: `I[t] - I[t0]` in seconds; any common shape.
    """
    return jnp.maximum(excess_s - idle_s, 0.0)
