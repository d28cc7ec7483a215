"""The published method for `stopping`: a network learns what continuing is worth, from the digital
twin.

After each task the twin tells what every stopping point would have given, also those not taken.
With `V[l]` the value of stopping after l layers and `V[Le+1]` of finishing on the device, targets
for the value of continuing are built backwards: `G[Le] = V[Le+1]`; `G[l] = V[l+1]` where the device
would stop at l+1, else `G[l+1]`. The device stops where stopping, as expected from what it knows,
is worth at least as much as the network says of continuing. Without the twin only the path that was
taken gives data: what came of its last step, and before that the network's own next value.

The published target is `max(V[l+1], C[l+1])` with C the network. V holds what nobody knew at the
decision (jobs that reach the server during the upload), and the maximum of a noisy number and a
constant is too large on average: on `reference-busy` it makes continuing look better than it is,
and the method then loses to greedy with waiting cost. Deciding by what was known and then taking
what came of it has no such bias, and needs no network inside its targets.

The method of Hu et al. (arXiv 2405.17664); network, features and constants are ours. Axes: B
devices, P = Le+1 layers at which a decision is taken, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.rollout import Policy, restart_ended
from jaxcoinfer.core.sharding import shard
from jaxcoinfer.learn import loop
from jaxcoinfer.learn.loop import TrainingLoop
from jaxcoinfer.learn.networks import Mlp, TrainResult, cosine_adam, descend
from jaxcoinfer.systems.stopping.env import CONTINUE, STOP, Stopping
from jaxcoinfer.systems.stopping.observation import observe
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload
from jaxcoinfer.systems.stopping.twin.workload import Replay


@dataclass(frozen=True)
class Config:
    """What decides shapes and branches."""

    hidden: tuple[int, ...] = (64, 64)  # widths of the hidden layers
    n_devices: int = 256  # B
    n_evaluations: int = 20  # points of the learning curve
    updates_per_evaluation: int = 100  # each takes one task of every device
    evaluation_devices: int = 256
    evaluation_tasks: int = 200  # of each of them
    twin: bool = True  # learn from all stopping points, or from the path taken alone


class Hyper(struct.PyTreeNode):
    """Numbers of the training, so that a sweep is a `vmap`."""

    learning_rate: Any = 3e-3  # initial step size, decays to 0 on a cosine
    exploration: Any = 0.1  # probability that a device decides at random while it learns


def network(env: Stopping, config: Config) -> Mlp:
    """Continuation value of each layer [P] from one observation [F]; the caller picks the layer it
    is at.
    """
    return Mlp(config.hidden, env.n_layers + 1)


def targets(values: jax.Array, stops: jax.Array) -> jax.Array:
    """Returns the backward targets [P]: `G[Le] = values[Le+1]`, `G[l] = stops[l+1] ? values[l+1] :
    G[l+1]`.

    What came of continuing at l and deciding as the device does from then on. values [P+1]: what
    each choice gave; stops [P] bool: where the device would stop.
    """
    later = [values[-1]]
    for stop, value in zip(stops[:0:-1], values[-2:0:-1], strict=True):
        later.append(jnp.where(stop, value, later[-1]))
    return jnp.stack(later[::-1])


def path_targets(
    values: jax.Array, continuation: jax.Array, choice: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns targets [P] and which of them the path taken gives, bool [P]: without a twin
    `values[choice]` is all.

    A task that stopped at `choice` continued at l = 0..choice-1; at the last of them it learns what
    came of it, before that what the next decision was thought to be worth.
    """
    layer = jnp.arange(continuation.shape[0])
    later = jnp.concatenate([continuation[1:], values[-1:]])
    return jnp.where(layer == choice - 1, values[choice], later), layer < choice


def stop_values(env: Stopping, states: State, params: Params) -> jax.Array:
    """Returns what stopping is expected to be worth at each of the decisions of a task, [P]; states
    [P].
    """
    expected = jax.vmap(lambda state: workload.forecast(env, state, params).value)(states)
    return jnp.diagonal(expected[:, :-1])


def first_stop(stops: jax.Array) -> jax.Array:
    """Returns the first decision at which a task stops, int32; P (the device) where none does.
    stops bool [P].
    """
    return jnp.argmax(jnp.concatenate([stops, jnp.ones((1,), bool)])).astype(jnp.int32)


def policy(env: Stopping, config: Config, weights: Any) -> Policy:
    """Stops where stopping is expected to be worth at least what the network says of continuing."""
    net: Any = network(env, config)

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params):
        worth = workload.forecast(env, state, params).value[state.layer]
        return jnp.where(worth >= net.apply(weights, observation)[state.layer], STOP, CONTINUE)

    return act


