"""A run of `stopping`: train the methods, evaluate them and their baselines on rows learning never
saw.

Nothing here prints or writes: the caller is told of the progress through a function.
"""

import dataclasses
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.data.processes import MAX_SLOTS
from jaxcoinfer.evaluation import comparison, executor, protocol, seeds
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.evaluation.executor import Executor, Learned, key_of, make_world, play
from jaxcoinfer.evaluation.types import Checkpoint, Progress, Run
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems.stopping import (
    report,
    status_reports,
    sweeps,
    timeline,
)
from jaxcoinfer.systems.stopping.bounds import exact as bounds
from jaxcoinfer.systems.stopping.bounds.dynamic_program import Solution
from jaxcoinfer.systems.stopping.bounds.tables import Model
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.make import make
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.policies import (
    BEST,
    EXACT,
    LEARNERS,
    METHOD,
    NOT_DEPLOYABLE,
    PRICES,
    WITHOUT_TWIN,
    Chosen,
    baseline_policies,
    choose,
)
from jaxcoinfer.systems.stopping.price_rule import Prices
from jaxcoinfer.systems.stopping.scenario import (
    Numbers,
    StoppingScenario,
    task_numbers,
    task_samples,
)
from jaxcoinfer.systems.stopping.stored import (
    evaluate_again,  # noqa: F401, a part of every system's run
    portable,  # noqa: F401, likewise
    start_solving,
)

