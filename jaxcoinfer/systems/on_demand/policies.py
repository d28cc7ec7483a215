"""Who is compared in `on-demand`: learners, baselines and references by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.core.stacked import Stacked
from jaxcoinfer.evaluation import seeds
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.evaluation.executor import play
from jaxcoinfer.learn import dqn, ppo, sac
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems.on_demand import baselines, twin
from jaxcoinfer.systems.on_demand.bound import (
    Solution,
    exact_policy,
    exact_policy_with_memory,
)
from jaxcoinfer.systems.on_demand.env import OnDemand
from jaxcoinfer.systems.on_demand.params import Params


@dataclasses.dataclass(frozen=True)
class Learner:
    """How one learner learns, and what it observes."""

    module: Any  # of `jaxcoinfer.learn`: with `Config`, `Hyper`, `train` and `policy`
    memory: int = 1  # how many observations it decides on

    def env(self, env: OnDemand) -> Any:
        """Returns the environment as this learner sees it."""
        return env if self.memory == 1 else Stacked(env, self.memory)

    def train(self, keys: jax.Array, params: Params, env: OnDemand, config: Any) -> TrainResult:
        """Returns what it learned from each of the keys [S]: every leaf [S, ...]; consumes them."""
        learner_env, hyper = self.env(env), self.module.Hyper()

        def train_once(key: jax.Array) -> TrainResult:
            return self.module.train(
                key, params, hyper, env=learner_env, config=config, outcomes=outcomes
            )

        return seeds.train(keys, train_once)

    def policy(self, env: OnDemand, config: Any, weights: Any) -> Policy:
        """Returns the greedy policy, for `self.env(env)`."""
        return self.module.policy(self.env(env), config, jax.tree.map(jnp.asarray, weights))


# BEST also learns without the twin, and is the one that figures show and that is exported.
BEST, MEMORY = "soft actor-critic", "memory actor-critic"
DEEP_Q, PROXIMAL = "deep Q", "proximal policy"
LEARNERS = {
    BEST: Learner(sac),
    MEMORY: Learner(sac, memory=8),
    DEEP_Q: Learner(dqn),
    PROXIMAL: Learner(ppo),
}
WITHOUT_TWIN = "actor-critic, no twin"  # of the learning curves
COMPARED = "greedy"  # gains are differences to this baseline
INFORMED, EXACT, EXACT_MEMORY = "full information", "exact optimum", "exact with memory"
# The first knows the true slot, the others the distribution of the world.
NOT_DEPLOYABLE = frozenset({INFORMED, EXACT, EXACT_MEMORY})


def outcomes(env: Any, state: Any, action: jax.Array, params: Params) -> jax.Array:
    """Returns what each action earns [A], for learners with the twin; whatever action was taken."""
    if isinstance(env, Stacked):
        return outcomes(env.env, state.state, action, params)
    return twin.evaluate(env, state, params).utility


def baseline_policies(env: OnDemand, fixed: int, solution: Solution | None) -> dict[str, Policy]:
    """Returns the policies that need no learning, by name.

    fixed: the best fixed action. solution: of the scenario, for the exact optimum; with memory only
    where memory is worth something.
    """
    policies = {
        COMPARED: baselines.greedy(env),
        "edgent": baselines.edgent(env),
        "neurosurgeon": baselines.neurosurgeon(env),
        "best fixed action": baselines.fixed(fixed),
        "device only": baselines.device_only(env),
        "edge only": baselines.edge_only(env),
        "random": baselines.random_valid(),
        INFORMED: baselines.full_information(env),
    }
    if solution is not None:
        policies[EXACT] = exact_policy(solution)
        if solution.gain_history > solution.gain + 1e-9:
            policies[EXACT_MEMORY] = exact_policy_with_memory(solution)
    return policies


def play_learners(
    env: OnDemand, policies: Mapping[str, Policy], world: Params, key: jax.Array
) -> dict[str, list[Tasks]]:
    """Returns the tasks of each learner, as `play` does, each in its own environment; consumes the
    key.
    """
    tasks: dict[str, list[Tasks]] = {}
    for memory in sorted({LEARNERS[name].memory for name in policies}):
        group = {
            name: policy for name, policy in policies.items() if LEARNERS[name].memory == memory
        }
        learner_env = LEARNERS[next(iter(group))].env(env)
        tasks |= play(learner_env, group, [world], jax.random.fold_in(key, memory))
    return tasks
