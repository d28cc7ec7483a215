"""The published method for `stopping`, and what mends it: a network learns what continuing is
worth, from the digital twin.

After each task the twin tells what every stopping point would have given, also those not taken:
V[l] the value of stopping after l layers, V[Le+1] of finishing on the device. A network learns the
value C[l] of continuing at l from targets G that are built backwards, G[Le] = V[Le+1], and the
device stops where stopping, as expected from what it knows, is worth at least C.

*Published* (Hu et al., arXiv 2405.17664): `G[l] = max(V[l+1], C[l+1])`. V holds what nobody knew at
the decision (jobs that reach the server during the upload), and the maximum of a noisy number and
a constant is too large on average: continuing looks better than it is, and the method loses to
rules without learning.

*Mended* (ours, the default): G[l] is what the choice gave that the device would have made after l,
on what it knew there. Deciding by what was known and then taking what came of it has no such bias,
and needs no network inside its targets. And the network corrects a rule rather than replacing it:
`C[l]` is what the best later choice is worth by the price rule, plus a learned part of
`features.view`, so that with nothing learned the policy is the rule. A choice pays the same prices
in G as in the rule, for what one task is worth says nothing of those to come. Errors count by
`1 / (1 + (A / focus)^2)` with A the scaled difference between stopping and C, as in
`differential_value`: where the decision is clear, they do not matter.

Without the twin only the path that was taken gives data: what came of its last step, and before
that the network's own next value. Network, features and constants are ours. Axes: B devices,
P = Le+1 layers at which a decision is taken, F features.
"""

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
from jaxcoinfer.physics.compute import seconds
from jaxcoinfer.systems.stopping import price_rule
from jaxcoinfer.systems.stopping.device import waiting_slots
from jaxcoinfer.systems.stopping.env import CONTINUE, STOP, Stopping
from jaxcoinfer.systems.stopping.features import View, view
from jaxcoinfer.systems.stopping.observation import observe
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.price_rule import Prices, charges
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import pruning, workload
from jaxcoinfer.systems.stopping.twin.rollout import (
    expected,
    first_stop,
    first_stop_after,
    mean_utility,
)
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
    published: bool = False  # the published targets and features, or those mended


class Hyper(struct.PyTreeNode):
    """Numbers of the training, so that a sweep is a `vmap`."""

    learning_rate: Any = 3e-3  # initial step size, decays to 0 on a cosine
    exploration: Any = 0.1  # probability that a device decides at random while it learns
    focus: Any = 0.1  # scaled difference to C at which an error counts half, where mended
    limit: Any = 2.0  # largest scaled error that counts, where mended
    prices: Prices | None = None  # of the rule to correct; None: of zero, the forecast


class Weights(struct.PyTreeNode):
    """What a policy is made of."""

    net: Any  # of the network
    prices: Prices  # of the rule that it corrects; of zero for the published method


class Parts(struct.PyTreeNode):
    """What the network takes at a decision, and how its output is read: C = base + scale output."""

    inputs: jax.Array  # float32 [F]
    base: jax.Array  # float32
    scale: jax.Array  # float32
    stop: jax.Array  # float32, what stopping is worth by the rule


class Decisions(Parts):
    """The decisions of one replayed task, [P, ...] each."""

    continuation: jax.Array  # float32 [P], C
    charges: jax.Array  # float32 [P, P+1], what each choice pays by the rule

    @property
    def stops(self) -> jax.Array:
        """Whether the device stops, bool [P]."""
        return self.stop >= self.continuation


def network(env: Stopping, config: Config) -> Mlp:
    """One number per layer [P] from one decision's inputs [F]; the caller picks its layer."""
    return Mlp(config.hidden, env.n_layers + 1)


def targets(values: jax.Array, stops: jax.Array) -> jax.Array:
    """Returns the mended targets [P]: `G[l] = values[l, c]` of the choice c that the device makes
    if it goes on at l.

    values [P, P+1]: what each choice gave, less what it pays at each decision; stops [P] bool:
    where the device would stop.
    """
    layers = jnp.arange(stops.shape[0])
    choices = jax.vmap(first_stop_after, (None, 0))(stops, layers)
    return jnp.take_along_axis(values, choices[:, None], axis=1)[:, 0]


