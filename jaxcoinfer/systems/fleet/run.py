"""A run of `fleet`: trains the learners, and evaluates them and their baselines on rows that no
learner saw.

Every learner trains from several seeds, all of which are in the table.
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

from jaxcoinfer.data import profiles
from jaxcoinfer.evaluation import comparison, evaluate, executor, protocol, seeds
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.evaluation.executor import Executor, key_of, make_world
from jaxcoinfer.evaluation.types import Bound, Checkpoint, Portable, Progress, Run, Sheet, Table
from jaxcoinfer.learn import ppo
from jaxcoinfer.learn.networks import PolicySignature, TrainResult
from jaxcoinfer.systems.fleet import report
from jaxcoinfer.systems.fleet.allocation import allocate
from jaxcoinfer.systems.fleet.env import OBSERVATION, Fleet
from jaxcoinfer.systems.fleet.evaluation import FleetTasks, certified, player
from jaxcoinfer.systems.fleet.make import make
from jaxcoinfer.systems.fleet.network import FleetView, network, view
from jaxcoinfer.systems.fleet.params import FleetParams
from jaxcoinfer.systems.fleet.policies import (
    ALTERNATING,
    BEST,
    FREE,
    LEARNERS,
    NOT_DEPLOYABLE,
    WITHOUT_TWIN,
    EnvPolicy,
    baseline_policies,
    config_of,
    learned_policies,
)
from jaxcoinfer.systems.fleet.scenario import FleetScenario

N_TIMELINE = 100  # tasks
_SWEPT = (ALTERNATING, "greedy", "equal shares")
_NOTE = "a reference: knows links and loads that a server learns a slot later"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much a run does."""

    config: ppo.Config  # of every training
    learners: tuple[str, ...]  # BEST and some of the other LEARNERS
    curves: tuple[str, ...]  # more LEARNERS, only for their learning curves
    seeds: int  # that each learner trains from
    rows: int  # at most so many of the scenario's
    slots: int  # at most so many of the scenario's
    sweep_rows: int  # of other worlds
    sweep_slots: int  # of other worlds
    devices: tuple[float, ...]  # of other worlds, factors on those of the scenario
    bandwidths: tuple[float, ...]  # of other worlds, factors on that of the scenario


# Few batches between evaluations: the first points of a learning curve then lie before the learner
# has learned.
_CONFIG = config_of(
    hidden=(16, 16),
    n_envs=32,
    n_steps=8,
    n_batches=4,
    n_evaluations=30,
    updates_per_evaluation=2,
    evaluation_envs=128,
    evaluation_steps=4,
)
FULL = Sizes(
    _CONFIG,
    learners=(BEST, FREE),
    curves=(WITHOUT_TWIN,),
    seeds=protocol.N_SEEDS,
    rows=32,
    slots=256,
    sweep_rows=16,
    sweep_slots=32,
    devices=(0.25, 0.5, 1.0, 2.0, 4.0),
    bandwidths=(0.25, 0.5, 1.0, 2.0, 4.0),
)
QUICK = dataclasses.replace(
    FULL,
    config=dataclasses.replace(_CONFIG, n_evaluations=12),
    learners=(BEST,),
    curves=(),
    seeds=2,
    rows=8,
    slots=64,
    sweep_rows=8,
    sweep_slots=16,
    devices=(0.25, 1.0, 4.0),
    bandwidths=(0.25, 1.0, 4.0),
)


@dataclasses.dataclass(frozen=True)
class _Results:
    """What figures and sheets are made of, besides the table."""

    curves: dict[str, tuple[np.ndarray, np.ndarray]]  # learner -> (steps [n], reward [seeds, n])
    devices: report.Sweep  # worlds of other numbers of devices
    bandwidths: report.Sweep  # worlds of other bandwidths
    habits: report.Habits  # of BEST


