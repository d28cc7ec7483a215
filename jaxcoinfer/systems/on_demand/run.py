"""A run of `on-demand`: train the methods, evaluate them beside their baselines on rows learning
never saw.

Every learner learns from several seeds at once, for its learning curve; the table is of the first
of them. Nothing here prints or writes: whoever calls hears of the progress through a function.
"""

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation import comparison, evaluate, executor
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.evaluation.executor import Executor, key_of, make_world, play
from jaxcoinfer.evaluation.types import Bound, Checkpoint, Portable, Progress, Run, Sheet, Table
from jaxcoinfer.learn import dqn, ppo, sac
from jaxcoinfer.learn.networks import PolicySignature
from jaxcoinfer.systems.on_demand import bound as bounds
from jaxcoinfer.systems.on_demand import env as on_demand
from jaxcoinfer.systems.on_demand import misses, report
from jaxcoinfer.systems.on_demand.baselines import best_fixed
from jaxcoinfer.systems.on_demand.bound import Solution
from jaxcoinfer.systems.on_demand.env import OnDemand
from jaxcoinfer.systems.on_demand.make import make
from jaxcoinfer.systems.on_demand.params import Params
from jaxcoinfer.systems.on_demand.policies import (
    BEST,
    COMPARED,
    DEEP_Q,
    EXACT,
    EXACT_MEMORY,
    INFORMED,
    LEARNERS,
    MEMORY,
    NOT_DEPLOYABLE,
    PROXIMAL,
    WITHOUT_TWIN,
    baseline_policies,
    play_learners,
)
from jaxcoinfer.systems.on_demand.scenario import OnDemandScenario

