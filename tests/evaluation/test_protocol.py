"""What results are counted by: splits, clusters, seeds."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from jaxcoinfer.data import traces
from jaxcoinfer.data.processes import SPLITS, RecordedRate
from jaxcoinfer.evaluation import protocol
from jaxcoinfer.evaluation.evaluate import Interval
from jaxcoinfer.systems import registry

RECORDED = ("camera", "wifi", "campus-pi", "office-bursts", "on-demand-wifi", "on-demand-campus")


@pytest.mark.parametrize("name", RECORDED)
def test_no_link_is_in_two_splits_and_twenty_are_counted_on(name: str):
    scenario = registry.load_scenario(name)
    files = {split: set(traces.expand(scenario.rate.of(split))) for split in SPLITS}
    assert len(files["test"]) >= 20 and len(files["validation"]) >= 10
    assert not files["train"] & files["test"] and not files["train"] & files["validation"]
    assert not files["validation"] & files["test"]
    assert set().union(*files.values()) == {
        name for name in traces.shipped_traces() if name.startswith("wifi_ul_static")
    }
    # Places that results are counted on are not learned from.
    places = {split: {name.split("_")[3:5][0] for name in names} for split, names in files.items()}
    assert "campus" not in places["train"] | places["validation"]
    # Every test link has its windows in the rows of a draw.
    rows = protocol.links(scenario, "test", scenario.rows)
    assert set(rows) == files["test"] and len(rows) == scenario.rows


def test_without_recorded_links_every_row_is_a_cluster():
    scenario = registry.load_scenario("reference")
    assert protocol.links(scenario, "test", 3) == ("0", "1", "2")


def test_a_split_without_files_falls_back_on_those_to_learn_from():
    rate = RecordedRate(("a", "b"), ("c",))
    assert rate.of("validation") == ("a", "b") and rate.of("test") == ("c",)
    scenario = dataclasses.replace(registry.load_scenario("camera"), rate=rate)
    assert protocol.links(scenario, "validation", 3) == ("a", "b", "a")


def test_windows_of_one_link_do_not_count_twice():
    # Four rows of two links: the means of the links are 1 and 3, whatever the windows say.
    values = np.array([[0.0, 2.0, 3.0, 3.0]])
    found = protocol.interval(values, ["a", "a", "b", "b"])
    # var of (1, 3) is 2; half = t_{.975, 1} sqrt(2 / 2) = 12.7062
    assert found.mean == 2.0
    np.testing.assert_allclose(found.half, stats.t.ppf(0.975, 1), rtol=1e-9)
    rows = protocol.interval(values, ["0", "1", "2", "3"])
    assert rows.half < found.half


def test_both_links_and_seeds_are_in_the_interval():
    # Two seeds, three links: m = [[0, 1, 2], [2, 3, 4]], mean 2.
    # Means over seeds 1, 2, 3: variance 1, over 3 links 1/3. Means over links 1, 3: variance 2,
    # over 2 seeds 1. nu = (4/3)^2 / ((1/3)^2 / 2 + 1^2 / 1) = 1.7778 / 1.0556 = 1.684.
    values = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    found = protocol.interval(values, ["a", "b", "c"])
    assert found.mean == 2.0
    np.testing.assert_allclose(
        found.half, stats.t.ppf(0.975, (16 / 9) / (1 / 18 + 1)) * np.sqrt(4 / 3), rtol=1e-9
    )


def test_an_interval_covers_the_truth_of_links_and_seeds_that_vary():
    # Effects of links, of seeds and of windows, all normal: 95 % of intervals cover 0, or more.
    rng = np.random.default_rng(0)
    names = [str(row % 12) for row in range(24)]
    covered = 0
    for _ in range(400):
        link = rng.normal(0, 1.0, 12)[[int(name) for name in names]]
        values = link + rng.normal(0, 0.5, (5, 1)) + rng.normal(0, 0.3, (5, 24))
        found = protocol.interval(values, names)
        covered += found.low <= 0.0 <= found.high
    assert covered >= 0.93 * 400
    # Rows as units would say too much.
    rows = protocol.interval(values, [str(row) for row in range(24)])
    assert rows.half < found.half


def test_one_link_has_no_interval_and_equal_links_one_of_zero():
    assert np.isnan(protocol.interval(np.ones((2, 3)), ["a"] * 3).half)
    assert protocol.interval(np.ones((1, 2)), ["a", "b"]) == Interval(1.0, 0.0)


def test_the_best_counts_links_alike():
    # On rows x is better (1.2 to 1), on links y is: link b has one window only.
    clusters = ["a", "a", "a", "a", "b"]
    utilities = {"x": np.array([[1.5, 1.5, 1.5, 1.5, 0.0]]), "y": np.ones((1, 5))}
    assert protocol.best(utilities, clusters) == "y"