def run(
    scenario: FleetScenario, seed: int, sizes: Sizes, progress: Progress = lambda *_: None
) -> Run:
    """Trains and evaluates. Raises RunError or ProfileError in one line where the input is at
    fault.
    """
    rows, slots = min(scenario.rows, sizes.rows), min(scenario.slots, sizes.slots)
    scenario = dataclasses.replace(scenario, rows=rows, slots=slots)
    hidden = dict.fromkeys(sizes.learners, sizes.config.hidden)
    with Executor(progress, 32 + 20 * (len(sizes.learners) + len(sizes.curves))) as work:
        env, params = make_world(make, scenario, key_of(seed, executor.TRAIN_DRAW), split="train")
        key = key_of(seed, executor.VALIDATION)
        _, validation = make_world(make, scenario, key, split="validation")
        _, world = make_world(make, scenario, key_of(seed, executor.HELD_OUT), split="test")
        both = validation, world
        work.over("drew the rows", 2)
        learning = _start_learning(work, env, params, seed, sizes)
        bounding = work.start("computed the bound", 2, certified, env, world)
        others = _baselines(scenario, env, sizes.config.hidden)
        what = f"evaluated {len(others)} baselines"
        playing = work.start(what, 10, _play, others, both, tasks_in=_n_played)
        devices, bandwidths, worlds = _other_worlds(scenario, seed, sizes)
        swept = partial(_swept_baselines, scenario, sizes.config.hidden)
        what = "varied the world"
        varying = [work.start(what, 4, report.certified_costs, worlds)]
        varying.append(work.start(f"{what} of the baselines", 4, report.costs, worlds, swept))
        weights = {name: learning[name].result().weights for name in sizes.learners}
        learned = learned_policies(env, hidden, weights)
        evaluated = f"evaluated {', '.join(learned)}"
        trying = work.start(evaluated, 4, _play, learned, both, tasks_in=_n_played)
        swept = partial(learned_policies, hidden=hidden, weights=weights)
        varying.append(work.start(f"{what} of the learners", 6, report.costs, worlds, swept))
        on_validation, played = (
            one | other for one, other in zip(trying.result(), playing.result(), strict=True)
        )
        varied = zip(*(future.result() for future in varying), strict=True)
        costs = [learners | baselines | bounds for bounds, baselines, learners in varied]
        curves = {name: seeds.curve(future.result()) for name, future in learning.items()}
        bound, _ = bounding.result()
    clusters = protocol.links(scenario, "validation", rows)
    compared = protocol.best_rule(on_validation, clusters, NOT_DEPLOYABLE | set(LEARNERS))
    seed_of_best = protocol.best_seed(on_validation[BEST], clusters)
    kept = {"compared": compared, "best": BEST, "seed_of_best": seed_of_best}
    utilities = table(played, compared, bound, scenario)
    results = _Results(
        curves,
        report.sweep(devices, costs[: len(devices)]),
        report.sweep(bandwidths, costs[len(devices) :]),
        report.habits(env, played[BEST][0], len(scenario.kinds)),
    )
    return Run(
        checkpoint=Checkpoint(scenario, seed, hidden, jax.device_get(weights), kept),
        table=utilities,
        sheets=_sheets(env, played, results, scenario),
        found={"seeds_of_learning": sizes.seeds, "learning": seeds.ends(curves)},
        figures=partial(_figures, utilities, results, scenario),
        trace=report.trace_of_tasks(env, played[BEST][0], scenario, N_TIMELINE),
    )


def _start_learning(
    work: Executor, env: Fleet, params: FleetParams, seed: int, sizes: Sizes
) -> dict[str, Future[TrainResult]]:
    keys = jax.random.split(key_of(seed, executor.LEARN), sizes.seeds)
    trainings = {
        name: partial(LEARNERS[name].train, params=params, env=env, config=sizes.config)
        for name in (*sizes.learners, *sizes.curves)
    }
    return seeds.start(work, 20, keys, trainings)


def _play(
    policies: Mapping[str, EnvPolicy], worlds: Sequence[FleetParams]
) -> list[dict[str, list[FleetTasks]]]:
    """What the policies do in each world (of equal shapes)."""
    return list(map(player(policies), worlds))


