"""Who is compared in `multi-user`: the learner and the baselines by name."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation import seeds
from jaxcoinfer.evaluation.executor import Learned
from jaxcoinfer.learn import ppo
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems.multi_user import baselines, network
from jaxcoinfer.systems.multi_user.env import MultiUser
from jaxcoinfer.systems.multi_user.params import MultiUserParams

BEST = "proximal policy"  # the one whose decisions are reported and that is exported
LEARNERS = (BEST,)
FIXED = "best fixed split"
CONFIG = ppo.Config(
    hidden=(64, 64),
    n_envs=256,
    n_steps=8,
    n_batches=8,
    n_evaluations=10,
    updates_per_evaluation=15,
    evaluation_envs=64,
    evaluation_steps=40,
    twin=False,
    view=network.view,
    network=network.network,
)
HYPER = ppo.Hyper(learning_rate=3e-3, discount=0.95, gae_lambda=0.95, entropy_weight=0.001)


def train_once(
    key: jax.Array, params: MultiUserParams, env: MultiUser, config: ppo.Config
) -> TrainResult:
    """Returns what BEST learned; consumes the key."""
    return ppo.train(key, params, HYPER, env=env, config=config)


def train(
    keys: jax.Array, params: MultiUserParams, env: MultiUser, config: ppo.Config
) -> TrainResult:
    """Returns what BEST learned from each of the keys [S]: every leaf [S, ...]; consumes them."""
    return seeds.train(keys, partial(train_once, params=params, env=env, config=config))


def learned(env: MultiUser, config: ppo.Config, weights: Any) -> Learned:
    """Returns the greedy policies of BEST; weights: leaves [S, ...]."""
    return Learned(partial(ppo.policy, env, config), jax.tree.map(jnp.asarray, weights))


def baseline_policies(env: MultiUser, fixed: int) -> dict[str, Policy]:
    """Returns the policies that need no learning, by name; fixed: the best fixed split."""
    return {
        "all local": baselines.fixed_split(env, env.n_splits - 1),
        "random": baselines.random_valid(env),
        "greedy": baselines.greedy(env),
        FIXED: baselines.fixed_split(env, fixed),
    }