N_TIMELINE = 100  # tasks
_LOOKED_AT = 2  # classes of the maps and of the sweeps of the deadline
_SWEPT = (COMPARED, INFORMED)  # beside BEST
_SWEEP_ROWS = 8


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much a run does.

    learners: a `Config` for BEST and some of the other LEARNERS. seeds: from which each learns.
    rows, slots: at most so many of the scenario's. without_twin: whether BEST learns once more
    without the twin. factors: on the deadline of a class.
    """

    learners: dict[str, Any]
    seeds: int = 3
    rows: int = 1 << 16
    slots: int = 1 << 20
    without_twin: bool = True
    factors: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5)


# Few batches between looks: the first points of the learning curve then lie before a method has
# learned.
_ALL: dict[str, Any] = {
    "hidden": (64, 64),
    "n_envs": 64,
    "n_evaluations": 30,
    "evaluation_envs": 64,
}
_REPLAY: dict[str, Any] = _ALL | {
    "n_steps": 4,
    "updates_per_evaluation": 10,
    "batch": 256,
    "buffer_size": 1 << 14,
}
_SAC, _DQN = sac.Config(**_REPLAY), dqn.Config(**_REPLAY)
_PPO = ppo.Config(hidden=(64, 64), n_evaluations=30, evaluation_envs=64)
FULL = Sizes({BEST: _SAC, MEMORY: _SAC, DEEP_Q: _DQN, PROXIMAL: _PPO})
QUICK = Sizes(
    {
        BEST: dataclasses.replace(_SAC, n_evaluations=12),
        DEEP_Q: dataclasses.replace(_DQN, n_evaluations=12),
    },
    seeds=3,
    rows=8,
    slots=2048,
    without_twin=False,
    factors=(0.5, 1.0, 2.0),
)


@dataclasses.dataclass(frozen=True)
class _Found:
    """misses, delays (in deadlines): by policy and class; curves: learner -> (steps [n], utility
    [seeds, n]).
    """

    misses: report.Misses
    delays: dict[str, list[np.ndarray]]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    maps: report.Maps
    sweeps: list[report.DeadlineSweep]


def run(
    scenario: OnDemandScenario, seed: int, sizes: Sizes, progress: Progress = lambda *_: None
) -> Run:
    """Trains and evaluates. Raises RunError, ProfileError or TraceError in one line where the input
    is at fault.
    """
    rows, slots = min(scenario.rows, sizes.rows), min(scenario.slots, sizes.slots)
    scenario = dataclasses.replace(scenario, rows=rows, slots=slots)
    key, bits = key_of(seed, executor.PLAY), report.widths(scenario)
    with Executor(progress, 24 + 16 * (len(sizes.learners) + sizes.without_twin)) as work:
        env, params = make_world(make, scenario, key_of(seed, executor.TRAIN_DRAW), split="train")
        _, world = make_world(make, scenario, key_of(seed, executor.HELD_OUT), split="eval")
        work.over("drew the rows", 2)
        learning = _start_learning(work, env, params, key_of(seed, executor.LEARN), sizes)
        choosing = work.start("found the best fixed action", 1, best_fixed, env, params)
        solving = work.start("computed the exact optimum", 1, bounds.of, scenario, env, params)
        others = baseline_policies(env, choosing.result(), solving.result())
        what = f"evaluated {len(others)} baselines and references"
        playing = work.start(what, 8, play, env, others, [world], key, tasks_in=executor.n_played)
        weights = {name: _of_first_seed(learning[name].result().weights) for name in sizes.learners}
        learned = _policies(env, sizes.learners, weights)
        what = f"evaluated {', '.join(learned)}"
        trying = work.start(
            what, 6, play_learners, env, learned, world, key, tasks_in=executor.n_played
        )
        given = (env, world, bits, learned[BEST], min(_LOOKED_AT, env.n_classes))
        mapping = work.start(f"looked at {BEST}", 2, report.maps, *given)
        swept = {BEST: learned[BEST]} | {name: others[name] for name in _SWEPT}
        sweeping = work.start(
            "varied the deadlines", 4, _sweep_deadlines, env, world, swept, sizes.factors, key
        )
        tasks = {
            name: one for future in (trying, playing) for name, (one,) in future.result().items()
        }
        curves = {name: _curve(future.result()) for name, future in learning.items()}
    rows = table(tasks, env, world, scenario, solving.result())
    found = _Found(
        late(tasks, world), report.delays(tasks, world), curves, mapping.result(), sweeping.result()
    )
    hidden = {name: config.hidden for name, config in sizes.learners.items()}
    return Run(
        checkpoint=Checkpoint(scenario, seed, choosing.result(), hidden, jax.device_get(weights)),
        table=rows,
        sheets=_sheets(found, scenario) | {"choices": report.choices(env, world, bits, tasks)},
        found={"seeds_of_learning": sizes.seeds, "learning": _learning(curves)},
        figures=partial(_figures, rows, found, scenario),
        trace=report.chrome_trace(env, world, tasks[BEST], scenario.slot_s, N_TIMELINE),
    )


def evaluate_again(
    checkpoint: Checkpoint, seed: int, progress: Progress = lambda *_: None
) -> Table:
    """Returns the table of the trained policies and their baselines on fresh rows. Raises like
    `run`.
    """
    scenario, key = checkpoint.scenario, key_of(seed, executor.FRESH_PLAY)
    with Executor(progress, 20) as work:
        env, world = make_world(make, scenario, key_of(seed, executor.FRESH), split="eval")
        solution = bounds.of(scenario, env, world)
        work.over("drew fresh rows", 4)
        others = baseline_policies(env, checkpoint.fixed, solution)
        configs = {
            name: LEARNERS[name].module.Config(hidden=hidden)
            for name, hidden in checkpoint.hidden.items()
        }
        learned = _policies(env, configs, checkpoint.weights)
        what = f"evaluated {len(others)} baselines and references"
        playing = work.start(what, 8, play, env, others, [world], key, tasks_in=executor.n_played)
        what = f"evaluated {', '.join(learned)}"
        trying = work.start(
            what, 8, play_learners, env, learned, world, key, tasks_in=executor.n_played
        )
        tasks = {
            name: one for future in (trying, playing) for name, (one,) in future.result().items()
        }
    return table(tasks, env, world, scenario, solution)


def portable(checkpoint: Checkpoint) -> Portable:
    """Returns the network of BEST as a function, observations [B, F] -> logits [B, A]."""
    scenario = dataclasses.replace(
        checkpoint.scenario, rows=2, slots=16
    )  # only what is valid is asked for
    env, params = make_world(make, scenario, key_of(0, executor.FRESH), split="eval")
    module = LEARNERS[BEST].module
    net: Any = module.network(env, module.Config(hidden=checkpoint.hidden[BEST]))
    weights = jax.tree.map(jnp.asarray, checkpoint.weights[BEST])
    features = (*on_demand.OBSERVATION, *(f"is_{c.name}" for c in scenario.classes))
    meaning = (
        "logits of the actions, -inf where an action is not valid; take the largest; "
        f"action = (exit * {env.n_cuts} + cut) * {env.n_bits} + width, each from 0"
    )
    signature = PolicySignature(features, meaning, f"{on_demand.__name__}.observe")
    return Portable(
        BEST,
        lambda seen: jnp.where(params.valid[None], net.apply(weights, seen), -jnp.inf),
        signature,
    )


def table(
    tasks: Mapping[str, Tasks],
    env: OnDemand,
    params: Params,
    scenario: OnDemandScenario,
    solution: Solution | None,
) -> Table:
    """Returns one row a policy, and the bound they are held against: the exact optimum given all
    that was observed, where it was computed, else full information. Raises RunError where a row of
    the draw saw no task.
    """
    own = comparison.utility_by_row(tasks, scenario.name)
    best = INFORMED if solution is None else EXACT_MEMORY if EXACT_MEMORY in tasks else EXACT
    deadline_s = np.asarray(params.deadline_s)

    def measures(one):
        return evaluate.summarise(one, 0, deadline_s[misses.task_classes(one, params)])

    rows = comparison.rows(
        tasks, own, dict.fromkeys(tasks, own[best]), measures, COMPARED, NOT_DEPLOYABLE
    )
    what = {INFORMED: "full information", EXACT: "the exact optimum given what was observed"}
    what[EXACT_MEMORY] = what[EXACT]
    bound = Bound(
        what[best],
        evaluate.interval(own[best]),
        None if solution is None else solution.gain_history,
    )
    ratios = late(tasks, params)
    return Table(
        rows,
        bound,
        COMPARED,
        sheets={"misses": report.misses_sheet(scenario, ratios)},
        found={"late_by_class": report.misses_found(scenario, ratios)},
        printed=report.misses_printed(scenario, ratios),
    )


def late(tasks: Mapping[str, Tasks], params: Params) -> report.Misses:
    """Returns the share of late tasks of each class, by policy; in the order of utility, references
    last.
    """
    order = sorted(tasks, key=lambda name: (name in NOT_DEPLOYABLE, -tasks[name].utility.mean()))
    return {name: misses.miss_ratios(tasks[name], params) for name in order}


def _start_learning(
    work: Executor, env: OnDemand, params: Params, key: jax.Array, sizes: Sizes
) -> dict[str, Future]:
    """Starts every learner, and BEST without the twin; by name."""
    learners = {name: (name, config) for name, config in sizes.learners.items()}
    if sizes.without_twin:
        learners[WITHOUT_TWIN] = (BEST, dataclasses.replace(sizes.learners[BEST], twin=False))
    keys = jax.random.split(key, sizes.seeds)
    return {
        said: work.start(
            f"learned {said} {sizes.seeds} times",
            16,
            LEARNERS[name].train,
            keys,
            params,
            env,
            config,
            tasks_in=_n_seen,
        )
        for said, (name, config) in learners.items()
    }


def _policies(
    env: OnDemand, configs: Mapping[str, Any], weights: Mapping[str, Any]
) -> dict[str, Policy]:
    return {
        name: LEARNERS[name].policy(env, config, weights[name]) for name, config in configs.items()
    }


def _sweep_deadlines(env, world, policies, factors, key) -> list[report.DeadlineSweep]:
    bank = world.bank.replace(slots=world.bank.slots[:_SWEEP_ROWS])
    kinds = range(min(_LOOKED_AT, env.n_classes))
    return [
        report.sweep_deadline(env, world.replace(bank=bank), policies, kind, factors, key)
        for kind in kinds
    ]


def _of_first_seed(weights: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], weights)


def _curve(learned: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(learned.steps)[0], np.asarray(learned.curve)


def _n_seen(learned: Any) -> int:
    return int(learned.steps[:, -1].sum())


def _learning(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Where learning ended, the mean over seeds."""
    return {
        name: {
            "steps": int(steps[-1]),
            "utility": comparison.pair(evaluate.interval(values[:, -1])),
        }
        for name, (steps, values) in curves.items()
    }


