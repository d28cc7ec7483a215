"""A run of `multi-user`: trains the learner, and evaluates it and its baselines on starts that it
never saw.

The learner trains from several seeds, for its learning curve; the table shows the first seed.
Nothing here prints or writes: the caller hears of the progress through a function.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation import evaluate, executor, seeds
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
from jaxcoinfer.systems.multi_user import network, report, timeline
from jaxcoinfer.systems.multi_user.env import OBSERVATION, MultiUser
from jaxcoinfer.systems.multi_user.evaluation import Episodes, best_fixed, first_starts, play
from jaxcoinfer.systems.multi_user.make import make
from jaxcoinfer.systems.multi_user.network import UsersView
from jaxcoinfer.systems.multi_user.params import MultiUserParams
from jaxcoinfer.systems.multi_user.policies import (
    BEST,
    COMPARED,
    CONFIG,
    LEARNERS,  # noqa: F401, a part of every system's run
    baseline_policies,
    learned_policy,
    train,
)
from jaxcoinfer.systems.multi_user.scenario import MultiUserScenario

N_TIMELINE = 100  # tasks
NO_BOUND = Bound("no bound is known for this system", Interval(np.nan, np.nan), None)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much a run does."""

    config: ppo.Config  # of a training
    seeds: int  # that the learner trains from
    rows: int  # starts to learn from: at most so many of the scenario's
    held_out: int  # starts that policies are evaluated on


FULL = Sizes(CONFIG, seeds=3, rows=1 << 20, held_out=256)
QUICK = Sizes(
    dataclasses.replace(
        CONFIG, n_envs=32, n_batches=4, updates_per_evaluation=8, evaluation_envs=32
    ),
    seeds=3,
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
    with Executor(progress, 70) as work:
        env, params = make_world(make, scenario, key_of(seed, executor.TRAIN_DRAW), split="train")
        world = _held_out(scenario, key_of(seed, executor.HELD_OUT), sizes.held_out)
        work.over("drew the starts", 2)
        keys = jax.random.split(key_of(seed, executor.LEARN), sizes.seeds)
        training = partial(train, params=params, env=env, config=sizes.config)
        learning = seeds.start(work, 50, keys, {BEST: training})
        choosing = work.start("found the best fixed split", 4, best_fixed, env, params, key)
        others = baseline_policies(env, choosing.result())
        what = f"evaluated {len(others)} baselines"
        playing = work.start(what, 8, play, env, others, world, key)
        weights = {BEST: seeds.pick(learning[BEST].result().weights, 0)}
        policy = learned_policy(env, sizes.config, weights[BEST])
        trying = work.start(f"evaluated {BEST}", 4, play, env, {BEST: policy}, world, key)
        tracing = work.start(
            "traced the first tasks", 2, timeline.chrome, env, world, policy, key, N_TIMELINE
        )
        episodes = trying.result() | playing.result()
        curves = {BEST: seeds.curve(learning[BEST].result())}
    choices = {
        name: report.choices(one.decisions, np.asarray(world.distances_m), env.n_splits)
        for name, one in episodes.items()
    }
    rows = table(episodes, env, scenario)
    hidden = {BEST: sizes.config.hidden}
    return Run(
        checkpoint=Checkpoint(scenario, seed, choosing.result(), hidden, jax.device_get(weights)),
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
    with Executor(progress, 10) as work:
        env, _ = make_world(make, scenario, key_of(seed, executor.FRESH), split="eval")
        world = _held_out(scenario, key_of(seed, executor.FRESH), FULL.held_out)
        work.over("drew fresh starts", 2)
        policies = {BEST: _policy(env, checkpoint)} | baseline_policies(env, checkpoint.fixed)
        playing = work.start(
            f"evaluated {len(policies)} policies", 8, play, env, policies, world, key
        )
        episodes = playing.result()
    return table(episodes, env, scenario)


def portable(checkpoint: Checkpoint) -> Portable:
    """Returns the network of BEST as a function of features [B, U, F] -> logits of the splits and
    channels and the power of each user, [B, U, S + C + 1].
    """
    scenario = dataclasses.replace(checkpoint.scenario, rows=2)  # only shapes and max_w are used
    env, params = make_world(make, scenario, key_of(0, executor.FRESH), split="eval")
    config = dataclasses.replace(CONFIG, hidden=checkpoint.hidden[BEST])
    net: Any = network.network(env, config)
    weights = jax.tree.map(jnp.asarray, checkpoint.weights[BEST])
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


def table(episodes: Mapping[str, Episodes], env: MultiUser, scenario: MultiUserScenario) -> Table:
    """Returns one row per policy; utility is the reward of an episode."""
    measures = {name: report.measures(one, scenario) for name, one in episodes.items()}
    rows = {
        name: Row(
            measures[name],
            gain=evaluate.interval(one.reward - episodes[COMPARED].reward),
            gap=NO_BOUND.utility,
            deployable=True,
        )
        for name, one in episodes.items()
    }
    shown = report.printed(episodes, measures, env.n_splits)
    return Table(rows, NO_BOUND, COMPARED, printed=(shown,))


def _held_out(scenario: MultiUserScenario, key: jax.Array, n_rows: int) -> MultiUserParams:
    _, drawn = make_world(make, scenario, key, split="eval")
    return first_starts(drawn, n_rows)


def _policy(env: MultiUser, checkpoint: Checkpoint) -> Policy:
    config = dataclasses.replace(CONFIG, hidden=checkpoint.hidden[BEST])
    return learned_policy(env, config, checkpoint.weights[BEST])


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
    powers = {name: choices[name].power_w for name in (BEST, COMPARED, "random")}
    return {
        "utility": plots.utility(intervals("utility"), gains, COMPARED, "reward per episode"),
        "cost": figures.cost(intervals("cost"), delay_s, energy),
        "choices": figures.choices(best.edges_m, best.decisions, powers),
        "learning": plots.learning_band(curves),
    }
