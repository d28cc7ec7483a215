"""A run: train a method, evaluate it beside its rivals on rows learning never saw.

Nothing here prints or writes: whoever calls hears of the progress through a function. All randomness comes from one
seed, each purpose with a key of its own, so that the same scenario and seed give the same numbers again.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxcoinfer import evaluate, timeline
from jaxcoinfer.agents import contvalue
from jaxcoinfer.envs import make
from jaxcoinfer.envs.stopping import Stopping
from jaxcoinfer.envs.stopping_params import Params
from jaxcoinfer.evaluate import Interval, Tasks
from jaxcoinfer.policies import stopping as rivals
from jaxcoinfer.rollout import Policy
from jaxcoinfer.runs import sweeps
from jaxcoinfer.scenarios import Numbers, ProfileError, Scenario, task_numbers
from jaxcoinfer.traces import TraceError
from jaxcoinfer.twin import workload

Progress = Callable[[str, int, int], None]  # what is over, work done, work in all (about seconds of one core)

# What learns: a module with `Config`, `Hyper`, `train` and `policy`. The first is the method of the system.
LEARNERS = {"continuation value": contvalue}
METHOD = next(iter(LEARNERS))
# What needs no learning, beside the best fixed point, for which the training draw is asked.
RIVALS: dict[str, Callable[[Stopping], Policy]] = {
    "one-time greedy": rivals.one_time_greedy,
    "one-time waiting": rivals.one_time_waiting,
    "neurosurgeon": rivals.neurosurgeon,
    "device only": lambda env: rivals.fixed(env.n_layers + 1),
    "edge only": lambda env: rivals.fixed(0),
    "random": lambda env: rivals.random_choice(),
    "clairvoyant": rivals.clairvoyant,
}
COMPARED = "one-time greedy"  # gains are differences to this one
NOT_DEPLOYABLE = frozenset({"clairvoyant"})
WITH, WITHOUT = "with the twin", "without the twin"  # names of the learning curves
N_TIMELINE = 100  # tasks
_TRAIN_DRAW, _LEARN, _HELD_OUT, _PLAY, _FRESH, _FRESH_PLAY = range(6)  # purposes of keys


class RunError(ValueError):
    """A run that cannot be made or read because of what was asked for; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much a run does.

    rows, slots: at most so many of the scenario's. without_twin: learn once more without the twin, to compare.
    arrivals: factors on the arrival rate, and loads: shares of the server, at which all policies are run as well.
    """

    learner: contvalue.Config
    rows: int = 1 << 16
    slots: int = 1 << 20
    without_twin: bool = True
    arrivals: tuple[float, ...] = (0.4, 0.7, 1.0, 1.3, 1.6)
    loads: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)


# Small batches, looked at often: the first points of the learning curve then lie before the method has learned.
_LEARNER = contvalue.Config(
    n_devices=32, n_evaluations=200, updates_per_evaluation=10, evaluation_devices=32, evaluation_tasks=100
)
FULL = Sizes(_LEARNER)
QUICK = Sizes(
    dataclasses.replace(_LEARNER, n_evaluations=40),
    rows=4,
    slots=8192,
    without_twin=False,
    arrivals=(0.5, 1.0, 1.5),
    loads=(0.3, 0.6, 0.9),
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a policy is made of. scenario: with its task in plain numbers; fixed: the best fixed choice in training."""

    scenario: Scenario
    seed: int
    learner: str
    hidden: tuple[int, ...]
    fixed: int
    weights: Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One policy: every measure by name, its gain in utility on `COMPARED`, whether a device could do the same."""

    measures: dict[str, Interval]
    gain: Interval
    deployable: bool


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run found.

    latency_s: of every task [N], by policy; sweeps by axis; curves: name -> (tasks seen, utility), learners with and
    without the twin; regions: where the policy stops; trace: the first tasks, for Perfetto.
    """

    checkpoint: Checkpoint
    rows: dict[str, Row]
    latency_s: dict[str, np.ndarray]
    sweeps: dict[str, sweeps.Sweep]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    regions: timeline.Regions
    trace: dict[str, Any]


class Jobs:
    """Two threads that share the work, most of which (compiling, compiled loops) runs outside of Python."""

    def __init__(self, progress: Progress, total: int):
        self._pool = ThreadPoolExecutor(max_workers=2)
        self._progress, self._done, self._total = progress, 0, total

    def __enter__(self) -> "Jobs":
        self._progress("", 0, self._total)
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def over(self, what: str, work: int) -> None:
        """Reports that `work` of the total is done."""
        self._done += work
        self._progress(what, self._done, self._total)

    def start(self, what: str, work: int, function: Callable, *given: Any, tasks_in=None) -> Future:
        """Starts `function(*given)`; once it is over reports `what`, and a rate if tasks_in(result) counts tasks."""

        def job():
            begin_s = time.perf_counter()
            result = function(*given)
            said = what
            if tasks_in:
                n_tasks = tasks_in(result)
                said += f": {n_tasks:,} tasks, {n_tasks / (time.perf_counter() - begin_s):,.0f} tasks/s"
            self.over(said, work)
            return result

        return self._pool.submit(job)


