"""A run of `stopping`: train the methods, evaluate them and their baselines on rows learning never
saw.

Nothing here prints or writes: the caller is told of the progress through a function.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.data.processes import MAX_SLOTS
from jaxcoinfer.evaluation import comparison, evaluate, executor
from jaxcoinfer.evaluation.evaluate import Interval, Tasks
from jaxcoinfer.evaluation.executor import Executor, key_of, make_world, play
from jaxcoinfer.evaluation.types import Bound, Checkpoint, Portable, Progress, Run, Table
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems.stopping import (
    continuation_value,
    differential_value,
    report,
    status_reports,
    sweeps,
    timeline,
)
from jaxcoinfer.systems.stopping.bounds import dynamic_program, isolated
from jaxcoinfer.systems.stopping.bounds import exact as bounds
from jaxcoinfer.systems.stopping.bounds.dynamic_program import Solution
from jaxcoinfer.systems.stopping.bounds.tables import Model
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.make import make
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.policies import (
    BEST,
    COMPARED,
    EXACT,
    LEARNERS,
    METHOD,
    NOT_DEPLOYABLE,
    WITHOUT_TWIN,
    Chosen,
    baseline_policies,
    choose,
)
from jaxcoinfer.systems.stopping.scenario import (
    Numbers,
    StoppingScenario,
    task_numbers,
    task_samples,
)

N_TIMELINE = 100  # tasks


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much a run does."""

    learners: dict[str, Any]  # a `Config` for each of LEARNERS
    rows: int = 1 << 16  # at most so many of the scenario's
    slots: int = MAX_SLOTS  # likewise
    without_twin: bool = True  # whether the method learns once more without the twin
    # Where all policies are evaluated as well: factors on the arrival rate, and loads of the
    # server, shares.
    arrivals: tuple[float, ...] = (0.4, 0.7, 1.0, 1.3, 1.6)
    loads: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    thresholds: tuple[int, ...] = status_reports.THRESHOLDS  # slots, of the status twin


# Small batches, evaluated often: the first points of the learning curve then lie before the method
# has learned.
_METHOD = continuation_value.Config(
    n_devices=32,
    n_evaluations=200,
    updates_per_evaluation=10,
    evaluation_devices=32,
    evaluation_tasks=100,
)
_BEST = differential_value.Config()
FULL = Sizes({METHOD: _METHOD, BEST: _BEST})
QUICK = Sizes(
    {
        METHOD: dataclasses.replace(_METHOD, n_evaluations=40),
        BEST: dataclasses.replace(_BEST, n_pairs=128, n_batches=4, batch=1024, buffer_size=8192),
    },
    rows=4,
    slots=8192,
    without_twin=False,
    arrivals=(0.5, 1.0, 1.5),
    loads=(0.3, 0.6, 0.9),
    thresholds=(0, 10, 50),
)


@dataclasses.dataclass(frozen=True)
class _Started:
    """What a run draws, and the work it starts first; results as the functions return them."""

    env: Stopping
    held_out: Params  # of the evaluation
    learning: dict[str, Future]  # by learner
    plan: Future[sweeps.Plan]
    chosen: Future[Chosen]  # for the baselines
    solution: Future[Solution] | None  # the exact optimum, where it can be computed


@dataclasses.dataclass(frozen=True)
class _Results:
    """All that a run computes."""

    env: Stopping
    held_out: Params
    learned: dict[str, TrainResult]
    plan: sweeps.Plan
    chosen: Chosen
    solution: Solution | None
    tasks: dict[str, Sequence[Tasks]]  # policy -> tasks in the held-out world, then in the plan's
    trips: timeline.Trips  # of the best learner
    regions: timeline.Regions  # likewise
    messages: list[status_reports.Point]


def run(
    scenario: StoppingScenario, seed: int, sizes: Sizes = FULL, progress: Progress = lambda *_: None
) -> Run:
    """Trains and evaluates. Raises RunError, ProfileError or TraceError in one line where the input
    is at fault.
    """
    scenario = resolved(scenario, sizes)
    model = bounds.model_of(scenario)
    total = 70 + 22 * len(sizes.learners) + 16 * sizes.without_twin + 12 * (model is not None)
    with Executor(progress, total) as work:
        started = _start(work, scenario, model, seed, sizes)
        results = _collect(work, started, scenario, seed, sizes)
    return _report(results, scenario, seed, sizes)


