"""Policies played task by task through the twin: one evaluation per task instead of a step per
decision. Axes: B devices, P = Le+1 decisions of a task.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcoinfer.core.sharding import shard
from jaxcoinfer.systems.stopping import env as stopping
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload
from jaxcoinfer.systems.stopping.twin.workload import Choices, Replay


def expected(replay: Replay, params: Params) -> Choices:
    """Returns what each choice of a replayed task gives, with what is expected of its image instead
    of what the choice got right.

    Nobody knows an image's outcome beforehand; all that a policy may see of it is how sure the exit
    head is. So the mean is the same, and learners are spared the noise.
    """
    surplus = stopping.accuracies_of_like(replay.end, params) - replay.choices.accuracy
    more = params.accuracy_weight * surplus
    choices = replay.choices
    return choices.replace(
        accuracy=choices.accuracy + surplus,
        utility=choices.utility + more,
        value=choices.value + more,
    )


def first_stop(stops: jax.Array) -> jax.Array:
    """Returns the first decision at which a task stops, int32; P (the device) where none does.
    stops bool [P].
    """
    return jnp.argmax(jnp.concatenate([stops, jnp.ones((1,), bool)])).astype(jnp.int32)


def first_stop_after(stops: jax.Array, layer: jax.Array) -> jax.Array:
    """Returns where a task stops that went on at `layer`, int32. stops bool [P]."""
    return first_stop(stops & (jnp.arange(stops.shape[0]) > layer))


def mean_utility(
    env: Stopping,
    choose: Callable[[Replay], jax.Array],
    states: State,
    params: Params,
    n_tasks: int,
) -> jax.Array:
    """Returns the mean expected utility per task if `choose(replay) -> choice` decides n_tasks
    tasks from each state [B].
    """

    def task(state: State, _: None):
        replay = workload.evaluate(env, state, params)
        choice = choose(replay)
        utility = jnp.where(state.done, 0.0, expected(replay, params).utility[choice])
        return workload.follow(replay, choice, params), (utility, ~state.done)

    def device(state: State):
        utility, counted = jax.lax.scan(task, state, None, length=n_tasks)[1]
        return utility.sum(), counted.sum()

    total, count = jax.vmap(device)(shard(states))
    return total.sum() / jnp.maximum(count.sum(), 1).astype(jnp.float32)
