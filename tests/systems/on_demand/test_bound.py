"""The exact optimum of `on-demand`, its scenarios, its generators, and its deadline misses."""

import dataclasses
import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer.data import costs, profiles, traces
from jaxcoinfer.data.fields import ProfileError
from jaxcoinfer.data.processes import (
    SPLITS,
    ConstantRate,
    ConstantSpeed,
    HeldOutages,
    MarkovRate,
    MarkovSpeed,
)
from jaxcoinfer.data.samples import Samples
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.on_demand import baselines, bound, lookup, misses, twin
from jaxcoinfer.systems.on_demand.env import OnDemand
from jaxcoinfer.systems.on_demand.make import held_outages, markov_chain, task_classes
from jaxcoinfer.systems.on_demand.scenario import (
    DeadlineClass,
    GridProfiles,
    grid_numbers,
    stationary,
)
from jaxcoinfer.systems.registry import make
from tests.helpers.on_demand import random_system

NAMES = tuple(name for name in registry.list_scenarios() if name.startswith("on-demand"))
SHIPPED = registry.load_scenario("on-demand-markov")
# One exit, three cuts, one width: three actions. Two rates, two speeds of the device, one class.
TINY = dataclasses.replace(
    SHIPPED,
    rows=8,
    slots=2000,
    classes=(
        DeadlineClass(
            name="a",
            deadline_s=0.02,
            accuracy_weight=0.5,
            penalty=1.0,
            share=1.0,
            target_miss_ratio=0,
        ),
    ),
    task=dataclasses.replace(
        registry.load_scenario("on-demand-wifi").task,
        rtt_s=0.001,
        cut_device_s=(0.0, 0.004, 0.018),
        cut_edge_s=(0.0, 0.001, 0.002),
        cut_energy_j=(0.0, 0.0, 0.0),
        cut_elements=(5000.0, 10.0),
        input_bits=200_000.0,
        exit_cut=(2,),
        exit_device_s=(0.0,),
        exit_edge_s=(0.0,),
        exit_energy_j=(0.0,),
        exit_accuracy=(0.8,),
        bits=(8,),
        bits_loss=(0.05,),
    ),
    rate=MarkovRate((4e6, 40e6), ((0.7, 0.3), (0.2, 0.8))),
    device_speed=MarkovSpeed((1.0, 0.5), (0.1, 0.3)),
    edge_speed=ConstantSpeed(),
)


@cache
def built(scenario):
    return make(scenario, jax.random.key(5))


def tiny_reward(action, rate_bps, speed):
    """Device 4 ms to cut 1, 18 ms to the end; edge 2 ms for all, 1 ms from cut 1; round trip 1 ms;
    deadline 20 ms.
    """
    accuracy, latency_s = {
        0: (0.8, 0.0 + 200_000 / rate_bps + 0.001 + 0.002),
        1: (0.75, 0.004 / speed + 40_000 / rate_bps + 0.001 + 0.001),
        2: (0.8, 0.018 / speed),
    }[action]
    latency_s = min(latency_s, 3.0 * 0.02)
    return 0.5 * accuracy - 0.5 * latency_s / 0.02 - (latency_s > 0.02)


