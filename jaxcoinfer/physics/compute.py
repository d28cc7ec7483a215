"""Time to compute."""

import jax
import jax.numpy as jnp

# A layer that overshoots a slot by less than this share of a slot counts as within it: 0.08 s is
# eight slots of 0.01 s although float32 divides them to a little more than 8.
SLOT_TOLERANCE = 1e-4


def layer_slots(layer_s: jax.Array, speed: jax.Array, slot_s: jax.Array) -> jax.Array:
    """Returns the slots a layer occupies the processor, `ceil(layer_s / (speed slot_s))`, int32.

    layer_s: nominal seconds; speed: 1 = nominal; slot_s: seconds; any common shape.
    """
    return jnp.ceil(layer_s / (speed * slot_s) - SLOT_TOLERANCE).astype(jnp.int32)


def seconds(count: jax.Array, unit_s: jax.Array) -> jax.Array:
    """Returns a whole number of slots or ticks in seconds, float32."""
    return count.astype(jnp.float32) * unit_s
