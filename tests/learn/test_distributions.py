"""Distributions of decisions: density, entropy and draws of a bounded number, by hand and against
integrals; learning one.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import struct

from jaxcoinfer.core.contract import TimeStep
from jaxcoinfer.learn import distributions, ppo
from jaxcoinfer.learn.distributions import LogitNormal
from jaxcoinfer.learn.networks import Mlp

ANY = jnp.ones((), bool)


def bounded(mean: float, deviation: float, high: float) -> LogitNormal:
    return LogitNormal(jnp.float32(mean), jnp.float32(np.log(deviation)), jnp.float32(high))


def test_density_by_hand():
    # high 2, value 1: x = 1/2, u = 0. N(0; 0, 1) = .3989423, divided by high x (1 - x) = .5:
    # .7978846, log -.2257913.
    np.testing.assert_allclose(
        distributions.log_prob(bounded(0.0, 1.0, 2.0), jnp.float32(1.0)), -0.2257913, rtol=1e-5
    )
    # mean 1, deviation 2, high 1, x = 1/2: z = -1/2; -1/8 - ln 2 - .9189385 + ln 4 = -.3507914.
    np.testing.assert_allclose(
        distributions.log_prob(bounded(1.0, 2.0, 1.0), jnp.float32(0.5)), -0.3507914, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("mean", "deviation", "high"), [(0.0, 0.3, 1.0), (-3.0, 1.0, 2.0), (1.5, 2.0, 0.5)]
)
def test_density_and_entropy_against_integrals(mean, deviation, high):
    distribution = bounded(mean, deviation, high)
    # On a grid that is uniform in u; dx = high s(u) s(-u) du.
    u = np.linspace(mean - 6 * deviation, mean + 6 * deviation, 4001)
    u = u[np.abs(u) < 13]
    share = 1.0 / (1.0 + np.exp(-u))
    log_p = np.asarray(
        jax.vmap(lambda x: distributions.log_prob(distribution, x))(
            jnp.asarray(high * share, jnp.float32)
        ),
        np.float64,
    )
    du_to_dx = high * share * (1 - share)
    np.testing.assert_allclose(np.trapezoid(np.exp(log_p) * du_to_dx, u), 1.0, atol=2e-3)
    integral = -np.trapezoid(np.exp(log_p) * log_p * du_to_dx, u)
    np.testing.assert_allclose(distributions.entropy(distribution, ANY), integral, atol=5e-3)
    drawn = distributions.sample(
        jax.random.key(0), jax.tree.map(lambda x: jnp.full(20_000, x), distribution)
    )
    assert float(drawn.min()) > 0 and float(drawn.max()) < high
    below = np.mean(np.asarray(drawn) < float(distributions.mode(distribution, ANY)))
    assert abs(below - 0.5) < 0.02  # the best is the median
    expected = np.trapezoid(np.exp(log_p) * high * share * du_to_dx, u)
    np.testing.assert_allclose(drawn.mean(), expected, atol=0.02 * high)


@pytest.mark.parametrize("mean", [-40.0, 0.0, 40.0])
@pytest.mark.parametrize("log_deviation", [-8.0, 0.0, 4.0])
def test_extreme_distributions_have_finite_values_and_gradients(mean, log_deviation):
    def total(mean, log_deviation):
        distribution = LogitNormal(mean, log_deviation, jnp.float32(1.0))
        value = jax.lax.stop_gradient(distributions.sample(jax.random.key(1), distribution))
        return distributions.log_prob(distribution, value) + distributions.entropy(
            distribution, ANY
        )

    value, gradient = jax.value_and_grad(total, argnums=(0, 1))(
        jnp.float32(mean), jnp.float32(log_deviation)
    )
    assert np.isfinite([value, *gradient]).all()


class Target(struct.PyTreeNode):
    power: jax.Array


class Aim(struct.PyTreeNode):
    side: jax.Array
    power: jax.Array


@dataclass(frozen=True)
class Range:
    """One step: side must be what is seen, and power near a target that the side decides: .3 left,
    1.2 right of 1.5.
    """

    def mask(self, state, params):
        return Aim(jnp.ones(2, bool), jnp.ones((), bool))

    def visible(self, state, params):
        return state, params

    def reset(self, key, params):
        return self._shown(
            jax.random.bernoulli(key).astype(jnp.float32), jnp.float32(0.0), jnp.zeros((), bool)
        )

    def step(self, state, action, params):
        seen, over = state
        goal = jnp.where(seen > 0, 1.2, 0.3) * params.power
        reward = jnp.where(action.side == seen.astype(jnp.int32), 0.0, -1.0) - jnp.square(
            action.power - goal
        )
        return self._shown(seen, jnp.where(over, 0.0, reward), jnp.ones((), bool))

    def _shown(self, seen, reward, over):
        return (seen, over), TimeStep(seen[None], reward, over, jnp.zeros((), bool), ())


class Aimer(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        side, mean, spread, value = (Mlp((16,), n)(x) for n in (2, 1, 1, 1))
        distribution = LogitNormal(mean[..., 0], spread[..., 0], jnp.full_like(mean[..., 0], 1.5))
        return Aim(side, distribution), value[..., 0]


@pytest.mark.slow
def test_proximal_policy_learns_a_category_and_a_number_together():
    config = ppo.Config(
        n_envs=128,
        n_steps=1,
        n_batches=2,
        updates_per_evaluation=100,
        n_evaluations=1,
        evaluation_envs=32,
        evaluation_steps=1,
        twin=False,
        network=lambda env, config: Aimer(),
    )
    hyper = ppo.Hyper(learning_rate=1e-2, entropy_weight=0.0)
    learned = ppo.train(
        jax.random.key(0), Target(jnp.float32(1.0)), hyper, env=Range(), config=config
    )
    act = ppo.policy(Range(), config, learned.weights)
    for seen, goal in ((0.0, 0.3), (1.0, 1.2)):
        action = act(
            jax.random.key(0), (jnp.float32(seen), jnp.zeros((), bool)), jnp.asarray([seen]), None
        )
        assert int(action.side) == int(seen)
        assert abs(float(action.power) - goal) < 0.1
    assert float(learned.curve[0]) > -0.02
