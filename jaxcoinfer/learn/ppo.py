"""Proximal policy optimisation, for one decision or many at once.

An action is an array (or a tree) of decisions. Masks and logits of a categorical one have one more
axis: [A] for one decision, [D, C] for a fleet; where a number is decided, the network gives an
`learn.distributions.LogitNormal`, and masks have no more axes. With rho the ratio of new to old
probability of each decision and G its advantage,

    policy: -mean min(rho G, clip(rho, 1 - eps, 1 + eps) G),   value: mean (V - R)^2,   bonus:
    entropy,

G by generalised advantage estimation, shared by all decisions of a step. With the twin each
decision has its counterfactual_advantage: what it earned less what the policy would have earned in
its place, the others' decisions as they were.

Schulman et al. (arXiv 1707.06347, 1506.02438); decisions that share a value, as in Yu et al. (arXiv
2103.01955). Axes: N environments, T steps, A actions of a decision.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxcoinfer.core.rollout import Policy, mean_reward, restart_ended
from jaxcoinfer.core.sharding import replicate, shard
from jaxcoinfer.learn import distributions, loop
from jaxcoinfer.learn.loop import TrainingLoop
from jaxcoinfer.learn.networks import Mlp, TrainResult, cosine_adam, descend
from jaxcoinfer.learn.replay import Outcomes

View = Callable[
    [Any, Any, Any, Any], Any
]  # (env, state, observation, params) -> what the network takes


def observed(env: Any, state: Any, observation: jax.Array, params: Any) -> jax.Array:
    """The view of who sees the observation alone."""
    return observation


class ActorCritic(nn.Module):
    """[F] -> (logits [A], value); two networks that share nothing."""

    hidden: tuple[int, ...]
    n_actions: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return Mlp(self.hidden, self.n_actions)(x), Mlp(self.hidden, 1)(x)[..., 0]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What decides shapes and branches.

    n_envs environments take n_steps steps; what they saw is learned n_epochs times in n_batches
    batches; updates_per_evaluation times so, then a look at the greedy policy; n_evaluations times
    so. view and network: what is seen, and what looks at it, `network(env, config)`, a module view
    -> (laws, value). twin: see above.
    """

    hidden: tuple[int, ...] = (128, 128)
    n_envs: int = 256
    n_steps: int = 16
    n_epochs: int = 4
    n_batches: int = 8
    n_evaluations: int = 20
    updates_per_evaluation: int = 5
    evaluation_envs: int = 256
    evaluation_steps: int = 100
    twin: bool = True
    view: View = observed
    network: Callable[[Any, Any], Any] = lambda env, config: ActorCritic(
        config.hidden, env.n_actions
    )


class Hyper(struct.PyTreeNode):
    """Numbers of the training, so that a sweep is a `vmap`.

    learning_rate: initial step size, decays to 0 on a cosine; discount: gamma; gae_lambda: lambda;
    clip: eps; entropy_weight, value_weight: of the bonus and the value in the loss.
    """

    learning_rate: Any = 1e-3
    discount: Any = 0.0
    gae_lambda: Any = 0.95
    clip: Any = 0.2
    entropy_weight: Any = 0.001
    value_weight: Any = 0.5


class Step(struct.PyTreeNode):
    """One step: view; mask, action and log_pi (of the action) of each decision; own advantage of
    each, of the twin; reward; not_terminated: 0 where the world ended; ended: 1 where it or the
    record did; valid: 0 where it had before.
    """

    view: Any
    mask: Any
    action: Any
    log_pi: Any
    counterfactual_advantage: Any
    reward: jax.Array
    not_terminated: jax.Array
    ended: jax.Array
    valid: jax.Array


def advantages(
    rewards: jax.Array,
    values: jax.Array,
    not_terminated: jax.Array,
    ended: jax.Array,
    discount: Any,
    gae_lambda: Any,
) -> jax.Array:
    """Returns generalised advantages [T, ...]: `delta_t + gamma lambda (1 - ended_t) G_{t+1}`, with
    `delta_t = r_t + gamma not_terminated_t V_{t+1} - V_t`; values [T+1, ...]. A record that ended
    is bootstrapped from.
    """
    deltas = rewards + discount * not_terminated * values[1:] - values[:-1]

    def back(ahead, step):
        delta, over = step
        here = delta + discount * gae_lambda * (1.0 - over) * ahead
        return here, here

    return jax.lax.scan(back, jnp.zeros_like(deltas[0]), (deltas, ended), reverse=True)[1]


