"""Means, intervals, paired differences and percentiles by hand, and that a policy runs through
whole rows.
"""

import jax
import numpy as np
import pytest

from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.evaluate import Interval, Tasks
from jaxcoinfer.systems.stopping import baselines as policies
from tests.helpers.stopping import ROWS, played, random_stops, random_system


def tasks_of(row, utility, latency_s=None, choice=None, decisions=(0, 0), n_rows=2) -> Tasks:
    n = len(row)
    return Tasks(
        row=np.array(row),
        choice=np.zeros(n, int) if choice is None else np.array(choice),
        latency_s=np.zeros(n) if latency_s is None else np.array(latency_s),
        energy_j=np.full(n, 0.5),
        accuracy=np.full(n, 0.75),
        utility=np.array(utility, float),
        reports=np.ones(n, int),
        decisions=np.array(decisions),
        n_rows=n_rows,
    )


def test_interval():
    # mean 3; squared deviations 4 + 1 + 0 + 9 = 14, s = sqrt(14 / 3) = 2.160247; t_{.975, 3} =
    # 3.182446; half = 3.182446 * 2.160247 / sqrt(4) = 3.437435
    found = evaluate.interval(np.array([1.0, 2.0, 3.0, 6.0]))
    assert found.mean == 3.0
    assert found.half == pytest.approx(3.437435, abs=1e-6)
    assert (found.low, found.high) == (
        pytest.approx(-0.437435, abs=1e-6),
        pytest.approx(6.437435, abs=1e-6),
    )
    assert str(Interval(0.12345, 0.5)) == "0.1235 ± 0.5000"


def test_interval_of_one_row_is_unknown():
    found = evaluate.interval(np.array([2.0]))
    assert found.mean == 2.0 and np.isnan(found.half)


def test_by_row_weighs_rows_equally():
    # row 0: (1 + 3) / 2 = 2; row 1: 10. The mean over tasks would be 14 / 3.
    tasks = tasks_of([0, 1, 0], [1, 10, 3])
    np.testing.assert_array_equal(evaluate.by_row(tasks, tasks.utility), [2.0, 10.0])


def test_by_row_names_a_row_without_tasks():
    with pytest.raises(ValueError, match="row 1 finished no task: use longer rows"):
        evaluate.by_row(tasks_of([0, 2], [1, 1], n_rows=3), np.ones(2))


def test_difference_is_paired_by_row():
    # rows of the one: 5, 9; of the other: 4, 7. Differences 1, 2: mean 1.5, s = .707107, t_{.975,
    # 1} = 12.706205; half = 12.706205 * .707107 / sqrt(2) = 6.353102. Unpaired, s would be 2.828
    # and 2.121.
    one, other = tasks_of([0, 1], [5, 9]), tasks_of([1, 0, 0, 1], [6, 3, 5, 8])
    found = evaluate.difference(one, other)
    assert found.mean == 1.5
    assert found.half == pytest.approx(6.353102, abs=1e-5)
    swapped = evaluate.difference(other, one)
    assert (swapped.mean, swapped.half) == (-found.mean, found.half)


def test_summary_by_hand():
    # row 0: latencies 1, 2, 3, 4, 5; row 1: 10, 20. Percentile p of n sorted values stands at (n -
    # 1) p / 100: p50: 3 and 15, mean 9; p95: at 3.8 -> 4.8, at .95 -> 19.5, mean 12.15; p99: 4.96
    # and 19.9, mean 12.43.
    latency_s = [5.0, 10.0, 1.0, 4.0, 2.0, 20.0, 3.0]
    tasks = tasks_of(
        [0, 1, 0, 0, 0, 1, 0],
        np.arange(7),
        latency_s,
        choice=[0, 2, 0, 1, 0, 2, 0],
        decisions=(15, 2),
    )
    found = evaluate.summarise(tasks, n_choices=3, deadline_s=4.0)
    mean = {name: interval.mean for name, interval in found.items()}
    assert mean["latency_p50_s"] == pytest.approx(9.0)
    assert mean["latency_p95_s"] == pytest.approx(12.15)
    assert mean["latency_p99_s"] == pytest.approx(12.43)
    assert mean["latency_s"] == pytest.approx((3.0 + 15.0) / 2)
    assert mean["utility"] == pytest.approx(((0 + 2 + 3 + 4 + 6) / 5 + (1 + 5) / 2) / 2)
    assert mean["deadline_misses"] == pytest.approx((0.2 + 1.0) / 2)  # 4.0 is in time
    assert (mean["choice_0"], mean["choice_1"], mean["choice_2"]) == pytest.approx((0.4, 0.1, 0.5))
    assert mean["decisions_per_task"] == pytest.approx((15 / 5 + 2 / 2) / 2)
    assert (mean["tasks"], mean["accuracy"], mean["energy_j"], mean["reports_per_task"]) == (
        3.5,
        0.75,
        0.5,
        1.0,
    )
    # latency by row: 3 and 15, s = 8.485281; half = 12.706205 * 8.485281 / sqrt(2) = 76.237
    assert found["latency_s"].half == pytest.approx(76.2372, abs=1e-3)


def test_a_policy_runs_through_every_row_of_every_world():
    systems = [random_system(seed, 2) for seed in (3, 11)]
    worlds = [system.params() for system in systems]
    found = evaluate.run(systems[0].env, worlds, policies.fixed(0), jax.random.key(0))
    stops = np.ones_like(random_stops(0, 2, 0.5))
    for system, params, tasks in zip(systems, worlds, found, strict=True):
        _, states, steps, (last, _) = played(system, params, stops)
        assert last.done.all()
        finished = steps.outcome.finished
        assert tasks.n_rows == ROWS
        np.testing.assert_array_equal(np.bincount(tasks.row, minlength=ROWS), finished.sum(axis=0))
        np.testing.assert_array_equal(tasks.decisions, (~states.done).sum(axis=0))
        for name in ("choice", "latency_s", "energy_j", "accuracy", "utility"):
            expected = getattr(steps.outcome, name)
            for row in range(ROWS):
                mine = getattr(tasks, name)[tasks.row == row]
                np.testing.assert_allclose(mine, expected[finished[:, row], row], rtol=1e-6)


def test_all_policies_see_the_same_draw():
    system = random_system(3, 2)
    both = {"a": policies.fixed(3), "b": policies.fixed(3)}
    found = evaluate.evaluate(system.env, system.params(), both, jax.random.key(0))
    np.testing.assert_array_equal(found["a"].latency_s, found["b"].latency_s)
    assert evaluate.difference(found["a"], found["b"]) == Interval(0.0, 0.0)
