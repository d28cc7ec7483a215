"""Baselines for `stopping`. Each function returns a policy `(key, state, observation, params) ->
action`.

The one-time policies decide when a task starts and keep to it. They have no memory: the device's
queue, radio and own work do not change while a task runs, so what was known at its start can be
read again.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcoinfer.core.rollout import Oracle, Policy
from jaxcoinfer.systems.stopping import env as stopping
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping.env import CONTINUE, STOP, Stopping
from jaxcoinfer.systems.stopping.observation import known
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State, begun
from jaxcoinfer.systems.stopping.twin import workload

Planner = Callable[[State, Params], jax.Array]


def fixed(choice: int) -> Policy:
    """Stops after `choice` layers, whatever happens; Le+1 finishes every task on the device, 0
    uploads every input.
    """
    return one_time(lambda state, params: jnp.asarray(choice, jnp.int32))


def random_choice() -> Policy:
    """Stops with probability one half at each decision."""
    return lambda key, state, observation, params: jnp.where(
        jax.random.bernoulli(key), STOP, CONTINUE
    )


def one_time(plan: Planner) -> Policy:
    """Holds to `plan(state at the start of the task, params) -> choice`, int32."""

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params):
        return jnp.where(plan(begun(state), params) <= state.layer, STOP, CONTINUE)

    return act


def one_time_greedy(env: Stopping) -> Policy:
    """Best expected utility of the task at its start, on the backlog reported then."""
    return one_time(lambda state, params: jnp.argmax(workload.forecast(env, state, params).utility))


def one_time_waiting(env: Stopping) -> Policy:
    """As greedy, with each choice charged for the tasks that wait while it holds the processor."""
    return one_time(plan_waiting(env))


def adaptive_waiting(env: Stopping) -> Policy:
    """As `one_time_waiting`, decided anew before every layer on what is known then."""

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params):
        best = jnp.argmax(workload.forecast(env, state, params).value)
        return jnp.where(best == state.layer, STOP, CONTINUE)

    return act


def at_generation(plan: Planner) -> Policy:
    """Holds to `plan` made on what server, link and queue were like when the task arrived, not when
    it began.

    No oracle, but it looks up the past, which devices do not keep.
    """

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params):
        now = state.at_start.now
        then = exogenous.slot_at(params.bank, state.row, state.arrival)
        columns = (exogenous.ARRIVED, exogenous.BACKLOG, exogenous.BITS, exogenous.SPEED)
        old = jnp.asarray(columns)
        record = exogenous.Slot(now.record.at[old].set(then.record[old]))
        planned = begun(state)
        planned = planned.replace(observed=planned.observed.replace(now=record))
        return jnp.where(plan(planned, params) <= state.layer, STOP, CONTINUE)

    return Oracle(act)


def threshold_exit(env: Stopping, threshold: float) -> Policy:
    """Runs the exit head on every task and settles for its answer where its confidence is at least
    the threshold, else uploads.

    The manner of Teerapittayanon et al., *BranchyNet* (arXiv 1709.01686), by the largest class
    probability; for an environment that observes the head's confidence.
    """

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params):
        unsure = (state.layer == env.n_layers) & (known(state, params).confidence < threshold)
        return jnp.where(unsure, STOP, CONTINUE)

    return act


def plan_waiting(env: Stopping) -> Planner:
    """Best expected value of a task, charged for the tasks that wait while it occupies the
    processor.
    """
    return lambda state, params: jnp.argmax(workload.forecast(env, state, params).value)


def clairvoyant(env: Stopping) -> Policy:
    """Best realised value of the task in hand, with the future known; no device can do this.

    Of an image it knows how sure the exit head will be, not which choice will be right.
    """

    def plan(state: State, params: Params) -> jax.Array:
        choices = workload.evaluate(env, state, params).choices
        hoped = stopping.accuracies_of_like(state, params) - choices.accuracy
        return jnp.argmax(choices.value + params.accuracy_weight * hoped)

    return Oracle(one_time(plan))


def neurosurgeon(env: Stopping) -> Policy:
    """Best partition for the rate at the start of a task, the load of the server ignored.

    The manner of Kang et al., *Neurosurgeon* (ASPLOS 2017): cut of least latency; no early exit, so
    the choice is among the uploads.
    """

    def plan(state: State, params: Params) -> jax.Array:
        expected = workload.forecast(env, state, params)
        return jnp.argmin((expected.latency_s - expected.server_wait_s)[:-1])

    return one_time(plan)