def policy_loss(
    log_pi: jax.Array, old_log_pi: jax.Array, advantage: jax.Array, clip: Any
) -> jax.Array:
    """Returns `-min(rho G, clip(rho, 1 - eps, 1 + eps) G)` of each decision, with `rho = exp(log_pi
    - old_log_pi)`.
    """
    ratio = jnp.exp(log_pi - old_log_pi)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)


def advantage_of_actions(
    log_pi: jax.Array, outcomes: jax.Array, action: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns what each decision earned less what the policy expects in its place, [...]; outcomes
    [..., A].
    """
    return distributions.take_action(outcomes, action) - distributions.masked_expectation(
        log_pi, outcomes, mask
    )


def policy(env: Any, config: Config, weights: Any) -> Policy:
    """The most probable valid action of each decision, the median where it is a number."""
    net = config.network(env, config)

    def act(key, state, observation, params):
        of_actions, _ = net.apply(weights, config.view(env, state, observation, params))
        return _map(distributions.mode, of_actions, env.mask(state, params))

    return act


def _map(function: Callable, of_actions: Any, *others: Any) -> Any:
    return jax.tree.map(function, of_actions, *others, is_leaf=distributions.is_distribution)


def _weighted(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean over the steps that count, and over the decisions of each; valid [N]."""
    of_step = values.reshape(valid.shape[0], -1).mean(axis=1)
    return (of_step * valid).sum() / jnp.maximum(valid.sum(), 1.0)


def loss(
    net: Any, weights: Any, batch: Step, advantage: Any, targets: jax.Array, hyper: Hyper
) -> jax.Array:
    """Returns the loss of a batch [N]; advantage: of each decision, of unit size; targets [N]: of
    the value.
    """
    of_actions, value = net.apply(weights, batch.view)

    def of_decision(law, mask, action, old, advantage):
        law = distributions.normalise(law, mask)
        gain = policy_loss(distributions.log_prob(law, action), old, advantage, hyper.clip)
        return _weighted(
            gain - hyper.entropy_weight * distributions.entropy(law, mask), batch.valid
        )

    parts = _map(of_decision, of_actions, batch.mask, batch.action, batch.log_pi, advantage)
    return sum(jax.tree.leaves(parts)) + hyper.value_weight * _weighted(
        jnp.square(value - targets), batch.valid
    )


def play(
    key: jax.Array,
    env: Any,
    params: Any,
    net: Any,
    weights: Any,
    envs: Any,
    config: Config,
    outcomes: Outcomes | None,
) -> tuple[Any, Step]:
    """Returns (state, timestep) of N environments n_steps later, and the steps [T, N]."""

    def one(key, state, timestep):
        view, mask = config.view(env, state, timestep.observation, params), env.mask(state, params)
        of_actions = _map(distributions.normalise, net.apply(weights, view)[0], mask)
        leaves, tree = jax.tree.flatten(of_actions, is_leaf=distributions.is_distribution)
        keys = jax.random.split(key, len(leaves))
        action = jax.tree.unflatten(
            tree, [distributions.sample(k, law) for k, law in zip(keys, leaves, strict=True)]
        )
        after, following = env.step(state, action, params)
        log_pi = _map(distributions.log_prob, of_actions, action)
        counterfactual_advantage = jax.tree.map(jnp.zeros_like, log_pi)
        if (
            outcomes is not None
        ):  # of every category: a twin of numbers would have to be asked for a continuum
            counterfactual_advantage = jax.tree.map(
                advantage_of_actions, of_actions, outcomes(env, state, action, params), action, mask
            )
        over = following.terminated | following.truncated
        valid = ~(timestep.terminated | timestep.truncated)
        flags = [jnp.asarray(flag, jnp.float32) for flag in (~following.terminated, over, valid)]
        return (after, following), Step(
            view, mask, action, log_pi, counterfactual_advantage, following.reward, *flags
        )

    def step(carry, key):
        return jax.vmap(one)(jax.random.split(key, config.n_envs), *carry)

    return jax.lax.scan(step, shard(envs), jax.random.split(key, config.n_steps))


def _prepare(env, params, net, weights, envs, steps: Step, config: Config, hyper: Hyper, asked):
    """Returns the advantage of each decision, of unit size, and the goals of the value, [T N, ...]
    like the steps.
    """
    last = jax.vmap(config.view, (None, 0, 0, None))(env, envs[0], envs[1].observation, params)
    views = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), steps.view, last)
    values = jax.vmap(jax.vmap(lambda view: net.apply(weights, view)[1]))(views)
    gain = advantages(
        steps.reward, values, steps.not_terminated, steps.ended, hyper.discount, hyper.gae_lambda
    )

    def share(counterfactual_advantage):
        return jnp.broadcast_to(
            gain.reshape(gain.shape + (1,) * (counterfactual_advantage.ndim - 2)),
            counterfactual_advantage.shape,
        )

    advantage = (
        jax.tree.map(share, steps.counterfactual_advantage)
        if asked is None
        else steps.counterfactual_advantage
    )

    def unit(x):
        valid = steps.valid.reshape(-1)
        size = jnp.sqrt(_weighted(jnp.square(x).reshape(valid.shape[0], -1), valid))
        return x / jnp.maximum(size, 1e-8)

    return jax.tree.map(unit, advantage), gain + values[:-1]


