"""A run of `on-demand`: what it writes, that it is read back, and what it reports of its
policies.
"""

import csv
import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer import cli, run_folder
from jaxcoinfer.core.stacked import Stacked
from jaxcoinfer.evaluation import evaluate, protocol, seeds
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.on_demand import baselines, misses, report
from jaxcoinfer.systems.on_demand import run as on_demand
from jaxcoinfer.systems.on_demand.bound import solve
from jaxcoinfer.systems.on_demand.lookup import look_up
from jaxcoinfer.systems.on_demand.misses import MissRatio
from jaxcoinfer.systems.on_demand.policies import (
    BEST,
    EXACT,
    EXACT_MEMORY,
    GREEDY,
    INFORMED,
    LEARNERS,
    LINEAR,
    LOOK_UP,
    NOT_DEPLOYABLE,
    baseline_policies,
    choose,
    outcomes,
)
from training.curves import first_lasting

SCENARIO = dataclasses.replace(registry.load_scenario("on-demand-markov"), rows=4, slots=300)
# The same world with a task in round numbers: five layers, exits after the second and third, 20 ms
# on the device.
PLAIN = dataclasses.replace(
    SCENARIO,
    task=dataclasses.replace(registry.load_scenario("on-demand-wifi").task, rtt_s=0.001),
    rate=dataclasses.replace(SCENARIO.rate, rates_bps=(3e6, 12e6, 30e6, 80e6, 200e6)),
    device_speed=dataclasses.replace(SCENARIO.device_speed, speeds=(1.0, 0.5)),
)
BITS = (2, 4, 8)
# test_bound plays every baseline.
PLAYED = (GREEDY, LOOK_UP, LINEAR, "best fixed action", INFORMED, EXACT)


@pytest.fixture(scope="module")
def world():
    return jaxcoinfer.make(PLAIN)


def _tiny(monkeypatch):
    """Makes a quick run shorter: one small learner, few baselines."""
    config = dataclasses.replace(
        on_demand.QUICK.learners[BEST],
        hidden=(8,),
        buffer_size=1 << 10,
        n_evaluations=3,
        updates_per_evaluation=2,
        n_batches=1,
        batch=32,
        evaluation_steps=10,
    )
    sizes = dataclasses.replace(
        on_demand.QUICK, learners={BEST: config}, seeds=2, rows=3, slots=200
    )
    monkeypatch.setattr(on_demand, "QUICK", sizes)
    monkeypatch.setattr(on_demand, "baseline_policies", _baselines)


def _baselines(env, chosen, solution):
    policies = baseline_policies(env, chosen, solution)
    return {name: policies[name] for name in PLAYED}


