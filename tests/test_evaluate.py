"""What evaluation says of tasks: intervals, rows, pairs."""

import numpy as np
import pytest

from jaxcoinfer import evaluate


def _tasks(row, utility, latency_s=None, n_rows=2):
    n = len(row)
    latency_s = np.zeros(n) if latency_s is None else np.asarray(latency_s)
    other = np.zeros(n)
    return evaluate.Tasks(
        np.asarray(row),
        np.arange(n) % 2,
        latency_s,
        other,
        other,
        np.asarray(utility, float),
        other,
        np.full(n_rows, 8),
        n_rows,
    )


def test_interval_by_hand():
    # Mean 3; deviation sqrt((4 + 0 + 4) / 2) = 2; t for 2 degrees of freedom 4.3027; half 4.3027 * 2 / sqrt(3) = 4.968.
    found = evaluate.interval(np.array([1.0, 3.0, 5.0]))
    assert found.mean == 3.0
    assert found.half == pytest.approx(4.968, abs=1e-3)
    assert np.isnan(evaluate.interval(np.array([1.0])).half)


def test_rows_count_alike_whatever_their_tasks():
    # Row 0: (1 + 3) / 2 = 2; row 1: 8.
    tasks = _tasks([0, 0, 1], [1.0, 3.0, 8.0])
    np.testing.assert_array_equal(evaluate.by_row(tasks, tasks.utility), [2.0, 8.0])
    assert evaluate.summarise(tasks, 2, 1.0)["utility"].mean == 5.0


def test_pairs_by_row():
    # Rows differ by 10, policies by 1 in each: the paired difference is 1 without any doubt.
    ours, theirs = _tasks([0, 1], [2.0, 12.0]), _tasks([0, 1], [1.0, 11.0])
    gain = evaluate.difference(ours, theirs)
    assert (gain.mean, gain.half) == (1.0, 0.0)


def test_delays_and_shares():
    tasks = _tasks([0, 0, 0, 0, 1, 1, 1, 1], np.zeros(8), [0.1, 0.2, 0.3, 1.4, 0.1, 0.1, 0.1, 0.1])
    measures = evaluate.summarise(tasks, 2, deadline_s=1.0)
    assert measures["deadline_misses"].mean == pytest.approx((1 / 4 + 0) / 2)
    assert measures["latency_p50_s"].mean == pytest.approx((0.25 + 0.1) / 2)  # of each row, then the mean
    assert measures["choice_0"].mean == 0.5
    assert measures["decisions_per_task"].mean == 2.0  # 8 decisions for 4 tasks


def test_a_row_without_tasks_is_named():
    with pytest.raises(ValueError, match="row 1 finished no task"):
        evaluate.by_row(_tasks([0, 0], [1.0, 1.0]), np.ones(2))