def training_loop(
    params: Any, hyper: Hyper, *, env: Any, config: Config, outcomes: Outcomes | None = None
) -> TrainingLoop:
    """Returns what `stages` goes through; a carry is ((weights, state of the optimiser),
    environments).
    """
    if config.twin and outcomes is None:
        raise ValueError(
            "twin=True needs `outcomes`, what every action earns; give it, or set twin=False."
        )
    asked = outcomes if config.twin else None
    if config.n_envs * config.n_steps % config.n_batches:
        raise ValueError(f"n_batches: {config.n_batches}; must divide n_envs * n_steps.")
    net = config.network(env, config)
    n_learned = config.n_epochs * config.n_batches
    adam = cosine_adam(
        hyper.learning_rate, config.n_evaluations * config.updates_per_evaluation * n_learned
    )

    def init(key):
        key_net, key_envs, key_test, key_run = jax.random.split(key, 4)
        reset = jax.vmap(env.reset, (0, None))
        envs = reset(jax.random.split(key_envs, config.n_envs), params)
        test = reset(jax.random.split(key_test, config.evaluation_envs), params)
        first = jax.tree.map(lambda leaf: leaf[0], envs)
        weights = net.init(key_net, config.view(env, first[0], first[1].observation, params))
        return ((weights, adam.init(weights)), envs), test, key_run

    def learn(learner, batch):
        weights, state = learner
        steps, advantage, targets = batch
        gradient = jax.grad(lambda w: loss(net, w, steps, advantage, targets, hyper))(weights)
        return descend(adam, gradient, weights, state), None

    def update(carry, key):
        learner, envs = carry
        key_play, key_restart, key_order = jax.random.split(key, 3)
        envs, steps = play(key_play, env, params, net, learner[0], envs, config, asked)
        advantage, targets = _prepare(
            env, params, net, learner[0], envs, steps, config, hyper, asked
        )
        size = config.n_envs * config.n_steps
        flat = replicate(
            jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), (steps, advantage, targets))
        )

        def epoch(learner, key):
            order = jax.random.permutation(key, size).reshape(config.n_batches, -1)
            return jax.lax.scan(
                lambda c, at: learn(c, jax.tree.map(lambda x: x[shard(at)], flat)), learner, order
            )

        learner, _ = jax.lax.scan(epoch, learner, jax.random.split(key_order, config.n_epochs))
        return learner, restart_ended(env, params, key_restart, *envs)

    def evaluate(carry, test):
        return mean_reward(
            env, params, policy(env, config, carry[0][0]), test, config.evaluation_steps
        )

    n_steps = config.n_envs * config.n_steps
    n_stages, n_updates = config.n_evaluations, config.updates_per_evaluation
    return TrainingLoop(
        init, update, evaluate, lambda carry: carry[0][0], n_stages, n_updates, n_steps
    )


@partial(jax.jit, static_argnames=("env", "config", "outcomes"))
def train(
    key: jax.Array,
    params: Any,
    hyper: Hyper,
    *,
    env: Any,
    config: Config,
    outcomes: Outcomes | None = None,
) -> TrainResult:
    """Trains in one scan; consumes the key. Keys, params and hyper-parameters can be vmapped.

    outcomes(env, state, action, params) -> what each decision would have earned, [..., A], the
    others' as they were.
    """
    return loop.train(key, training_loop(params, hyper, env=env, config=config, outcomes=outcomes))
