"""The command: what it prints and writes, and how it answers mistakes."""

import csv
import json
import subprocess
import sys

import pytest

from jaxcoinfer import cli, printing
from jaxcoinfer.data import profiles
from jaxcoinfer.evaluation.evaluate import Interval
from jaxcoinfer.evaluation.types import Bound, Row, Table
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import continuation_value, differential_value, sweeps
from jaxcoinfer.systems.stopping import run as stopping

SCENARIO = (profiles.profiles_root() / "scenarios" / "wifi.toml").read_text()


def _refused(capsys, *arguments):
    code = cli.main(list(map(str, arguments)))
    said = capsys.readouterr()
    assert code == 2 and said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("jaxcoinfer: error: ")]
    assert len(lines) == 1 and "Traceback" not in said.err
    return lines[0]


def _scenario(tmp_path, old, new):
    assert old in SCENARIO
    path = tmp_path / "mine.toml"
    path.write_text(SCENARIO.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--scenario", "wfii"], ["wfii", "wifi", "reference"]),
        (["run", "--bogus"], ["--bogus"]),
        (["run", "flying"], ["flying", "stopping"]),
        (["run", "on-demand", "--scenario", "wifi"], ["wifi", "stopping", "not on-demand"]),
        (["run", "--scenario", "on-demand-markov"], ["on-demand-markov", "not stopping"]),
        (["run", "fleet", "--scenario", "wifi"], ["wifi", "stopping", "not fleet"]),
        (["run", "--scenario", "multi-user"], ["multi-user", "not stopping"]),
        (["run", "multi-user", "--scenario", "fleet"], ["fleet", "not multi-user"]),
        (["run", "--seed", "-1"], ["seed", "-1", "0 to"]),
        (["walk"], ["walk", "run"]),
        (["evaluate", "nowhere"], ["nowhere", "no such folder"]),
    ],
)
def test_bad_usage_is_one_line(capsys, arguments, says):
    line = _refused(capsys, *arguments)
    assert all(word in line for word in says)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("slot_s = 0.005", "slot_s = -1.0", ["mine.toml", "slot_s", "-1.0", "> 0"]),
        ("exit = 3", "exit = 5", ["exit", "5", "allowed: 2, 3"]),
        ("load = 0.7", "lode = 0.7", ["mine.toml", "edge_load.lode", "load"]),
        ('dnn = "vgg11"', 'dnn = "vgg12"', ["vgg12", "vgg11"]),
        (
            'task = "assumed: the earliest exit that keeps useful accuracy"\n',
            "",
            ["mine.toml", "task.exit", "source"],
        ),
        (
            "azure_llm_conv_2023",
            "azure_llm_conv_2032",
            ["azure_llm_conv_2032", "azure_llm_conv_2023"],
        ),
    ],
)
def test_a_bad_scenario_is_one_line_and_writes_nothing(capsys, tmp_path, old, new, says):
    out = tmp_path / "out"
    line = _refused(capsys, "run", "--scenario", _scenario(tmp_path, old, new), "--out", out)
    assert all(word in line for word in says), line
    assert not out.exists()


@pytest.mark.parametrize("broken", ["0,9\n1,8\n3,7\n", "0,9\n1,nan\n2,7\n", "0,9\n2,8\n1,7\n"])
def test_a_broken_trace_is_one_line_and_writes_nothing(capsys, tmp_path, broken):
    trace, out = tmp_path / "link.csv", tmp_path / "out"
    trace.write_text("time_s,mbps\n" + broken)
    path = _scenario(tmp_path, '"wifi_ul_static_office_231114-15*"', f'"{trace}"')
    line = _refused(capsys, "run", "--scenario", path, "--out", out)
    assert "link.csv" in line and "allowed" in line
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file" in _refused(capsys, "run", "--out", tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("")
    assert "not empty" in _refused(capsys, "run", "--out", tmp_path / "full")
    assert "cannot be written" in _refused(capsys, "run", "--out", "/proc/nowhere")


def test_profiles_and_scenarios_are_listed(capsys):
    assert cli.main(["profiles"]) == 0
    listed = capsys.readouterr().out
    assert "jetson-nano-5w" in listed and max(map(len, listed.splitlines())) <= 80
    assert cli.main(["scenarios"]) == 0
    assert "multi-user, 4096 starts, slots of 500 ms" in capsys.readouterr().out
    assert cli.main(["scenarios", "--json"]) == 0
    assert "wifi" in json.dumps(json.loads(capsys.readouterr().out))


