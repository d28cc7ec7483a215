"""`multi-user` at full length: proximal policy with split, channel and power beside its baselines,
on the same episodes.

    python -m training.multi_user table [--scenario multi-user] [--rows 256] [--seeds 5]

`table` trains from several seeds on one draw of starts, then runs all policies on the same held-out
starts until every user is free: a line a policy, for the learner one a seed. `reward`: sum over the
slots of an episode; `cost`: seconds from beginning to end of the episode plus beta joules, by task,
`delay_s` and `energy_j` its parts. The last columns are paired by episodes. `test_...`: the same of
the authors' test, one episode in which all users are alike.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxcoinfer
from jaxcoinfer.core.rollout import Policy, unroll
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.learn import ppo
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.multi_user import baselines
from jaxcoinfer.systems.multi_user import network as multi_user_actor
from jaxcoinfer.systems.multi_user.env import MultiUser
from jaxcoinfer.systems.multi_user.exogenous import alike
from jaxcoinfer.systems.multi_user.params import MultiUserParams
from jaxcoinfer.systems.multi_user.scenario import MultiUserScenario
from training.common import record

LEARNER = "proximal policy"
CONFIG = ppo.Config(
    hidden=(64, 64),
    n_envs=256,
    n_steps=8,
    n_batches=8,
    n_evaluations=10,
    updates_per_evaluation=15,
    evaluation_envs=64,
    evaluation_steps=40,
    twin=False,
    view=multi_user_actor.view,
    network=multi_user_actor.network,
)
HYPER = ppo.Hyper(learning_rate=3e-3, discount=0.95, gae_lambda=0.95, entropy_weight=0.001)
TRAIN, LEARN, HELD_OUT, PLAY = range(4)  # purposes of keys
_STRETCH, _MOST_SLOTS = (
    32,
    512,
)  # slots of a jitted stretch; slots after which an episode counts as it is


@dataclass(frozen=True)
class Episodes:
    """What one policy got done, [K] by episode: sum of rewards; slots; tasks and joules of all
    users; whether it ended within the slots that were played.
    """

    reward: np.ndarray
    slots: np.ndarray
    tasks: np.ndarray
    energy_j: np.ndarray
    ended: np.ndarray


def play(env: MultiUser, params: MultiUserParams, policy: Policy, key: jax.Array) -> Episodes:
    """Returns what a policy does from every start of the bank; consumes the key."""

    @jax.jit
    def stretch(key, state, timestep):
        alive = ~timestep.terminated
        state, timestep, steps = unroll(env, params, policy, key, state, timestep, _STRETCH)
        played = jnp.concatenate([alive[None], ~steps.terminated[:-1]]).sum(axis=0)
        done = steps.outcome
        return (
            state,
            timestep,
            (steps.reward.sum(axis=0), played, done.tasks.sum((0, 2)), done.energy_j.sum((0, 2))),
        )

    rows = jnp.arange(params.bank.n_rows, dtype=jnp.int32)
    state, timestep = jax.jit(jax.vmap(env.reset_at, (0, None, None)))(rows, jnp.int32(0), params)
    parts = []
    while not bool(timestep.terminated.all()) and len(parts) * _STRETCH < _MOST_SLOTS:
        key, key_stretch = jax.random.split(key)
        state, timestep, sums = stretch(key_stretch, state, timestep)
        parts.append(jax.tree.map(np.asarray, sums))
    sums = [np.sum(several, axis=0) for several in zip(*parts, strict=True)]
    return Episodes(*sums, ended=np.asarray(timestep.terminated))


def best_fixed(env: MultiUser, params: MultiUserParams, n_rows: int = 128) -> int:
    """Returns the split that, always taken by all, gives the most reward from the first starts of
    the bank.
    """
    few = params.replace(bank=jax.tree.map(lambda column: column[:n_rows], params.bank))
    rewards = [
        play(env, few, baselines.fixed_split(env, s), _key(PLAY)).reward.mean()
        for s in range(env.n_splits)
    ]
    return int(np.argmax(rewards))


def table(scenario: MultiUserScenario, rows: int, seeds: int) -> None:
    """Appends one line a policy and seed: reward, cost of a task, paired differences to the
    baselines.
    """
    env, params = jaxcoinfer.make(scenario, _key(TRAIN))
    _, drawn = jaxcoinfer.make(scenario, _key(HELD_OUT))
    held_out = params.replace(bank=jax.tree.map(lambda column: column[:rows], drawn.bank))
    test = params.replace(bank=alike(env.n_users, 50.0, round(scenario.tasks), env.n_splits - 1))
    policies: dict[str, Policy] = {
        "all local": baselines.fixed_split(env, env.n_splits - 1),
        "random": baselines.random_valid(env),
        "greedy": baselines.greedy(env),
        "best fixed split": baselines.fixed_split(env, best_fixed(env, params)),
    }
    others = {name: play(env, held_out, policy, _key(PLAY)) for name, policy in policies.items()}
    told = {"recipe": "table", "scenario": scenario.name, "rows": rows}
    for name, policy in policies.items():
        line = told | {"policy": name} | _measures(others[name], others, scenario)
        record("multi_user", line | _of_test(play(env, test, policy, _key(PLAY)), scenario))
    begin_s = time.perf_counter()
    train = jax.vmap(partial(ppo.train, env=env, config=CONFIG), (0, None, None))
    learned = jax.block_until_ready(train(jax.random.split(_key(LEARN), seeds), params, HYPER))
    seconds = time.perf_counter() - begin_s
    for seed in range(seeds):
        policy = ppo.policy(
            env, CONFIG, jax.tree.map(lambda leaf, s=seed: leaf[s], learned.weights)
        )
        line = told | {"policy": LEARNER, "seed": seed, "seconds_of_all_seeds": round(seconds, 1)}
        line |= {"slots_learned": int(learned.steps[seed, -1])}
        line |= _measures(play(env, held_out, policy, _key(PLAY)), others, scenario)
        record("multi_user", line | _of_test(play(env, test, policy, _key(PLAY)), scenario))


def _cost(
    episodes: Episodes, scenario: MultiUserScenario
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cost, seconds and joules of a task, [K] each."""
    delay_s = episodes.slots * scenario.slot_s * scenario.users / episodes.tasks
    energy_j = episodes.energy_j / episodes.tasks
    return delay_s + scenario.energy_weight * energy_j, delay_s, energy_j


