"""A run of `multi-user`: trains the learner, and evaluates it and its baselines on starts that it
never saw.

The learner trains from several seeds, for its learning curve; all of which are in the table.
Nothing here prints or writes: the caller hears of the progress through a function.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.data.processes import Split
from jaxcoinfer.evaluation import comparison, executor, protocol, seeds
from jaxcoinfer.evaluation.evaluate import Interval
from jaxcoinfer.evaluation.executor import Executor, key_of, make_world
from jaxcoinfer.evaluation.types import (
    Bound,
    Checkpoint,
    Portable,
    Progress,
    Row,
    Run,
    Sheet,
    Table,
)
from jaxcoinfer.learn import ppo
from jaxcoinfer.learn.distributions import mode
from jaxcoinfer.learn.networks import PolicySignature
from jaxcoinfer.systems.multi_user import bound, network, report, timeline
from jaxcoinfer.systems.multi_user.env import OBSERVATION, MultiUser
from jaxcoinfer.systems.multi_user.evaluation import Episodes, best_fixed, first_starts, play
from jaxcoinfer.systems.multi_user.make import make
from jaxcoinfer.systems.multi_user.network import UsersView
from jaxcoinfer.systems.multi_user.params import MultiUserParams
from jaxcoinfer.systems.multi_user.policies import (
    BEST,
    CONFIG,
    FIXED,
    LEARNERS,  # noqa: F401, a part of every system's run
    baseline_policies,
    learned,
    train,
)
from jaxcoinfer.systems.multi_user.scenario import MultiUserScenario

N_TIMELINE = 100  # tasks


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much a run does."""

    config: ppo.Config  # of a training
    seeds: int  # that the learner trains from
    rows: int  # starts to learn from: at most so many of the scenario's
    held_out: int  # starts that policies are evaluated on


FULL = Sizes(CONFIG, seeds=protocol.N_SEEDS, rows=1 << 20, held_out=256)
QUICK = Sizes(
    dataclasses.replace(
        CONFIG, n_envs=32, n_batches=4, updates_per_evaluation=8, evaluation_envs=32
    ),
    seeds=2,
    rows=1024,
    held_out=64,
)


def run(
    scenario: MultiUserScenario, seed: int, sizes: Sizes, progress: Progress = lambda *_: None
) -> Run:
    """Trains and evaluates. Raises RunError or ProfileError in one line where the input is at
    fault.
    """
    scenario = dataclasses.replace(scenario, rows=min(scenario.rows, sizes.rows))
    key = key_of(seed, executor.PLAY)
    with Executor(progress, 78) as work:
        env, params = make_world(make, scenario, key_of(seed, executor.TRAIN_DRAW), split="train")
        validation = _starts(
            scenario, key_of(seed, executor.VALIDATION), "validation", sizes.held_out
        )
        world = _starts(scenario, key_of(seed, executor.HELD_OUT), "test", sizes.held_out)
        work.over("drew the starts", 2)
        keys = jax.random.split(key_of(seed, executor.LEARN), sizes.seeds)
        training = partial(train, params=params, env=env, config=sizes.config)
        learning = seeds.start(work, 50, keys, {BEST: training})
        choosing = work.start("found the best fixed split", 4, best_fixed, env, params, key)
        others = baseline_policies(env, choosing.result())
        what = f"evaluated {len(others)} baselines"
        playing = work.start(what, 8, play, env, others, world, key)
        choosing_by = work.start("chose the best baseline", 4, play, env, others, validation, key)
        weights = {BEST: learning[BEST].result().weights}
        policies = {BEST: learned(env, sizes.config, weights[BEST])}
        trying = work.start(f"evaluated {BEST}", 4, play, env, policies, world, key)
        picking = work.start("chose the best seed", 4, play, env, policies, validation, key)
        first = policies[BEST].policy(seeds.pick(policies[BEST].weights, 0))
        tracing = work.start(
            "traced the first tasks", 2, timeline.chrome, env, world, first, key, N_TIMELINE
        )
        bounding = work.start("computed the bound", 2, bound.reward, world, env.n_channels)
        episodes = trying.result() | playing.result()
        curves = {BEST: seeds.curve(learning[BEST].result())}
    choices = {
        name: report.choices(several[0].decisions, np.asarray(world.distances_m), env.n_splits)
        for name, several in episodes.items()
    }
    rules, by_seed = choosing_by.result(), picking.result()[BEST]
    compared = max(rules, key=lambda name: rules[name][0].reward.mean())
    rows = table(episodes, compared, bounding.result(), env, scenario)
    return Run(
        checkpoint=Checkpoint(
            scenario=scenario,
            seed=seed,
            hidden={BEST: sizes.config.hidden},
            weights=jax.device_get(weights),
            chosen={
                "compared": compared,
                "best": BEST,
                "seed_of_best": int(np.argmax([one.reward.mean() for one in by_seed])),
                "fixed": choosing.result(),
            },
        ),
        table=rows,
        sheets=_sheets(curves, choices),
        found={"seeds_of_learning": sizes.seeds, "learning": seeds.ends(curves)},
        figures=partial(_figures, rows, curves, choices, scenario.energy_weight),
        trace=tracing.result(),
    )


