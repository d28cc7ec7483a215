"""Scenarios survive the table that a run folder keeps of them; files of earlier versions load."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcoinfer.data.fields import Place, ProfileError, table_of
from jaxcoinfer.data.processes import SPLITS, RecordedRate
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping.scenario import FromProfiles

SHIPPED = {name: registry.load_scenario(name) for name in registry.list_scenarios()}
PLACE = Place("a table")
REALS = st.floats(min_value=0.0, max_value=1e300) | st.floats(0.0, 1.0) | st.integers(0, 2**63)


def leaves(value, path=()):
    """Yields the path of every number in a table."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def check_survives(scenario):
    table = table_of(scenario)
    assert registry.scenario_from(json.loads(json.dumps(table)), PLACE) == scenario
    assert table_of(registry.scenario_from(table, PLACE)) == table


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_scenario_survives_its_table(name):
    check_survives(SHIPPED[name])


@given(st.sampled_from(sorted(SHIPPED)), st.data())
@settings(deadline=None, max_examples=300)
def test_a_scenario_of_random_numbers_survives_its_table(name, data):
    """Numbers that the loader does not accept are left as they were."""
    table = table_of(SHIPPED[name])
    for path in data.draw(st.lists(st.sampled_from(list(leaves(table))), min_size=1, unique=True)):
        *parents, last = path
        inner = table
        for key in parents:
            inner = inner[key]
        before, inner[last] = inner[last], data.draw(REALS, str(path))
        try:
            scenario = registry.scenario_from(table, PLACE)
        except ProfileError:
            inner[last] = before
        else:
            check_survives(scenario)


@given(
    st.builds(
        FromProfiles,
        dnn=st.just("b-alexnet"),
        device=st.just("raspberry-pi-4"),
        server=st.just("edge-cpu"),
        link=st.just("wifi-5"),
        exit=st.integers(1, 9),
        bits=st.integers(1, 32),
        observe_confidence=st.booleans(),
    )
)
def test_the_name_that_observe_confidence_had_is_read(task):
    scenario = dataclasses.replace(SHIPPED["camera"], task=task)
    table = table_of(scenario)
    table["task"]["look"] = table["task"].pop("observe_confidence")
    assert registry.scenario_from(table, PLACE) == scenario


RECORDED = [
    name for name in SHIPPED if isinstance(getattr(SHIPPED[name], "rate", None), RecordedRate)
]


@pytest.mark.parametrize("name", RECORDED)
def test_the_name_that_test_links_had_is_read(name):
    table = table_of(SHIPPED[name])
    table["rate"]["evaluation"] = table["rate"].pop("test")
    scenario = registry.scenario_from(table, PLACE)
    assert scenario == SHIPPED[name] and scenario.rate.test == SHIPPED[name].rate.test


def test_test_links_under_both_names_are_invalid():
    table = table_of(SHIPPED["wifi"])
    table["rate"]["evaluation"] = table["rate"]["test"]
    with pytest.raises(ProfileError, match=r"unknown field rate\.evaluation"):
        registry.scenario_from(table, PLACE)


@pytest.mark.parametrize(
    ("name", "now", "then"),
    [
        ("camera", "\nobserve_confidence = ", "\nlook = "),
        ("camera", "\ntest = [", "\nevaluation = ["),
        ("on-demand-wifi", "\ntest = [", "\nevaluation = ["),
    ],
)
def test_a_file_of_an_earlier_version_loads(name, now, then, tmp_path):
    text = (registry.profiles_root() / "scenarios" / f"{name}.toml").read_text(encoding="utf-8")
    assert text.count(now) == 1
    path = tmp_path / f"{name}.toml"
    path.write_text(text.replace(now, then), encoding="utf-8")
    assert registry.load_scenario(path) == SHIPPED[name]


def test_a_recorded_rate_of_an_earlier_version_has_what_it_did_not_know():
    """Without links to choose by those to learn from serve, and rates do not vary."""
    table = table_of(SHIPPED["wifi"])
    first, second = SHIPPED["wifi"].rate.train
    table["rate"] = {"process": "recorded", "train": [first], "evaluation": [second]}
    rate = registry.scenario_from(table, PLACE).rate
    assert rate == RecordedRate((first,), (second,), (), 1.0, (), 1.0)
    assert [rate.of(split) for split in SPLITS] == [(first,), (first,), (second,)]


def test_both_names_at_once_are_invalid():
    table = table_of(SHIPPED["camera"])
    table["task"]["look"] = True
    with pytest.raises(ProfileError, match=r"unknown field task\.look"):
        registry.scenario_from(table, PLACE)
    table["task"] = table["task"] | {"look": "yes"}
    del table["task"]["observe_confidence"]
    with pytest.raises(ProfileError, match=r"task\.observe_confidence = 'yes' is invalid"):
        registry.scenario_from(table, PLACE)


def test_a_file_of_another_kind_is_invalid(tmp_path):
    path = tmp_path / "link.toml"
    path.write_text('kind = "link"\n', encoding="utf-8")
    with pytest.raises(ProfileError, match=r"kind = 'link' is invalid; allowed: 'scenario'"):
        registry.load_scenario(path)
