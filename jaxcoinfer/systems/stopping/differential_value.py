"""Average-reward learner for `stopping`: a decision is worth what it does to this task and to every
task after it.

A method that looks at one task forgets the queue it leaves to tasks that have not arrived yet. The
best long-run mean of the value U~ a task (what the rewards of a task sum to) needs, at each
decision l, the differential advantage

    A_l(x) = E[sum of U~, this task and all later ones | stop at l] - E[the same | continue at l],

both under the policy from then on. No choice changes how many tasks come, so the sums compare task
by task and the gain, which the two share, cancels. The twin samples A_l with no value function, so
nothing is bootstrapped: two copies of a device that differ in one decision live through the same
recorded world until they meet again, which is when what one earned more than the other is a sample.
What both suffer alike, most of the noise, cancels too; and it stays right where the observation
hides part of the state (links, bursts). A network learns the mean of such samples as a correction
to the forecast, on the states the policy visits, and the policy stops where A_l >= 0 (policy
iteration).

Large samples belong to states where the decision is clear, and would drown the rest: an error
counts by `1 / (1 + (A_l / focus)^2)`, which depends on what is known only and so moves no mean.

Compared with proximal policy optimisation on the path taken (`learn.ppo`, discounts .9, .99, .998,
as many tasks), by utility above one-time waiting: `reference-busy` .135 against -.052, .111, .107;
`campus-pi` .012 against -.019, -.021, -.021 (`python -m training.stopping algorithms`). A discount
that sees a whole busy period drowns one decision in the noise of all that follow; the pair's other
device takes that noise away.

Axes: B pairs, P = Le+1 decisions of a task, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.core.sharding import replicate, shard
from jaxcoinfer.learn import loop
from jaxcoinfer.learn.loop import TrainingLoop
from jaxcoinfer.learn.networks import Mlp, PolicySignature, TrainResult, cosine_adam, descend
from jaxcoinfer.systems.stopping.continuation_value import first_stop, mean_utility
from jaxcoinfer.systems.stopping.env import CONTINUE, STOP, Stopping
from jaxcoinfer.systems.stopping.observation import known
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload


@dataclass(frozen=True)
class Config:
    """What decides shapes and branches.

    Training runs n_pairs pairs of devices for n_evaluations × updates_per_evaluation × block_tasks
    tasks each and looks at itself after each evaluation. An update takes n_batches batches from the
    latest `buffer_size` samples. A pair that has not met after `horizon` tasks counts as it is.
    """

    hidden: tuple[int, ...] = (32, 32)
    n_pairs: int = 1024
    n_evaluations: int = 10
    updates_per_evaluation: int = 6
    block_tasks: int = 32
    horizon: int = 64
    buffer_size: int = 1 << 16
    batch: int = 4096
    n_batches: int = 8
    evaluation_devices: int = 256
    evaluation_tasks: int = 100


class Hyper(struct.PyTreeNode):
    """Numbers of the training, so that a sweep is a `vmap`.

    learning_rate: initial step size, decays to 0 on a cosine; off_path: share of the decisions
    tried that the policy need not reach; focus: scaled advantage at which an error counts half;
    limit: largest scaled sample.
    """

    learning_rate: Any = 3e-3
    off_path: Any = 0.2
    focus: Any = 0.1
    limit: Any = 2.0


# The confidence of the exit head only where the device looks at it.
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
    """A decision as the network sees it: layer, int32; features [F], FEATURES; scale; lead, the
    forecast's advantage, scaled.
    """

    layer: jax.Array
    features: jax.Array
    scale: jax.Array
    lead: jax.Array


class Pair(struct.PyTreeNode):
    """Two devices [2] that parted at one decision: the first stopped, the second went on.

    parted: View of that decision; gain: U~ the first earned more since; age: tasks since, 0 if they
    have not parted yet; kept, 0 or 1: which of them did as the policy would.
    """

    devices: State
    parted: View
    gain: jax.Array
    age: jax.Array
    kept: jax.Array


class Samples(struct.PyTreeNode):
    """The latest samples, a ring [buffer_size]: the decision, and what stopping earned more; count:
    of all so far.
    """

    parted: View
    gain: jax.Array
    count: jax.Array


def network(env: Stopping, config: Config) -> Mlp:
    """What each layer's forecast [P] misses, scaled, from one decision's features [F]; the caller
    picks the layer.
    """
    return Mlp(config.hidden, env.n_layers + 1)


def view(env: Stopping, state: State, params: Params) -> View:
    """Returns what is known at a decision.

    lead: forecast value of stopping less that of the best later choice, `d / (s + |d|)`: a forecast
    is no guide to how much a bad choice costs (the link is dead now, not for good), only to which
    it is. Scale s: one, the tasks that wait, and the seconds of work at server and radio: about
    what a bad choice can cost. With a larger scale a choice that costs as much as the radio's whole
    queue would look like a small error, and that queue would grow for ever.
    """
    now = known(state, params)
    value = workload.forecast(env, state, params).value
    later = jnp.arange(env.n_choices) > state.layer
    ahead = value[state.layer] - jnp.max(jnp.where(later, value, -jnp.inf))
    radio_s = (
        now.radio_bits * params.slot_s / jnp.maximum(now.slot_bits, 1e-3 * params.mean_bits)
    )
    task_s = params.layer_s.sum()
    air_s = (
        params.upload_bits.mean()
        * params.slot_s
        / jnp.maximum(now.slot_bits, 1e-3 * params.mean_bits)
    )
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
    return View(state.layer, jnp.stack(numbers), scale, lead)


def advantage(net: Any, weights: Any, seen: View) -> jax.Array:
    """Returns the scaled advantage of stopping, `A_l / s`, of decisions [...]."""
    correction = net.apply(weights, seen.features)
    return seen.lead + jnp.take_along_axis(correction, seen.layer[..., None], axis=-1)[..., 0]


def loss(predicted: jax.Array, gain: jax.Array, focus: jax.Array, limit: jax.Array) -> jax.Array:
    """Returns the mean of `(A - G)^2 / (1 + (A / focus)^2)`; A predicted, G sampled advantages
    within ±limit [N].
    """
    weight = 1.0 / (1.0 + (jax.lax.stop_gradient(predicted) / focus) ** 2)
    return (weight * (predicted - jnp.clip(gain, -limit, limit)) ** 2).mean()


def policy(env: Stopping, config: Config, weights: Any) -> Policy:
    """Stops where stopping has the advantage."""
    net = network(env, config)

    def act(key, state, observation, params):
        return jnp.where(advantage(net, weights, view(env, state, params)) >= 0, STOP, CONTINUE)

    return act


def interface(
    env: Stopping, config: Config, weights: Any
) -> tuple[Callable[[jax.Array], jax.Array], PolicySignature]:
    """Returns the learned function, features [B, F] -> scaled advantage of stopping [B, P], and
    what it is.
    """
    net: Any = network(env, config)
    meaning = (
        "advantage of stopping over continuing, scaled, by layers done; stop where it is at least 0"
    )
    features = tuple(name for name in FEATURES if env.observes_confidence or name != "confidence")
    signature = PolicySignature(features, meaning, f"{__name__}.view")
    return lambda features: features[:, -1:] + net.apply(weights, features), signature


def decide(
    env: Stopping, net: Mlp, weights: Any, params: Params, replay: workload.Replay
) -> jax.Array:
    """Returns the policy's choice for a replayed task, int32."""
    seen = jax.vmap(view, (None, 0, None))(env, replay.states, params)
    return first_stop(advantage(net, weights, seen) >= 0)


