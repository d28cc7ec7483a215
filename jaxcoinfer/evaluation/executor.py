"""What a run is made with: two threads, a key for each purpose, worlds of a scenario, and one
environment in which all policies act.

All randomness of a run comes from one seed, each purpose with a key of its own, so that the same
scenario and seed give the same numbers again.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import Env, TimeStep, Wrapper
from jaxcoinfer.core.rollout import Oracle, Policy, act
from jaxcoinfer.data.fields import ProfileError
from jaxcoinfer.data.processes import Split
from jaxcoinfer.data.traces import TraceError
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.evaluation.types import Progress, RunError

Result = TypeVar("Result")

# Purposes of keys; a number that changes changes all results.
TRAIN_DRAW = 0  # rows that learners train on
LEARN = 1  # training
HELD_OUT = 2  # rows that policies are evaluated on
PLAY = 3  # what policies draw there
FRESH = 4  # rows of another evaluation of trained policies
FRESH_PLAY = 5  # what policies draw there
SIGNAL = 6  # what policies draw while the server is told too little
VALIDATION = 7  # rows on which it is chosen what is the best
TUNE = 8  # what baselines are tuned with


def key_of(seed: int, purpose: int) -> jax.Array:
    """Returns the key for a purpose."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


class Executor:
    """Two threads for the work of a run, most of which (compiling, compiled loops) leaves Python
    free.

    total: the sum of all work that will be reported, in seconds of one core or so; `progress` is
    told each time a part of it is done.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=2)
        self._progress, self._done, self._total = progress, 0, total

    def __enter__(self) -> "Executor":
        self._progress("", 0, self._total)
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        # Only an error leaves work undone: what was started and not yet asked for ends first.
        self._pool.shutdown(wait=kind is None, cancel_futures=kind is not None)

    def over(self, what: str, work: int) -> None:
        """Reports that `work` of the total is done."""
        self._done += work
        self._progress(what, self._done, self._total)

    def start(
        self,
        what: str,
        work: int,
        function: Callable[..., Result],
        *arguments: Any,
        tasks_in: Callable[[Result], int] | None = None,
    ) -> Future[Result]:
        """Starts `function(*arguments)` in one of the threads.

        When it returns, `what` is reported as done, with a rate if tasks_in(result) counts tasks.
        """

        def job() -> Result:
            begin_s = time.perf_counter()
            result = function(*arguments)
            report = what
            if tasks_in:
                n_tasks = tasks_in(result)
                rate = n_tasks / (time.perf_counter() - begin_s)
                report += f": {n_tasks:,} tasks, {rate:,.0f} tasks/s"
            self.over(report, work)
            return result

        return self._pool.submit(job)


def make_world(
    make: Callable[..., tuple[Any, Any]], scenario: Any, key: jax.Array, *, split: Split
) -> tuple[Any, Any]:
    """Returns (env, params) of a scenario as its system makes them. Raises ProfileError, TraceError
    or RunError in one line.
    """
    try:
        return make(scenario, key, split=split)
    except (ProfileError, TraceError):
        raise
    except ValueError as error:  # what only the draw shows: rows too short for the slowest task
        raise RunError(f"scenario '{scenario.name}': {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """Returns the message of an error, in one line."""
    return " ".join(str(error).split())


class PolicyWorld(struct.PyTreeNode):
    """The params of a `MultiPolicyEnv`."""

    params: Any  # of the environment
    policy: jax.Array  # int32, which of the policies acts
    weights: Any = None  # of the learned policies

    bank = property(lambda self: self.params.bank)


@dataclasses.dataclass(frozen=True)
class Learned:
    """A policy that was learned, from S seeds."""

    policy: Callable[[Any], Policy]  # weights of one seed -> the policy
    weights: Any  # leaves [S, ...]

    @property
    def n_seeds(self) -> int:
        return jax.tree.leaves(self.weights)[0].shape[0]


@dataclasses.dataclass(frozen=True)
class MultiPolicyEnv(Wrapper):
    """An environment in which several policies act, one per world, so that it is compiled once for
    all of them. Its params are a `PolicyWorld`.
    """

    policies: tuple[Policy | Learned, ...]

    def mask(self, state: Any, params: PolicyWorld) -> Any:
        """Returns which actions are valid, as `env` does."""
        return self.env.mask(state, params.params)

    def visible(self, state: Any, params: PolicyWorld) -> tuple[Any, PolicyWorld]:
        """Returns state and params as policies receive them."""
        state, known = self.env.visible(state, params.params)
        return state, params.replace(params=known)

    def reset(self, key: jax.Array, params: PolicyWorld) -> tuple[Any, TimeStep]:
        """Starts as `env` does; consumes the key."""
        return self.env.reset(key, params.params)

    def reset_at(
        self, row: jax.Array, slot: jax.Array, params: PolicyWorld
    ) -> tuple[Any, TimeStep]:
        """Starts at a slot of a row, as `env` does."""
        return self.env.reset_at(row, slot, params.params)

    def step(self, state: Any, action: Any, params: PolicyWorld) -> tuple[Any, TimeStep]:
        """Steps as `env` does."""
        return self.env.step(state, action, params.params)

    def act(
        self, key: jax.Array, state: Any, observation: jax.Array, world: PolicyWorld
    ) -> jax.Array:
        """The policy of the world, each on what it may know."""
        deciding = [
            partial(
                act,
                self.env,
                one.policy(world.weights[i]) if isinstance(one, Learned) else one,
            )
            for i, one in enumerate(self.policies)
        ]
        return jax.lax.switch(world.policy, deciding, key, state, observation, world.params)


def weights_by_seed(
    policies: Mapping[str, Policy | Learned],
) -> tuple[dict[str, int], list[tuple[Any, ...]]]:
    """Returns how many seeds each policy was learned from (1 without learning), and for each seed
    the weights of all policies, as `PolicyWorld` wants them.
    """
    several = policies.values()
    n_seeds = {
        name: one.n_seeds if isinstance(one, Learned) else 1 for name, one in policies.items()
    }
    trained = tuple(one.weights if isinstance(one, Learned) else None for one in several)
    return n_seeds, [
        jax.tree.map(lambda leaf, seed=seed: leaf[min(seed, leaf.shape[0] - 1)], trained)
        for seed in range(max(n_seeds.values()))
    ]


def play(
    env: Env,
    policies: Mapping[str, Policy | Learned],
    worlds: Sequence[Any],
    key: jax.Array,
) -> list[dict[str, list[Tasks]]]:
    """Returns the tasks of each policy in each world (of equal shapes), of every seed that it was
    learned from; consumes the key.
    """
    shared = MultiPolicyEnv(env, tuple(policies.values()))
    n_seeds, by_seed = weights_by_seed(policies)
    plan = [
        (place, name, seed)
        for place in range(len(worlds))
        for name in policies
        for seed in range(n_seeds[name])
    ]
    order = {name: jnp.int32(i) for i, name in enumerate(policies)}
    all_worlds = [
        PolicyWorld(worlds[place], order[name], by_seed[seed]) for place, name, seed in plan
    ]
    played: list[dict[str, list[Tasks]]] = [{name: [] for name in policies} for _ in worlds]
    tasks = evaluate.run(shared, all_worlds, Oracle(shared.act), key)
    for (place, name, _), one in zip(plan, tasks, strict=True):
        played[place][name].append(one)
    return played


def record_of(record: Any, stored: Any) -> Any:
    """Returns a record of arrays as it was, or as a file of it was read: by field."""
    fields = stored if isinstance(stored, Mapping) else vars(stored)
    return record(**{name: jnp.asarray(value) for name, value in fields.items()})


def n_played(played: Sequence[Mapping[str, Sequence[Tasks]]]) -> int:
    """Returns how many tasks were done in all, of what `play` returned."""
    return sum(
        len(tasks.utility) for world in played for several in world.values() for tasks in several
    )
