"""A run of `on-demand`: trains the learners, and evaluates them and their baselines on rows that no
learner saw.

Every learner trains from several seeds, all of which are in the table; maps and sweeps show the
first.
Nothing here prints or writes: the caller hears of the progress through a function.
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
from jaxcoinfer.evaluation import comparison, evaluate, executor, protocol, seeds
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.evaluation.executor import Executor, Learned, key_of, make_world, play
from jaxcoinfer.evaluation.types import Bound, Checkpoint, Portable, Progress, Run, Sheet, Table
from jaxcoinfer.learn import dqn, ppo, sac
from jaxcoinfer.learn.networks import PolicySignature
from jaxcoinfer.systems.on_demand import lookup, misses, report
from jaxcoinfer.systems.on_demand.bound import Solution, solve
from jaxcoinfer.systems.on_demand.env import OBSERVATION, OnDemand, observe
from jaxcoinfer.systems.on_demand.lookup import Linear, LookUp
from jaxcoinfer.systems.on_demand.make import make
from jaxcoinfer.systems.on_demand.params import Params
from jaxcoinfer.systems.on_demand.policies import (
    BEST,
    DEEP_Q,
    EXACT,
    EXACT_MEMORY,
    GREEDY,
    INFORMED,
    LEARNERS,
    MEMORY,
    NOT_DEPLOYABLE,
    PROXIMAL,
    PUBLISHED,
    WITHOUT_TWIN,
    Chosen,
    baseline_policies,
    choose,
    play_learners,
)
from jaxcoinfer.systems.on_demand.scenario import OnDemandScenario

N_TIMELINE = 100  # tasks
_SHOWN_CLASSES = 2  # in the maps and the sweeps of the deadline
_SWEPT = (GREEDY, INFORMED)  # and BEST
_SWEEP_ROWS = 8


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much a run does."""

    learners: dict[str, Any]  # a `Config` for BEST and some of the other LEARNERS
    seeds: int = protocol.N_SEEDS  # that each learner trains from
    rows: int = 1 << 16  # at most so many of the scenario's
    slots: int = MAX_SLOTS  # at most so many of the scenario's
    without_twin: bool = True  # whether BEST learns once more without the twin
    # On the deadline of a class, in the sweeps.
    factors: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5)


# Few batches between evaluations: the first points of a learning curve then lie before the learner
# has learned.
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
FULL = Sizes({PUBLISHED: _SAC, BEST: _SAC, MEMORY: _SAC, DEEP_Q: _DQN, PROXIMAL: _PPO})
QUICK = Sizes(
    {
        BEST: dataclasses.replace(_SAC, n_evaluations=12),
        DEEP_Q: dataclasses.replace(_DQN, n_evaluations=12),
    },
    seeds=2,
    rows=8,
    slots=2048,
    without_twin=False,
    factors=(0.5, 1.0, 2.0),
)


@dataclasses.dataclass(frozen=True)
class _Results:
    """What figures and sheets are made of, besides the table."""

    misses: report.Misses  # by policy and class
    delays: dict[str, list[np.ndarray]]  # in deadlines, by policy and class
    curves: dict[str, tuple[np.ndarray, np.ndarray]]  # learner -> (steps [n], utility [seeds, n])
    maps: report.Maps  # of BEST
    sweeps: list[report.DeadlineSweep]  # of the first classes


