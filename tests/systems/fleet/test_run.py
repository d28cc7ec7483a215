"""A run of `fleet`: what it writes, that it is read back, and what it counts and reports of its
policies.
"""

import csv
import dataclasses
import importlib.util
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer import cli, run_folder
from jaxcoinfer.core.rollout import act
from jaxcoinfer.evaluation import evaluate, seeds
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import baselines, report
from jaxcoinfer.systems.fleet import run as fleet
from jaxcoinfer.systems.fleet.bound import solve
from jaxcoinfer.systems.fleet.env import tables
from jaxcoinfer.systems.fleet.evaluation import certified, player
from jaxcoinfer.systems.fleet.network import network
from jaxcoinfer.systems.fleet.network import view as view_of
from jaxcoinfer.systems.fleet.policies import (
    ALTERNATING,
    BEST,
    FREE,
    INFORMED,
    LEARNERS,
    RECOVERY,
    UNTRAINED,
    baseline_policies,
    config_of,
)

SCENARIO = dataclasses.replace(registry.load_scenario("fleet"), devices=5, rows=3, slots=6)
KINDS = len(SCENARIO.kinds)
# test_env plays every baseline.
PLAYED = (ALTERNATING, "greedy", "equal shares", RECOVERY, UNTRAINED)


@pytest.fixture(scope="module")
def world():
    return jaxcoinfer.make(SCENARIO)


@pytest.fixture(scope="module")
def played(world):
    """Two baselines, tasks by name, of one seed each."""
    env, params = world
    policies = {"greedy": baselines.greedy(env), "device only": baselines.device_only(env)}
    return player({name: (env, policy) for name, policy in policies.items()})(params)


@pytest.fixture(scope="module")
def late_world():
    """Links and loads change from slot to slot, and are known a slot late."""
    return jaxcoinfer.make(dataclasses.replace(SCENARIO, delay_slots=1))