def published_targets(values: jax.Array, continuation: jax.Array) -> jax.Array:
    """Returns the published targets [P]: `G[Le] = values[Le+1]`, `G[l] = max(values[l+1], C[l+1])`.

    values [P+1]: what each choice gave; continuation [P]: C.
    """
    return jnp.append(jnp.maximum(values[1:-1], continuation[1:]), values[-1])


def path_targets(
    values: jax.Array, continuation: jax.Array, choice: jax.Array, waited_s: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns targets [P] and which of them the path taken gives, bool [P]: without a twin
    `values[l, choice]` is all. values [P, P+1]: as in `targets`; waited_s [P]: seconds that others
    have waited by each decision, if values count from there on.

    A task that stopped at `choice` continued at l = 0..choice-1; at the last of them it learns what
    came of it, before that what the next decision was thought to be worth.
    """
    layer = jnp.arange(continuation.shape[0])
    later = jnp.append(continuation[1:] - jnp.diff(waited_s), values[-1, -1])
    return jnp.where(layer == choice - 1, values[:, choice], later), layer < choice


def policy(env: Stopping, config: Config, weights: Weights) -> Policy:
    """Stops where stopping is expected to be worth at least what the network says of continuing."""
    net: Any = network(env, config)

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params):
        seen = view(env, state, params, weights.prices)
        waited = waiting_slots(state.at_start.now, state.now, state.slot - state.start, state.task)
        parts = _parts(config, seen, observation, seconds(waited, params.slot_s))
        continuation = parts.base + parts.scale * net.apply(weights.net, parts.inputs)[state.layer]
        return jnp.where(parts.stop >= continuation, STOP, CONTINUE)

    return act


def _parts(config: Config, seen: View, observation: jax.Array, waited_s: jax.Array) -> Parts:
    """The parts of a decision; waited_s: seconds that others have waited since the task began.

    The published values count from the beginning of the task; those mended from the decision on, as
    the rule does.
    """
    if config.published:
        zero = jnp.zeros_like(seen.stop)
        return Parts(observation, zero, zero + 1.0, seen.stop - waited_s)
    return Parts(seen.features, seen.later, seen.scale, seen.stop)


def _decide(
    env: Stopping, config: Config, weights: Weights, replay: Replay, params: Params
) -> Decisions:
    net: Any = network(env, config)
    seen = jax.vmap(view, (None, 0, None, None))(env, replay.states, params, weights.prices)
    observations = jax.vmap(observe, (0, None))(replay.states, params)
    parts = _parts(config, seen, observations, replay.choices.waiting_cost_s[:-1])
    continuation = parts.base + parts.scale * jnp.diagonal(net.apply(weights.net, parts.inputs))
    pays = jax.vmap(charges, (None, 0, None, None))(env, replay.states, params, weights.prices)
    return Decisions(**vars(parts), continuation=continuation, charges=pays)


def _explore(
    key: jax.Array, stops: jax.Array, probability: jax.Array, worth_trying: jax.Array
) -> jax.Array:
    """With `probability`, makes a task stop at a uniformly drawn choice instead, of those worth
    trying, bool [P+1].
    """
    key_whether, key_where = jax.random.split(key)
    point = jax.random.categorical(key_where, jnp.where(worth_trying, 0.0, -jnp.inf))
    drawn = jnp.arange(stops.shape[0]) == point
    return jnp.where(jax.random.bernoulli(key_whether, probability), drawn, stops)


def _worth_trying(config: Config, replay: Replay, params: Params) -> jax.Array:
    """Which choices exploration draws from, bool [P+1]: by the published method, for which a task
    is worth what it gives itself, those that the twin's lemma does not rule out. A choice that
    cannot win its own task may be right for those that come after it.
    """
    if not config.published:
        return jnp.ones(replay.choices.value.shape, bool)
    return pruning.can_win(params, pruning.after_replay(replay), replay.choices.value[-1])


def loss(
    weights: Any,
    decisions: Decisions,
    target: jax.Array,
    counts: jax.Array,
    *,
    net: Any,
    config: Config,
    hyper: Hyper,
) -> jax.Array:
    """Returns the mean error of the continuation values of tasks [B, P], of those that count."""
    predicted = jax.vmap(lambda x: jnp.diagonal(net.apply(weights, x)))(decisions.inputs)
    wanted = (target - decisions.base) / decisions.scale
    weight = counts.astype(jnp.float32)
    if not config.published:
        clear = (decisions.stop - decisions.continuation) / decisions.scale
        wanted = jnp.clip(wanted, -hyper.limit, hyper.limit)
        weight = weight / (1.0 + (clear / hyper.focus) ** 2)
    error = weight * jnp.square(predicted - wanted)
    return error.sum() / jnp.maximum(counts.sum(), 1).astype(jnp.float32)


def training_loop(params: Params, hyper: Hyper, *, env: Stopping, config: Config) -> TrainingLoop:
    """Returns what `loop` goes through; a learner state is (weights of the network, state of the
    optimiser, devices, time steps).
    """
    net: Any = network(env, config)
    given = None if config.published else hyper.prices
    prices = price_rule.free(params) if given is None else given
    optimiser = cosine_adam(
        hyper.learning_rate, config.n_evaluations * config.updates_per_evaluation
    )

    def init(key: jax.Array):
        key_net, key_start, key_test, key_run = jax.random.split(key, 4)
        start = jax.vmap(env.reset, (0, None))
        test, _ = start(jax.random.split(key_test, config.evaluation_devices), params)
        state, timestep = start(jax.random.split(key_start, config.n_devices), params)
        seen = view(env, jax.tree.map(lambda leaf: leaf[0], state), params, prices)
        parts = _parts(config, seen, timestep.observation[0], jnp.zeros(()))
        weights = net.init(key_net, parts.inputs)
        return (weights, optimiser.init(weights), state, timestep), test, key_run

    def one_task(key: jax.Array, state: State, weights: Any):
        replay = workload.evaluate(env, state, params)
        decisions = _decide(env, config, Weights(weights, prices), replay, params)
        worth_trying = _worth_trying(config, replay, params)
        choice = first_stop(_explore(key, decisions.stops, hyper.exploration, worth_trying))
        values, counts = expected(replay, params).value, jnp.ones_like(decisions.stops)
        # What each choice gave from each decision on, less what it pays there.
        waited_s = replay.choices.waiting_cost_s[:-1] * (0.0 if config.published else 1.0)
        since = values[None] + waited_s[:, None] - decisions.charges
        if not config.twin:
            target, counts = path_targets(since, decisions.continuation, choice, waited_s)
        elif config.published:
            target = published_targets(values, decisions.continuation)
        else:
            target = targets(since, decisions.stops)
        return workload.follow(replay, choice, params), (decisions, target, counts & ~state.done)

    def update(carry: Any, key: jax.Array):
        weights, optimiser_state, state, timestep = carry
        key_explore, key_fresh = jax.random.split(key)
        keys = jax.random.split(key_explore, config.n_devices)
        state, batch = jax.vmap(one_task, (0, 0, None))(keys, shard(state), weights)
        gradient = jax.grad(partial(loss, net=net, config=config, hyper=hyper))(weights, *batch)
        weights, optimiser_state = descend(optimiser, gradient, weights, optimiser_state)
        timestep = timestep.replace(truncated=state.done)
        state, timestep = restart_ended(env, params, key_fresh, state, timestep)
        return weights, optimiser_state, state, timestep

    def weights_of(carry: Any) -> Weights:
        return Weights(carry[0], prices)

    def evaluate(carry: Any, test: State):
        def choose(replay: Replay):
            return first_stop(_decide(env, config, weights_of(carry), replay, params).stops)

        return mean_utility(env, choose, test, params, config.evaluation_tasks)

    n_stages, n_updates = config.n_evaluations, config.updates_per_evaluation
    return TrainingLoop(init, update, evaluate, weights_of, n_stages, n_updates, config.n_devices)


@partial(jax.jit, static_argnames=("env", "config"))
def train(
    key: jax.Array, params: Params, hyper: Hyper, *, env: Stopping, config: Config
) -> TrainResult:
    """Trains in one scan; consumes the key. Seeds, params and hyper-parameters can be vmapped."""
    return loop.train(key, training_loop(params, hyper, env=env, config=config))
