"""What a device of `stopping` knows at a decision, as numbers with units and as an observation."""

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.physics.compute import seconds
from jaxcoinfer.physics.link import positive_rate
from jaxcoinfer.physics.queueing import excess_left_s
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping import samples as stopping_samples
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
    slot_bits: jax.Array  # that the link carries in this slot
    speed: jax.Array  # of the device, 1 = nominal
    confidence: jax.Array  # of the exit head, largest class probability; 0 until it has run


def known(state: State, params: Params) -> Known:
    """Returns what the device knows at a decision: nothing that comes after the slot."""
    others_s = seconds(state.now.backlog, exogenous.tick_s(params.slot_s))
    return Known(
        layer=state.layer.astype(jnp.float32),
        waiting_tasks=jnp.maximum(state.now.arrived - state.task - 1, 0).astype(jnp.float32),
        wait_s=seconds(jnp.maximum(state.start - state.arrival, 0), params.slot_s),
        server_backlog_s=others_s + own_backlog_s(state, params),
        radio_bits=unsent_bits(state).astype(jnp.float32),
        slot_bits=state.now.bits.astype(jnp.float32),
        speed=exogenous.relative_speed(state.now.speed),
        confidence=_confidence(state, params),
    )


def observe(state: State, params: Params) -> jax.Array:
    """Returns the observation [7], or [8] with samples, float32, in the order of `OBSERVATION`, all
    in [0, 1].

    layer / (Le + 1); waiting tasks `x / (x + 4)`; wait, server backlog and radio backlog (at the
    rate of this slot) `x / (x + 1 s)`; rate and speed `x / (x + mean)`, with the mean rate of the
    bank and the nominal speed.
    """
    k = known(state, params)
    radio_s = k.radio_bits * params.slot_s / positive_rate(k.slot_bits, params.mean_bits)
    features = [
        k.layer / params.layer_s.shape[0],
        k.waiting_tasks / (k.waiting_tasks + _HALF_TASKS),
        k.wait_s / (k.wait_s + _HALF_S),
        k.server_backlog_s / (k.server_backlog_s + _HALF_S),
        radio_s / (radio_s + _HALF_S),
        k.slot_bits / (k.slot_bits + params.mean_bits),
        k.speed / (k.speed + 1.0),
    ]
    return jnp.stack(features if params.samples is None else [*features, k.confidence])


def unsent_bits(state: State) -> jax.Array:
    """Returns the bits the radio still has to send, int32."""
    left = jnp.maximum(state.radio_level - state.now.bits_sum, 0)
    return jnp.where(state.slot < state.radio_free, left, 0)


def own_backlog_s(state: State, params: Params) -> jax.Array:
    """Returns the seconds of own work at the server, as far as the device knows of it.

    While the radio sends, work counts from the moment it was handed over; once it is through, the
    server reports it.
    """
    busy = state.slot < state.radio_free
    own_s = jnp.where(busy, state.known_s, state.excess_s)
    since = state.now.idle - jnp.where(busy, state.known_idle, state.excess_idle)
    return excess_left_s(own_s, seconds(since, exogenous.tick_s(params.slot_s)))


def _confidence(state: State, params: Params) -> jax.Array:
    if params.samples is None:
        return jnp.zeros((), jnp.float32)
    ran = state.layer == params.layer_s.shape[0] - 1
    column = jnp.asarray(params.accuracy.shape[0], jnp.int32)  # behind the choices
    return jnp.where(
        ran, stopping_samples.number(params.samples, state.row, state.task, column), 0.0
    )
