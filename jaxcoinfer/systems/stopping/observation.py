"""What a device of `stopping` knows at a decision, as numbers with units and as an observation."""

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.physics.compute import seconds
from jaxcoinfer.physics.link import positive_rate
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State

# Observation: `x / (x + half)` of each unbounded number, so that all lie in [0, 1] and small values
# stay apart. The last only where the device observes the exit head's confidence.
OBSERVATION = (
    "layer",
    "waiting_tasks",
    "wait",
    "server_backlog",
    "radio_backlog",
    "rate",
    "speed",
    "confidence",
)
_HALF_TASKS, _HALF_S = 4.0, 1.0


class Known(struct.PyTreeNode):
    """What the device knows at a decision: float32 scalars; `observe` normalises them."""

    layer: jax.Array  # of Le + 1
    waiting_tasks: jax.Array  # besides the one in hand
    wait_s: jax.Array  # of the task in hand
    server_backlog_s: jax.Array  # as the server reports it, with own work on the way
    radio_bits: jax.Array  # still to be sent
    slot_bits: jax.Array  # that the link carried in a slot when its rate was last measured
    speed: jax.Array  # of the device, 1 = nominal
    confidence: jax.Array  # of the exit head, largest class probability; 0 until it has run


def known(state: State, params: Params) -> Known:
    """Returns what the device knows at a decision: nothing that comes after the slot."""
    observed = state.observed
    others_s = seconds(state.now.backlog, exogenous.tick_s(params.slot_s))
    return Known(
        layer=state.layer.astype(jnp.float32),
        waiting_tasks=jnp.maximum(state.now.arrived - state.task - 1, 0).astype(jnp.float32),
        wait_s=seconds(jnp.maximum(state.start - state.arrival, 0), params.slot_s),
        server_backlog_s=others_s + observed.own_backlog_s,
        radio_bits=observed.unsent_bits.astype(jnp.float32),
        slot_bits=state.now.bits.astype(jnp.float32),
        speed=exogenous.relative_speed(state.now.speed),
        confidence=state.confidence,
    )


def observe(state: State, params: Params) -> jax.Array:
    """Returns the observation [7], or [8] with samples, float32, in the order of `OBSERVATION`, all
    in [0, 1].

    layer / (Le + 1); waiting tasks `x / (x + 4)`; wait, server backlog and radio backlog (at the
    rate last measured) `x / (x + 1 s)`; rate `x / (x + typical_bits)`; speed `x / (x + 1)`, 1 the
    nominal one.
    """
    k = known(state, params)
    radio_s = k.radio_bits * params.slot_s / positive_rate(k.slot_bits, params.typical_bits)
    features = [
        k.layer / params.layer_s.shape[0],
        k.waiting_tasks / (k.waiting_tasks + _HALF_TASKS),
        k.wait_s / (k.wait_s + _HALF_S),
        k.server_backlog_s / (k.server_backlog_s + _HALF_S),
        radio_s / (radio_s + _HALF_S),
        k.slot_bits / (k.slot_bits + params.typical_bits),
        k.speed / (k.speed + 1.0),
    ]
    return jnp.stack(features if params.samples is None else [*features, k.confidence])
