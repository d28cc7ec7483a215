"""A run of `stopping`: train the methods, evaluate them beside their baselines on rows learning
never saw.

Nothing here prints or writes: whoever calls hears of the progress through a function.
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
from jaxcoinfer.evaluation import comparison, evaluate, executor
from jaxcoinfer.evaluation.evaluate import Interval, Tasks
from jaxcoinfer.evaluation.executor import Executor, key_of, make_world, play
from jaxcoinfer.evaluation.types import Bound, Checkpoint, Portable, Progress, Run, Sheet, Table
from jaxcoinfer.systems.stopping import (
    continuation_value,
    differential_value,
    status_reports,
    sweeps,
    timeline,
)
from jaxcoinfer.systems.stopping.bounds import dynamic_program, isolated
from jaxcoinfer.systems.stopping.bounds import exact as bounds
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
_TOLD = ("reports", "commands", "utility", "gain")  # of messages


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much a run does.

    learners: a `Config` for each of LEARNERS. rows, slots: at most so many of the scenario's.
    without_twin: whether the method learns once more without the twin. arrivals: factors on the
    arrival rate, and loads: shares of the server, at which all policies are run as well.
    thresholds: of the status twin, slots.
    """

    learners: dict[str, Any]
    rows: int = 1 << 16
    slots: int = 1 << 20
    without_twin: bool = True
    arrivals: tuple[float, ...] = (0.4, 0.7, 1.0, 1.3, 1.6)
    loads: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    thresholds: tuple[int, ...] = status_reports.THRESHOLDS


# Small batches, looked at often: the first points of the learning curve then lie before the method
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
class _Found:
    """latency_s: of every task [N], by policy; sweeps by axis; messages: what reports buy; curves:
    learner -> (tasks seen, utility); regions: where BEST stops.
    """

    latency_s: dict[str, np.ndarray]
    sweeps: dict[str, sweeps.Sweep]
    messages: list[status_reports.Point]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    regions: timeline.Regions


def run(
    scenario: StoppingScenario, seed: int, sizes: Sizes = FULL, progress: Progress = lambda *_: None
) -> Run:
    """Trains and evaluates. Raises RunError, ProfileError or TraceError in one line where the input
    is at fault.
    """
    scenario = resolved(scenario, sizes)
    key, key_held_out = key_of(seed, executor.PLAY), key_of(seed, executor.HELD_OUT)
    model = bounds.model_of(scenario)
    total = 70 + 22 * len(sizes.learners) + 16 * sizes.without_twin + 12 * (model is not None)
    with Executor(progress, total) as work:
        env, params = make_world(make, scenario, key_of(seed, executor.TRAIN_DRAW), split="train")
        _, world = make_world(make, scenario, key_held_out, split="eval")
        work.over("drew the rows", 22)
        learning = _start_learning(work, env, params, key_of(seed, executor.LEARN), sizes)
        drawing = work.start(
            "drew the sweeps", 8, sweeps.plan, scenario, sizes.arrivals, sizes.loads, key_held_out
        )
        choosing = work.start("chose for the baselines", 2, choose, env, params)
        solving = (
            work.start("computed the exact optimum", 12, dynamic_program.solve, model)
            if model
            else None
        )
        plan, chosen = drawing.result(), choosing.result()
        others = baseline_policies(env, chosen)
        worlds = [world, *plan.worlds]
        played = partial(work.start, tasks_in=executor.n_played)
        exact = {EXACT: bounds.policy(solving.result())} if solving else {}
        playing = [
            played(f"evaluated {len(others)} baselines", 18, play, env, others | exact, worlds, key)
        ]
        weights = {name: learning[name].result().weights for name in sizes.learners}
        learned = {
            name: LEARNERS[name].policy(env, config, weights[name])
            for name, config in sizes.learners.items()
        }
        what = f"evaluated {', '.join(learned)}"
        playing.insert(0, played(what, 6 * len(learned), play, env, learned, worlds, key))
        looking = work.start(f"looked at {BEST}", 3, _look, env, world, learned[BEST], key)
        given = (
            scenario,
            learned[BEST],
            key_held_out,
            key_of(seed, executor.SIGNAL),
            sizes.thresholds,
        )
        signals = work.start("counted messages", 17, status_reports.measure, *given)
        tasks = {name: several for future in playing for name, several in future.result().items()}
        trips, regions = looking.result()
        messages = signals.result()
        curves = {name: future.result() for name, future in learning.items()}
    main = {name: several[0] for name, several in tasks.items()}
    hidden = {name: config.hidden for name, config in sizes.learners.items()}
    found = _Found(
        latency_s={name: one.latency_s for name, one in main.items()},
        sweeps=sweeps.collect(
            plan, scenario, {name: several[1:] for name, several in tasks.items() if name != EXACT}
        ),
        messages=messages,
        curves={
            name: (np.asarray(one.steps), np.asarray(one.curve)) for name, one in curves.items()
        },
        regions=regions,
    )
    rows = table(
        main, env, world, scenario, float(solving.result().gain_per_task) if solving else None
    )
    return Run(
        checkpoint=Checkpoint(
            scenario, seed, chosen.fixed, hidden, jax.device_get(weights), chosen.threshold
        ),
        table=rows,
        sheets=_sheets(found),
        found=_summary(found),
        figures=partial(_figures, rows, found, scenario.deadline_s),
        trace=timeline.chrome_trace(trips, scenario.slot_s),
    )