def _sheets(found: _Found, scenario: OnDemandScenario) -> dict[str, Sheet]:
    points = [
        (name, seed, step, value)
        for name, (steps, values) in found.curves.items()
        for seed, line in enumerate(values)
        for step, value in zip(steps, line, strict=True)
    ]
    swept = [
        (scenario.classes[kind].name, deadline_s, name, *comparison.flat(interval))
        for kind, sweep in enumerate(found.sweeps)
        for name, line in sweep.accuracy.items()
        for deadline_s, interval in zip(sweep.deadlines_s, line, strict=True)
    ]
    return {
        "learning": (("learner", "seed", "steps", "utility"), points),
        "deadlines": (("class", "deadline_s", "policy", "accuracy_in_time", "half_width"), swept),
    }


def _figures(table: Table, found: _Found, scenario: OnDemandScenario) -> dict[str, Any]:
    from jaxcoinfer.evaluation import plots
    from jaxcoinfer.systems.on_demand import figures

    utility = {name: row.measures["utility"] for name, row in table.rows.items()}
    gains = {name: row.gain for name, row in table.rows.items()}
    names = [c.name for c in scenario.classes]
    targets = [c.target_miss_ratio for c in scenario.classes]
    sweeps = dict(
        zip(names, ((s.deadlines_s, s.accuracy, s.trained_s) for s in found.sweeps), strict=False)
    )
    maps = found.maps
    return {
        "utility": plots.utility(utility, gains, COMPARED),
        "delay": figures.delays(found.delays, names),
        "choices": figures.choices(
            maps.rate_bps, maps.speed, (maps.exit, maps.cut, maps.bits), names
        ),
        "misses": figures.misses(found.misses, names, targets),
        "deadlines": figures.deadlines(sweeps),
        "learning": plots.learning_band(found.curves),
    }