def _baselines(
    scenario: FleetScenario, env: Fleet, hidden: tuple[int, ...]
) -> dict[str, EnvPolicy]:
    return baseline_policies(env, hidden, delayed=scenario.delay_slots > 0)


def evaluate_again(
    checkpoint: Checkpoint, seed: int, progress: Progress = lambda *_: None
) -> Table:
    """Returns the table of the trained policies and their baselines on fresh rows. Raises like
    `run`.
    """
    scenario = checkpoint.scenario
    with Executor(progress, 18) as work:
        env, world = make_world(make, scenario, key_of(seed, executor.FRESH), split="test")
        work.over("drew fresh rows", 2)
        bounding = work.start("computed the bound", 2, certified, env, world)
        others = _baselines(scenario, env, checkpoint.hidden[BEST])
        what = f"evaluated {len(others)} baselines"
        playing = work.start(what, 10, _play, others, [world], tasks_in=_n_played)
        learned = learned_policies(env, checkpoint.hidden, checkpoint.weights)
        trying = work.start(
            f"evaluated {', '.join(learned)}", 4, _play, learned, [world], tasks_in=_n_played
        )
        played = trying.result()[0] | playing.result()[0]
        bound, _ = bounding.result()
    return table(played, checkpoint.chosen["compared"], bound, scenario)


def portable(checkpoint: Checkpoint) -> Portable:
    """Returns the network of BEST as a function of the leaves of a FleetView, [B, D, ...] -> logits
    [B, D, C].
    """
    scenario = dataclasses.replace(checkpoint.scenario, rows=2, slots=2)  # only shapes are used
    env, params = make_world(make, scenario, key_of(0, executor.FRESH), split="test")
    net = network(env, config_of(hidden=checkpoint.hidden[BEST]))
    every = jax.tree.map(jnp.asarray, checkpoint.weights[BEST])
    weights = seeds.pick(every, checkpoint.chosen["seed_of_best"])
    state, timestep = env.reset_at(jnp.int32(0), jnp.int32(0), params)
    view_leaves = vars(view(env, state, timestep.observation, params))

    def logits(*leaves: jax.Array) -> jax.Array:
        view = FleetView(*leaves)
        return jnp.where(view.valid, net.apply(weights, view)[0], -jnp.inf)

    formula = f"version * {env.n_cuts} + cut"
    if env.with_cloud:
        formula = f"({formula}) * {env.n_cuts} + second cut"
    meaning = (
        "logits of the choices of each device, -inf where a choice is invalid; take the largest; "
        f"choice = {formula}, each from 0; shares of least cost are in proportion to the roots of "
        f"what the choices cost: {allocate.__module__}.allocate"
    )
    signature = PolicySignature(OBSERVATION, meaning, f"{view.__module__}.view")
    inputs = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in view_leaves.items()}
    return Portable(BEST, logits, signature, inputs)


def table(
    played: Mapping[str, Sequence[FleetTasks]],
    compared: str,
    bound: np.ndarray,
    scenario: FleetScenario,
) -> Table:
    """Returns one row per policy; bound [K]: the certified least cost per task of each row.

    compared: the baseline that gains are differences to. Raises RunError where a row of the draw
    has no task.
    """
    utility = comparison.utility(played, scenario.name)
    clusters = protocol.links(scenario, "test", len(bound))

    def measures(one: Tasks) -> dict[str, np.ndarray]:
        by_row = evaluate.measures(one, 0, scenario.cap_s)
        del by_row["deadline_misses"]  # there are no deadlines
        return by_row | {"gap_ratio": report.gap_by_row(one, bound)}

    bounds = dict.fromkeys(played, -bound[None])
    rows = comparison.rows(played, bounds, measures, clusters, compared, NOT_DEPLOYABLE)
    what = "no policy does better than the mean certified dual bound"
    classes = report.by_class(played)
    order = sorted(played, key=lambda name: (name in NOT_DEPLOYABLE, -utility[name].mean()))
    return Table(
        rows,
        Bound(what, evaluate.interval(-bound), None),
        compared,
        sheets={
            "classes": report.classes_sheet(classes),
            "differences": comparison.differences_sheet(utility, clusters, NOT_DEPLOYABLE),
        },
        found={"by_class": report.classes_json(classes)},
        printed=(report.classes_printed(classes, order),),
        reference=_NOTE,
    )


