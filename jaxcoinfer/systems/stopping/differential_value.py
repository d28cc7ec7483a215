"""Average-reward learner for `stopping`: a decision is worth what it does to this task and to every
task after it.

A method that looks at one task forgets the queue it leaves to tasks that have not arrived yet. The
best long-run mean of the value U~ per task (what the rewards of a task sum to) needs, at each
decision l, the differential advantage

    A_l(x) = E[sum of U~, this task and all later ones | stop at l] - E[the same | continue at l],

both under the policy from then on. No choice changes how many tasks come, so the sums compare task
by task and the gain, which the two share, cancels. The twin samples A_l with no value function, so
nothing is bootstrapped: two copies of a device that differ in one decision live through the same
recorded world until they meet again; what one earned more than the other is then a sample.
What both suffer alike, most of the noise, cancels too; and it stays right where the observation
hides part of the state (links, bursts). A network learns the mean of such samples as a correction
to a rule, on the states the policy visits, and the policy stops where A_l >= 0 (policy
iteration).

Large samples belong to states where the decision is clear, and would drown the rest: an error
counts by `1 / (1 + (A_l / focus)^2)`, which depends on what is known only and so moves no mean.

The rule that is corrected is the price rule; of an image, what is expected of it stands for what a
choice got right (`twin.rollout.expected`), which leaves the mean as it is and takes out most of the
noise. `python -m training.stopping algorithms` compares with proximal policy optimisation on the
path taken: a discount that sees a whole busy period drowns one decision in the noise of all that
follow; the pair's other device takes that noise away.

Axes: B pairs, P = Le+1 decisions of a task, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import select
from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.core.sharding import replicate, shard
from jaxcoinfer.learn import loop
from jaxcoinfer.learn.loop import TrainingLoop
from jaxcoinfer.learn.networks import Mlp, PolicySignature, TrainResult, cosine_adam, descend
from jaxcoinfer.systems.stopping import price_rule
from jaxcoinfer.systems.stopping.env import CONTINUE, STOP, Stopping
from jaxcoinfer.systems.stopping.features import View, names, view
from jaxcoinfer.systems.stopping.observation import known
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.price_rule import Prices
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload
from jaxcoinfer.systems.stopping.twin.rollout import (
    expected,
    first_stop,
    first_stop_after,
    mean_utility,
)


@dataclass(frozen=True)
class Config:
    """What decides shapes and branches."""

    hidden: tuple[int, ...] = (32, 32)  # widths of the hidden layers
    n_pairs: int = 1024  # pairs of devices, B
    n_evaluations: int = 10  # points of the learning curve
    updates_per_evaluation: int = 6
    block_tasks: int = 32  # that each device plays before an update
    horizon: int = 64  # tasks; a pair that has not met after so many counts as it is
    buffer_size: int = 1 << 16  # latest samples that are kept
    batch: int = 4096
    n_batches: int = 8  # per update
    evaluation_devices: int = 256
    evaluation_tasks: int = 100  # of each of them


class Hyper(struct.PyTreeNode):
    """Numbers of the training, so that a sweep is a `vmap`."""

    learning_rate: Any = 3e-3  # initial step size, decays to 0 on a cosine
    off_path: Any = 0.2  # share of the decisions tried that the policy need not reach
    focus: Any = 0.1  # scaled advantage at which an error counts half
    limit: Any = 2.0  # largest scaled sample
    prices: Prices | None = None  # of the rule to correct; None: of zero, the forecast


class Weights(struct.PyTreeNode):
    """What a policy is made of."""

    net: Any  # of the network
    prices: Prices  # of the rule that it corrects


class Pair(struct.PyTreeNode):
    """Two devices that parted at one decision: the first stopped, the second went on."""

    devices: State  # [2]
    parted: View  # of that decision
    gain: jax.Array  # float32, U~ that the first earned more since
    age: jax.Array  # int32, tasks since, 0 if they have not parted yet
    kept: jax.Array  # int32, which of the two did as the policy would


class Samples(struct.PyTreeNode):
    """The latest samples, a ring."""

    parted: View  # [buffer_size], of the decisions
    gain: jax.Array  # float32 [buffer_size], U~ that stopping earned more
    count: jax.Array  # int32, of all samples so far


@dataclass(frozen=True)
class Learner:
    """What learns, and in what; holds no numbers."""

    env: Stopping
    config: Config

    @property
    def net(self) -> Mlp:
        return network(self.env, self.config)


def network(env: Stopping, config: Config) -> Mlp:
    """What each layer's forecast [P] misses, scaled, from one decision's features [F]; the caller
    picks the layer.
    """
    return Mlp(config.hidden, env.n_layers + 1)


def advantage(net: Any, weights: Any, views: View) -> jax.Array:
    """Returns the scaled advantage of stopping, `A_l / s`, of decisions [...]; weights: of the
    network.
    """
    correction = net.apply(weights, views.features)
    return views.lead + jnp.take_along_axis(correction, views.layer[..., None], axis=-1)[..., 0]


def loss(predicted: jax.Array, gain: jax.Array, focus: jax.Array, limit: jax.Array) -> jax.Array:
    """Returns the mean of `(A - G)^2 / (1 + (A / focus)^2)`; A predicted, G sampled advantages
    within ±limit [N].
    """
    weight = 1.0 / (1.0 + (jax.lax.stop_gradient(predicted) / focus) ** 2)
    return (weight * (predicted - jnp.clip(gain, -limit, limit)) ** 2).mean()


def policy(env: Stopping, config: Config, weights: Weights) -> Policy:
    """Stops where stopping has the advantage."""
    net = network(env, config)

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params) -> jax.Array:
        seen = view(env, state, params, weights.prices)
        return jnp.where(advantage(net, weights.net, seen) >= 0, STOP, CONTINUE)

    return act


def interface(
    env: Stopping, config: Config, weights: Weights
) -> tuple[Callable[[jax.Array], jax.Array], PolicySignature]:
    """Returns the learned function, features [B, F] -> scaled advantage of stopping [B, P], and
    what it is.
    """
    net: Any = network(env, config)
    meaning = (
        "advantage of stopping over continuing, scaled, by layers done; stop where it is at least 0"
    )
    signature = PolicySignature(names(env), meaning, f"{view.__module__}.view")
    return lambda features: features[:, -1:] + net.apply(weights.net, features), signature


def decide(
    env: Stopping, net: Mlp, weights: Weights, params: Params, replay: workload.Replay
) -> jax.Array:
    """Returns the policy's choice for a replayed task, int32."""
    views = jax.vmap(view, (None, 0, None, None))(env, replay.states, params, weights.prices)
    return first_stop(advantage(net, weights.net, views) >= 0)