def _start_learning(
    work: Executor, env: Stopping, params: Params, key: jax.Array, sizes: Sizes
) -> dict[str, Future]:
    """Starts every learner, and the method without the twin; by name."""
    learners = {name: (name, config) for name, config in sizes.learners.items()}
    if sizes.without_twin:
        learners[WITHOUT_TWIN] = (METHOD, dataclasses.replace(sizes.learners[METHOD], twin=False))
    return {
        said: work.start(
            f"learned {said}", 16, _train, name, env, params, key, config, tasks_in=_n_seen
        )
        for said, (name, config) in learners.items()
    }


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
        solving = (
            work.start("computed the exact optimum", 12, dynamic_program.solve, model)
            if model
            else None
        )
        if solving:
            policies[EXACT] = bounds.policy(solving.result())
        given = (play, env, policies, [params], key_of(seed, executor.FRESH_PLAY))
        tasks = work.start(
            f"evaluated {len(policies)} policies", 20, *given, tasks_in=executor.n_played
        ).result()
    main = {name: several[0] for name, several in tasks.items()}
    return table(
        main, env, params, scenario, float(solving.result().gain_per_task) if solving else None
    )


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
    """Returns one row a policy, and the bound they are held against: the exact optimum where it was
    computed, else what each task would get alone. Raises RunError where a row of the draw saw no
    task.
    """
    each = isolated.utility(env, params)
    own = comparison.utility_by_row(tasks, scenario.name)
    if computed is None:
        most = {
            name: isolated.by_row(each, evaluate.count_by_row(one)) for name, one in tasks.items()
        }
    else:
        most = dict.fromkeys(tasks, own[EXACT])

    def measures(one):
        return evaluate.summarise(one, env.n_choices, scenario.deadline_s)

    rows = comparison.rows(tasks, own, most, measures, COMPARED, NOT_DEPLOYABLE)
    what = "what each task would get alone" if computed is None else "the exact optimum"
    return Table(rows, Bound(what, evaluate.interval(most[COMPARED]), computed), COMPARED)


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
    of: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in numbers.items()
    }
    return dataclasses.replace(scenario, task=Numbers(**of))


def _train(name: str, env: Stopping, params: Params, key: jax.Array, config: Any) -> Any:
    learner = LEARNERS[name]
    return jax.block_until_ready(
        learner.train(key, params, learner.Hyper(), env=env, config=config)
    )


def _look(
    env: Stopping, params: Params, policy: Policy, key: jax.Array
) -> tuple[timeline.Trips, timeline.Regions]:
    return timeline.record(env, params, policy, key, N_TIMELINE), timeline.stop_regions(
        env, params, policy
    )


def _n_seen(learned: Any) -> int:
    return int(learned.steps[-1])


def _sheets(found: _Found) -> dict[str, Sheet]:
    points = [
        (name, *point) for name, curve in found.curves.items() for point in zip(*curve, strict=True)
    ]
    told = [
        (p.way, p.threshold_slots, *comparison.flat(*(getattr(p, name) for name in _TOLD)))
        for p in found.messages
    ]
    header = (
        "way",
        "threshold_slots",
        *(f"{name}{half}" for name in _TOLD for half in ("", "_half")),
    )
    return {"messages": (header, told), "learning": (("learner", "tasks", "utility"), points)}


def _summary(found: _Found) -> dict[str, Any]:
    """The sweeps, what messages buy and the end of learning, ready for JSON."""
    swept = {
        axis: {
            "numbers": sweep.numbers,
            "trained": sweep.trained,
            "utility": {
                name: [comparison.pair(i) for i in line] for name, line in sweep.utility.items()
            },
        }
        for axis, sweep in found.sweeps.items()
    }
    told = [
        {"way": p.way, "threshold_slots": p.threshold_slots}
        | {name: comparison.pair(getattr(p, name)) for name in _TOLD}
        for p in found.messages
    ]
    return {
        "sweeps": swept,
        "messages": told,
        "learning": comparison.curves_found(found.curves, "tasks"),
    }


def _figures(table: Table, found: _Found, deadline_s: float) -> dict[str, Any]:
    from jaxcoinfer.evaluation import plots
    from jaxcoinfer.systems.stopping import figures

    labels = {
        sweeps.ARRIVALS: "arrival rate, tasks/s",
        sweeps.LOAD: "server load by other devices, share",
    }
    panels = {
        labels[axis]: (s.numbers, s.utility, s.trained)
        for axis, s in found.sweeps.items()
        if s.numbers
    }
    utility = {name: row.measures["utility"] for name, row in table.rows.items()}
    gains = {name: row.gain for name, row in table.rows.items()}
    made = {
        "utility": plots.utility(utility, gains, COMPARED),
        "delay": figures.delays(found.latency_s, deadline_s),
        "decisions": figures.decisions(
            found.regions.stops, found.regions.backlog_s, found.regions.waiting_tasks
        ),
        "learning": figures.learning(found.curves),
        "messages": figures.messages(_messages(found.messages)),
    }
    return made | ({"sweeps": figures.sweeps(panels)} if panels else {})


def _messages(
    points: Sequence[status_reports.Point],
) -> dict[str, tuple[list[float], list[Interval]]]:
    """Reports a task and utility of each way to tell the server, by way."""
    ways = dict.fromkeys(point.way for point in points)
    of = {way: [point for point in points if point.way == way] for way in ways}
    return {
        way: ([p.reports.mean for p in several], [p.utility for p in several])
        for way, several in of.items()
    }