class World(struct.PyTreeNode):
    """Numbers of an environment, and which policy acts in it."""

    params: Params
    policy: jax.Array

    bank = property(lambda self: self.params.bank)


@dataclasses.dataclass(frozen=True)
class Shared:
    """An environment in which several policies act, one a world: the environment is compiled once for all of them."""

    env: Stopping
    policies: tuple[Policy, ...]

    def begin(self, row: jax.Array, slot: jax.Array, world: World) -> tuple[Any, Any]:
        return self.env.begin(row, slot, world.params)

    def step(self, state: Any, action: jax.Array, world: World) -> tuple[Any, Any]:
        return self.env.step(state, action, world.params)

    def act(self, key: jax.Array, state: Any, observation: jax.Array, world: World) -> jax.Array:
        """The policy of the world."""
        return jax.lax.switch(world.policy, self.policies, key, state, observation, world.params)


def play(
    env: Stopping, policies: Mapping[str, Policy], worlds: Sequence[Params], key: jax.Array
) -> dict[str, list[Tasks]]:
    """Returns by policy its tasks in each world (of equal shapes); consumes the key."""
    shared = Shared(env, tuple(policies.values()))
    all_worlds = [World(params, jnp.int32(i)) for i in range(len(policies)) for params in worlds]
    tasks = evaluate.run(shared, all_worlds, shared.act, key)
    return {name: tasks[i * len(worlds) :][: len(worlds)] for i, name in enumerate(policies)}


def run(scenario: Scenario, seed: int, sizes: Sizes = FULL, progress: Progress = lambda *_: None) -> Run:
    """Trains and evaluates. Raises RunError, ProfileError or TraceError in one line where the input is at fault."""
    scenario = resolved(scenario, sizes)
    key = _key(seed, _PLAY)
    with Jobs(progress, 75 + 16 * sizes.without_twin) as jobs:
        env, params = _make(scenario, _key(seed, _TRAIN_DRAW), evaluation=False)
        jobs.over("drew the rows for training", 20)
        learn = partial(jobs.start, tasks_in=_n_seen)
        given = (_train, env, params, _key(seed, _LEARN))
        learning = {WITH: learn(f"learned {WITH}", 16, *given, sizes.learner)}
        drawing = jobs.start("drew the rows for evaluation", 10, _held_out, scenario, sizes, seed)
        choosing = jobs.start("found the best fixed point", 2, best_fixed, env, params)
        if sizes.without_twin:
            alone = dataclasses.replace(sizes.learner, twin=False)
            learning[WITHOUT] = learn(f"learned {WITHOUT}", 16, *given, alone)
        world, plan = drawing.result()
        worlds = [world, *plan.worlds]
        policies = rival_policies(env, choosing.result())
        played = partial(jobs.start, tasks_in=_n_tasks)
        playing = [played(f"evaluated {len(policies)} rivals", 18, play, env, policies, worlds, key)]
        weights = learning[WITH].result().weights
        method = LEARNERS[METHOD].policy(env, sizes.learner, weights)
        playing.insert(0, played(f"evaluated {METHOD}", 6, play, env, {METHOD: method}, worlds, key))
        given = (env, world, method)
        looking = jobs.start(
            "looked at what it does",
            3,
            lambda: (timeline.record(*given, key, N_TIMELINE), timeline.stop_regions(*given)),
        )
        trips, regions = looking.result()
        tasks = {name: several for future in playing for name, several in future.result().items()}
        learned = {name: future.result() for name, future in learning.items()}
    main = {name: several[0] for name, several in tasks.items()}
    return Run(
        checkpoint=Checkpoint(scenario, seed, METHOD, sizes.learner.hidden, choosing.result(), jax.device_get(weights)),
        rows=table(main, env.n_choices, scenario),
        latency_s={name: one.latency_s for name, one in main.items()},
        sweeps=sweeps.collect(plan, scenario, {name: several[1:] for name, several in tasks.items()}),
        curves={name: (np.asarray(one.tasks), np.asarray(one.curve)) for name, one in learned.items()},
        regions=regions,
        trace=timeline.chrome_trace(trips, scenario.slot_s),
    )


