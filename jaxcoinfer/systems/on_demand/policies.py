"""Who is compared in `on-demand`: learners, baselines and references by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.core.stacked import Stacked
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.evaluation.executor import play
from jaxcoinfer.learn import dqn, ppo, sac
from jaxcoinfer.systems.on_demand import baselines, twin
from jaxcoinfer.systems.on_demand import bound as bounds
from jaxcoinfer.systems.on_demand.bound import Solution
from jaxcoinfer.systems.on_demand.env import OnDemand
from jaxcoinfer.systems.on_demand.params import Params


@dataclasses.dataclass(frozen=True)
class Learner:
    """module: with `Config`, `Hyper`, `train` and `policy`; memory: of how many observations it
    decides.
    """

    module: Any
    memory: int = 1

    def env(self, env: OnDemand) -> Any:
        """Returns the environment as this learner sees it."""
        return env if self.memory == 1 else Stacked(env, self.memory)

    def train(self, keys: jax.Array, params: Params, env: OnDemand, config: Any) -> Any:
        """Returns what it learned from each of the keys [S]: every leaf [S, ...]; consumes them."""
        seen_as, hyper = self.env(env), self.module.Hyper()

        def of_seed(key):
            return self.module.train(
                key, params, hyper, env=seen_as, config=config, outcomes=outcomes
            )

        # One after another: on two cores as fast as side by side, and compiled in half the time.
        return jax.block_until_ready(jax.jit(lambda keys: jax.lax.map(of_seed, keys))(keys))

    def policy(self, env: OnDemand, config: Any, weights: Any) -> Policy:
        """Returns the greedy policy, for `self.env(env)`."""
        return self.module.policy(self.env(env), config, jax.tree.map(jnp.asarray, weights))


# BEST is compared with itself without the twin, looked at and exported.
BEST, MEMORY = "soft actor-critic", "memory actor-critic"
DEEP_Q, PROXIMAL = "deep Q", "proximal policy"
LEARNERS = {
    BEST: Learner(sac),
    MEMORY: Learner(sac, memory=8),
    DEEP_Q: Learner(dqn),
    PROXIMAL: Learner(ppo),
}
WITHOUT_TWIN = "actor-critic, no twin"  # of the learning curves
COMPARED = "greedy"  # gains are differences to this one
INFORMED, EXACT, EXACT_MEMORY = "full information", "exact optimum", "exact with memory"
NOT_DEPLOYABLE = frozenset(
    {INFORMED, EXACT, EXACT_MEMORY}
)  # one knows the slot to come, the others the law of the world


def outcomes(env: Any, state: Any, action: jax.Array, params: Params) -> jax.Array:
    """Returns what each action earns [A], for learners with the twin; the action taken changes
    nothing.
    """
    if isinstance(env, Stacked):
        return outcomes(env.env, state.state, action, params)
    return twin.evaluate(env, state, params).utility


def baseline_policies(env: OnDemand, fixed: int, solution: Solution | None) -> dict[str, Policy]:
    """Returns the policies that need no learning, by name; fixed: the best fixed action; solution:
    of the scenario.

    The exact optimum with memory only where memory is worth something.
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
        policies[EXACT] = bounds.policy(solution)
        if solution.gain_history > solution.gain + 1e-9:
            policies[EXACT_MEMORY] = bounds.policy_with_memory(solution)
    return policies


def play_learners(
    env: OnDemand, policies: Mapping[str, Policy], world: Params, key: jax.Array
) -> dict[str, list[Tasks]]:
    """Returns by learner its tasks, as `play` does, each in the environment that it sees; consumes
    the key.
    """
    played: dict[str, list[Tasks]] = {}
    for memory in sorted({LEARNERS[name].memory for name in policies}):
        alike = {
            name: policy for name, policy in policies.items() if LEARNERS[name].memory == memory
        }
        seen_as = LEARNERS[next(iter(alike))].env(env)
        played |= play(seen_as, alike, [world], jax.random.fold_in(key, memory))
    return played
