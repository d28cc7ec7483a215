"""Who is compared in `fleet`: learners, baselines and the reference by name."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation import seeds
from jaxcoinfer.learn import ppo
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems.fleet import baselines, network
from jaxcoinfer.systems.fleet.env import Fleet
from jaxcoinfer.systems.fleet.params import FleetParams

EnvPolicy = tuple[Any, Policy]  # the environment as the policy sees it, and the policy


@dataclasses.dataclass(frozen=True)
class Learner:
    """How one learner learns, and in which environment."""

    n_levels: int = 0  # of the shares that it learns; 0: they follow in closed form
    twin: bool = True  # as in `learn.ppo`
    entropy_weight: float = 0.001  # as in `learn.ppo`

    @property
    def hyper(self) -> ppo.Hyper:
        return ppo.Hyper(learning_rate=1e-2, entropy_weight=self.entropy_weight)

    def env(self, env: Fleet) -> Any:
        """Returns the environment as this learner sees it."""
        if not self.n_levels:
            return env
        return network.Leveled(dataclasses.replace(env, learned_shares=True), self.n_levels)

    def train(
        self, keys: jax.Array, params: FleetParams, env: Fleet, config: ppo.Config
    ) -> TrainResult:
        """Returns what it learned from each of the keys [S]: every leaf [S, ...]; consumes them."""
        learner_env, config = self.env(env), dataclasses.replace(config, twin=self.twin)

        def train_once(key: jax.Array) -> TrainResult:
            return ppo.train(
                key, params, self.hyper, env=learner_env, config=config, outcomes=network.outcomes
            )

        return seeds.train(keys, train_once)

    def policy(self, env: Fleet, hidden: tuple[int, ...], weights: Any) -> EnvPolicy:
        """Returns the greedy policy with its environment, of any number of devices."""
        learner_env, config = self.env(env), config_of(hidden=hidden)
        return learner_env, ppo.policy(learner_env, config, jax.tree.map(jnp.asarray, weights))


def config_of(**sizes: Any) -> ppo.Config:
    """Returns the configuration of a training of the fleet's network, of these sizes."""
    return ppo.Config(view=network.view, network=network.network, **sizes)


# BEST is the one whose decisions are reported and that is exported.
BEST, WITHOUT_TWIN, FREE = "price network", "price network, no twin", "learned shares"
LEARNERS = {
    BEST: Learner(),
    WITHOUT_TWIN: Learner(twin=False),
    FREE: Learner(n_levels=12, twin=False, entropy_weight=0.003),
}
COMPARED = "alternating"  # gains are differences to this one, the strongest classical baseline
REFERENCE = "dual recovery"
NOT_DEPLOYABLE = frozenset({REFERENCE})


def baseline_policies(env: Fleet) -> dict[str, EnvPolicy]:
    """Returns the policies that need no learning, by name."""
    policies = {
        COMPARED: baselines.alternating(env),
        "greedy": baselines.greedy(env),
        "equal shares": baselines.equal_shares(env),
        "one version": baselines.one_version(env),
        "device only": baselines.device_only(env),
        "edge only": baselines.edge_only(env),
        REFERENCE: baselines.dual_recovery(env),
    }
    return {name: (env, policy) for name, policy in policies.items()}


def learned_policies(
    env: Fleet, hidden: dict[str, tuple[int, ...]], weights: dict[str, Any]
) -> dict[str, EnvPolicy]:
    """Returns the policies of the learners whose weights are given, by name."""
    return {
        name: LEARNERS[name].policy(env, hidden[name], learner_weights)
        for name, learner_weights in weights.items()
    }
