"""A decision as the learners see it: what is known, on scales of the task itself.

Nothing here depends on the mean of a draw, so what was learned on one link means the same on
another. Axes: P = Le+1 decisions of a task, F features.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.systems.stopping import price_rule
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.observation import known
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.price_rule import Prices
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload

# The confidence of the exit head only where the device observes it.
FEATURES = (
    "waiting_tasks",
    "wait",
    "server_backlog",
    "radio_backlog",
    "upload",
    "speed",
    "confidence",
    "lead",
)


class View(struct.PyTreeNode):
    """A decision as a network sees it."""

    layer: jax.Array  # int32
    features: jax.Array  # float32 [F], FEATURES
    scale: jax.Array  # float32, s
    stop: jax.Array  # float32, what stopping is worth by the price rule
    lead: jax.Array  # float32, how much that is above the best later choice, scaled

    @property
    def later(self) -> jax.Array:
        """What the best later choice is worth by the price rule."""
        ahead = self.scale * self.lead / (1.0 - jnp.abs(self.lead))
        return self.stop - ahead


def names(env: Stopping) -> tuple[str, ...]:
    """Returns the names of the features, in order."""
    return tuple(name for name in FEATURES if env.observes_confidence or name != "confidence")


def view(env: Stopping, state: State, params: Params, prices: Prices) -> View:
    """Returns what is known at a decision.

    lead: value of stopping less that of the best later choice, both by the price rule,
    `d / (s + |d|)`: a forecast is no guide to how much a bad choice costs (the link is dead now,
    not for good), only to which it is. Scale s: one, the tasks that wait, and the seconds of work
    at server and radio: about what a bad choice can cost. With a larger scale a choice that costs
    as much as the radio's whole queue would look like a small error, and that queue would grow for
    ever.
    """
    now = known(state, params)
    value = price_rule.values(env, state, params, prices)
    later = jnp.arange(env.n_choices) > state.layer
    stop = value[state.layer]
    ahead = stop - jnp.max(jnp.where(later, value, -jnp.inf))
    radio_s = workload.radio_backlog_s(now, params)
    task_s = params.layer_s.sum()
    air_s = workload.air_s(now, params).mean()
    scale = 1.0 + now.waiting_tasks + now.server_backlog_s + radio_s
    lead = ahead / (scale + jnp.abs(ahead))
    numbers = [
        jnp.log1p(now.waiting_tasks),
        jnp.log1p(now.wait_s / task_s),
        jnp.log1p(now.server_backlog_s / task_s),
        jnp.log1p(radio_s / task_s),
        jnp.log(jnp.clip(air_s / task_s, 1e-2, 1e2)),
        now.speed / (now.speed + 1.0),
        *([now.confidence] if env.observes_confidence else []),
        lead,
    ]
    return View(state.layer, jnp.stack(numbers), scale, stop, lead)