def _tiny(monkeypatch, scenario):
    """Makes a quick run shorter: a small world, one shape of it, few baselines."""
    config = dataclasses.replace(
        fleet.QUICK.config,
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
    sizes = dataclasses.replace(
        fleet.QUICK,
        config=config,
        seeds=2,
        rows=SCENARIO.rows,
        slots=SCENARIO.slots,
        sweep_rows=SCENARIO.rows,
        sweep_slots=SCENARIO.slots,
        devices=(1.0,),
        bandwidths=(0.5, 1.0),
    )
    monkeypatch.setattr(fleet, "QUICK", sizes)
    monkeypatch.setattr(fleet, "baseline_policies", _baselines)
    monkeypatch.setattr(registry, "load_scenario", lambda name: scenario)


def _baselines(env, hidden, delayed=False):
    policies = baseline_policies(env, hidden, delayed)
    return {name: policies[name] for name in (*PLAYED, *([INFORMED] if delayed else []))}


@pytest.mark.parametrize("delay", [0, 1])
def test_a_reference_is_informed_where_something_is_late(world, delay):
    scenario = dataclasses.replace(SCENARIO, delay_slots=delay)
    policies = fleet._baselines(scenario, world[0], (4, 4))
    assert set(policies) - {INFORMED} >= set(PLAYED) and (INFORMED in policies) == (delay == 1)


@pytest.mark.slow
def test_a_run_writes_everything_and_is_read_back(capsys, tmp_path, monkeypatch):
    scenario = dataclasses.replace(SCENARIO, delay_slots=1)
    _tiny(monkeypatch, scenario)
    out = tmp_path / "run"
    assert cli.main(["run", "fleet", "--quick", "--seed", "3", "--out", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()[:-1]
    assert max(map(len, said)) <= 80 and not any("…" in line for line in said)
    assert any("no policy does better than the mean certified dual bound" in line for line in said)
    assert any(line.startswith(f"{INFORMED} *") for line in said)
    assert any("a slot later" in line for line in said)
    assert not any("late" in line for line in said[:2])
    names = {path.name for path in out.iterdir()}
    written = {"config.json", "metrics.csv", "summary.json", "checkpoint.msgpack", "timeline.json"}
    written |= {f"{name}.csv" for name in ("learning", "classes", "choices", "shares", "sweeps")}
    written |= {"differences.csv"}
    written |= {
        f"{name}.png" for name in ("utility", "cost", "gap", "choices", "shares", "learning")
    }
    assert names == written
    summary = json.loads((out / "summary.json").read_text())
    _check_numbers(out, summary)
    slices = [
        e for e in json.loads((out / "timeline.json").read_text())["traceEvents"] if e["ph"] == "X"
    ]
    assert 0 < len(slices) <= fleet.N_TIMELINE and all(e["dur"] > 0 for e in slices)
    assert cli.main(["evaluate", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert set(again["policies"]) == set(summary["policies"]) == set(again["by_class"])
    _check_export(out, tmp_path / "policy", capsys, scenario)


def _check_numbers(out, summary):
    """No policy is better than the reference, but for a little."""
    policies, compared = summary["policies"], summary["compared_with"]
    assert set(policies) == {*PLAYED, BEST, INFORMED} and compared in PLAYED
    least = policies[INFORMED]["measures"]["gap_ratio"]["mean"]
    for name, policy in policies.items():
        assert policy["deployable"] == (name != INFORMED)
        gap = policy["measures"]["gap_ratio"]["mean"]
        assert gap > -1e-5 and gap >= least - 1e-5
    assert policies[compared]["measures"]["utility_gain"]["mean"] == 0.0
    chosen = json.loads((out / "config.json").read_text())["chosen"]
    assert chosen == {"compared": compared, "best": BEST, "seed_of_best": chosen["seed_of_best"]}
    assert chosen["seed_of_best"] in (0, 1)
    differences = list(csv.DictReader((out / "differences.csv").read_text().splitlines()))
    assert {row["above"] for row in differences} == {*policies} - {INFORMED}
    tasks = {}
    for row in csv.DictReader((out / "choices.csv").read_text().splitlines()):
        tasks[row["policy"]] = tasks.get(row["policy"], 0) + int(row["tasks"])
    assert tasks.pop(BEST) == 2 * tasks["greedy"]  # of two seeds
    assert {*tasks, BEST} == set(policies) and len(set(tasks.values())) == 1
    learned = list(csv.DictReader((out / "learning.csv").read_text().splitlines()))
    assert {(row["learner"], row["seed"]) for row in learned} == {(BEST, "0"), (BEST, "1")} and len(
        learned
    ) == 6
    swept = list(csv.DictReader((out / "sweeps.csv").read_text().splitlines()))
    assert {(row["what"], float(row["value"])) for row in swept} == {
        ("devices", 5.0),
        ("bandwidth_hz", 1.5e6),
        ("bandwidth_hz", 3e6),
    }
    assert all(float(row["gap_ratio"]) > -1e-5 for row in swept)
    # The answer that comes with the bound knows what is true now.
    assert {row["policy"] for row in swept} == {
        *("bound", BEST, ALTERNATING, "greedy", "equal shares"),
        INFORMED,
    }


def _check_export(out, target, capsys, scenario):
    """The function to export decides as the policy does, and gives what is not valid no chance."""
    checkpoint = run_folder.load(out)
    assert checkpoint.scenario == scenario
    env, params = jaxcoinfer.make(scenario)
    states, timesteps = jax.jit(jax.vmap(env.reset, (0, None)))(
        jax.random.split(jax.random.key(1), 7), params
    )
    view = jax.vmap(lambda s, o: view_of(env, s, o, params))(states, timesteps.observation)
    portable = fleet.portable(checkpoint)
    leaves = [getattr(view, name) for name in portable.inputs]
    logits = np.asarray(portable.function(*leaves))
    _, learned = LEARNERS[BEST].learned(env, checkpoint.hidden[BEST], checkpoint.weights[BEST])
    assert learned.n_seeds == 2
    policy = learned.policy(seeds.pick(learned.weights, checkpoint.chosen["seed_of_best"]))
    act = jax.vmap(policy, (None, 0, 0, None))(
        jax.random.key(0), states, timesteps.observation, params
    )
    here = np.asarray(view.active)
    np.testing.assert_array_equal(np.asarray(act)[here], logits.argmax(axis=-1)[here])
    assert np.array_equal(np.isfinite(logits), np.asarray(view.valid))
    if importlib.util.find_spec("flatbuffers"):  # an extra
        from jax import export

        assert cli.main(["export", str(out), "--out", str(target), "--json"]) == 0
        card = json.loads(capsys.readouterr().out)
        assert card["policy"] == BEST and card["output"]["shape"] == [
            "batch",
            env.n_devices,
            env.n_choices,
        ]
        assert [array["name"] for array in card["input"]["arrays"]] == list(portable.inputs)
        assert all(
            array["shape"][:2] == ["batch", env.n_devices] for array in card["input"]["arrays"]
        )
        written = export.deserialize(bytearray(target.read_bytes())).call(*leaves)
        np.testing.assert_allclose(written, logits, rtol=1e-4, atol=1e-5)


def test_every_task_is_played_once_and_at_its_price(world, played):
    env, params = world
    active = np.asarray(params.bank.active)[:, :-1]
    for (tasks,) in played.values():
        found = np.zeros(active.shape, int)
        np.add.at(found, (tasks.row, tasks.slot, tasks.device), 1)
        np.testing.assert_array_equal(found, active)
    (one,) = played["greedy"]
    state, timestep = env.reset_at(jnp.int32(1), jnp.int32(4), params)
    action = baselines.greedy(env)(jax.random.key(0), state, timestep.observation, params)
    _, after = env.step(state, action, params)
    of_slot = (one.row == 1) & (one.slot == 4)
    np.testing.assert_allclose(one.utility[of_slot].mean(), after.reward, rtol=1e-5)
    np.testing.assert_array_equal(one.choice[of_slot], np.asarray(action)[active[1, 4]])


def test_the_bound_is_that_of_every_slot(world, played):
    env, params = world
    bound, cost = certified(env, params)
    states = [
        env.reset_at(jnp.int32(2), jnp.int32(slot), params)[0] for slot in range(SCENARIO.slots)
    ]
    by_slot = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(tables(state.now, params) for state in states)
    )
    by_hand = jax.jit(jax.vmap(solve))(by_slot)
    n_tasks = np.asarray(params.bank.active)[2, :-1].sum()
    np.testing.assert_allclose(bound[2], np.asarray(by_hand.bound).sum() / n_tasks, rtol=1e-5)
    assert (bound <= cost * (1 + 1e-6)).all()
    assert all((report.gap_by_row(tasks, cost) > -1e-5).all() for (tasks,) in played.values())


def test_classes_habits_and_shares_are_those_of_the_tasks(world, played):
    env, _ = world
    (tasks,) = played["device only"]
    found = report.by_class(played)["device only"]
    assert len(found) == 2
    urgent_cost = [
        -tasks.utility[tasks.urgent & (tasks.row == row)].mean()
        for row in np.unique(tasks.row[tasks.urgent])
    ]
    assert found[1]["cost"].mean == pytest.approx(np.mean(urgent_cost), rel=1e-5)
    habits = report.habits(env, tasks, KINDS)
    seen = ~np.isnan(habits.bandwidth)
    np.testing.assert_allclose(habits.choices.sum(axis=(2, 3))[seen], 1.0)
    np.testing.assert_allclose(habits.choices[seen][..., -1].sum(axis=-1), 1.0)  # nothing is sent
    np.testing.assert_array_equal(habits.bandwidth[seen], 0.0)
    np.testing.assert_array_equal(habits.compute[seen], 0.0)


def test_classes_that_have_no_tasks_are_not_known(played):
    (tasks,) = played["greedy"]
    calm = dataclasses.replace(tasks, urgent=np.zeros_like(tasks.urgent))
    found = report.by_class({"greedy": [calm]})["greedy"]
    assert found[0]["cost"].mean == pytest.approx(
        -evaluate.by_row(tasks, tasks.utility).mean(), rel=1e-6
    )
    assert np.isnan([found[1][name].mean for name in ("cost", "accuracy")]).all()


def test_the_bound_and_all_outcomes_are_those_of_the_present(late_world):
    env, params = late_world
    present = params.replace(delay_slots=jnp.int32(0))
    for one, other in zip(certified(env, params), certified(env, present), strict=True):
        np.testing.assert_array_equal(one, other)
    bound, cost = certified(env, params)
    policies = baseline_policies(env, (4, 4), delayed=True)
    assert set(policies) - set(baseline_policies(env, (4, 4))) == {INFORMED}
    names = (INFORMED, RECOVERY, "greedy", "equal shares", ALTERNATING)
    played = player({name: policies[name] for name in names})
    late, known = played(params), played(present)
    costs = {name: -evaluate.by_row(one, one.utility) for name, (one,) in late.items()}
    assert all((by_row >= bound * (1 - 1e-5)).all() for by_row in costs.values())
    # Who knows the present decides as if nothing were late: it is the answer that comes with the
    # bound; who learns it a slot late decides otherwise, and worse.
    np.testing.assert_allclose(costs[INFORMED], cost, rtol=1e-5)
    np.testing.assert_array_equal(late[INFORMED][0].choice, known[INFORMED][0].choice)
    assert (costs[RECOVERY] >= costs[INFORMED] * (1 - 1e-5)).all()
    assert costs[RECOVERY].mean() > costs[INFORMED].mean() * 1.001
    for name in names[1:]:
        assert (late[name][0].choice != known[name][0].choice).any(), name


def test_sweeps_call_the_answer_with_the_bound_by_who_can_give_it(late_world):
    env, params = late_world
    (late,) = report.certified_costs([late_world])
    (known,) = report.certified_costs([(env, params.replace(delay_slots=jnp.int32(0)))])
    assert set(late) == {report.BOUND, INFORMED} and set(known) == {report.BOUND, RECOVERY}
    np.testing.assert_array_equal(late[INFORMED], known[RECOVERY])


def test_each_seed_of_a_learner_is_played(world):
    env, params = world
    state, timestep = env.reset_at(jnp.int32(0), jnp.int32(0), params)
    view = view_of(env, state, timestep.observation, params)
    net = network(env, config_of(hidden=(4, 4)))
    rng, begun = np.random.default_rng(0), net.init(jax.random.key(3), view)
    weights = jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf) + rng.normal(size=(2, *leaf.shape)), jnp.float32),
        begun,
    )
    both = LEARNERS[BEST].learned(env, (4, 4), weights)
    found = player({BEST: both, "greedy": (env, baselines.greedy(env))})(params)
    assert len(found[BEST]) == 2 and len(found["greedy"]) == 1
    for seed, tasks in enumerate(found[BEST]):
        alone = both[1].policy(seeds.pick(weights, seed))
        (other,) = player({BEST: (env, alone)})(params)[BEST]
        np.testing.assert_array_equal(tasks.choice, other.choice)
        np.testing.assert_allclose(tasks.utility, other.utility, rtol=1e-6)
    assert (found[BEST][0].choice != found[BEST][1].choice).any()


@pytest.mark.parametrize("name", ["plain", "leveled"])
def test_policies_do_without_what_only_the_world_knows(late_world, name):
    env, params = late_world
    learner = LEARNERS[BEST if name == "plain" else FREE]
    seen_env = learner.env(env)
    state, timestep = seen_env.reset_at(jnp.int32(1), jnp.int32(3), params)
    seen, known = seen_env.visible(state, params)
    assert seen.row is None and seen.now is None and known.bank is None
    config = config_of(hidden=(4, 4))
    view = view_of(seen_env, seen, timestep.observation, known)
    weights = network(seen_env, config).init(jax.random.key(0), view)
    _, learned = learner.learned(env, (4, 4), jax.tree.map(lambda leaf: leaf[None], weights))
    policies = {"learned": learned.policy(weights)}
    if name == "plain":
        policies |= {k: one for k, (_, one) in baseline_policies(env, (4, 4)).items()}
    for who, policy in policies.items():
        decide = jax.jit(policy)
        blind = decide(jax.random.key(0), seen, timestep.observation, known)
        full = decide(jax.random.key(0), state, timestep.observation, params)
        acted = act(seen_env, policy, jax.random.key(0), state, timestep.observation, params)
        for other in (full, acted):
            jax.tree.map(partial(np.testing.assert_array_equal, err_msg=who), blind, other)
    informed = baselines.informed(env, baselines.dual_recovery)
    with pytest.raises(AttributeError):  # it needs the present, which is not there
        informed(jax.random.key(0), seen, timestep.observation, known)


def test_a_sweep_tells_gaps_row_by_row():
    found = report.sweep(
        [4, 8], [{report.BOUND: np.array([1.0, 2.0]), "x": np.array([1.5, 2.0])}] * 2
    )
    assert found.values == [4, 8] and list(found.cost) == ["x"]
    assert found.gap["x"][1].mean == pytest.approx(0.25) and found.bound[0].mean == 1.5
