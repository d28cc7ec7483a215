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

from jaxcoinfer import evaluate, timeline
from jaxcoinfer.agents import contvalue, differential
from jaxcoinfer.bounds import alone, dynamic_program
from jaxcoinfer.bounds import stopping as bounds
from jaxcoinfer.envs import make
from jaxcoinfer.envs.stopping import Stopping
from jaxcoinfer.envs.stopping_params import Params
from jaxcoinfer.evaluate import Interval, Tasks
from jaxcoinfer.rollout import Policy
from jaxcoinfer.runs import signalling, sweeps
from jaxcoinfer.runs.contenders import (
    BEST,
    COMPARED,
    EXACT,
    LEARNERS,
    METHOD,
    NOT_DEPLOYABLE,
    WITHOUT_TWIN,
    best_fixed,
    play,
    rival_policies,
)
from jaxcoinfer.scenarios import Numbers, ProfileError, Scenario, task_numbers
from jaxcoinfer.traces import TraceError

Progress = Callable[[str, int, int], None]  # what is over, work done, work in all (about seconds of one core)

N_TIMELINE = 100  # tasks
_TRAIN_DRAW, _LEARN, _HELD_OUT, _PLAY, _FRESH, _FRESH_PLAY, _SIGNAL = range(7)  # purposes of keys


class RunError(ValueError):
    """A run that cannot be made or read because of what was asked for; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much a run does.

    learners: a `Config` for each of LEARNERS. rows, slots: at most so many of the scenario's. without_twin: whether the
    method learns once more without the twin. arrivals: factors on the arrival rate, and loads: shares of the server, at
    which all policies are run as well. thresholds: of the status twin, slots.
    """

    learners: dict[str, Any]
    rows: int = 1 << 16
    slots: int = 1 << 20
    without_twin: bool = True
    arrivals: tuple[float, ...] = (0.4, 0.7, 1.0, 1.3, 1.6)
    loads: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    thresholds: tuple[int, ...] = signalling.THRESHOLDS