def test_what_is_assumed_is_listed_with_what_hangs_on_it(capsys):
    assert cli.main(["profiles", "--assumed", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "arrivals" in facts["assumed"]["scenario camera"]
    assert all(
        text.startswith("assumed:")
        for fields in facts["assumed"].values()
        for text in fields.values()
    )
    numbers = {row["number"] for row in facts["sensitivity"]}
    assert numbers == set(sweeps.CONSTANTS)
    own = {row["ranking"] for row in facts["sensitivity"] if float(row["factor"]) == 1.0}
    assert len(own) == 1  # at a factor of one every number is that of the scenario
    assert cli.main(["profiles", "--assumed"]) == 0
    printed = capsys.readouterr().out
    assert "others_jobs" in printed and max(map(len, printed.splitlines())) <= 80


def test_links_of_a_folder_take_the_place_of_the_test_links(tmp_path):
    camera = registry.load_scenario("camera")
    with pytest.raises(cli.UsageError, match=r"--links .*: no \.csv file in it"):
        cli._on_links(camera, tmp_path)
    for name in ("b", "a"):
        (tmp_path / f"{name}.csv").write_text("time_s,mbps\n0,9\n1,8\n")
    there = cli._on_links(camera, tmp_path)
    assert there.rate.test == (str(tmp_path / "a.csv"), str(tmp_path / "b.csv"))
    assert there.rows == 4 and there.rate.train == camera.rate.train
    with pytest.raises(cli.UsageError, match="'reference' has no recorded links"):
        cli._on_links(registry.load_scenario("reference"), tmp_path)


def test_help_names_every_system(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.replace("-\n", "-").split())
    for system in registry.SYSTEMS.values():
        assert system.name in text and system.default_scenario in text.replace("- ", "-")


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "jaxcoinfer", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.startswith("jaxcoinfer 0.")


@pytest.mark.parametrize("gap", [0.25, float("nan")])
def test_a_table_without_a_bound_has_no_gap(capsys, gap):
    mean = Interval(1.5, 0.1)
    missing = Interval(gap, gap)
    rows = {
        "greedy": Row({"utility": mean}, mean, missing, True),
        "oracle": Row({"utility": mean}, mean, Interval(float("nan"), float("nan")), False),
    }
    printing.print_policies(Table(rows, Bound("the optimum", missing, None), "greedy"))
    printed = capsys.readouterr().out
    assert "nan" not in printed and "+1.500" in printed
    assert all((word in printed) == (gap == 0.25) for word in ("gap to", "0.250", "bound: "))


TINY = stopping.Sizes(
    {
        stopping.METHOD: continuation_value.Config(
            hidden=(8,), n_devices=8, n_evaluations=4, updates_per_evaluation=2
        ),
        stopping.BEST: differential_value.Config(
            hidden=(8,), n_pairs=16, n_evaluations=2, updates_per_evaluation=1, buffer_size=512
        ),
    },
    seeds=2,
    rows=2,
    slots=8192,
    without_twin=False,
    arrivals=(1.0,),
    loads=(0.6,),
    thresholds=(0, 10),
)


@pytest.mark.slow
def test_a_run_writes_everything_and_is_read_back(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "QUICK", TINY)
    out = tmp_path / "run"
    assert cli.main(["run", "--quick", "--seed", "3", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert max(map(len, said.out.splitlines()[:-1])) <= 80
    names = {path.name for path in out.iterdir()}
    assert {
        "config.json",
        "metrics.csv",
        "summary.json",
        "learning.csv",
        "checkpoint.msgpack",
        "timeline.json",
    } <= names
    assert len([name for name in names if name.endswith(".png")]) >= 4
    summary = json.loads((out / "summary.json").read_text())
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert {row["policy"] for row in rows} == set(summary["policies"])
    chosen = json.loads((out / "config.json").read_text())["chosen"]
    assert chosen["compared"] == summary["compared_with"]
    assert chosen["compared"] in summary["policies"] and chosen["seed_of_best"] in (0, 1)
    assert len(chosen["prices"]["weights"]) == 6
    learned = csv.DictReader((out / "learning.csv").read_text().splitlines())
    assert {row["seed"] for row in learned} == {"0", "1"}
    slices = [
        e for e in json.loads((out / "timeline.json").read_text())["traceEvents"] if e["ph"] == "X"
    ]
    assert len(slices) > 100 and all(event["dur"] >= 0 for event in slices)
    assert cli.main(["evaluate", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert set(again["policies"]) == set(summary["policies"])
    assert again["compared_with"] == summary["compared_with"]
    links = tmp_path / "links"
    links.mkdir()
    for name, mbps in (("fast", 9), ("slow", 6)):
        lines = "".join(f"{second},{mbps}\n" for second in range(30))
        (links / f"{name}.csv").write_text(f"time_s,mbps\n{lines}")
    assert cli.main(["evaluate", str(out), "--links", str(links)]) == 0
    printed = capsys.readouterr().out
    assert "fast.csv" in printed and "slow.csv" in printed
    damaged = out / "checkpoint.msgpack"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert "damaged" in _refused(capsys, "evaluate", out)
