"""Who is compared in `on-demand`: learners, baselines and references by name."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.core.stacked import Stacked
from jaxcoinfer.evaluation import seeds
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.evaluation.executor import Learned, play
from jaxcoinfer.learn import dqn, ppo, sac
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems.on_demand import baselines, lookup, twin
from jaxcoinfer.systems.on_demand.bound import (
    Solution,
    exact_policy,
    exact_policy_with_memory,
)
from jaxcoinfer.systems.on_demand.env import OnDemand
from jaxcoinfer.systems.on_demand.lookup import Linear, LookUp
from jaxcoinfer.systems.on_demand.params import Params


@dataclasses.dataclass(frozen=True)
class Learner:
    """How one learner learns, what it observes, and whether it starts from the look-up table."""

    module: Any  # of `jaxcoinfer.learn`: with `Config`, `Hyper`, `train` and `policy`
    memory: int = 1  # how many observations it decides on
    corrects: bool = True  # the table; else it starts from nothing

    def env(self, env: OnDemand) -> Any:
        """Returns the environment as this learner sees it."""
        return env if self.memory == 1 else Stacked(env, self.memory)

    def rule(self, table: LookUp) -> LookUp | None:
        """Returns what it corrects."""
        return table if self.corrects else None

    def train(
        self, keys: jax.Array, params: Params, table: LookUp, env: OnDemand, config: Any
    ) -> TrainResult:
        """Returns what it learned from each of the keys [S]: every leaf [S, ...]; consumes them."""
        learner_env, hyper = self.env(env), self.module.Hyper(rule=self.rule(table))

        def train_once(key: jax.Array) -> TrainResult:
            return self.module.train(
                key, params, hyper, env=learner_env, config=config, outcomes=outcomes
            )

        return seeds.train(keys, train_once)

    def learned(self, env: OnDemand, config: Any, weights: Any, table: LookUp) -> Learned:
        """Returns its greedy policies, for `self.env(env)`; weights: leaves [S, ...]; table: the
        one that it learned with.
        """
        build = partial(self.module.policy, self.env(env), config, rule=self.rule(table))
        return Learned(build, jax.tree.map(jnp.asarray, weights))


# BEST is the one that figures show and that is exported. PUBLISHED is the method of the paper: it
# starts from nothing, and also learns without the twin.
BEST, MEMORY = "soft actor-critic", "memory actor-critic"
PUBLISHED, DEEP_Q, PROXIMAL = "published actor-critic", "deep Q", "proximal policy"
LEARNERS = {
    PUBLISHED: Learner(sac, corrects=False),
    BEST: Learner(sac),
    MEMORY: Learner(sac, memory=8),
    DEEP_Q: Learner(dqn),
    PROXIMAL: Learner(ppo),
}
WITHOUT_TWIN = "published, no twin"  # of the learning curves
GREEDY, LOOK_UP, RELIABLE, LINEAR = "greedy", "look-up table", "reliable table", "LinUCB"
INFORMED, EXACT, EXACT_MEMORY = "full information", "exact optimum", "exact with memory"
# The first knows the true slot, the others the distribution of the world.
NOT_DEPLOYABLE = frozenset({INFORMED, EXACT, EXACT_MEMORY})


def outcomes(env: Any, state: Any, action: jax.Array, params: Params) -> jax.Array:
    """Returns what each action earns [A], for learners with the twin; whatever action was taken."""
    if isinstance(env, Stacked):
        return outcomes(env.env, state.state, action, params)
    return twin.evaluate(env, state, params).utility


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What baselines take from the training draw."""

    fixed: int  # the best fixed action
    table: LookUp
    reliable: LookUp  # keeps to the targets of the classes
    linear: Linear


def choose(
    env: OnDemand, params: Params, table: LookUp, targets: Sequence[float], key: jax.Array
) -> Chosen:
    """Returns what is best on a draw to learn from, whose look-up table is `table`; targets [G]:
    share of late tasks that each class may have. Consumes the key.
    """
    return Chosen(
        baselines.best_fixed(env, params),
        table,
        lookup.look_up(env, params, targets),
        lookup.lin_ucb(key, params, env=env),
    )


def baseline_policies(
    env: OnDemand, chosen: Chosen, solution: Solution | None
) -> dict[str, Policy]:
    """Returns the policies that need no network, by name.

    solution: of the scenario, for the exact optimum; with memory only where memory is worth
    something.
    """
    policies = {
        GREEDY: baselines.greedy(env),
        LOOK_UP: lookup.look_up_policy(chosen.table),
        RELIABLE: lookup.look_up_policy(chosen.reliable),
        LINEAR: lookup.linear_policy(chosen.linear),
        "edgent": baselines.edgent(env),
        "neurosurgeon": baselines.neurosurgeon(env),
        "best fixed action": baselines.fixed(chosen.fixed),
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
    env: OnDemand, learned: Mapping[str, Learned], worlds: Sequence[Params], key: jax.Array
) -> list[dict[str, list[Tasks]]]:
    """Returns the tasks of each learner, as `play` does, each in its own environment; consumes the
    key.
    """
    played: list[dict[str, list[Tasks]]] = [{} for _ in worlds]
    for memory in sorted({LEARNERS[name].memory for name in learned}):
        group = {name: one for name, one in learned.items() if LEARNERS[name].memory == memory}
        learner_env = LEARNERS[next(iter(group))].env(env)
        several = play(learner_env, group, worlds, jax.random.fold_in(key, memory))
        played = [before | new for before, new in zip(played, several, strict=True)]
    return played