# Small batches, looked at often: the first points of the learning curve then lie before the method has learned.
_METHOD = contvalue.Config(
    n_devices=32, n_evaluations=200, updates_per_evaluation=10, evaluation_devices=32, evaluation_tasks=100
)
_BEST = differential.Config()
FULL = Sizes({METHOD: _METHOD, BEST: _BEST})
QUICK = Sizes(
    {
        METHOD: dataclasses.replace(_METHOD, n_evaluations=40),
        BEST: dataclasses.replace(_BEST, n_pairs=128, n_batches=4, batch=1024, memory=8192),
    },
    rows=4,
    slots=8192,
    without_twin=False,
    arrivals=(0.5, 1.0, 1.5),
    loads=(0.3, 0.6, 0.9),
    thresholds=(0, 10, 50),
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What the policies of a run are made of.

    scenario: with its task in plain numbers. hidden, weights: of the network of each learner. fixed: the best fixed
    choice on the training draw.
    """

    scenario: Scenario
    seed: int
    fixed: int
    hidden: dict[str, tuple[int, ...]]
    weights: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One policy: every measure by name, its gain in utility on `COMPARED`, how far it is below the bound, paired row
    by row, and whether a device could do the same."""

    measures: dict[str, Interval]
    gain: Interval
    gap: Interval
    deployable: bool


@dataclasses.dataclass(frozen=True)
class Bound:
    """What no policy exceeds, utility a task: what it is, and how much; of an exact optimum also the computed gain."""

    what: str
    utility: Interval
    computed: float | None


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run found.

    latency_s: of every task [N], by policy; sweeps by axis; messages: what reports buy; curves: learner -> (tasks seen,
    utility); regions: where BEST stops; trace: its first tasks, for Perfetto.
    """

    checkpoint: Checkpoint
    rows: dict[str, Row]
    bound: Bound
    latency_s: dict[str, np.ndarray]
    sweeps: dict[str, sweeps.Sweep]
    messages: list[signalling.Point]
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


def run(scenario: Scenario, seed: int, sizes: Sizes = FULL, progress: Progress = lambda *_: None) -> Run:
    """Trains and evaluates. Raises RunError, ProfileError or TraceError in one line where the input is at fault."""
    scenario = resolved(scenario, sizes)
    key, key_held_out = _key(seed, _PLAY), _key(seed, _HELD_OUT)
    model = bounds.model_of(scenario)
    total = 70 + 22 * len(sizes.learners) + 16 * sizes.without_twin + 12 * (model is not None)
    with Jobs(progress, total) as jobs:
        env, params = _make(scenario, _key(seed, _TRAIN_DRAW), evaluation=False)
        _, world = _make(scenario, key_held_out, evaluation=True)
        jobs.over("drew the rows", 22)
        learning = _start_learning(jobs, env, params, _key(seed, _LEARN), sizes)
        drawing = jobs.start("drew the sweeps", 8, sweeps.plan, scenario, sizes.arrivals, sizes.loads, key_held_out)
        choosing = jobs.start("found the best fixed point", 2, best_fixed, env, params)
        solving = jobs.start("computed the exact optimum", 12, dynamic_program.solve, model) if model else None
        plan, others = drawing.result(), rival_policies(env, choosing.result())
        worlds = [world, *plan.worlds]
        played = partial(jobs.start, tasks_in=_n_tasks)
        exact = {EXACT: bounds.policy(solving.result())} if solving else {}
        playing = [played(f"evaluated {len(others)} rivals", 18, play, env, others | exact, worlds, key)]
        weights = {name: learning[name].result().weights for name in sizes.learners}
        learned = {name: LEARNERS[name].policy(env, config, weights[name]) for name, config in sizes.learners.items()}
        what = f"evaluated {', '.join(learned)}"
        playing.insert(0, played(what, 6 * len(learned), play, env, learned, worlds, key))
        looking = jobs.start(f"looked at {BEST}", 3, _look, env, world, learned[BEST], key)
        given = (scenario, learned[BEST], key_held_out, _key(seed, _SIGNAL), sizes.thresholds)
        signals = jobs.start("counted messages", 17, signalling.measure, *given)
        tasks = {name: several for future in playing for name, several in future.result().items()}
        trips, regions = looking.result()
        messages = signals.result()
        curves = {name: future.result() for name, future in learning.items()}
    main = {name: several[0] for name, several in tasks.items()}
    hidden = {name: config.hidden for name, config in sizes.learners.items()}
    rows, bound = table(main, env, world, scenario, float(solving.result().gain_per_task) if solving else None)
    return Run(
        checkpoint=Checkpoint(scenario, seed, choosing.result(), hidden, jax.device_get(weights)),
        rows=rows,
        bound=bound,
        latency_s={name: one.latency_s for name, one in main.items()},
        sweeps=sweeps.collect(plan, scenario, {name: several[1:] for name, several in tasks.items() if name != EXACT}),
        messages=messages,
        curves={name: (np.asarray(one.steps), np.asarray(one.curve)) for name, one in curves.items()},
        regions=regions,
        trace=timeline.chrome_trace(trips, scenario.slot_s),
    )


def _start_learning(jobs: Jobs, env: Stopping, params: Params, key: jax.Array, sizes: Sizes) -> dict[str, Future]:
    """Starts every learner, and the method without the twin; by name."""
    learners = {name: (name, config) for name, config in sizes.learners.items()}
    if sizes.without_twin:
        learners[WITHOUT_TWIN] = (METHOD, dataclasses.replace(sizes.learners[METHOD], twin=False))
    return {
        said: jobs.start(f"learned {said}", 16, _train, name, env, params, key, config, tasks_in=_n_seen)
        for said, (name, config) in learners.items()
    }


def evaluate_again(
    checkpoint: Checkpoint, seed: int, progress: Progress = lambda *_: None
) -> tuple[dict[str, Row], Bound]:
    """Returns the table of the trained policies and their rivals on fresh rows, and the bound. Raises like `run`."""
    scenario = checkpoint.scenario
    model = bounds.model_of(scenario)
    with Jobs(progress, 40 + 12 * (model is not None)) as jobs:
        env, params = _make(scenario, _key(seed, _FRESH), evaluation=True)
        jobs.over("drew fresh rows", 20)
        policies = trained_policies(checkpoint, env) | rival_policies(env, checkpoint.fixed)
        solving = jobs.start("computed the exact optimum", 12, dynamic_program.solve, model) if model else None
        if solving:
            policies[EXACT] = bounds.policy(solving.result())
        given = (play, env, policies, [params], _key(seed, _FRESH_PLAY))
        tasks = jobs.start(f"evaluated {len(policies)} policies", 20, *given, tasks_in=_n_tasks).result()
    main = {name: several[0] for name, several in tasks.items()}
    return table(main, env, params, scenario, float(solving.result().gain_per_task) if solving else None)


def trained_policies(checkpoint: Checkpoint, env: Stopping) -> dict[str, Policy]:
    """Returns the learned policies of a checkpoint, by name."""
    weights = jax.tree.map(jnp.asarray, checkpoint.weights)
    configs = {name: LEARNERS[name].Config(hidden=hidden) for name, hidden in checkpoint.hidden.items()}
    return {name: LEARNERS[name].policy(env, config, weights[name]) for name, config in configs.items()}


def table(
    tasks: Mapping[str, Tasks], env: Stopping, params: Params, scenario: Scenario, computed: float | None
) -> tuple[dict[str, Row], Bound]:
    """Returns one row a policy, and the bound they are held against: the exact optimum where it was computed, else what
    each task would get alone. Raises RunError where a row of the draw saw no task.
    """
    each = alone.utility(env, params)
    try:
        own = {name: evaluate.by_row(one, one.utility) for name, one in tasks.items()}
        most = {name: alone.by_row(each, evaluate.count_by_row(one)) for name, one in tasks.items()}
        if computed is not None:
            most = dict.fromkeys(tasks, own[EXACT])
        rows = {
            name: Row(
                evaluate.summarise(one, env.n_choices, scenario.deadline_s),
                evaluate.difference(one, tasks[COMPARED]),
                evaluate.interval(most[name] - own[name]),
                name not in NOT_DEPLOYABLE,
            )
            for name, one in tasks.items()
        }
    except ValueError as error:
        raise RunError(f"scenario '{scenario.name}': {_one_line(error)}") from None
    what = "what each task would get alone" if computed is None else "the exact optimum"
    return rows, Bound(what, evaluate.interval(most[COMPARED]), computed)


def resolved(scenario: Scenario, sizes: Sizes) -> Scenario:
    """Returns the scenario at most as large as `sizes` says, its task in plain numbers."""
    numbers = {name: np.asarray(value, np.float64).tolist() for name, value in task_numbers(scenario.task).items()}
    of: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in numbers.items()}
    rows, slots = min(scenario.rows, sizes.rows), min(scenario.slots, sizes.slots)
    return dataclasses.replace(scenario, rows=rows, slots=slots, task=Numbers(**of))


def _key(seed: int, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), purpose)


def _make(scenario: Scenario, key: jax.Array, *, evaluation: bool) -> tuple[Stopping, Params]:
    try:
        return make(scenario, key, evaluation=evaluation)
    except (ProfileError, TraceError):
        raise
    except ValueError as error:  # what only the draw shows: rows too short for the slowest task
        raise RunError(f"scenario '{scenario.name}': {_one_line(error)}") from None


def _train(name: str, env: Stopping, params: Params, key: jax.Array, config: Any) -> Any:
    learner = LEARNERS[name]
    return jax.block_until_ready(learner.train(key, params, learner.Hyper(), env=env, config=config))


def _look(env: Stopping, params: Params, policy: Policy, key: jax.Array) -> tuple[timeline.Trips, timeline.Regions]:
    return timeline.record(env, params, policy, key, N_TIMELINE), timeline.stop_regions(env, params, policy)


def _n_seen(learned: Any) -> int:
    return int(learned.steps[-1])


def _n_tasks(played: Mapping[str, Sequence[Tasks]]) -> int:
    return sum(len(tasks.utility) for several in played.values() for tasks in several)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