def evaluate_again(checkpoint: Checkpoint, seed: int, progress: Progress = lambda *_: None) -> dict[str, Row]:
    """Returns the table of a trained policy and its rivals on fresh rows. Raises like `run`."""
    with Jobs(progress, 40) as jobs:
        env, params = _make(checkpoint.scenario, _key(seed, _FRESH), evaluation=True)
        jobs.over("drew fresh rows", 20)
        policies = {checkpoint.learner: trained_policy(checkpoint, env)} | rival_policies(env, checkpoint.fixed)
        given = (play, env, policies, [params], _key(seed, _FRESH_PLAY))
        tasks = jobs.start(f"evaluated {len(policies)} policies", 20, *given, tasks_in=_n_tasks).result()
    main = {name: several[0] for name, several in tasks.items()}
    return table(main, env.n_choices, checkpoint.scenario)


def rival_policies(env: Stopping, fixed: int) -> dict[str, Policy]:
    """Returns the policies that need no learning, by name; fixed: the choice of the best fixed point."""
    return {name: build(env) for name, build in RIVALS.items()} | {"best fixed point": rivals.fixed(fixed)}


def trained_policy(checkpoint: Checkpoint, env: Stopping) -> Policy:
    """Returns the policy of a checkpoint."""
    learner = LEARNERS[checkpoint.learner]
    weights = jax.tree.map(jnp.asarray, checkpoint.weights)
    return learner.policy(env, learner.Config(hidden=checkpoint.hidden), weights)


def table(tasks: Mapping[str, Tasks], n_choices: int, scenario: Scenario) -> dict[str, Row]:
    """Returns one row a policy. Raises RunError where a row of the draw saw no task."""
    try:
        return {
            name: Row(
                evaluate.summarise(one, n_choices, scenario.deadline_s),
                evaluate.difference(one, tasks[COMPARED]),
                name not in NOT_DEPLOYABLE,
            )
            for name, one in tasks.items()
        }
    except ValueError as error:
        raise RunError(f"scenario '{scenario.name}': {_one_line(error)}") from None


def best_fixed(env: Stopping, params: Params, n_tasks: int = 512) -> int:
    """Returns the choice that, always taken, gives the most utility over the first n_tasks tasks of every row."""

    def play(params, row, choice):
        def task(state, _):
            replay = workload.evaluate(env, state, params)
            utility = jnp.where(state.done, 0.0, replay.choices.utility[choice])
            return workload.follow(replay, choice, params), (utility, ~state.done)

        state, _ = env.begin(row, jnp.int32(0), params)
        utility, counted = jax.lax.scan(task, state, length=n_tasks)[1]
        return utility.sum(), counted.sum()

    rows = jnp.arange(params.bank.n_rows, dtype=jnp.int32)
    choices = jnp.arange(env.n_choices, dtype=jnp.int32)
    each = jax.jit(jax.vmap(jax.vmap(play, (None, 0, None)), (None, None, 0)))
    total, count = (np.asarray(sums, np.float64).sum(axis=1) for sums in each(params, rows, choices))
    return int(np.argmax(total / np.maximum(count, 1)))


def resolved(scenario: Scenario, sizes: Sizes) -> Scenario:
    """Returns the scenario at most as large as `sizes` says, its task in plain numbers."""
    numbers = {name: np.asarray(value, np.float64).tolist() for name, value in task_numbers(scenario.task).items()}
    plain: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in numbers.items()}
    task = Numbers(**plain)
    rows, slots = min(scenario.rows, sizes.rows), min(scenario.slots, sizes.slots)
    return dataclasses.replace(scenario, rows=rows, slots=slots, task=task)


def _key(seed: int, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), purpose)


def _make(scenario: Scenario, key: jax.Array, *, evaluation: bool) -> tuple[Stopping, Params]:
    try:
        return make(scenario, key, evaluation=evaluation)
    except (ProfileError, TraceError):
        raise
    except ValueError as error:  # what only the draw shows: rows too short for the slowest task
        raise RunError(f"scenario '{scenario.name}': {_one_line(error)}") from None


def _held_out(scenario: Scenario, sizes: Sizes, seed: int) -> tuple[Params, sweeps.Plan]:
    key = _key(seed, _HELD_OUT)
    params = _make(scenario, key, evaluation=True)[1]
    return params, sweeps.plan(scenario, sizes.arrivals, sizes.loads, key)


def _train(env: Stopping, params: Params, key: jax.Array, config: contvalue.Config) -> contvalue.Learned:
    learner = LEARNERS[METHOD]
    return jax.block_until_ready(learner.train(key, params, learner.Hyper(), env=env, config=config))


def _n_seen(learned: contvalue.Learned) -> int:
    return int(learned.tasks[-1])


def _n_tasks(played: Mapping[str, Sequence[Tasks]]) -> int:
    return sum(len(tasks.utility) for several in played.values() for tasks in several)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