@pytest.mark.slow
def test_a_run_writes_everything_and_is_read_back(capsys, tmp_path, monkeypatch):
    _tiny(monkeypatch)
    out = tmp_path / "run"
    assert cli.main(["run", "on-demand", "--quick", "--seed", "3", "--out", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()[:-1]
    assert max(map(len, said)) <= 80 and not any("…" in line for line in said)
    assert any("target 1e-3" in line for line in said)
    names = {path.name for path in out.iterdir()}
    written = {"config.json", "metrics.csv", "summary.json", "checkpoint.msgpack", "timeline.json"}
    written |= {f"{name}.csv" for name in ("learning", "misses", "choices", "deadlines")}
    written |= {"links.csv", "differences.csv"}
    written |= {
        f"{name}.png" for name in ("utility", "delay", "choices", "misses", "deadlines", "learning")
    }
    assert names == written
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["policies"]) == {*PLAYED, BEST}
    assert summary["compared_with"] in (GREEDY, LOOK_UP, LINEAR, "best fixed action")
    for name, policy in summary["policies"].items():
        assert policy["deployable"] == (name not in NOT_DEPLOYABLE)
        n_seeds = 2 if name == BEST else 1  # tasks of every seed count
        counted = summary["late_by_class"][name].values()
        assert sum(ratio["tasks"] for ratio in counted) == n_seeds * 3 * 199
    config = json.loads((out / "config.json").read_text())["chosen"]
    assert config["compared"] == summary["compared_with"] and config["seed_of_best"] in (0, 1)
    tables = {"table", "reliable", "linear"}
    assert set(config) == {"compared", "best", "seed_of_best", "fixed"} | tables
    links = list(csv.DictReader((out / "links.csv").read_text().splitlines()))
    assert {row["link"] for row in links} == {"0", "1", "2"} and len(links) == 3 * len(PLAYED) + 3
    differences = list(csv.DictReader((out / "differences.csv").read_text().splitlines()))
    assert {row["above"] for row in differences} == {*PLAYED, BEST} - NOT_DEPLOYABLE
    assert summary["late_by_class"][BEST]["control"]["tasks"] > 0
    shares = {}
    for row in csv.DictReader((out / "choices.csv").read_text().splitlines()):
        shares[row["policy"]] = shares.get(row["policy"], 0.0) + float(row["share"])
    assert set(shares) == set(summary["policies"])
    np.testing.assert_allclose(list(shares.values()), 1.0, atol=1e-9)
    learned = list(csv.DictReader((out / "learning.csv").read_text().splitlines()))
    assert {(row["learner"], row["seed"]) for row in learned} == {(BEST, "0"), (BEST, "1")} and len(
        learned
    ) == 6
    slices = [
        e for e in json.loads((out / "timeline.json").read_text())["traceEvents"] if e["ph"] == "X"
    ]
    assert len({e["name"] for e in slices}) == on_demand.N_TIMELINE and all(
        e["dur"] > 0 for e in slices
    )
    assert cli.main(["evaluate", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert set(again["policies"]) == set(summary["policies"]) and set(
        again["late_by_class"]
    ) == set(shares)
    _check_export(out, tmp_path / "policy", capsys)


def _check_export(out, target, capsys):
    """The function to export decides as the policy does, and gives what is not valid no chance."""
    checkpoint = run_folder.load(out)
    stored = on_demand.chosen_of(checkpoint)
    assert stored.table.action.dtype == jnp.int32 and stored.table.action.shape[-1] == 3
    env, params = jaxcoinfer.make(SCENARIO)
    states, timesteps = jax.jit(jax.vmap(env.reset, (0, None)))(
        jax.random.split(jax.random.key(1), 50), params
    )
    portable = on_demand.portable(checkpoint)
    logits = np.asarray(portable.function(timesteps.observation))
    assert np.array_equal(np.isfinite(logits), np.broadcast_to(params.valid, logits.shape))
    assert portable.signature.features[-3:] == ("is_interactive", "is_control", "is_safety")
    assert "-inf where an action is invalid" in portable.signature.meaning
    config = LEARNERS[BEST].module.Config(hidden=checkpoint.hidden[BEST])
    learned = LEARNERS[BEST].learned(env, config, checkpoint.weights[BEST], stored.table)
    assert learned.n_seeds == 2
    policy = learned.policy(seeds.pick(learned.weights, checkpoint.chosen["seed_of_best"]))
    act = jax.vmap(policy, (None, 0, 0, None))
    assert np.array_equal(
        act(jax.random.key(0), states, timesteps.observation, params), logits.argmax(axis=-1)
    )
    if importlib.util.find_spec("flatbuffers"):  # an extra
        from jax import export

        assert cli.main(["export", str(out), "--out", str(target), "--json"]) == 0
        card = json.loads(capsys.readouterr().out)
        assert card["policy"] == BEST and card["output"]["shape"] == ["batch", env.n_actions]
        written = export.deserialize(bytearray(target.read_bytes())).call(timesteps.observation)
        np.testing.assert_allclose(written, logits, rtol=1e-5)


@pytest.mark.slow
def test_the_bound_is_the_optimum_that_remembers_where_that_is_more():
    scenario = dataclasses.replace(registry.load_scenario("on-demand-outages"), rows=3, slots=100)
    env, params = jaxcoinfer.make(scenario)
    solution = solve(scenario, env, params)
    targets = [0.1] * env.n_classes
    chosen = choose(env, params, look_up(env, params), targets, jax.random.key(1))
    policies = {
        name: policy
        for name, policy in baseline_policies(env, chosen, solution).items()
        if name in (GREEDY, INFORMED, EXACT, EXACT_MEMORY)
    }
    (tasks,) = on_demand.play(env, policies, [params], jax.random.key(0))
    table = on_demand.table(tasks, GREEDY, params, scenario, solution)
    assert table.bound.computed == solution.gain_history
    assert table.rows[EXACT_MEMORY].gap.mean == 0.0 and not table.rows[EXACT_MEMORY].deployable
    del tasks[EXACT], tasks[EXACT_MEMORY]
    unknown = on_demand.table(tasks, GREEDY, params, scenario, None)
    assert unknown.bound.what == "full information" and unknown.rows[GREEDY].gap.mean > 0


def test_decisions_are_told_as_exit_cut_and_bits(world):
    env, params = world
    action = np.array(
        [env.n_actions - 1, ((3 - 1) * 6 + 1) * 3 - 1, (1 * 6 + 2) * 3 + 1]
    )  # device, edge, exit 2
    leaves, cut, bits = report.decisions(env, params, BITS, action)
    assert (leaves.tolist(), cut.tolist(), bits.tolist()) == ([3, 3, 2], [5, 0, 2], [0, 0, 4])


def test_maps_show_what_the_policy_does(world):
    env, params = world
    found = report.maps(env, params, BITS, baselines.edge_only(env), 2)
    assert found.exit.shape == (2, 41, 61) and (found.exit == 3).all() and (found.cut == 0).all()
    assert (
        found.rate_bps[0] == 3e6
        and found.rate_bps[-1] == pytest.approx(200e6)
        and found.speed[0] == 0.5
    )
    greedy = report.maps(env, params, BITS, baselines.greedy(env), 2)
    assert (
        greedy.cut[1, :, 0] > greedy.cut[1, :, -1]
    ).any()  # slow links keep more layers on the device


def test_accuracy_in_time_by_deadline(world):
    env, params = world
    sweep = report.sweep_deadline(
        env, params, {"device": baselines.device_only(env)}, 1, (0.5, 3.0, 5.0), jax.random.key(0)
    )
    # Of the full network, 20 ms at speed 1 and 40 ms at speed 0.5: never within 5 ms, within 30
    # where not throttled.
    np.testing.assert_allclose(sweep.deadlines_s, [0.005, 0.03, 0.05])
    never, some, always = (interval.mean for interval in sweep.accuracy["device"])
    assert never == 0.0 and 0.3 < some < 0.76 and always == pytest.approx(0.76)


@pytest.mark.parametrize("memory", [1, 3])
def test_counted_misses_are_those_of_the_tasks(world, memory):
    env, params = world
    policy = baselines.fixed(((3 - 1) * 6 + 1) * 3 + 2)
    learner_env = env if memory == 1 else Stacked(env, memory)
    late, count = map(np.asarray, misses.count(learner_env, params, policy, jax.random.key(0)))
    tasks = evaluate.run(env, [params], policy, jax.random.key(0))[0]
    rows = protocol.links(PLAIN, "train", PLAIN.rows)
    assert misses.ratios(late, count) == misses.miss_ratios([tasks], params, rows)
    assert count.sum() == len(tasks.utility) and 0 < late.sum() < count.sum()


def test_shares_are_told_in_six_characters():
    ratios = {
        "x": (MissRatio(0.42, 0.4, 0.44, 42, 100), MissRatio(0.0012, 0.0008, 0.0019, 12, 10000))
    }
    ratios["y"] = (MissRatio(0.0, 0.0, 0.00028, 0, 10000), MissRatio(1.0, 0.999, 1.0, 10, 10))
    classes = SCENARIO.classes[:2]
    ((_, rows),) = report.misses_printed(dataclasses.replace(SCENARIO, classes=classes), ratios)
    assert rows == [
        ("x", "0.42 [0.40,0.44]", "1.2e-3 [8e-4,2e-3]"),
        ("y", "0 [0,3e-4]", "1.00 [1.00,1.00]"),
    ]


def test_outcomes_look_through_memory(world):
    env, params = world
    plain, _ = env.reset(jax.random.key(0), params)
    stacked, _ = Stacked(env, 4).reset(jax.random.key(0), params)
    np.testing.assert_array_equal(
        outcomes(env, plain, jnp.int32(0), params),
        outcomes(Stacked(env, 4), stacked, jnp.int32(1), params),
    )
    assert jnp.isfinite(outcomes(env, plain, jnp.int32(0), params)).sum() == params.valid.sum()


def test_the_first_lasting_evaluation_begins_a_window_that_is_good_enough():
    curve = np.array([0.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert first_lasting(curve, np.arange(8), 1.0, window=3) == 0.0  # (0 + 9 + 1) / 3
    assert first_lasting(curve[2:] * 0.9, np.arange(6), 1.0, window=3) != first_lasting(
        curve, np.arange(8), 2.0, 3
    )
    assert np.isnan(first_lasting(curve * 0, np.arange(8), 1.0))