def have_met(devices: State, params: Params) -> jax.Array:
    """Returns whether two devices [2] are alike at a task's start: processor, radio and, to a tenth
    of a slot, server.
    """
    busy = jnp.maximum(devices.hidden.radio_free - devices.start, 0)
    backlog_s = jax.vmap(known, (0, None))(devices, params).server_backlog_s
    near = jnp.abs(backlog_s[0] - backlog_s[1]) < 0.1 * params.slot_s
    return (devices.start[0] == devices.start[1]) & (busy[0] == busy[1]) & near


def try_layer(key: jax.Array, stops: jax.Array, off_path: jax.Array) -> jax.Array:
    """Draws the decision at which to part: one the policy reaches or, with off_path, any. stops
    bool [P].
    """
    key_whether, key_where = jax.random.split(key)
    anywhere = jax.random.bernoulli(key_whether, off_path)
    end = jnp.where(anywhere, stops.shape[0], jnp.minimum(first_stop(stops) + 1, stops.shape[0]))
    return jax.random.randint(key_where, (), 0, end, jnp.int32)


def advance_pair(
    learner: Learner, key: jax.Array, pair: Pair, weights: Weights, params: Params, hyper: Hyper
) -> tuple[Pair, jax.Array]:
    """Returns the pair one task later, and whether the pair as it was is a sample.

    Where it is, or has not parted yet, both go on from the device that did as the policy would, and
    part at once.
    """
    env = learner.env
    over = have_met(pair.devices, params) | (pair.age >= learner.config.horizon)
    is_sample = over & (pair.age > 0) & ~pair.devices.done.any()
    kept = jax.tree.map(lambda leaf: leaf[pair.kept], pair.devices)
    devices = select(over, kept, pair.devices)
    replay = jax.vmap(workload.evaluate, (None, 0, None))(env, devices, params)
    look = jax.vmap(jax.vmap(view, (None, 0, None, None)), (None, 0, None, None))
    views = look(env, replay.states, params, weights.prices)
    stops = advantage(learner.net, weights.net, views) >= 0
    layer = try_layer(key, stops[0], hyper.off_path)
    apart = jnp.stack([layer, first_stop_after(stops[0], layer)])
    choice = jnp.where(over, apart, jax.vmap(first_stop)(stops))
    values = jax.vmap(expected, (0, None))(replay, params).value
    value = jnp.take_along_axis(values, choice[:, None], axis=1)[:, 0]
    parted = select(over, jax.tree.map(lambda leaf: leaf[0, layer], views), pair.parted)
    return Pair(
        devices=jax.vmap(workload.follow, (0, 0, None))(replay, choice, params),
        parted=parted,
        gain=jnp.where(over, 0.0, pair.gain) + value[0] - value[1],
        age=jnp.where(over, 0, pair.age) + 1,
        kept=jnp.where(over, jnp.where(stops[0, layer], 0, 1), pair.kept),
    ), is_sample


