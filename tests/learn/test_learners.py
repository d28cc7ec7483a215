"""Soft actor-critic, deep Q and proximal policy: losses by hand, five worlds with known values,
masks, one trace.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from jaxcoinfer.core.contract import TimeStep
from jaxcoinfer.learn import distributions, dqn, loop, networks, ppo, replay, sac
from tests.helpers import probes

KEY = jax.random.key(0)
SMALL = {
    "hidden": (16,),
    "n_envs": 64,
    "n_evaluations": 1,
    "evaluation_envs": 8,
    "evaluation_steps": 2,
}
REPLAY = SMALL | {
    "n_steps": 2,
    "n_batches": 4,
    "batch": 128,
    "buffer_size": 2048,
    "updates_per_evaluation": 250,
}
PPO = SMALL | {"n_steps": 4, "n_epochs": 4, "n_batches": 4, "updates_per_evaluation": 80}
LN2 = float(np.log(2.0))


# --- categorical distributions --------------------------------------------------------------------


def test_masked_distribution_by_hand():
    # Of three actions the second is not allowed: softmax of (0, ln 3) is (1/4, 3/4).
    logits, mask = jnp.asarray([0.0, 50.0, np.log(3.0)]), jnp.asarray([True, False, True])
    log_pi = distributions.masked_log_softmax(logits, mask)
    np.testing.assert_allclose(jnp.exp(log_pi), [0.25, 0.0, 0.75], rtol=1e-6)
    # Entropy: -(1/4 ln 1/4 + 3/4 ln 3/4) = .5623351; expectation of (4, inf, 8): 1 + 6 = 7.
    np.testing.assert_allclose(distributions.masked_entropy(log_pi, mask), 0.5623351, rtol=1e-6)
    np.testing.assert_allclose(
        distributions.masked_expectation(log_pi, jnp.asarray([4.0, jnp.inf, 8.0]), mask),
        7.0,
        rtol=1e-6,
    )
    assert int(distributions.masked_argmax(jnp.asarray([1.0, 9.0, 2.0]), mask)) == 2
    # Distances from the best, 8: 4 and 0; with focus 4 that is 1 / (1 + 1) and 1.
    np.testing.assert_allclose(
        distributions.advantage_weight(jnp.asarray([4.0, 9.0, 8.0]), mask, 4.0), [0.5, 0.0, 1.0]
    )


def test_one_valid_action_has_no_entropy_and_finite_gradients():
    mask = jnp.asarray([False, True])

    def bonus(logits):
        log_pi = distributions.masked_log_softmax(logits, mask)
        return distributions.masked_entropy(log_pi, mask) + distributions.masked_expectation(
            log_pi, jnp.asarray([-jnp.inf, 2.0]), mask
        )

    value, gradient = jax.value_and_grad(bonus)(jnp.asarray([3.0, -1.0]))
    assert float(value) == 2.0
    np.testing.assert_array_equal(gradient, [0.0, 0.0])


# --- losses ---------------------------------------------------------------------------------------


def test_soft_value_by_hand():
    # pi = (1/2, 1/2), critics (1, 3) and (2, 2): minima 1, 2. V = (1 + 2) / 2 + tau ln 2, tau = .5:
    # 1.5 + .3465736.
    log_pi, values = jnp.log(jnp.asarray([0.5, 0.5])), jnp.asarray([[1.0, 3.0], [2.0, 2.0]])
    both = jnp.asarray([True, True])
    value = sac.state_value(log_pi, values, both, jnp.float32(0.5))
    np.testing.assert_allclose(value, 1.5 + 0.5 * LN2, rtol=1e-6)
    loss = sac.actor_loss(log_pi[None], values[:, None], both[None], jnp.float32(0.5), jnp.ones(1))
    np.testing.assert_allclose(loss, -(1.5 + 0.5 * LN2), rtol=1e-6)


def test_critic_loss_by_hand():
    # The first transition is valid, with targets (1, 5), weights (1, 1/2). Critic 1 says (2, 5):
    # (1 * 1 + 0) / 1.5 = .6667; critic 2 says (1, 2): (0 + 9 / 2) / 1.5 = 3. Mean 1.8333. The
    # second had ended before.
    values = jnp.asarray([[[2.0, 5.0], [9.0, 9.0]], [[1.0, 2.0], [9.0, 9.0]]])
    targets, weight = jnp.asarray([[1.0, 5.0], [0.0, 0.0]]), jnp.asarray([[1.0, 0.5], [1.0, 1.0]])
    np.testing.assert_allclose(
        sac.critic_loss(values, targets, weight, jnp.asarray([1.0, 0.0])), 5.5 / 3, rtol=1e-6
    )


def test_temperature_and_its_target_by_hand():
    # Entropy .5 against targets .2 and .8 at temperature e^0 = 1: ((.5 - .2) + (.5 - .8)) / 2 = 0;
    # the first only: .3.
    entropy, target = jnp.asarray([0.5, 0.5]), jnp.asarray([0.2, 0.8])
    both, first = jnp.ones(2), jnp.asarray([1.0, 0.0])
    np.testing.assert_allclose(
        sac.temperature_loss(jnp.float32(0.0), entropy, target, both), 0.0, atol=1e-7
    )
    np.testing.assert_allclose(
        sac.temperature_loss(jnp.float32(0.0), entropy, target, first), 0.3, rtol=1e-6
    )
    # Too much entropy lowers the temperature: the gradient is positive. Half of ln 4, and 0 with
    # one valid action.
    assert jax.grad(sac.temperature_loss)(jnp.float32(0.0), entropy, target, first) > 0
    masks = jnp.asarray([[True] * 4, [True, False, False, False]])
    np.testing.assert_allclose(sac.entropy_target(masks, jnp.float32(0.5)), [LN2, 0.0], rtol=1e-6)


def test_deep_q_loss_by_hand():
    # Errors 1 and 3 with delta 2: 1 / 2 and 2 * (3 - 1) = 4; weights 1 and 1/2:
    # (.5 + 2) / 1.5 = 1.6667.
    values, targets = jnp.asarray([[1.0, 3.0]]), jnp.zeros((1, 2))
    weight, delta = jnp.asarray([[1.0, 0.5]]), jnp.float32(2.0)
    np.testing.assert_allclose(
        dqn.loss(values, targets, weight, jnp.ones(1), delta), 2.5 / 1.5, rtol=1e-6
    )


def test_advantages_by_hand():
    # gamma = .5, lambda = .5; rewards 1, 2, 3; values 1, 1, 1, then 4 ahead.
    # delta_2 = 3 + .5 * 4 - 1 = 4; delta_1 = 2 + .5 - 1 = 1.5; delta_0 = 1 + .5 - 1 = .5.
    # G_2 = 4; G_1 = 1.5 + .25 * 4 = 2.5; G_0 = .5 + .25 * 2.5 = 1.125.
    rewards, values = jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([1.0, 1.0, 1.0, 4.0])
    ones, zeros = jnp.ones(3), jnp.zeros(3)
    np.testing.assert_allclose(
        ppo.advantages(rewards, values, ones, zeros, 0.5, 0.5), [1.125, 2.5, 4.0]
    )
    # The record ends after step 1: bootstrapped from, but nothing flows back from step 2. G_1 =
    # 1.5, G_0 = .875.
    cut = jnp.asarray([0.0, 1.0, 0.0])
    np.testing.assert_allclose(
        ppo.advantages(rewards, values, ones, cut, 0.5, 0.5), [0.875, 1.5, 4.0]
    )
    # The world ends there: delta_1 = 2 - 1 = 1, G_0 = .5 + .25 = .75.
    np.testing.assert_allclose(
        ppo.advantages(rewards, values, 1.0 - cut, cut, 0.5, 0.5), [0.75, 1.0, 4.0]
    )


def test_clipped_policy_loss_by_hand():
    # Ratios 2, 1/2 with eps = .2: gain 1: min(2, 1.2) and min(.5, .8); gain -1: min(-2, -1.2) and
    # min(-.5, -.8).
    new, old = jnp.log(jnp.asarray([2.0, 0.5, 2.0, 0.5])), jnp.zeros(4)
    gain = jnp.asarray([1.0, 1.0, -1.0, -1.0])
    np.testing.assert_allclose(
        ppo.policy_loss(new, old, gain, 0.2), [-1.2, -0.5, 2.0, 0.8], rtol=1e-6
    )


def test_counterfactual_advantage_by_hand():
    # The policy takes (1/4, 3/4) of outcomes (8, 4): expects 5. Action 0 earned 3 more, action 1
    # one less.
    log_pi, both = jnp.log(jnp.asarray([[0.25, 0.75]] * 2)), jnp.ones((2, 2), bool)
    outcomes, action = jnp.asarray([[8.0, 4.0]] * 2), jnp.asarray([0, 1])
    np.testing.assert_allclose(
        ppo.advantage_of_actions(log_pi, outcomes, action, both), [3.0, -1.0], rtol=1e-6
    )


# --- five worlds ----------------------------------------------------------------------------------


def learned_values(name: str, twin: bool):
    """Trains in all five worlds at once; returns functions (world, observation, mask) -> value and
    -> greedy action.
    """
    env, params, hyper = (
        probes.Probe(),
        probes.worlds(),
        {"discount": probes.DISCOUNT, "learning_rate": 5e-3},
    )
    outcomes = probes.outcomes if twin else None

    def pick(tree, world):
        return jax.tree.map(lambda leaf: leaf[world], tree)

    if name == "ppo":
        config = ppo.Config(**PPO, twin=twin)
        train = jax.vmap(
            lambda p: ppo.train(
                KEY, p, ppo.Hyper(**hyper), env=env, config=config, outcomes=outcomes
            )
        )
        weights = train(params).weights
        net = config.network(env, config)

        def state_value(world, seen, mask):
            return net.apply(pick(weights, world), seen)[1]

        def greedy(world, seen, mask):
            return distributions.masked_argmax(net.apply(pick(weights, world), seen)[0], mask)

        return state_value, greedy
    module = {"sac": sac, "dqn": dqn}[name]
    config = module.Config(**REPLAY, twin=twin)
    algorithm = module.algorithm(env, config, module.Hyper())
    numbers, shapes = (
        module.Hyper(**hyper, tau=0.05),
        {"env": env, "config": config, "outcomes": outcomes},
    )
    learn = jax.jit(
        jax.vmap(lambda p: loop.run(KEY, module.training_loop(p, numbers, **shapes))[0][0])
    )
    learner = learn(params)
    net = module.network(env, config)

    def value(world, seen, mask):
        critic = pick(learner, world)[0]
        weights = pick(critic.critic, 0) if name == "sac" else critic
        return jnp.where(mask, net.apply(weights, seen), -jnp.inf).max()

    def act(world, seen, mask):
        return distributions.masked_argmax(
            net.apply(algorithm.weights(pick(learner, world)), seen), mask
        )

    return value, act


@pytest.mark.parametrize("twin", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["sac", "dqn", "ppo"])
def test_values_and_actions_of_five_worlds(name, twin):
    value, act = learned_values(name, twin)

    def mask(world):
        return jnp.asarray([True, world >= 3])

    for world, seen, expected in probes.VALUES:
        assert abs(float(value(world, jnp.asarray(seen), mask(world))) - expected) < 0.1, (
            world,
            seen,
        )
    for world, seen, expected in probes.ACTIONS:
        assert int(act(world, jnp.asarray(seen), mask(world))) == expected, (world, seen)


# --- starting from a rule -------------------------------------------------------------------------


class Preference(struct.PyTreeNode):
    """A rule of two actions, the same wherever one is."""

    values: jax.Array

    def __call__(self, observation):
        return jnp.broadcast_to(self.values, (*observation.shape[:-1], 2))


@pytest.mark.parametrize("module", [sac, dqn, ppo])
def test_with_nothing_learned_it_is_the_rule(module):
    env, params, config = probes.Probe(), probes.World(jnp.int32(4)), module.Config(hidden=(4,))
    state, timestep = env.reset(KEY, params)
    if module is ppo:
        weights = config.network(env, config).init(KEY, timestep.observation)
    else:
        weights = module.network(env, config).init(KEY, timestep.observation)
    for values, expected in (((0.1, 0.2), 1), ((0.2, 0.1), 0)):
        rule = Preference(jnp.asarray(values))
        act = module.policy(env, config, weights, rule)
        assert int(act(KEY, state, timestep.observation, params)) == expected


def test_a_rule_is_corrected_and_does_not_change():
    # 2 (1, 3) + (0, 0) of a network whose last layer starts at zero, and the value beside it.
    pair = networks.Corrected(ppo.ActorCritic((4,), 2), Preference(jnp.asarray([1.0, 3.0])), 2.0)
    x = jnp.ones((5, 3))
    weights = pair.init(KEY, x)
    logits, value = pair.apply(weights, x)
    np.testing.assert_array_equal(logits, [[2.0, 6.0]] * 5)
    np.testing.assert_array_equal(value, np.zeros(5))

    def total(rule, weights):
        return networks.Corrected(pair.net, rule).apply(weights, x)[0].sum()

    to_rule, to_weights = jax.grad(total, (0, 1))(pair.rule, weights)
    np.testing.assert_array_equal(to_rule.values, [0.0, 0.0])
    assert any(np.any(leaf) for leaf in jax.tree.leaves(to_weights))


def test_what_is_learned_makes_good_for_a_wrong_rule():
    env, world = probes.Probe(), probes.World(jnp.int32(4))
    config = dqn.Config(**REPLAY | {"updates_per_evaluation": 100})
    numbers = {"discount": probes.DISCOUNT, "learning_rate": 5e-3, "tau": 0.05}
    expected = [(seen, value) for at, seen, value in probes.VALUES if at == 4]
    assert expected
    for wrong in ((0.0, 0.0), (3.0, -3.0)):
        rule = Preference(jnp.asarray(wrong))
        hyper = dqn.Hyper(**numbers, rule=rule)
        learned = dqn.train(KEY, world, hyper, env=env, config=config, outcomes=probes.outcomes)
        net = dqn.network(env, config, rule)
        for seen, value in expected:
            q = net.apply(learned.weights, jnp.asarray(seen))
            assert abs(float(q.max()) - value) < 0.1, (wrong, seen)


# --- the buffer, and one trace --------------------------------------------------------------------


def test_without_the_twin_only_the_action_taken_is_known():
    rewards, reward_mask = replay.outcomes_of(jnp.float32(2.5), jnp.int32(1), jnp.ones(3, bool))
    np.testing.assert_array_equal(rewards, [0.0, 2.5, 0.0])
    np.testing.assert_array_equal(reward_mask, [False, True, False])


def test_what_comes_after_the_end_does_not_count():
    env, params = probes.Probe(), probes.World(jnp.int32(0))
    start = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(KEY, 3), params)
    explore = lambda key, observation, mask: jnp.int32(0)  # noqa: E731
    (_, timestep), seen = replay.collect(KEY, env, params, explore, start, 3, probes.outcomes)
    assert isinstance(timestep, TimeStep)
    np.testing.assert_array_equal(seen.valid, [[1.0] * 3, [0.0] * 3, [0.0] * 3])
    np.testing.assert_array_equal(seen.not_terminated, np.zeros((3, 3)))
    np.testing.assert_array_equal(
        seen.rewards[0], [[1.0, 0.0]] * 3
    )  # the other action is not valid
    np.testing.assert_array_equal(seen.reward_mask[0], [[True, False]] * 3)


@pytest.mark.parametrize("module", [sac, dqn, ppo])
def test_new_numbers_do_not_retrace_and_a_twin_needs_outcomes(module):
    shapes = {
        "n_envs": 4,
        "n_steps": 2,
        "n_batches": 1,
        "updates_per_evaluation": 1,
        "evaluation_envs": 2,
    }
    config = module.Config(**shapes, hidden=(4,), n_evaluations=1, evaluation_steps=3)
    env, before = probes.Probe(), module.train._cache_size()
    for seed, world in ((0, 1), (1, 4)):
        params, hyper = probes.World(jnp.int32(world)), module.Hyper(discount=0.1 * seed)
        module.train(
            jax.random.key(seed), params, hyper, env=env, config=config, outcomes=probes.outcomes
        )
    assert module.train._cache_size() == before + 1
    with pytest.raises(ValueError, match="twin=True needs `outcomes`"):
        module.train(KEY, params, hyper, env=env, config=config)