def _measures(
    episodes: Episodes, others: Mapping[str, Episodes], scenario: MultiUserScenario
) -> dict[str, float]:
    """Reward, cost and its parts, and the reward above and the cost below that of each baseline,
    with half widths.
    """
    cost, delay_s, energy_j = _cost(episodes, scenario)
    values = {"reward": episodes.reward, "cost": cost, "delay_s": delay_s, "energy_j": energy_j}
    for name, other in others.items():
        values[f"reward_above_{name.replace(' ', '_')}"] = episodes.reward - other.reward
        values[f"cost_below_{name.replace(' ', '_')}"] = _cost(other, scenario)[0] - cost
    line = {}
    for what, interval in ((what, evaluate.interval(value)) for what, value in values.items()):
        line |= {what: round(interval.mean, 6), f"{what}_half": round(interval.half, 6)}
    return line | {"ended": float(episodes.ended.mean())}


def _of_test(episodes: Episodes, scenario: MultiUserScenario) -> dict[str, float]:
    _, delay_s, energy_j = _cost(episodes, scenario)
    values = {"reward": episodes.reward, "delay_s": delay_s, "energy_j": energy_j}
    return {f"test_{what}": round(float(value[0]), 6) for what, value in values.items()}


def _key(purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(0), purpose)


def main() -> None:
    """Runs the recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", choices=["table"])
    parser.add_argument("--scenario", nargs="+", default=["multi-user"])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    for name in options.scenario:
        table(registry.load_scenario(name), options.rows, options.seeds)


if __name__ == "__main__":
    main()