def first_stop_after(stops: jax.Array, layer: jax.Array) -> jax.Array:
    """Returns where a task stops that went on at `layer`, int32. stops bool [P]."""
    return first_stop(stops & (jnp.arange(stops.shape[0]) > layer))


def have_met(devices: State, params: Params) -> jax.Array:
    """Whether two devices [2] stand alike at a task's start: processor, radio and, to a tenth of a
    slot, server.
    """
    busy = jnp.maximum(devices.radio_free - devices.start, 0)
    backlog_s = jax.vmap(known, (0, None))(devices, params).server_backlog_s
    near = jnp.abs(backlog_s[0] - backlog_s[1]) < 0.1 * params.slot_s
    return (devices.start[0] == devices.start[1]) & (busy[0] == busy[1]) & near


def try_layer(key: jax.Array, stops: jax.Array, off_path: jax.Array) -> jax.Array:
    """Draws the decision at which to part: one the policy reaches or, with off_path, any. stops
    bool [P].
    """
    key_whether, key_where = jax.random.split(key)
    anywhere = jax.random.bernoulli(key_whether, off_path)
    most = jnp.where(anywhere, stops.shape[0], jnp.minimum(first_stop(stops) + 1, stops.shape[0]))
    return jax.random.randint(key_where, (), 0, most, jnp.int32)