def run(
    scenario: OnDemandScenario, seed: int, sizes: Sizes, progress: Progress = lambda *_: None
) -> Run:
    """Trains and evaluates. Raises RunError, ProfileError or TraceError in one line where the input
    is at fault.
    """
    rows, slots = min(scenario.rows, sizes.rows), min(scenario.slots, sizes.slots)
    scenario = dataclasses.replace(scenario, rows=rows, slots=slots)
    key, bits = key_of(seed, executor.PLAY), report.widths(scenario)
    with Executor(progress, 25 + 16 * (len(sizes.learners) + sizes.without_twin)) as work:
        env, params, validation, world = _draw(scenario, seed)
        both = [validation, world]
        work.over("drew the rows", 2)
        filled = lookup.look_up(env, params)
        work.over("filled the look-up table", 1)
        learning = _start_learning(work, env, params, filled, key_of(seed, executor.LEARN), sizes)
        known = params, filled, _targets(scenario), key_of(seed, executor.TUNE)
        choosing = work.start("tuned the baselines", 1, choose, env, *known)
        solving = work.start("computed the exact optimum", 1, solve, scenario, env, params)
        chosen = choosing.result()
        others = baseline_policies(env, chosen, solving.result())
        what = f"evaluated {len(others)} baselines and references"
        playing = work.start(what, 8, play, env, others, both, key, tasks_in=executor.n_played)
        weights = {name: learning[name].result().weights for name in sizes.learners}
        learned = _learned(env, sizes.learners, weights, chosen.table)
        what = f"evaluated {', '.join(learned)}"
        trying = work.start(
            what, 6, play_learners, env, learned, both, key, tasks_in=executor.n_played
        )
        best = learned[BEST].policy(seeds.pick(learned[BEST].weights, 0))
        shown = (env, world, bits, best, min(_SHOWN_CLASSES, env.n_classes))
        mapping = work.start(f"mapped the decisions of {BEST}", 2, report.maps, *shown)
        swept = {BEST: best} | {name: others[name] for name in _SWEPT}
        sweeping = work.start(
            "varied the deadlines", 4, _sweep_deadlines, env, world, swept, sizes.factors, key
        )
        on_validation, played = (
            one | other for one, other in zip(trying.result(), playing.result(), strict=True)
        )
        curves = {name: seeds.curve(future.result()) for name, future in learning.items()}
    results = _Results(
        late(played, world, scenario),
        report.delays({name: one[0] for name, one in played.items()}, world),
        curves,
        mapping.result(),
        sweeping.result(),
    )
    compared = best_baseline(on_validation, scenario)
    utilities = table(played, compared, world, scenario, solving.result())
    kept = _kept(chosen, on_validation, scenario) | {"compared": compared, "best": BEST}
    hidden = {name: config.hidden for name, config in sizes.learners.items()}
    return Run(
        checkpoint=Checkpoint(scenario, seed, hidden, jax.device_get(weights), kept),
        table=utilities,
        sheets=_sheets(results, scenario) | {"choices": report.choices(env, world, bits, played)},
        found={"seeds_of_learning": sizes.seeds, "learning": seeds.ends(curves)},
        figures=partial(_figures, utilities, results, scenario),
        trace=report.trace_of_tasks(world, played[BEST][0], scenario.slot_s, N_TIMELINE),
    )


def _targets(scenario: OnDemandScenario) -> tuple[float, ...]:
    return tuple(c.target_miss_ratio for c in scenario.classes)


def _kept(
    chosen: Chosen, validation: comparison.Played, scenario: OnDemandScenario
) -> dict[str, Any]:
    """What a checkpoint keeps of what was chosen."""
    clusters = protocol.links(scenario, "validation", scenario.rows)
    return {
        "seed_of_best": protocol.best_seed(validation[BEST], clusters),
        "fixed": chosen.fixed,
        "table": jax.device_get(chosen.table),
        "reliable": jax.device_get(chosen.reliable),
        "linear": jax.device_get(chosen.linear),
    }


def _draw(scenario: OnDemandScenario, seed: int) -> tuple[OnDemand, Params, Params, Params]:
    """The environment, and the rows to learn from, to choose by and to count on."""
    env, params = make_world(make, scenario, key_of(seed, executor.TRAIN_DRAW), split="train")
    _, validation = make_world(
        make, scenario, key_of(seed, executor.VALIDATION), split="validation"
    )
    _, world = make_world(make, scenario, key_of(seed, executor.HELD_OUT), split="test")
    return env, params, validation, world


def best_baseline(validation: comparison.Played, scenario: OnDemandScenario) -> str:
    """Returns the baseline that is best on the validation links."""
    clusters = protocol.links(scenario, "validation", scenario.rows)
    return protocol.best_rule(validation, clusters, NOT_DEPLOYABLE | set(LEARNERS))


