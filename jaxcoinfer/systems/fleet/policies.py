"""Who is compared in `fleet`: learners, baselines and the reference by name."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation import seeds
from jaxcoinfer.evaluation.executor import Learned
from jaxcoinfer.learn import ppo
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems.fleet import baselines, network
from jaxcoinfer.systems.fleet.env import Fleet, FleetState
from jaxcoinfer.systems.fleet.params import FleetParams

# The environment as the policy sees it, and the policy.
EnvPolicy = tuple[Any, Policy | Learned]


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

    def learned(self, env: Fleet, hidden: tuple[int, ...], weights: Any) -> EnvPolicy:
        """Returns the greedy policies with their environment, of any number of devices; weights:
        leaves [S, ...].
        """
        learner_env = self.env(env)
        build = partial(ppo.policy, learner_env, config_of(hidden=hidden))
        return learner_env, Learned(build, jax.tree.map(jnp.asarray, weights))


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
UNTRAINED = "untrained network"
ALTERNATING, RECOVERY = "alternating", "dual recovery"
INFORMED = "informed recovery"  # on what is known a slot later, where that differs
NOT_DEPLOYABLE = frozenset({INFORMED})


def baseline_policies(
    env: Fleet, hidden: tuple[int, ...], delayed: bool = False
) -> dict[str, EnvPolicy]:
    """Returns the policies that need no learning, by name; hidden: widths of the network that is
    not trained, delayed: whether links and loads are known late.
    """
    policies: dict[str, Policy] = {
        ALTERNATING: baselines.alternating(env),
        "greedy": baselines.greedy(env),
        "equal shares": baselines.equal_shares(env),
        "one version": baselines.one_version(env),
        "device only": baselines.device_only(env),
        "edge only": baselines.edge_only(env),
        RECOVERY: baselines.dual_recovery(env),
        UNTRAINED: untrained(env, hidden),
    }
    if delayed:
        policies[INFORMED] = baselines.informed(env, baselines.dual_recovery)
    return {name: (env, policy) for name, policy in policies.items()}


def untrained(env: Fleet, hidden: tuple[int, ...]) -> Policy:
    """Returns the policy of the network as it is before training: four rounds of prices."""
    config = config_of(hidden=hidden)

    def act(key: jax.Array, state: FleetState, observation: jax.Array, params: FleetParams) -> Any:
        seen = network.view(env, state, observation, params)
        weights = network.network(env, config).init(jax.random.key(0), seen)
        return ppo.policy(env, config, weights)(key, state, observation, params)

    return act


def learned_policies(
    env: Fleet, hidden: dict[str, tuple[int, ...]], weights: dict[str, Any]
) -> dict[str, EnvPolicy]:
    """Returns the policies of the learners whose weights are given, by name."""
    return {
        name: LEARNERS[name].learned(env, hidden[name], learner_weights)
        for name, learner_weights in weights.items()
    }