@pytest.mark.parametrize("delay", [0, 1])
def test_the_optimum_of_a_tiny_system_is_that_of_all_its_policies(delay):
    scenario = dataclasses.replace(TINY, delay_slots=delay)
    env, params = built(scenario)
    solution = bound.solve(scenario, env, params)
    # Stationary: rates .4, .6 (.4 * .3 = .6 * .2); speeds .75, .25 (.75 * .1 = .25 * .3).
    rates, speeds, laws = (4e6, 40e6), (1.0, 0.5), ((0.4, 0.6), (0.75, 0.25))
    moves = (((0.7, 0.3), (0.2, 0.8)), ((0.9, 0.1), (0.3, 0.7)))
    states = list(itertools.product(range(2), range(2)))

    def chance(before, after):
        if delay == 0:
            return float(before == after)
        return moves[0][before[0]][after[0]] * moves[1][before[1]][after[1]]

    def value(policy):  # policy: the action in each observed state
        return sum(
            laws[0][b[0]]
            * laws[1][b[1]]
            * chance(b, a)
            * tiny_reward(policy[i], rates[a[0]], speeds[a[1]])
            for i, b in enumerate(states)
            for a in states
        )

    values = {policy: value(policy) for policy in itertools.product(range(3), repeat=4)}
    best = max(values, key=lambda policy: values[policy])
    assert solution.gain == pytest.approx(values[best], abs=1e-6)
    assert solution.gain_history == pytest.approx(solution.gain, abs=1e-9)
    assert tuple(solution.action[r, d, 0, 0] for r, d in states) == best
    assert solution.fixed_gain == pytest.approx(max(values[(a,) * 4] for a in range(3)), abs=1e-6)
    full = sum(
        laws[0][r] * laws[1][d] * max(tiny_reward(a, rates[r], speeds[d]) for a in range(3))
        for r, d in states
    )
    assert solution.full_information == pytest.approx(full, abs=1e-6)
    assert (delay == 0) == (solution.full_information == pytest.approx(solution.gain, abs=1e-6))


def baseline_policies(env, params):
    return {
        "greedy": baselines.greedy(env),
        "neurosurgeon": baselines.neurosurgeon(env),
        "edgent": baselines.edgent(env),
        "device": baselines.device_only(env),
        "fixed": baselines.fixed(baselines.best_fixed(env, params)),
    }


def play(env, params, compared):
    """Utility and action [K, T] of each policy. No action moves the world, so every slot stands for
    itself.
    """

    @jax.jit
    def all_of(params):
        def of_slot(row, slot):
            state, timestep = env.reset_at(row, slot, params)
            utility = twin.evaluate(env, state, params).utility
            acts = {
                n: act(jax.random.key(0), state, timestep.observation, params)
                for n, act in compared.items()
            }
            return {name: (utility[action], action) for name, action in acts.items()}

        rows, slots = (
            jnp.arange(n, dtype=jnp.int32) for n in (params.bank.n_rows, params.bank.n_slots)
        )
        return jax.vmap(jax.vmap(of_slot, (None, 0)), (0, None))(rows, slots[1:])

    return jax.tree.map(np.asarray, all_of(params))


def mean(utility, other=0.0):
    """Mean of utility, or of its difference to another, with an interval over rows."""
    return evaluate.interval((utility - other).mean(axis=1))


def test_no_policy_beats_the_optimum_and_the_optimum_is_reached():
    scenario = dataclasses.replace(SHIPPED, rows=48, slots=1000)
    env, params = built(scenario)
    solution = bound.solve(scenario, env, params)
    compared = {
        "optimum": bound.exact_policy(solution),
        "full": baselines.full_information(env),
    } | baseline_policies(env, params)
    found = {name: utility for name, (utility, _) in play(env, params, compared).items()}
    measured = {name: mean(utility) for name, utility in found.items()}
    # Two half widths are four deviations: a mean of rows that far off is no accident.
    assert abs(measured["optimum"].mean - solution.gain) < 2 * measured["optimum"].half
    assert abs(measured["full"].mean - solution.full_information) < 2 * measured["full"].half
    for name in ("greedy", "neurosurgeon", "edgent", "device", "fixed"):
        assert mean(found["optimum"], found[name]).low > 0.0, name
    assert all((utility <= found["full"] + 1e-6).all() for utility in found.values())
    assert (
        solution.fixed_gain
        < solution.gain
        <= solution.gain_history + 1e-12
        <= solution.full_information
    )