def evaluate_again(
    checkpoint: Checkpoint, seed: int, progress: Progress = lambda *_: None
) -> Table:
    """Returns the table of the trained policies and their baselines on fresh rows. Raises like
    `run`.
    """
    scenario, key = checkpoint.scenario, key_of(seed, executor.FRESH_PLAY)
    with Executor(progress, 20) as work:
        env, world = make_world(make, scenario, key_of(seed, executor.FRESH), split="test")
        solution = solve(scenario, env, world)
        work.over("drew fresh rows", 4)
        chosen = chosen_of(checkpoint)
        others = baseline_policies(env, chosen, solution)
        configs = {
            name: LEARNERS[name].module.Config(hidden=hidden)
            for name, hidden in checkpoint.hidden.items()
        }
        learned = _learned(env, configs, checkpoint.weights, chosen.table)
        what = f"evaluated {len(others)} baselines and references"
        playing = work.start(what, 8, play, env, others, [world], key, tasks_in=executor.n_played)
        what = f"evaluated {', '.join(learned)}"
        trying = work.start(
            what, 8, play_learners, env, learned, [world], key, tasks_in=executor.n_played
        )
        played = trying.result()[0] | playing.result()[0]
    return table(played, checkpoint.chosen["compared"], world, scenario, solution)


def chosen_of(checkpoint: Checkpoint) -> Chosen:
    """Returns what the baselines of a checkpoint take."""
    stored = checkpoint.chosen
    return Chosen(
        stored["fixed"],
        executor.record_of(LookUp, stored["table"]),
        executor.record_of(LookUp, stored["reliable"]),
        executor.record_of(Linear, stored["linear"]),
    )


def portable(checkpoint: Checkpoint) -> Portable:
    """Returns the network of BEST as a function, observations [B, F] -> logits [B, A]."""
    # Only which actions are valid is used of the numbers.
    scenario = dataclasses.replace(checkpoint.scenario, rows=2, slots=16)
    env, params = make_world(make, scenario, key_of(0, executor.FRESH), split="test")
    module, rule = LEARNERS[BEST].module, LEARNERS[BEST].rule(chosen_of(checkpoint).table)
    net = module.network(env, module.Config(hidden=checkpoint.hidden[BEST]), rule)
    every = jax.tree.map(jnp.asarray, checkpoint.weights[BEST])
    weights = seeds.pick(every, checkpoint.chosen["seed_of_best"])
    features = (*OBSERVATION, *(f"is_{c.name}" for c in scenario.classes))
    meaning = (
        "logits of the actions, -inf where an action is invalid; take the largest; "
        f"action = (exit * {env.n_cuts} + cut) * {env.n_bits} + width, each from 0"
    )
    signature = PolicySignature(features, meaning, f"{observe.__module__}.observe")

    def logits(observation: jax.Array) -> jax.Array:
        return jnp.where(params.valid[None], net.apply(weights, observation), -jnp.inf)

    return Portable(BEST, logits, signature)


def table(
    played: comparison.Played,
    compared: str,
    params: Params,
    scenario: OnDemandScenario,
    solution: Solution | None,
) -> Table:
    """Returns one row per policy, and their bound: the exact optimum given all that was observed,
    where it was computed, else full information.

    compared: the baseline that gains are differences to. Raises RunError where a row of the draw
    has no task.
    """
    utility = comparison.utility(played, scenario.name)
    clusters = protocol.links(scenario, "test", params.bank.n_rows)
    deadline_s = np.asarray(params.deadline_s)

    def measures(one: Tasks) -> dict[str, np.ndarray]:
        return evaluate.measures(one, 0, deadline_s[misses.task_classes(one, params)])

    if solution is None:
        best, what, gain = INFORMED, "full information", None
    else:
        best = EXACT_MEMORY if EXACT_MEMORY in played else EXACT
        what, gain = "the exact optimum given what was observed", solution.gain_history
    bound = Bound(what, protocol.interval(utility[best], clusters), gain)
    bounds = dict.fromkeys(played, utility[best])
    rows = comparison.rows(played, bounds, measures, clusters, compared, NOT_DEPLOYABLE)
    ratios = late(played, params, scenario)
    return Table(
        rows,
        bound,
        compared,
        sheets={
            "misses": report.misses_sheet(scenario, ratios),
            "links": comparison.links_sheet(played, clusters),
            "differences": comparison.differences_sheet(utility, clusters, NOT_DEPLOYABLE),
        },
        found={"late_by_class": report.misses_json(scenario, ratios)},
        printed=report.misses_printed(scenario, ratios),
    )