N_TIMELINE = 100  # tasks


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much a run does."""

    learners: dict[str, Any]  # a `Config` for each of LEARNERS
    seeds: int = protocol.N_SEEDS  # that each learner trains from
    rows: int = 1 << 16  # at most so many of the scenario's
    slots: int = MAX_SLOTS  # likewise
    without_twin: bool = True  # whether the method learns once more without the twin
    # Where policies are evaluated as well: factors on the arrival rate, and loads of the server,
    # shares.
    arrivals: tuple[float, ...] = (0.4, 0.7, 1.0, 1.3, 1.6)
    loads: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    # On each of the scenario's assumed numbers, see `sweeps.CONSTANTS`.
    factors: tuple[float, ...] = (0.32, 1.0, 3.2)
    thresholds: tuple[int, ...] = status_reports.THRESHOLDS  # slots, of the status twin


FULL = Sizes({name: learner.config for name, learner in LEARNERS.items()})
_METHOD, _BEST = (LEARNERS[name].config for name in (METHOD, BEST))
QUICK = Sizes(
    {
        METHOD: dataclasses.replace(_METHOD, n_evaluations=40),
        BEST: dataclasses.replace(_BEST, n_pairs=128, n_batches=4, batch=1024, buffer_size=8192),
    },
    seeds=2,
    rows=8,
    slots=8192,
    without_twin=False,
    arrivals=(0.5, 1.0, 1.5),
    loads=(0.3, 0.6, 0.9),
    factors=(0.5, 2.0),
    thresholds=(0, 10, 50),
)
_SWEPT = frozenset({"one-time greedy", "one-time waiting", PRICES, "device only", "edge only"})


@dataclasses.dataclass(frozen=True)
class _Worlds:
    """The worlds of a run."""

    env: Stopping
    train: Params
    validation: Params
    test: Params


@dataclasses.dataclass(frozen=True)
class _Results:
    """All that a run computes."""

    worlds: _Worlds
    learned: dict[str, TrainResult]
    plan: sweeps.Plan
    chosen: Chosen
    solution: Solution | None
    validation: dict[str, Sequence[Tasks]]  # policy -> tasks of each seed
    test: dict[str, Sequence[Tasks]]  # likewise
    swept: dict[str, list[Tasks]]  # policy -> tasks in the plan's worlds
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
        results = _results(work, scenario, model, seed, sizes)
        bound = work.start(
            "computed the bound",
            8,
            report.bound_of,
            results.test,
            results.worlds.env,
            results.worlds.test,
            scenario,
            results.solution,
        ).result()
    return _report(results, bound, scenario, seed, sizes)


def _results(
    work: Executor, scenario: StoppingScenario, model: Model | None, seed: int, sizes: Sizes
) -> _Results:
    """Starts each part as soon as what it needs is there, and waits for everything."""
    worlds = _draw(scenario, seed)
    work.over("drew the rows", 10)
    env, test_key = worlds.env, key_of(seed, executor.HELD_OUT)
    tuning = work.start(
        "tuned the baselines", 14, choose, env, worlds.train, key_of(seed, executor.TUNE)
    )
    solving = start_solving(work, model)
    swept = sizes.arrivals, sizes.loads, sizes.factors
    planning = work.start("drew the sweeps", 8, sweeps.plan, scenario, *swept, test_key)
    chosen = tuning.result()
    learning = _start_learning(work, worlds, chosen.prices, key_of(seed, executor.LEARN), sizes)
    solution = solving.result() if solving else None
    others = baseline_policies(env, chosen) | ({EXACT: bounds.policy(solution)} if solution else {})
    plan = planning.result()
    playing = [_start_playing(work, others, _SWEPT, worlds, plan, seed)]
    learned = {
        name: LEARNERS[name].learned(env, config, learning[name].result().weights)
        for name, config in sizes.learners.items()
    }
    playing.append(_start_playing(work, learned, frozenset(learned), worlds, plan, seed))
    best = learned[BEST].policy(seeds.pick(learned[BEST].weights, 0))
    key = key_of(seed, executor.PLAY)
    tracing = work.start(f"looked at {BEST}", 3, _trace, env, worlds.test, best, key)
    keys = test_key, key_of(seed, executor.SIGNAL)
    what = scenario, best, *keys, sizes.thresholds
    reporting = work.start("counted messages", 11, status_reports.measure, *what)
    played = [(split.result(), other.result()) for split, other in reversed(playing)]
    trips, regions = tracing.result()
    return _Results(
        worlds=worlds,
        learned={name: future.result() for name, future in learning.items()},
        plan=plan,
        chosen=chosen,
        solution=solution,
        validation={name: tasks for both, _ in played for name, tasks in both[0].items()},
        test={name: tasks for both, _ in played for name, tasks in both[1].items()},
        swept=_by_policy([other for _, other in played]),
        trips=trips,
        regions=regions,
        messages=reporting.result(),
    )


def _start_playing(
    work: Executor,
    policies: Mapping[str, Policy | Learned],
    swept: Container[str],
    worlds: _Worlds,
    plan: sweeps.Plan,
    seed: int,
) -> tuple[Future, Future]:
    """Starts the policies on validation and test rows, and those of `swept`, of learners the first
    seed, in the worlds of the sweeps.
    """
    env, key = worlds.env, key_of(seed, executor.PLAY)
    played = partial(work.start, tasks_in=executor.n_played)
    names = ", ".join(policies) if len(policies) < 5 else f"{len(policies)} baselines"
    both = [worlds.validation, worlds.test]
    first = {
        name: one.policy(seeds.pick(one.weights, 0)) if isinstance(one, Learned) else one
        for name, one in policies.items()
        if name in swept
    }
    return (
        played(f"evaluated {names}", 12, play, env, policies, both, key),
        played("varied the world", 8, play, env, first, plan.worlds, key),
    )


def _draw(scenario: StoppingScenario, seed: int) -> _Worlds:
    env, train = make_world(make, scenario, key_of(seed, executor.TRAIN_DRAW), split="train")
    _, validation = make_world(
        make, scenario, key_of(seed, executor.VALIDATION), split="validation"
    )
    _, test = make_world(make, scenario, key_of(seed, executor.HELD_OUT), split="test")
    return _Worlds(env, train, validation, test)


def _by_policy(played: Sequence[Sequence[Mapping[str, Sequence[Tasks]]]]) -> dict[str, list[Tasks]]:
    """Policy -> its tasks in each world, of what `play` returned for policies without seeds."""
    return {
        name: [world[name][0] for world in worlds]
        for worlds in played
        for name in (worlds[0] if worlds else {})
    }


def _report(
    results: _Results, bound: report.Bounds, scenario: StoppingScenario, seed: int, sizes: Sizes
) -> Run:
    test = results.test
    findings = report.Findings(
        latency_s={name: seeds_[0].latency_s for name, seeds_ in test.items()},
        sweeps=sweeps.collect(results.plan, scenario, results.swept),
        messages=results.messages,
        curves={name: seeds.curve(learned) for name, learned in results.learned.items()},
        regions=results.regions,
    )
    compared = best_baseline(results.validation, scenario)
    rows = report.table(test, compared, bound, results.worlds.env, scenario)
    chosen = results.chosen
    return Run(
        checkpoint=Checkpoint(
            scenario=scenario,
            seed=seed,
            hidden={name: config.hidden for name, config in sizes.learners.items()},
            weights=jax.device_get(
                {name: results.learned[name].weights for name in sizes.learners}
            ),
            chosen={
                "fixed": chosen.fixed,
                "threshold": chosen.threshold,
                "prices": jax.device_get(chosen.prices),
                "compared": compared,
                "best": BEST,
                "seed_of_best": protocol.best_seed(
                    results.validation[BEST],
                    protocol.links(scenario, "validation", scenario.rows),
                ),
            },
        ),
        table=rows,
        sheets=report.sheets(findings),
        found=report.summary(findings) | {"seeds_of_learning": sizes.seeds},
        figures=partial(report.draw_figures, rows, findings, scenario.deadline_s),
        trace=timeline.chrome_trace(results.trips, scenario.slot_s),
    )


def best_baseline(validation: comparison.Played, scenario: StoppingScenario) -> str:
    """Returns the baseline that is best on the validation links."""
    clusters = protocol.links(scenario, "validation", scenario.rows)
    return protocol.best_rule(validation, clusters, NOT_DEPLOYABLE | set(LEARNERS))


def _start_learning(
    work: Executor, worlds: _Worlds, prices: Prices, key: jax.Array, sizes: Sizes
) -> dict[str, Future]:
    """Starts every learner, and the method without the twin; by name."""
    trainings = {
        name: partial(
            LEARNERS[name].train, params=worlds.train, env=worlds.env, config=config, prices=prices
        )
        for name, config in sizes.learners.items()
    }
    if sizes.without_twin:
        config = dataclasses.replace(sizes.learners[METHOD], twin=False)
        trainings[WITHOUT_TWIN] = partial(trainings[METHOD], config=config)
    return seeds.start(work, 16, jax.random.split(key, sizes.seeds), trainings)


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


def _trace(
    env: Stopping, params: Params, policy: Policy, key: jax.Array
) -> tuple[timeline.Trips, timeline.Regions]:
    return timeline.record(env, params, policy, key, N_TIMELINE), timeline.stop_regions(
        env, params, policy
    )