def remember(samples: Samples, pairs: Pair, is_sample: jax.Array) -> Samples:
    """Writes those pairs [B] that are samples over the oldest; is_sample bool [B]."""
    buffer_size = samples.gain.shape[0]
    parted, gain, is_sample = replicate((pairs.parted, pairs.gain, is_sample))
    place = (samples.count + jnp.cumsum(is_sample, dtype=jnp.int32) - 1) % buffer_size
    place = jnp.where(is_sample, place, buffer_size)  # outside: dropped

    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        return old.at[place].set(new, mode="drop")

    parted = jax.tree.map(write, samples.parted, parted)
    return Samples(
        parted, write(samples.gain, gain), samples.count + is_sample.sum(dtype=jnp.int32)
    )


def start_pairs(
    key: jax.Array, n_pairs: int, params: Params, env: Stopping, prices: Prices
) -> Pair:
    """Returns pairs [B] of equal devices at random places, which have not parted yet."""
    devices, _ = jax.vmap(env.reset, (0, None))(jax.random.split(key, n_pairs), params)
    parted = jax.vmap(view, (None, 0, None, None))(env, devices, params, prices)
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf], axis=1), devices)
    zero = jnp.zeros((n_pairs,), jnp.int32)
    return Pair(both, parted, jnp.zeros((n_pairs,)), zero, zero)


def play(
    learner: Learner,
    key: jax.Array,
    state: tuple[Pair, Samples],
    weights: Weights,
    params: Params,
    hyper: Hyper,
) -> tuple[Pair, Samples]:
    """Plays block_tasks tasks with all pairs, collects samples, and starts pairs afresh whose row
    is done.
    """
    config = learner.config
    key_play, key_fresh = jax.random.split(key)

    def task(state: tuple[Pair, Samples], key: jax.Array) -> tuple[tuple[Pair, Samples], None]:
        pairs, samples = state
        advance = jax.vmap(partial(advance_pair, learner), (0, 0, None, None, None))
        keys = jax.random.split(key, config.n_pairs)
        after, is_sample = advance(keys, shard(pairs), weights, params, hyper)
        return (after, remember(samples, pairs, is_sample)), None

    keys = jax.random.split(key_play, config.block_tasks)
    (pairs, samples), _ = jax.lax.scan(task, state, keys)
    fresh = start_pairs(key_fresh, config.n_pairs, params, learner.env, weights.prices)
    done = pairs.devices.done.any(axis=1)
    return select(done, fresh, pairs), samples