def late(played: comparison.Played, params: Params, scenario: OnDemandScenario) -> report.Misses:
    """Returns the share of late tasks of each class, by policy: the best first, references last."""
    clusters = protocol.links(scenario, "test", params.bank.n_rows)
    utility = {name: protocol.utility(one).mean() for name, one in played.items()}
    order = sorted(played, key=lambda name: (name in NOT_DEPLOYABLE, -utility[name]))
    return {name: misses.miss_ratios(played[name], params, clusters) for name in order}


def _start_learning(
    work: Executor, env: OnDemand, params: Params, table: LookUp, key: jax.Array, sizes: Sizes
) -> dict[str, Future]:
    """Starts every learner, and the published one without the twin; by name."""
    trainings = {
        name: partial(LEARNERS[name].train, params=params, table=table, env=env, config=config)
        for name, config in sizes.learners.items()
    }
    if sizes.without_twin:
        config = dataclasses.replace(sizes.learners[PUBLISHED], twin=False)
        trainings[WITHOUT_TWIN] = partial(trainings[PUBLISHED], config=config)
    return seeds.start(work, 16, jax.random.split(key, sizes.seeds), trainings)


def _learned(
    env: OnDemand, configs: Mapping[str, Any], weights: Mapping[str, Any], table: LookUp
) -> dict[str, Learned]:
    return {
        name: LEARNERS[name].learned(env, config, weights[name], table)
        for name, config in configs.items()
    }


def _sweep_deadlines(
    env: OnDemand,
    world: Params,
    policies: Mapping[str, Policy],
    factors: Sequence[float],
    key: jax.Array,
) -> list[report.DeadlineSweep]:
    """The sweep of each class that is shown, on a few rows of the world."""
    bank = world.bank.replace(slots=world.bank.slots[:_SWEEP_ROWS])
    return [
        report.sweep_deadline(env, world.replace(bank=bank), policies, task_class, factors, key)
        for task_class in range(min(_SHOWN_CLASSES, env.n_classes))
    ]


def _sheets(results: _Results, scenario: OnDemandScenario) -> dict[str, Sheet]:
    swept = [
        (task_class.name, deadline_s, name, *comparison.flat(interval))
        for task_class, sweep in zip(scenario.classes, results.sweeps, strict=False)
        for name, line in sweep.accuracy.items()
        for deadline_s, interval in zip(sweep.deadlines_s, line, strict=True)
    ]
    return {
        "learning": seeds.sheet(results.curves),
        "deadlines": (("class", "deadline_s", "policy", "accuracy_in_time", "half_width"), swept),
    }


def _figures(table: Table, results: _Results, scenario: OnDemandScenario) -> dict[str, Any]:
    from jaxcoinfer.evaluation import plots
    from jaxcoinfer.systems.on_demand import figures

    utility = {name: row.measures["utility"] for name, row in table.rows.items()}
    gains = {name: row.gain for name, row in table.rows.items()}
    names = [c.name for c in scenario.classes]
    targets = [c.target_miss_ratio for c in scenario.classes]
    sweeps = {
        name: (sweep.deadlines_s, sweep.accuracy, sweep.trained_s)
        for name, sweep in zip(names, results.sweeps, strict=False)
    }
    maps = results.maps
    decided = (maps.exit, maps.cut, maps.bits)
    return {
        "utility": plots.utility(utility, gains, table.compared),
        "delay": figures.delays(results.delays, names),
        "choices": figures.choices(maps.rate_bps, maps.speed, decided, names),
        "misses": figures.misses(results.misses, names, targets),
        "deadlines": figures.deadlines(sweeps),
        "learning": plots.learning_band(results.curves),
    }
