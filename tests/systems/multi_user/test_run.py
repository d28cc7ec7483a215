"""A run of `multi-user`: what it writes, that it is read back, and what it counts in episodes."""

import csv
import dataclasses
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer import cli, run_folder
from jaxcoinfer.core.rollout import Oracle, act
from jaxcoinfer.evaluation import seeds
from jaxcoinfer.evaluation.executor import PLAY, Learned, key_of
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.multi_user import baselines, network, report
from jaxcoinfer.systems.multi_user import run as multi_user
from jaxcoinfer.systems.multi_user.env import MultiUser
from jaxcoinfer.systems.multi_user.evaluation import Decisions, best_fixed, first_starts, play
from jaxcoinfer.systems.multi_user.params import MultiUserParams
from jaxcoinfer.systems.multi_user.policies import BEST, FIXED, baseline_policies, learned

SCENARIO = dataclasses.replace(registry.load_scenario("multi-user"), users=3, rows=6, tasks=8.0)
World = tuple[MultiUser, MultiUserParams]


@pytest.fixture(scope="module")
def world() -> World:
    return jaxcoinfer.make(SCENARIO)


def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick run, less long."""
    config = dataclasses.replace(
        multi_user.QUICK.config,
        hidden=(4, 4),
        n_envs=4,
        n_steps=2,
        n_epochs=1,
        n_batches=1,
        n_evaluations=3,
        updates_per_evaluation=1,
        evaluation_envs=2,
        evaluation_steps=2,
    )
    sizes = dataclasses.replace(multi_user.QUICK, config=config, seeds=2, held_out=4)
    monkeypatch.setattr(multi_user, "QUICK", sizes)
    monkeypatch.setattr(registry, "load_scenario", lambda name: SCENARIO)


@pytest.mark.slow
def test_a_run_writes_everything_and_is_read_back(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tiny(monkeypatch)
    out = tmp_path / "run"
    assert cli.main(["run", "multi-user", "--quick", "--seed", "3", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()[:-1]
    assert max(map(len, printed)) <= 80 and not any("…" in line for line in printed)
    assert not any("nan" in line for line in printed)
    assert any(line.startswith("bound: any policy") for line in printed)
    names = {path.name for path in out.iterdir()}
    written = {"config.json", "metrics.csv", "summary.json", "checkpoint.msgpack", "timeline.json"}
    written |= {f"{name}.csv" for name in ("learning", "choices", "powers", "differences")}
    written |= {f"{name}.png" for name in ("utility", "cost", "choices", "learning")}
    assert names == written
    summary = json.loads((out / "summary.json").read_text())
    _check_numbers(out, summary)
    _check_trace(json.loads((out / "timeline.json").read_text())["traceEvents"])
    assert cli.main(["evaluate", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert set(again["policies"]) == set(summary["policies"])
    _check_export(out, tmp_path / "policy", capsys)


def _check_numbers(out: Path, summary: dict[str, Any]) -> None:
    policies, compared = summary["policies"], summary["compared_with"]
    rules = set(baseline_policies(jaxcoinfer.make(SCENARIO)[0], 0))
    assert compared in rules and set(policies) == {*rules, BEST}
    chosen = json.loads((out / "config.json").read_text())["chosen"]
    assert chosen["compared"] == compared and chosen["seed_of_best"] in (0, 1)
    assert set(chosen) == {"compared", "best", "seed_of_best", "fixed"}
    assert summary["bound"]["what"] == "any policy" and summary["bound"]["utility"]["mean"] < 0
    for policy in policies.values():
        measures = policy["measures"]
        assert measures["gap_to_bound"]["mean"] > 0
        cost = measures["latency_s"]["mean"] + SCENARIO.energy_weight * measures["energy_j"]["mean"]
        assert measures["cost"]["mean"] == pytest.approx(cost)
        assert measures["utility"]["mean"] < 0 and measures["ended"]["mean"] == 1.0
    assert policies[compared]["measures"]["utility_gain"]["mean"] == 0.0
    differences = {
        (row["policy"], row["above"]): float(row["utility"])
        for row in csv.DictReader((out / "differences.csv").read_text().splitlines())
    }
    assert len(differences) == len(policies) * (len(policies) - 1)
    for name in {*policies} - {compared}:
        gain = policies[name]["measures"]["utility_gain"]["mean"]
        assert differences[name, compared] == pytest.approx(gain)
    metrics = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    gaps = [row for row in metrics if row["measure"] == "gap_to_bound"]
    assert len(gaps) == len(policies)
    assert all(np.isfinite(float(row["mean"])) for row in metrics)
    rows = list(csv.DictReader((out / "choices.csv").read_text().splitlines()))
    assert {row["policy"] for row in rows} == set(policies)
    assert {row["split"] for row in rows if row["policy"] == "all local"} == {"5"}
    learned = list(csv.DictReader((out / "learning.csv").read_text().splitlines()))
    assert {(row["learner"], row["seed"]) for row in learned} == {(BEST, "0"), (BEST, "1")}
    assert len(learned) == 6


def _check_trace(events: list[dict[str, Any]]) -> None:
    """No user does two things at once, and every task is computed once and sent once at most."""
    slices = [event for event in events if event["ph"] == "X"]
    assert {event["name"] for event in slices} <= {"computes", "sends"}
    for user in range(SCENARIO.users):
        own = [event for event in slices if event["tid"] == user]
        ends = [event["ts"] + event["dur"] for event in own]
        starts = [event["ts"] for event in own]
        np.testing.assert_allclose(starts, [0.0, *ends[:-1]], atol=0.01)
        phases = [(event["args"]["task"], event["name"]) for event in own]
        assert phases == sorted(set(phases))


def _check_export(out: Path, target: Path, capsys: pytest.CaptureFixture) -> None:
    """The function to export decides as the policy does."""
    checkpoint = run_folder.load(out)
    assert checkpoint.scenario == SCENARIO and set(checkpoint.weights) == {BEST}
    env, params = jaxcoinfer.make(SCENARIO)
    states, timesteps = jax.jit(jax.vmap(env.reset, (0, None)))(
        jax.random.split(jax.random.key(1), 7), params
    )
    view = jax.vmap(lambda s, o: network.view(env, s, o, params))(states, timesteps.observation)
    portable = multi_user.portable(checkpoint)
    outputs = np.asarray(portable.function(view.features))
    assert len(portable.signature.features) == view.features.shape[-1]
    config = dataclasses.replace(multi_user.CONFIG, hidden=checkpoint.hidden[BEST])
    several = learned(env, config, checkpoint.weights[BEST])
    assert several.n_seeds == 2
    policy = several.policy(seeds.pick(several.weights, checkpoint.chosen["seed_of_best"]))
    action = jax.vmap(policy, (None, 0, 0, None))(
        jax.random.key(0), states, timesteps.observation, params
    )
    n_splits = env.n_splits
    np.testing.assert_array_equal(action.split, outputs[..., :n_splits].argmax(axis=-1))
    np.testing.assert_array_equal(action.channel, outputs[..., n_splits:-1].argmax(axis=-1))
    np.testing.assert_allclose(action.power_w, outputs[..., -1], rtol=1e-6)
    if importlib.util.find_spec("flatbuffers"):  # an extra
        from jax import export

        assert cli.main(["export", str(out), "--out", str(target), "--json"]) == 0
        card = json.loads(capsys.readouterr().out)
        assert card["policy"] == BEST
        assert card["input"]["shape"] == ["batch", *view.features.shape[1:]]
        assert card["output"]["shape"] == ["batch", *outputs.shape[1:]]
        written = export.deserialize(bytearray(target.read_bytes())).call(view.features)
        np.testing.assert_allclose(written, outputs, rtol=1e-4, atol=1e-5)


def test_episodes_are_those_of_steps_one_by_one(world: World) -> None:
    env, params = world
    policies = {"greedy": baselines.greedy(env), "all local": baselines.fixed_split(env, 5)}
    episodes = play(env, policies, params, key_of(0, PLAY))["greedy"][0]
    step = jax.jit(env.step)
    decided = 0
    for row in range(SCENARIO.rows):
        state, timestep = env.reset_at(jnp.int32(row), jnp.int32(0), params)
        reward, slots, energy_j = 0.0, 0, 0.0
        while not bool(timestep.terminated):
            decided += int((state.tasks > 0).sum())
            action = policies["greedy"](jax.random.key(0), state, timestep.observation, params)
            state, timestep = step(state, action, params)
            reward, slots = reward + float(timestep.reward), slots + 1
            energy_j += float(timestep.outcome.energy_j.sum())
        assert episodes.slots[row] == slots and episodes.ended[row]
        np.testing.assert_allclose(episodes.reward[row], reward, rtol=1e-4)
        np.testing.assert_allclose(episodes.energy_j[row], energy_j, rtol=1e-4)
    np.testing.assert_array_equal(episodes.tasks, np.asarray(params.bank.tasks).sum(axis=1))
    assert episodes.decisions.split.shape == (decided,)


def test_each_seed_of_a_learned_policy_is_played(world: World) -> None:
    env, params = world
    # "Learned" is only which split to take: so a seed must do as the fixed split does.
    splits = Learned(
        lambda split: lambda *known: baselines.fixed_split(env, split)(*known),
        jnp.array([5, 1, 2], jnp.int32),
    )
    policies = {"fixed": baselines.fixed_split(env, 2), "learned": splits}
    episodes = play(env, policies, params, key_of(0, PLAY))
    assert len(episodes["fixed"]) == 1 and len(episodes["learned"]) == 3
    fixed, last = episodes["fixed"][0], episodes["learned"][2]
    np.testing.assert_array_equal(last.reward, fixed.reward)
    for one, split in zip(episodes["learned"], (5, 1, 2), strict=True):
        assert (one.decisions.split == split).all() and one.ended.all()
    assert (episodes["learned"][0].reward != fixed.reward).all()


def test_policies_do_without_what_only_the_world_knows(world: World) -> None:
    env, params = world
    state, timestep = env.reset_at(jnp.int32(2), jnp.int32(0), params)
    seen, known = env.visible(state, params)
    assert known.bank is None and params.bank is not None
    # All of the state is the users' own: what they have left, and where they are.
    for one, other in zip(jax.tree.leaves(seen), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)
    config = dataclasses.replace(multi_user.CONFIG, hidden=(4, 4))
    view = network.view(env, seen, timestep.observation, known)
    weights = network.network(env, config).init(jax.random.key(0), view)
    learner = learned(env, config, jax.tree.map(lambda leaf: leaf[None], weights))
    policies = baseline_policies(env, 2) | {BEST: learner.policy(weights)}
    assert set(policies) == {"all local", "random", "greedy", FIXED, BEST}
    for name, policy in policies.items():
        assert not isinstance(policy, Oracle), name
        blind, full = (
            policy(jax.random.key(1), *args)
            for args in ((seen, timestep.observation, known), (state, timestep.observation, params))
        )
        acted = act(env, policy, jax.random.key(1), state, timestep.observation, params)
        for other in (full, acted):
            jax.tree.map(np.testing.assert_array_equal, blind, other)


def test_the_best_fixed_split_is_the_best_of_all(world: World) -> None:
    env, params = world
    policies = {str(split): baselines.fixed_split(env, split) for split in range(env.n_splits)}
    episodes = play(env, policies, first_starts(params, 4), key_of(0, PLAY))
    rewards = [episodes[str(split)][0].reward.mean() for split in range(env.n_splits)]
    assert best_fixed(env, params, key_of(0, PLAY), n_rows=4) == int(np.argmax(rewards))


def test_choices_by_distance_by_hand() -> None:
    decisions = Decisions(
        distance_m=np.array([1.0, 10.0, 17.0, 81.0]),
        split=np.array([0, 2, 2, 1]),
        channel=np.zeros(4, int),
        power_w=np.array([0.2, 0.4, 0.9, 1.0]),
    )
    choices = report.choices(decisions, np.array([1.0, 81.0]), 3)  # bins of 10 m
    assert choices.decisions[0].tolist() == [1, 0, 1]
    assert choices.decisions[1].tolist() == [0, 0, 1] and choices.decisions[7].tolist() == [0, 1, 0]
    assert choices.decisions.sum() == 4
    np.testing.assert_allclose(choices.power_w[[0, 1, 7]], [0.3, 0.9, 1.0])
    assert math.isnan(choices.power_w[2])
    _, rows = report.powers_sheet({"a": choices})
    assert len(rows) == 3 and rows[0][:3] == ("a", 1.0, 11.0)
