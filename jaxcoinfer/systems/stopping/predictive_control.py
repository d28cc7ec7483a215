"""Model-predictive control on the forecast: the choice that is best for the next tasks together, if
the world stays as it is now.

For each choice still open the device plays the task in hand and the `HORIZON` after it in a world
without chance: link, speed and the others' backlog stay, tasks arrive every 1 / lambda seconds
behind those that wait, and every later task takes what is best for itself, charged for the tasks
that then wait. The choice with the largest sum of utilities is taken, and the next decision plans
anew (receding horizon). Axes: P = Le+1 stopping points with an upload, P+1 choices.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.physics.compute import layer_slots, seconds
from jaxcoinfer.systems.stopping.env import CONTINUE, STOP, Stopping
from jaxcoinfer.systems.stopping.observation import known
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload

HORIZON = 8  # tasks after the one in hand


class _Model(struct.PyTreeNode):
    """A choice of a task in the world without chance; [P+1] each, seconds."""

    compute_s: jax.Array
    air_s: jax.Array
    server_s: jax.Array
    uploads: jax.Array  # bool
    gain: jax.Array  # utility but for the latency


class _Busy(struct.PyTreeNode):
    """When device and server are free again, seconds from now; scalars."""

    processor_s: jax.Array
    radio_s: jax.Array
    server_s: jax.Array  # of own work


def policy(env: Stopping, tasks_per_s: jax.Array) -> Policy:
    """Stops where that is the first step of the best plan."""

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params) -> jax.Array:
        best = jnp.argmax(plan(env, state, params, tasks_per_s))
        return jnp.where(best == state.layer, STOP, CONTINUE)

    return act


def plan(env: Stopping, state: State, params: Params, tasks_per_s: jax.Array) -> jax.Array:
    """Returns the sum of utilities, this task and the `HORIZON` after it, that follows from each
    choice [P+1], but for what all have in common; minus infinity behind.
    """
    now, expected = known(state, params), workload.forecast(env, state, params)
    others_s = now.server_backlog_s - state.observed.own_backlog_s
    air_s = jnp.append(workload.air_s(now, params), 0.0)
    ends = jnp.arange(env.n_choices)
    own_cost = params.energy_weight * expected.energy_j
    gain = params.accuracy_weight * expected.accuracy - own_cost
    ahead_s = expected.compute_s - seconds(state.slot - state.start, params.slot_s)
    first = _Model(ahead_s, air_s, expected.server_s, ends < env.n_choices - 1, gain)
    slots = layer_slots(params.layer_s, now.speed, params.slot_s)
    whole = jnp.append(jnp.zeros((1,), jnp.int32), jnp.cumsum(slots, dtype=jnp.int32))
    mean_gain = params.accuracy_weight * params.accuracy - own_cost
    later = first.replace(compute_s=seconds(whole, params.slot_s), gain=mean_gain)
    idle = _Busy(jnp.zeros(()), workload.radio_backlog_s(now, params), state.observed.own_backlog_s)

    def follow(choice: jax.Array) -> jax.Array:
        busy, utility = _task(first, idle, jnp.zeros(()), others_s, params, choice)

        def next_task(carry: tuple[_Busy, jax.Array], number: jax.Array):
            busy, total = carry
            behind = now.waiting_tasks - number  # this task among them while it is above 0
            arrival_s = jnp.maximum(1.0 - behind, 0.0) / tasks_per_s
            start_s = jnp.maximum(arrival_s, busy.processor_s)
            waiting = jnp.maximum(behind - 1.0, 0.0) + tasks_per_s * (start_s - arrival_s)
            outcomes = jax.vmap(_task, (None, None, None, None, None, 0))(
                later, busy.replace(processor_s=start_s), arrival_s, others_s, params, ends
            )
            best = jnp.argmax(outcomes[1] - waiting * later.compute_s)
            busy, utility = jax.tree.map(lambda leaf: leaf[best], outcomes)
            return (busy, total + utility), None

        numbers = jnp.arange(HORIZON, dtype=jnp.float32)
        return jax.lax.scan(next_task, (busy, utility), numbers)[0][1]

    return jnp.where(ends < state.layer, -jnp.inf, jax.vmap(follow)(ends))


def _task(
    model: _Model,
    busy: _Busy,
    arrival_s: jax.Array,
    others_s: jax.Array,
    params: Params,
    choice: jax.Array,
) -> tuple[_Busy, jax.Array]:
    """What is busy after a task that takes `choice`, and its utility."""
    mine = jax.tree.map(lambda column: column[choice], model)
    computed_s = busy.processor_s + mine.compute_s
    sent_s = jnp.maximum(computed_s, busy.radio_s) + mine.air_s
    served_s = jnp.maximum(sent_s, busy.server_s) + mine.server_s
    end_s = jnp.where(mine.uploads, served_s + others_s + params.rtt_s, computed_s)
    after = _Busy(
        computed_s,
        jnp.where(mine.uploads, sent_s, busy.radio_s),
        jnp.where(mine.uploads, served_s, busy.server_s),
    )
    return after, mine.gain - (end_s - arrival_s)