def training_loop(params: Params, hyper: Hyper, *, env: Stopping, config: Config) -> TrainingLoop:
    """Returns what `loop` goes through; a learner state is ((weights, state of the optimiser),
    pairs, samples).
    """
    learner = Learner(env, config)
    net = learner.net
    prices = price_rule.free(params) if hyper.prices is None else hyper.prices
    n_learned = config.n_evaluations * config.updates_per_evaluation * config.n_batches
    optimiser = cosine_adam(hyper.learning_rate, n_learned)

    def init(key: jax.Array) -> tuple[Any, State, jax.Array]:
        key_net, key_start, key_test, key_run = jax.random.split(key, 4)
        pairs = start_pairs(key_start, config.n_pairs, params, env, prices)
        weights = net.init(key_net, pairs.parted.features[0])
        test, _ = jax.vmap(env.reset, (0, None))(
            jax.random.split(key_test, config.evaluation_devices), params
        )
        empty = jax.tree.map(
            lambda leaf: jnp.zeros((config.buffer_size, *leaf.shape[1:]), leaf.dtype), pairs.parted
        )
        none, count = jnp.zeros((config.buffer_size,)), jnp.zeros((), jnp.int32)
        samples = Samples(empty.replace(scale=empty.scale + 1.0), none, count)
        return ((weights, optimiser.init(weights)), pairs, samples), test, key_run

    def loss_at(weights: Any, samples: Samples, places: jax.Array) -> jax.Array:
        parted = jax.tree.map(lambda leaf: leaf[places], samples.parted)
        gain = samples.gain[places] / parted.scale
        return loss(advantage(net, weights, parted), gain, hyper.focus, hyper.limit)

    def fit(fitted: tuple[Any, Any], key: jax.Array, samples: Samples) -> tuple[Any, None]:
        weights, optimiser_state = fitted
        n_filled = jnp.clip(samples.count, 1, config.buffer_size)
        places = shard(jax.random.randint(key, (config.batch,), 0, n_filled))
        gradient = jax.grad(loss_at)(weights, samples, places)
        return descend(optimiser, gradient, weights, optimiser_state), None

    def update(learner_state: Any, key: jax.Array) -> Any:
        fitted, pairs, samples = learner_state
        key_play, key_fit = jax.random.split(key)
        weights = Weights(fitted[0], prices)
        pairs, samples = play(learner, key_play, (pairs, samples), weights, params, hyper)
        keys = jax.random.split(key_fit, config.n_batches)
        fitted, _ = jax.lax.scan(partial(fit, samples=samples), fitted, keys)
        return fitted, pairs, samples

    def weights_of(learner_state: Any) -> Weights:
        return Weights(learner_state[0][0], prices)

    def evaluate(learner_state: Any, test: State) -> jax.Array:
        choose = partial(decide, env, net, weights_of(learner_state), params)
        return mean_utility(env, choose, test, params, config.evaluation_tasks)

    n_stages, n_updates = config.n_evaluations, config.updates_per_evaluation
    n_steps = config.block_tasks * 2 * config.n_pairs
    return TrainingLoop(init, update, evaluate, weights_of, n_stages, n_updates, n_steps)


@partial(jax.jit, static_argnames=("env", "config"))
def train(
    key: jax.Array, params: Params, hyper: Hyper, *, env: Stopping, config: Config
) -> TrainResult:
    """Trains in one scan; consumes the key. Seeds, params and hyper-parameters can be vmapped."""
    return loop.train(key, training_loop(params, hyper, env=env, config=config))