def _decide(
    env: Stopping, net: Any, weights: Any, replay: Replay, params: Params
) -> tuple[jax.Array, ...]:
    """Observations [P, F], continuation values [P] and the decision at each layer, bool [P], of one
    replayed task.
    """
    observations = jax.vmap(observe, (0, None))(replay.states, params)
    continuation = jnp.diagonal(net.apply(weights, observations))
    return observations, continuation, stop_values(env, replay.states, params) >= continuation


def _explore(key: jax.Array, stops: jax.Array, probability: jax.Array) -> jax.Array:
    """With `probability`, makes a task stop at a uniformly drawn point instead."""
    key_whether, key_where = jax.random.split(key)
    point = jax.random.randint(key_where, (), 0, stops.shape[0] + 1)
    drawn = jnp.arange(stops.shape[0]) == point
    return jnp.where(jax.random.bernoulli(key_whether, probability), drawn, stops)


def mean_utility(
    env: Stopping,
    choose: Callable[[Replay], jax.Array],
    states: State,
    params: Params,
    n_tasks: int,
) -> jax.Array:
    """Returns the mean utility per task if `choose(replay) -> choice` decides n_tasks tasks from
    each state [B].
    """

    def task(state: State, _: None):
        replay = workload.evaluate(env, state, params)
        choice = choose(replay)
        utility = jnp.where(state.done, 0.0, replay.choices.utility[choice])
        return workload.follow(replay, choice, params), (utility, ~state.done)

    def device(state: State):
        utility, counted = jax.lax.scan(task, state, None, length=n_tasks)[1]
        return utility.sum(), counted.sum()

    total, count = jax.vmap(device)(shard(states))
    return total.sum() / jnp.maximum(count.sum(), 1).astype(jnp.float32)


def training_loop(params: Params, hyper: Hyper, *, env: Stopping, config: Config) -> TrainingLoop:
    """Returns what `loop` goes through; a learner state is (weights, state of the optimiser,
    devices, time steps).
    """
    net: Any = network(env, config)
    optimiser = cosine_adam(
        hyper.learning_rate, config.n_evaluations * config.updates_per_evaluation
    )

    def init(key: jax.Array):
        key_net, key_start, key_test, key_run = jax.random.split(key, 4)
        weights = net.init(key_net, jnp.zeros(env.observation_shape))
        start = jax.vmap(env.reset, (0, None))
        test, _ = start(jax.random.split(key_test, config.evaluation_devices), params)
        state, timestep = start(jax.random.split(key_start, config.n_devices), params)
        return (weights, optimiser.init(weights), state, timestep), test, key_run

    def loss(weights: Any, observations: jax.Array, target: jax.Array, known: jax.Array):
        predicted = jax.vmap(lambda o: jnp.diagonal(net.apply(weights, o)))(observations)
        return jnp.where(known, jnp.square(predicted - target), 0.0).sum() / jnp.maximum(
            known.sum(), 1
        ).astype(jnp.float32)

    def one_task(key: jax.Array, state: State, weights: Any):
        replay = workload.evaluate(env, state, params)
        observations, continuation, stops = _decide(env, net, weights, replay, params)
        choice = first_stop(_explore(key, stops, hyper.exploration))
        if config.twin:
            target, known = targets(replay.choices.value, stops), jnp.ones_like(stops)
        else:
            target, known = path_targets(replay.choices.value, continuation, choice)
        return workload.follow(replay, choice, params), (observations, target, known & ~state.done)

    def update(carry: Any, key: jax.Array):
        weights, optimiser_state, state, timestep = carry
        key_explore, key_fresh = jax.random.split(key)
        keys = jax.random.split(key_explore, config.n_devices)
        state, batch = jax.vmap(one_task, (0, 0, None))(keys, shard(state), weights)
        weights, optimiser_state = descend(
            optimiser, jax.grad(loss)(weights, *batch), weights, optimiser_state
        )
        timestep = timestep.replace(truncated=state.done)
        state, timestep = restart_ended(env, params, key_fresh, state, timestep)
        return weights, optimiser_state, state, timestep

    def evaluate(carry: Any, test: State):
        def choose(replay: Replay):
            return first_stop(_decide(env, net, carry[0], replay, params)[2])

        return mean_utility(env, choose, test, params, config.evaluation_tasks)

    n_stages, n_updates = config.n_evaluations, config.updates_per_evaluation
    return TrainingLoop(
        init, update, evaluate, lambda carry: carry[0], n_stages, n_updates, config.n_devices
    )


@partial(jax.jit, static_argnames=("env", "config"))
def train(
    key: jax.Array, params: Params, hyper: Hyper, *, env: Stopping, config: Config
) -> TrainResult:
    """Trains in one scan; consumes the key. Seeds, params and hyper-parameters can be vmapped."""
    return loop.train(key, training_loop(params, hyper, env=env, config=config))