@pytest.mark.parametrize("name", ["tiny", "shipped"])
def test_a_table_learned_from_enough_rows_is_the_optimum(name):
    scenario = dataclasses.replace({"tiny": TINY, "shipped": SHIPPED}[name], rows=16, slots=2048)
    env, params = built(scenario)
    solution = bound.solve(scenario, env, params)
    table = lookup.look_up(env, params)
    assert table.action.shape == solution.action.shape  # contexts are what the optimum observes
    _, fresh = make(dataclasses.replace(scenario, rows=64, slots=4096), jax.random.key(9))
    compared = {"table": lookup.look_up_policy(table), "optimum": bound.exact_policy(solution)}
    found = {name: utility for name, (utility, _) in play(env, fresh, compared).items()}
    assert abs(found["table"].mean(dtype=float) - solution.gain) < 0.002
    assert abs((found["table"] - found["optimum"]).mean(dtype=float)) < 0.002


def test_evaluate_plays_on_demand():
    scenario = dataclasses.replace(SHIPPED, rows=6, slots=300)
    env, params = built(scenario)
    policy = baselines.full_information(env)
    tasks = evaluate.evaluate(env, params, {"full": policy}, jax.random.key(1))["full"]
    (utility, action) = play(env, params, {"full": policy})["full"]
    np.testing.assert_allclose(
        evaluate.by_row(tasks, tasks.utility), utility.mean(axis=1), rtol=1e-5
    )
    np.testing.assert_array_equal(np.bincount(tasks.choice), np.bincount(action.flatten()))
    assert evaluate.summarise(tasks, env.n_choices, 0.01)["decisions_per_task"].mean == 1.0
    ratios = misses.miss_ratios([tasks], params, [str(row) for row in range(6)])
    assert sum(ratio.tasks for ratio in ratios) == 6 * 299 and all(
        r.low <= r.mean <= r.high for r in ratios
    )


def test_memory_of_an_outage_is_worth_what_the_bound_says():
    scenario = dataclasses.replace(registry.load_scenario("on-demand-outages"), rows=48, slots=1000)
    env, params = built(scenario)
    solution = bound.solve(scenario, env, params)
    assert solution.gain_history > solution.gain + 0.004
    found = play(
        env,
        params,
        {"memory": bound.exact_policy_with_memory(solution), "none": bound.exact_policy(solution)},
    )
    for name, gain in (("memory", solution.gain_history), ("none", solution.gain)):
        measured = mean(found[name][0])
        assert abs(measured.mean - gain) < 2 * measured.half
    assert mean(found["memory"][0], found["none"][0]).low > 0.0