def _start(
    work: Executor, scenario: StoppingScenario, model: Model | None, seed: int, sizes: Sizes
) -> _Started:
    """Draws the rows, and starts what needs nothing else: learning, the sweeps' draws, choosing for
    the baselines and the exact optimum.
    """
    key_held_out = key_of(seed, executor.HELD_OUT)
    env, params = make_world(make, scenario, key_of(seed, executor.TRAIN_DRAW), split="train")
    _, held_out = make_world(make, scenario, key_held_out, split="eval")
    work.over("drew the rows", 22)
    arrivals, loads = sizes.arrivals, sizes.loads
    return _Started(
        env=env,
        held_out=held_out,
        learning=_start_learning(work, env, params, key_of(seed, executor.LEARN), sizes),
        plan=work.start("drew the sweeps", 8, sweeps.plan, scenario, arrivals, loads, key_held_out),
        chosen=work.start("chose for the baselines", 2, choose, env, params),
        solution=_start_solving(work, model),
    )


def _collect(
    work: Executor, started: _Started, scenario: StoppingScenario, seed: int, sizes: Sizes
) -> _Results:
    """Evaluates each policy as soon as it is there, and waits for everything."""
    env, held_out, key = started.env, started.held_out, key_of(seed, executor.PLAY)
    plan, chosen = started.plan.result(), started.chosen.result()
    worlds = [held_out, *plan.worlds]
    played = partial(work.start, tasks_in=executor.n_played)
    others = baseline_policies(env, chosen)
    what = f"evaluated {len(others)} baselines"
    solution = started.solution.result() if started.solution else None
    exact = {EXACT: bounds.policy(solution)} if solution else {}
    playing_others = played(what, 18, play, env, others | exact, worlds, key)
    learned = {
        name: LEARNERS[name].policy(env, config, started.learning[name].result().weights)
        for name, config in sizes.learners.items()
    }
    what = f"evaluated {', '.join(learned)}"
    playing_learned = played(what, 6 * len(learned), play, env, learned, worlds, key)
    best = learned[BEST]
    tracing = work.start(f"looked at {BEST}", 3, _trace, env, held_out, best, key)
    keys = key_of(seed, executor.HELD_OUT), key_of(seed, executor.SIGNAL)
    reporting = work.start(
        "counted messages", 17, status_reports.measure, scenario, best, *keys, sizes.thresholds
    )
    tasks = {**playing_learned.result(), **playing_others.result()}
    trips, regions = tracing.result()
    return _Results(
        env=env,
        held_out=held_out,
        learned={name: future.result() for name, future in started.learning.items()},
        plan=plan,
        chosen=chosen,
        solution=solution,
        tasks=tasks,
        trips=trips,
        regions=regions,
        messages=reporting.result(),
    )


def _report(results: _Results, scenario: StoppingScenario, seed: int, sizes: Sizes) -> Run:
    main = {name: several[0] for name, several in results.tasks.items()}
    swept = {name: several[1:] for name, several in results.tasks.items() if name != EXACT}
    findings = report.Findings(
        latency_s={name: tasks.latency_s for name, tasks in main.items()},
        sweeps=sweeps.collect(results.plan, scenario, swept),
        messages=results.messages,
        curves={
            name: (np.asarray(learned.steps), np.asarray(learned.curve))
            for name, learned in results.learned.items()
        },
        regions=results.regions,
    )
    rows = table(main, results.env, results.held_out, scenario, _gain(results.solution))
    hidden = {name: config.hidden for name, config in sizes.learners.items()}
    weights = {name: results.learned[name].weights for name in sizes.learners}
    chosen = results.chosen
    return Run(
        checkpoint=Checkpoint(
            scenario, seed, chosen.fixed, hidden, jax.device_get(weights), chosen.threshold
        ),
        table=rows,
        sheets=report.sheets(findings),
        found=report.summary(findings),
        figures=partial(report.draw_figures, rows, findings, scenario.deadline_s),
        trace=timeline.chrome_trace(results.trips, scenario.slot_s),
    )


def _start_learning(
    work: Executor, env: Stopping, params: Params, key: jax.Array, sizes: Sizes
) -> dict[str, Future]:
    """Starts every learner, and the method without the twin; by name."""
    learners = {name: (name, config) for name, config in sizes.learners.items()}
    if sizes.without_twin:
        learners[WITHOUT_TWIN] = (METHOD, dataclasses.replace(sizes.learners[METHOD], twin=False))
    return {
        label: work.start(
            f"learned {label}", 16, _train, name, env, params, key, config, tasks_in=_n_learned_from
        )
        for label, (name, config) in learners.items()
    }


def _start_solving(work: Executor, model: Model | None) -> Future[Solution] | None:
    if model is None:
        return None
    return work.start("computed the exact optimum", 12, dynamic_program.solve, model)