def _other_worlds(
    scenario: FleetScenario, seed: int, sizes: Sizes
) -> tuple[list[int], list[float], list[report.World]]:
    """Numbers of devices, bandwidths in hertz, and the worlds with each of them, in this order."""

    def world_of(devices: int) -> report.World:
        other = dataclasses.replace(
            scenario, devices=devices, rows=sizes.sweep_rows, slots=sizes.sweep_slots
        )
        return make_world(make, other, key_of(seed, executor.HELD_OUT), split="test")

    devices = sorted({max(round(scenario.devices * factor), 1) for factor in sizes.devices})
    bandwidths_hz = [scenario.radio.bandwidth_hz * factor for factor in sizes.bandwidths]
    env, params = world_of(scenario.devices)
    worlds = [(env, params.replace(bandwidth_hz=jnp.float32(hz))) for hz in bandwidths_hz]
    return devices, bandwidths_hz, [*map(world_of, devices), *worlds]


def _swept_baselines(
    scenario: FleetScenario, hidden: tuple[int, ...], env: Fleet
) -> dict[str, EnvPolicy]:
    """The baselines that the sweeps show next to the learners and the bound."""
    policies = _baselines(scenario, env, hidden)
    return {name: policy for name, policy in policies.items() if name in _SWEPT}


def _n_played(played: Sequence[Mapping[str, Sequence[FleetTasks]]]) -> int:
    return sum(len(one.utility) for world in played for each in world.values() for one in each)


def _sheets(
    env: Fleet,
    played: Mapping[str, Sequence[FleetTasks]],
    results: _Results,
    scenario: FleetScenario,
) -> dict[str, Sheet]:
    kinds = [kind.device for kind in scenario.kinds]
    heads = ("what", "value", "policy", "cost", "half_width", "gap_ratio", "gap_half_width")
    swept = [
        *report.sweep_rows("devices", results.devices),
        *report.sweep_rows("bandwidth_hz", results.bandwidths),
    ]
    return {
        "learning": seeds.sheet(results.curves),
        "sweeps": (heads, swept),
        "choices": report.choices_sheet(env, played, kinds),
        "shares": report.shares_sheet(results.habits, kinds),
    }


def _figures(table: Table, results: _Results, scenario: FleetScenario) -> dict[str, Any]:
    from jaxcoinfer.evaluation import plots
    from jaxcoinfer.systems.fleet import figures

    utility = {name: row.measures["utility"] for name, row in table.rows.items()}
    gains = {name: row.gain for name, row in table.rows.items()}
    kinds = [kind.device for kind in scenario.kinds]
    widths = profiles.widths(profiles.load_dnn(scenario.dnn))
    devices, band, habits = results.devices, results.bandwidths, results.habits
    bandwidth_mhz = np.array(band.values) / 1e6
    panels = {
        "devices": (devices.values, devices.cost, devices.bound, scenario.devices),
        "bandwidth, MHz": (bandwidth_mhz, band.cost, band.bound, scenario.radio.bandwidth_hz / 1e6),
    }
    return {
        "utility": plots.utility(utility, gains, table.compared),
        "cost": figures.cost(panels),
        "gap": figures.gap(devices.values, devices.gap, scenario.devices),
        "choices": figures.choices(habits.choices, kinds, report.CLASSES, widths),
        "shares": figures.shares(habits.bandwidth, habits.compute, kinds, report.CLASSES),
        "learning": plots.learning_band(results.curves),
    }