def test_the_chain_of_held_outages_is_right():
    chain = bound._held(1e6, HeldOutages(0.2, 2, 3))
    # Up; out for the 1st slot, which another follows; for the 2nd, which is the last for half; for
    # the 3rd, the last.
    wanted = [
        [0.8, 0.2, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
        [0.5, 0.0, 0.0, 0.5],
        [1.0, 0.0, 0.0, 0.0],
    ]
    np.testing.assert_allclose(chain.transition, wanted)
    np.testing.assert_array_equal(chain.values, [1e6, 0.0, 0.0, 0.0])
    # A cycle has 1 / .2 = 5 slots up and 2.5 out, in one of two of which there is a 3rd.
    np.testing.assert_allclose(chain.stationary, np.array([5.0, 1.0, 1.0, 0.5]) / 7.5, atol=1e-12)


def test_a_two_state_outage_is_a_markov_rate():
    outage = dataclasses.replace(TINY, rate=ConstantRate(40e6, (0.2, 0.5)))
    chain = dataclasses.replace(TINY, rate=MarkovRate((0.0, 40e6), ((0.5, 0.5), (0.2, 0.8))))
    one, other = (bound.solve(scenario, *built(TINY)) for scenario in (outage, chain))
    assert one.gain == pytest.approx(other.gain, abs=1e-9)
    assert one.full_information == pytest.approx(other.full_information, abs=1e-9)


@pytest.mark.parametrize("name", ["on-demand-fading", "on-demand-wifi"])
def test_where_the_link_is_no_chain_there_is_no_optimum(name):
    assert bound.solve(registry.load_scenario(name), *built(TINY)) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_scenario_mixes_actions(name):
    scenario = dataclasses.replace(registry.load_scenario(name), rows=14, slots=400)
    env, params = built(scenario)
    shape = (3, 9, 4, 3) if name == "on-demand-markov" else (3, 6, 3, 3)
    assert env == OnDemand(*shape) and int(params.delay_slots) == 1
    compared = {"full": baselines.full_information(env)} | baseline_policies(env, params)
    found = play(env, params, compared)
    action = found["full"][1].flatten()
    exits, cuts, widths = env.unflatten(action)
    featured = (cuts > 0) & np.asarray(params.offloads)[action]
    for taken, least in ((exits, 2), (cuts, 3)):
        assert (np.bincount(taken) > 0.02 * len(taken)).sum() >= least
    assert (np.bincount(widths[featured]) > 0.02 * len(widths)).sum() >= 2
    for baseline in ("neurosurgeon", "edgent", "device", "fixed"):
        assert mean(found["full"][0], found[baseline][0]).low > 0.01, baseline
    tight = [c for c in scenario.classes if c.deadline_s == 0.01]
    assert {c.target_miss_ratio for c in tight} == {1e-3, 1e-5}


def test_evaluation_reads_other_links_than_training():
    scenario = dataclasses.replace(registry.load_scenario("on-demand-wifi"), rows=14, slots=400)
    links = [set(traces.expand(scenario.rate.of(split))) for split in SPLITS]
    assert all(links) and not any(a & b for a, b in itertools.combinations(links, 2))
    drawn = [make(scenario, jax.random.key(0), split=split)[1].bank.slots for split in SPLITS]
    for one, other in itertools.combinations(drawn, 2):
        assert (np.asarray(one[..., 0]) != np.asarray(other[..., 0])).any()


def test_a_markov_chain_moves_as_its_matrix_says():
    transition = np.array([[0.5, 0.5, 0.0], [0.1, 0.7, 0.2], [0.0, 0.4, 0.6]])
    states = np.asarray(markov_chain(jax.random.key(0), (400, 500), transition))
    counts = np.zeros((3, 3))
    np.add.at(counts, (states[:, :-1], states[:, 1:]), 1)
    np.testing.assert_allclose(counts / counts.sum(axis=1, keepdims=True), transition, atol=0.01)
    law = stationary(transition)
    np.testing.assert_allclose(law @ transition, law, atol=1e-12)
    np.testing.assert_allclose(law.sum(), 1.0)
    for column in (0, -1):  # the first slot is as likely in a state as the last
        np.testing.assert_allclose(
            np.bincount(states[:, column], minlength=3) / 400, law, atol=0.09
        )


def test_outages_last_as_long_as_they_should():
    out = np.asarray(held_outages(jax.random.key(0), (300, 600), 0.1, 3, 6))
    lengths, gaps = [], []
    for row in out:
        edges = np.flatnonzero(np.diff(row.astype(int)))  # whole runs lie between two edges
        for begin, end in itertools.pairwise(edges):
            (lengths if row[end] else gaps).append(end - begin)
    shares = np.bincount(lengths, minlength=7) / len(lengths)
    np.testing.assert_allclose(shares, [0, 0, 0, 0.25, 0.25, 0.25, 0.25], atol=0.02)
    assert np.mean(gaps) == pytest.approx(10.0, rel=0.05)
    # Of 4.5 + 10 slots 4.5 are out, in the first slot as in any other.
    assert out.mean() == pytest.approx(4.5 / 14.5, rel=0.03)
    first = held_outages(jax.random.key(1), (20000, 1), 0.1, 3, 6)
    assert float(first.mean()) == pytest.approx(4.5 / 14.5, rel=0.05)


def test_classes_come_with_their_shares():
    drawn = np.asarray(task_classes(jax.random.key(0), (50, 1000), (0.6, 0.3, 0.1)))
    assert drawn.dtype == np.int32
    np.testing.assert_allclose(
        np.bincount(drawn.flatten()) / drawn.size, [0.6, 0.3, 0.1], atol=0.01
    )


def test_a_task_from_profiles():
    task = GridProfiles(
        dnn="alexnet",
        device="jetson-nano-5w",
        server="edge-gpu",
        link="wifi-5",
        bits_loss=(0.01, 0.0, 0.0),
    )
    scenario = dataclasses.replace(SHIPPED, rows=2, slots=64, task=task)
    env, params = built(scenario)
    dnn, device = profiles.load_dnn("alexnet"), profiles.load_device("jetson-nano-5w")
    assert env == OnDemand(3, 12, 3, 3)
    # All on the device: the sum of its layers; exit 1 leaves after layer 4, with its head.
    layer_s = costs.layer_seconds(device, dnn)
    assert float(params.t_dev_s[-1]) == pytest.approx(layer_s.sum(), rel=1e-6)
    own = (0 * 12 + 4) * 3 + 2
    assert bool(params.valid[own]) and not bool(params.offloads[own])
    assert float(params.t_dev_s[own]) == pytest.approx(
        layer_s[:4].sum() + costs.head_seconds(device, dnn.exits[0]), rel=1e-6
    )
    # Full network, cut after pool2 (layer 4) at 8 bits: 32,448 elements; at the input, 8-bit values
    # of 3 * 224 * 224.
    sent = (2 * 12 + 4) * 3
    assert float(params.upload_bits[sent]) == 32_448 * 8
    assert float(params.accuracy[sent]) == pytest.approx(0.56522 - 0.01, rel=1e-6)
    assert float(params.upload_bits[2 * 12 * 3 + 2]) == 3 * 224 * 224 * 8
    with pytest.raises(ProfileError, match="bits_loss"):
        grid_numbers(dataclasses.replace(task, bits_loss=()))
    with pytest.raises(ProfileError, match="3 widths"):
        grid_numbers(dataclasses.replace(task, bits_loss=(0.1,)))


def test_measured_accuracy_is_used_where_there_is_some(monkeypatch):
    dnn = profiles.load_dnn("alexnet")
    right = np.zeros((1, 3, 12, 3, 8), bool)
    right[0, 1, 2, 0, :6] = True  # exit 2, cut 2, 8 bits: 6 of 8 samples
    zeros = np.zeros((1, 3, 8))
    samples = Samples(
        samples=8, correct=np.packbits(right, axis=-1), confidence=zeros, entropy=zeros
    )
    monkeypatch.setattr(
        profiles, "load_dnn", lambda name: dataclasses.replace(dnn, samples=samples)
    )
    task = GridProfiles(dnn="alexnet", device="jetson-nano-5w", server="edge-gpu", link="wifi-5")
    accuracy = grid_numbers(task)["accuracy"]
    assert accuracy.shape == (3, 12, 3) and accuracy[1, 2, 0] == 0.75 and accuracy.sum() == 0.75


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('system = "on-demand"', 'system = "on-demnd"', "did you mean 'on-demand'"),
        ("share = 0.5", "share = 0.6", "classes.share"),
        ("[0.80, 0.20, 0.00, 0.00, 0.00]", "[0.80, 0.10, 0.00, 0.00, 0.00]", "rate.transition[0]"),
        ("[0.80, 0.20, 0.00, 0.00, 0.00]", "[0.80, 0.20]", "rate.transition"),
        ("[0.80, 0.20, 0.00, 0.00, 0.00]", "[1.0, 0.0, 0.0, 0.0, 0.0]", "can be reached"),
        ("[0.5e6, 1.5e6, 3e6", "[0.5e6, 0.5e6, 3e6", "rate.rates_bps"),
        ("speeds = [1.0, 0.8]", "speeds = [1.0, 0.8, 0.2]", "device_speed"),
        ('name = "safety"', 'name = "control"', "classes.name"),
        ("deadline_s = 0.05", "deadline_s = 0.0", "classes[0].deadline_s"),
        ("cap = 3.0", "cap = 1.0", "cap"),
        ("slot_s = 0.1", "slot_s = 0.1\narrivals = 1", "unknown field arrivals"),
        ('rate = "assumed', 'rate = "guessed', "rate"),
    ],
)
def test_a_bad_scenario_is_refused_in_one_line(tmp_path, old, new, says):
    text = (profiles.profiles_root() / "scenarios" / "on-demand-markov.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ProfileError) as error:
        registry.load_scenario(path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_held_outages_that_end_before_they_last_are_refused(tmp_path):
    text = (profiles.profiles_root() / "scenarios" / "on-demand-outages.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("longest_slots = 3", "longest_slots = 1"))
    with pytest.raises(
        ProfileError,
        match="longest_slots = 1 is invalid; allowed: an integer >= shortest_slots = 2",
    ):
        registry.load_scenario(path)
    assert registry.load_scenario("on-demand-outages").outages == HeldOutages(0.2, 2, 3)


def tasks_of(row, latency_s, n_rows=2):
    zero = np.zeros(len(row))
    decided = np.zeros(n_rows)
    return Tasks(
        np.asarray(row), zero, np.asarray(latency_s), zero, zero, zero, zero, decided, n_rows
    )


def test_misses_by_class():
    system = random_system(1)
    params, kinds = system.params(), system.draws[3]
    # Rows come interleaved, as `evaluate.run` gives them: slot 1 of rows 0 and 1, slot 2 of both,
    # ...
    row, slot = np.tile([0, 1], 39), np.repeat(np.arange(1, 40), 2)
    tasks = tasks_of(row, np.full(78, 1e-9))
    np.testing.assert_array_equal(misses.task_classes(tasks, params), kinds[row, slot])
    late = dataclasses.replace(tasks, latency_s=np.where(slot <= 5, 10.0, 1e-9))
    ratios = misses.miss_ratios([late], params, ["a", "b"])
    for kind, ratio in enumerate(ratios):
        mine = kinds[row, slot] == kind
        assert (ratio.misses, ratio.tasks) == ((mine & (slot <= 5)).sum(), mine.sum())
        assert ratio.low < ratio.mean == ratio.misses / ratio.tasks < ratio.high
    both = misses.miss_ratios([late, tasks], params, ["a", "b"])
    for one, two in zip(ratios, both, strict=True):
        assert (two.misses, two.tasks) == (one.misses, 2 * one.tasks)


def test_misses_on_rows_of_one_link_count_as_those_of_one_row():
    system = random_system(1)
    params, kinds = system.params(), system.draws[3]
    row, slot = np.repeat([0, 1, 2], 39), np.tile(np.arange(1, 40), 3)
    late = (slot + row) % 4 == 0
    ratios = misses.miss_ratios(
        [tasks_of(row, np.where(late, 10.0, 1e-9), 3)], params, ["a", "b", "a"]
    )
    kind, link = kinds[row, slot], np.array([0, 1, 0])[row]
    counts = np.zeros((2, 2, 2), np.int64)  # late or all, link, class
    np.add.at(counts[0], (link[late], kind[late]), 1)
    np.add.at(counts[1], (link, kind), 1)
    assert ratios == misses.ratios(*counts)
    # With a single link nothing is known of how links differ, and the interval is not narrow.
    (one,) = misses.ratios(np.array([[10]]), np.array([[1000]]))
    assert (one.mean, one.misses, one.tasks) == (0.01, 10, 1000)
    assert one.low <= 0.0048 and one.high >= 0.0183


def test_the_interval_of_rare_misses():
    # No miss of 1000: up to 1 - .025^(1/1000) = .00368.
    each = np.array([500, 500])
    none = misses._ratio(np.array([0, 0]), each)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025**0.001, rel=1e-6))
    # 10 of 1000 spread evenly: Clopper-Pearson says .0048 to .0183 (tables); all in one row: D =
    # 10, so as 1 of 100.
    spread = misses._ratio(np.array([5, 5]), each)
    assert (spread.low, spread.high) == (
        pytest.approx(0.0048, abs=1e-4),
        pytest.approx(0.0183, abs=1e-4),
    )
    burst = misses._ratio(np.array([10, 0]), each)
    assert burst.mean == 0.01 and burst.low < 0.001 and burst.high > 0.04
    assert jnp.isnan(misses._ratio(np.array([0, 0]), np.array([0, 0])).mean)
