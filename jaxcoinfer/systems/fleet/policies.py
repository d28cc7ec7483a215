"""Who is compared in `fleet`: learners, baselines and the reference by name."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation import seeds
from jaxcoinfer.learn import ppo
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems.fleet import baselines
from jaxcoinfer.systems.fleet import network as fleet_actor
from jaxcoinfer.systems.fleet.env import Fleet
from jaxcoinfer.systems.fleet.params import FleetParams

EnvPolicy = tuple[Any, Policy]  # the environment as the policy sees it, and the policy


@dataclasses.dataclass(frozen=True)
class Learner:
    """n_levels: of the shares it learns, 0: they follow in closed form. twin, entropy_weight: as in
    `learn.ppo`.
    """

    n_levels: int = 0
    twin: bool = True
    entropy_weight: float = 0.001

    @property
    def hyper(self) -> ppo.Hyper:
        return ppo.Hyper(learning_rate=1e-2, entropy_weight=self.entropy_weight)

    def env(self, env: Fleet) -> Any:
        """Returns the environment as this learner sees it."""
        if not self.n_levels:
            return env
        return fleet_actor.Leveled(dataclasses.replace(env, learned_shares=True), self.n_levels)

    def train(
        self, keys: jax.Array, params: FleetParams, env: Fleet, config: ppo.Config
    ) -> TrainResult:
        """Returns what it learned from each of the keys [S]: every leaf [S, ...]; consumes them."""
        seen_as, config = self.env(env), dataclasses.replace(config, twin=self.twin)

        def train_once(key: jax.Array) -> TrainResult:
            return ppo.train(
                key, params, self.hyper, env=seen_as, config=config, outcomes=fleet_actor.outcomes
            )

        return seeds.train(keys, train_once)

    def policy(self, env: Fleet, hidden: tuple[int, ...], weights: Any) -> EnvPolicy:
        """Returns the greedy policy in the environment that it sees, of any number of devices."""
        seen_as = self.env(env)
        return seen_as, ppo.policy(
            seen_as, config_of(hidden=hidden), jax.tree.map(jnp.asarray, weights)
        )


def config_of(**sizes: Any) -> ppo.Config:
    """Returns the sizes of a training of the fleet's network."""
    return ppo.Config(view=fleet_actor.view, network=fleet_actor.network, **sizes)


# BEST is looked at, varied and exported.
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
    """Returns who needs no learning, by name."""
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
    """Returns the learners that `weights` are of, by name."""
    return {
        name: LEARNERS[name].policy(env, hidden[name], of_learner)
        for name, of_learner in weights.items()
    }
