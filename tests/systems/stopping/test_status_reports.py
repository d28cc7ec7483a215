"""What messages buy, and the exact optimum as a policy: both in the environment itself."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxcoinfer
from jaxcoinfer.data import processes
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import baselines as policies
from jaxcoinfer.systems.stopping import status_reports
from jaxcoinfer.systems.stopping.bounds import dynamic_program
from jaxcoinfer.systems.stopping.bounds import exact as bounds
from jaxcoinfer.systems.stopping.status_reports import Point

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def points():
    scenario = dataclasses.replace(registry.load_scenario("reference"), rows=4, slots=6000)
    env, _ = jaxcoinfer.make(scenario, KEY)
    found = status_reports.measure(
        scenario, policies.adaptive_waiting(env), KEY, KEY, thresholds=(0, 10)
    )
    return {(point.way, point.threshold_slots): point for point in found}


def test_every_way_is_there(points: list[Point]):
    assert set(points) == {
        ("every layer", 0),
        *(
            (way, threshold)
            for way in ("status twin", "last report")
            for threshold in (0, 10, None)
        ),
        ("at generation", None),
    }


def test_exact_status_is_as_good_as_a_report_at_every_layer(points: list[Point]):
    full = points["every layer", 0]
    assert full.reports.mean > 1.5  # two layers and a head: one to three decisions
    for way in ("status twin", "last report"):
        assert points[way, 0].gain.mean == 0 and points[way, 0].utility == full.utility
    assert (
        points["status twin", 0].reports.mean
        < points["last report", 0].reports.mean
        < full.reports.mean
    )
    for way in ("status twin", "last report"):
        assert points[way, 10].reports.mean < points[way, 0].reports.mean


def test_the_twin_keeps_utility_with_a_tenth_of_the_reports(points: list[Point]):
    full, told = points["every layer", 0], points["status twin", 10]
    assert told.reports.mean < 0.12 * full.reports.mean
    assert abs(told.gain.mean) < 0.03 * full.utility.mean
    # Without a twin silence is expensive.
    assert points["last report", None].gain.mean < 5 * told.gain.mean - 0.05
    generation = points["at generation", None]
    assert generation.reports.mean == 0 and generation.gain.mean < 3 * told.gain.mean


def test_commands_are_the_tasks_that_are_sent(points: list[Point]):
    assert 0.2 < points["every layer", 0].commands.mean < 0.7
    # The server thinks the device still at its first task.
    assert points["last report", None].commands.mean < 0.1


def test_only_a_constant_speed_is_varied():
    wifi = registry.load_scenario("wifi")
    assert status_reports.varied(wifi).speed == processes.MarkovSpeed(
        (0.8, 1.0, 1.2), (0.01, 0.01, 0.01)
    )
    bursts = registry.load_scenario("office-bursts")
    assert status_reports.varied(bursts) is bursts


@pytest.mark.parametrize("name", ["wifi", "office-bursts", "campus-pi"])
def test_beyond_the_model_there_is_no_exact_optimum(name: str):
    assert bounds.model_of(registry.load_scenario(name)) is None


@pytest.mark.slow
def test_the_exact_optimum_reaches_its_gain_in_the_environment_and_nothing_beats_it():
    scenario = dataclasses.replace(registry.load_scenario("reference-busy"), rows=16, slots=40_000)
    env, params = jaxcoinfer.make(scenario, jax.random.key(7))
    model = bounds.model_of(scenario)
    assert model is not None
    solution = dynamic_program.solve(model)
    baselines = {
        "adaptive": policies.adaptive_waiting(env),
        "clairvoyant": policies.clairvoyant(env),
    }
    tasks = evaluate.evaluate(env, params, baselines | {"exact": bounds.policy(solution)}, KEY)
    reached = evaluate.interval(evaluate.by_row(tasks["exact"], tasks["exact"].utility))
    assert reached.low - 1e-3 < float(solution.gain_per_task) < reached.high + 1e-3
    assert np.isfinite(reached.half)
    for baseline in baselines:
        assert evaluate.difference(tasks["exact"], tasks[baseline]).low > 0