def _gain(solution: Solution | None) -> float | None:
    return None if solution is None else float(solution.gain_per_task)


def evaluate_again(
    checkpoint: Checkpoint, seed: int, progress: Progress = lambda *_: None
) -> Table:
    """Returns the table of the trained policies and their baselines on fresh rows. Raises like
    `run`.
    """
    scenario = checkpoint.scenario
    model = bounds.model_of(scenario)
    with Executor(progress, 40 + 12 * (model is not None)) as work:
        env, params = make_world(make, scenario, key_of(seed, executor.FRESH), split="eval")
        work.over("drew fresh rows", 20)
        chosen = Chosen(checkpoint.fixed, checkpoint.threshold)
        policies = trained_policies(checkpoint, env) | baseline_policies(env, chosen)
        solving = _start_solving(work, model)
        solution = solving.result() if solving else None
        if solution:
            policies[EXACT] = bounds.policy(solution)
        tasks = work.start(
            f"evaluated {len(policies)} policies",
            20,
            play,
            env,
            policies,
            [params],
            key_of(seed, executor.FRESH_PLAY),
            tasks_in=executor.n_played,
        ).result()
    main = {name: several[0] for name, several in tasks.items()}
    return table(main, env, params, scenario, _gain(solution))


def trained_policies(checkpoint: Checkpoint, env: Stopping) -> dict[str, Policy]:
    """Returns the learned policies of a checkpoint, by name."""
    weights = jax.tree.map(jnp.asarray, checkpoint.weights)
    configs = {
        name: LEARNERS[name].Config(hidden=hidden) for name, hidden in checkpoint.hidden.items()
    }
    return {
        name: LEARNERS[name].policy(env, config, weights[name]) for name, config in configs.items()
    }


def portable(checkpoint: Checkpoint) -> Portable:
    """Returns the network of the best learner as a function."""
    learner, task = LEARNERS[BEST], checkpoint.scenario.task
    env = Stopping(
        len(task_numbers(task)["layer_s"]) - 1, observes_confidence=task_samples(task) is not None
    )
    weights = jax.tree.map(jnp.asarray, checkpoint.weights[BEST])
    return Portable(
        BEST, *learner.interface(env, learner.Config(hidden=checkpoint.hidden[BEST]), weights)
    )


def table(
    tasks: Mapping[str, Tasks],
    env: Stopping,
    params: Params,
    scenario: StoppingScenario,
    computed: float | None,
) -> Table:
    """Returns one row per policy, and the bound they are compared with: the exact optimum where it
    was computed (its gain per task), else what each task would get alone. Raises RunError where a
    row of the draw saw no task.
    """
    each = isolated.utility(env, params)
    own = comparison.utility_by_row(tasks, scenario.name)
    if computed is None:
        bound = {
            name: isolated.by_row(each, evaluate.count_by_row(one)) for name, one in tasks.items()
        }
    else:
        bound = dict.fromkeys(tasks, own[EXACT])

    def measures(one: Tasks) -> dict[str, Interval]:
        return evaluate.summarise(one, env.n_choices, scenario.deadline_s)

    rows = comparison.rows(tasks, own, bound, measures, COMPARED, NOT_DEPLOYABLE)
    what = "what each task would get alone" if computed is None else "the exact optimum"
    return Table(rows, Bound(what, evaluate.interval(bound[COMPARED]), computed), COMPARED)


def resolved(scenario: StoppingScenario, sizes: Sizes) -> StoppingScenario:
    """Returns the scenario at most as large as `sizes` says, its task in plain numbers unless it
    has samples.
    """
    rows, slots = min(scenario.rows, sizes.rows), min(scenario.slots, sizes.slots)
    scenario = dataclasses.replace(scenario, rows=rows, slots=slots)
    if task_samples(scenario.task) is not None:
        return scenario
    numbers = {
        name: np.asarray(value, np.float64).tolist()
        for name, value in task_numbers(scenario.task).items()
    }
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in numbers.items()
    }
    return dataclasses.replace(scenario, task=Numbers(**fields))


def _train(name: str, env: Stopping, params: Params, key: jax.Array, config: Any) -> TrainResult:
    learner = LEARNERS[name]
    return jax.block_until_ready(
        learner.train(key, params, learner.Hyper(), env=env, config=config)
    )


def _trace(
    env: Stopping, params: Params, policy: Policy, key: jax.Array
) -> tuple[timeline.Trips, timeline.Regions]:
    return timeline.record(env, params, policy, key, N_TIMELINE), timeline.stop_regions(
        env, params, policy
    )


def _n_learned_from(learned: TrainResult) -> int:
    return int(learned.steps[-1])