def evaluate_again(
    checkpoint: Checkpoint, seed: int, progress: Progress = lambda *_: None
) -> Table:
    """Returns the table of the trained policy and its baselines on fresh starts. Raises like
    `run`.
    """
    scenario, key = checkpoint.scenario, key_of(seed, executor.FRESH_PLAY)
    chosen = checkpoint.chosen
    with Executor(progress, 10) as work:
        env, _ = make_world(make, scenario, key_of(seed, executor.FRESH), split="test")
        world = _starts(scenario, key_of(seed, executor.FRESH), "test", FULL.held_out)
        work.over("drew fresh starts", 2)
        config = dataclasses.replace(CONFIG, hidden=checkpoint.hidden[BEST])
        policies = {BEST: learned(env, config, checkpoint.weights[BEST])}
        policies |= baseline_policies(env, chosen["fixed"])
        playing = work.start(
            f"evaluated {len(policies)} policies", 8, play, env, policies, world, key
        )
        least = bound.reward(world, env.n_channels)
        episodes = playing.result()
    return table(episodes, chosen["compared"], least, env, scenario)


def portable(checkpoint: Checkpoint) -> Portable:
    """Returns the network of BEST as a function of features [B, U, F] -> logits of the splits and
    channels and the power of each user, [B, U, S + C + 1].
    """
    scenario = dataclasses.replace(checkpoint.scenario, rows=2)  # only shapes and max_w are used
    env, params = make_world(make, scenario, key_of(0, executor.FRESH), split="test")
    config = dataclasses.replace(CONFIG, hidden=checkpoint.hidden[BEST])
    net: Any = network.network(env, config)
    every = jax.tree.map(jnp.asarray, checkpoint.weights[BEST])
    weights = seeds.pick(every, checkpoint.chosen["seed_of_best"])
    places = (f"is_user_{user}" for user in range(env.n_users))
    features = (*OBSERVATION, "log10_snr_tenth", "has_tasks", *places)
    meaning = (
        f"of each user logits of {env.n_splits} splits, then logits of {env.n_channels} channels, "
        "then its power in watts; take the split and the channel with the largest"
    )
    signature = PolicySignature(features, meaning, f"{network.__name__}.view")

    def decide(features: jax.Array) -> jax.Array:
        max_w = jnp.broadcast_to(params.max_w, features.shape[:1])
        action, _ = net.apply(weights, UsersView(features, max_w))
        power_w = mode(action.power_w, jnp.ones(features.shape[:2], bool))
        return jnp.concatenate([action.split, action.channel, power_w[..., None]], axis=-1)

    inputs = {"features": ((env.n_users, len(features)), "float32")}
    return Portable(BEST, decide, signature, inputs)


def table(
    episodes: Mapping[str, Sequence[Episodes]],
    compared: str,
    most: np.ndarray,
    env: MultiUser,
    scenario: MultiUserScenario,
) -> Table:
    """Returns one row per policy; utility is the reward of an episode. compared: the baseline that
    gains are differences to; most [K]: the bound on the reward of each episode.
    """
    starts = [str(start) for start in range(len(episodes[compared][0].reward))]
    reward = {name: np.stack([one.reward for one in several]) for name, several in episodes.items()}
    rows = {
        name: Row(
            protocol.of_seeds([report.measures(one, scenario) for one in several], starts),
            gain=protocol.interval(reward[name] - reward[compared], starts),
            gap=protocol.interval(most[None] - reward[name], starts),
            deployable=True,
        )
        for name, several in episodes.items()
    }
    measures = {name: row.measures for name, row in rows.items()}
    shown = report.printed(episodes, measures, env.n_splits)
    differences = comparison.differences_sheet(reward, starts, ())
    what = Bound("any policy", protocol.interval(most[None], starts), None)
    return Table(rows, what, compared, sheets={"differences": differences}, printed=(shown,))


def _starts(
    scenario: MultiUserScenario, key: jax.Array, split: Split, n_rows: int
) -> MultiUserParams:
    _, drawn = make_world(make, scenario, key, split=split)
    return first_starts(drawn, n_rows)


def _sheets(curves: seeds.Curves, choices: Mapping[str, report.Choices]) -> dict[str, Sheet]:
    return {
        "learning": seeds.sheet(curves),
        "choices": report.choices_sheet(choices),
        "powers": report.powers_sheet(choices),
    }


def _figures(
    table: Table,
    curves: seeds.Curves,
    choices: Mapping[str, report.Choices],
    energy_weight: float,
) -> dict[str, Any]:
    from jaxcoinfer.evaluation import plots
    from jaxcoinfer.systems.multi_user import figures

    def intervals(measure: str) -> dict[str, Interval]:
        return {name: row.measures[measure] for name, row in table.rows.items()}

    gains = {name: row.gain for name, row in table.rows.items()}
    delay_s = {name: delay.mean for name, delay in intervals("latency_s").items()}
    energy = {name: energy_weight * joules.mean for name, joules in intervals("energy_j").items()}
    best = choices[BEST]
    powers = {name: choices[name].power_w for name in (BEST, FIXED, "random")}
    return {
        "utility": plots.utility(intervals("utility"), gains, table.compared, "reward per episode"),
        "cost": figures.cost(intervals("cost"), delay_s, energy),
        "choices": figures.choices(best.edges_m, best.decisions, powers),
        "learning": plots.learning_band(curves),
    }