def next_task(
    key: jax.Array,
    pair: Pair,
    net: Mlp,
    weights: Any,
    params: Params,
    hyper: Hyper,
    env: Stopping,
    horizon: int,
) -> tuple[Pair, jax.Array]:
    """Returns the pair one task later, and whether the pair as it was is a sample.

    Where it is, or has not parted yet, both go on from the device that did as the policy would, and
    part at once.
    """
    over = have_met(pair.devices, params) | (pair.age >= horizon)
    is_sample = over & (pair.age > 0) & ~pair.devices.done.any()
    devices = jax.tree.map(lambda leaf: jnp.where(over, leaf[pair.kept], leaf), pair.devices)
    replay = jax.vmap(workload.evaluate, (None, 0, None))(env, devices, params)
    seen = jax.vmap(jax.vmap(view, (None, 0, None)), (None, 0, None))(env, replay.states, params)
    stops = advantage(net, weights, seen) >= 0
    layer = try_layer(key, stops[0], hyper.off_path)
    apart = jnp.stack([layer, first_stop_after(stops[0], layer)])
    choice = jnp.where(over, apart, jax.vmap(first_stop)(stops))
    value = jnp.take_along_axis(replay.choices.value, choice[:, None], axis=1)[:, 0]
    parted = jax.tree.map(lambda new, old: jnp.where(over, new[0, layer], old), seen, pair.parted)
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

    def write(old, new):
        return old.at[place].set(new, mode="drop")

    parted = jax.tree.map(write, samples.parted, parted)
    return Samples(
        parted, write(samples.gain, gain), samples.count + is_sample.sum(dtype=jnp.int32)
    )


def start_pairs(key: jax.Array, n_pairs: int, params: Params, env: Stopping) -> Pair:
    """Returns pairs [B] that stand together at random places and have not parted yet."""
    devices, _ = jax.vmap(env.reset, (0, None))(jax.random.split(key, n_pairs), params)
    parted = jax.vmap(view, (None, 0, None))(env, devices, params)
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf], axis=1), devices)
    zero = jnp.zeros((n_pairs,), jnp.int32)
    return Pair(both, parted, jnp.zeros((n_pairs,)), zero, zero)


def play(
    key: jax.Array,
    pairs: Pair,
    samples: Samples,
    weights: Any,
    params: Params,
    hyper: Hyper,
    env: Stopping,
    config: Config,
) -> tuple[Pair, Samples]:
    """Plays block_tasks tasks with all pairs, collects samples, and starts pairs afresh whose row
    has ended.
    """
    net = network(env, config)
    key_play, key_fresh = jax.random.split(key)

    def task(carry, key):
        pairs, samples = carry

        def one(key, pair):
            return next_task(key, pair, net, weights, params, hyper, env, config.horizon)

        after, is_sample = jax.vmap(one)(jax.random.split(key, config.n_pairs), shard(pairs))
        return (after, remember(samples, pairs, is_sample)), None

    (pairs, samples), _ = jax.lax.scan(
        task, (pairs, samples), jax.random.split(key_play, config.block_tasks)
    )
    fresh = start_pairs(key_fresh, config.n_pairs, params, env)
    ended = pairs.devices.done.any(axis=1)

    def choose(new, old):
        return jnp.where(ended.reshape(ended.shape + (1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, fresh, pairs), samples


def training_loop(params: Params, hyper: Hyper, *, env: Stopping, config: Config) -> TrainingLoop:
    """Returns what `stages` goes through; a carry is ((weights, state of the optimiser), pairs,
    samples).
    """
    net = network(env, config)
    n_learned = config.n_evaluations * config.updates_per_evaluation * config.n_batches
    optimiser = cosine_adam(hyper.learning_rate, n_learned)

    def init(key):
        key_net, key_start, key_test, key_run = jax.random.split(key, 4)
        pairs = start_pairs(key_start, config.n_pairs, params, env)
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

    def miss(weights, samples, place):
        parted = jax.tree.map(lambda leaf: leaf[place], samples.parted)
        return loss(
            advantage(net, weights, parted),
            samples.gain[place] / parted.scale,
            hyper.focus,
            hyper.limit,
        )

    def fit(carry, key, samples):
        weights, optimiser_state = carry
        most = jnp.clip(samples.count, 1, config.buffer_size)
        places = shard(jax.random.randint(key, (config.batch,), 0, most))
        gradient = jax.grad(miss)(weights, samples, places)
        return descend(optimiser, gradient, weights, optimiser_state), None

    def update(carry, key):
        learner, pairs, samples = carry
        key_play, key_fit = jax.random.split(key)
        pairs, samples = play(key_play, pairs, samples, learner[0], params, hyper, env, config)
        keys = jax.random.split(key_fit, config.n_batches)
        learner, _ = jax.lax.scan(partial(fit, samples=samples), learner, keys)
        return learner, pairs, samples

    def evaluate(carry, test):
        choose = partial(decide, env, net, carry[0][0], params)
        return mean_utility(env, choose, test, params, config.evaluation_tasks)

    n_stages, n_updates = config.n_evaluations, config.updates_per_evaluation
    n_steps = config.block_tasks * 2 * config.n_pairs
    return TrainingLoop(
        init, update, evaluate, lambda carry: carry[0][0], n_stages, n_updates, n_steps
    )


@partial(jax.jit, static_argnames=("env", "config"))
def train(
    key: jax.Array, params: Params, hyper: Hyper, *, env: Stopping, config: Config
) -> TrainResult:
    """Trains in one scan; consumes the key. Seeds, params and hyper-parameters can be vmapped."""
    return loop.train(key, training_loop(params, hyper, env=env, config=config))
