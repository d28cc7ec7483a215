"""The tables of README.md and docs/, made from the results; a test checks that both agree.

python -m benchmarks.tables  # writes them into the pages, between the lines that name them
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.common import RESULTS

README = RESULTS.parents[1] / "README.md"
PAGES = (README, README.parent / "docs" / "validation.md")
CPU = "cpu:cpu"  # the device of the tables of speed
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def lines(question: str, /, **wanted: Any) -> list[dict[str, Any]]:
    """The result lines of a question that have all the wanted values, oldest first."""
    text = (RESULTS / f"{question}.jsonl").read_text("utf-8")
    results = [json.loads(line) for line in text.splitlines()]
    return [
        line for line in results if all(line.get(name) == value for name, value in wanted.items())
    ]


def last(question: str, /, **wanted: Any) -> dict[str, Any]:
    """The newest of `lines`. Raises LookupError where there is none."""
    matching = lines(question, **wanted)
    if not matching:
        raise LookupError(
            f"{question}.jsonl has no line with {wanted}; run the recipe that writes it"
        )
    return matching[-1]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    parts = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in parts)


def within(mean: float, half: float, sign: bool = False) -> str:
    """A mean with the half width of its interval, as many digits as the interval has."""
    digits = 3 if half < 0.1 else 2
    return f"{mean:{'+' if sign else ''}.{digits}f} ± {half:.{digits}f}"


def measured(names: Sequence[str]) -> list[str]:
    """Those of the scenarios that have result lines."""
    known = {line["scenario"] for line in lines("results")}
    return [name for name in names if name in known]


def of_policies(scenario: str) -> dict[str, dict[str, Any]]:
    """The newest result line of each policy of a scenario, the best first, references last."""
    newest = {line["policy"]: line for line in lines("results", scenario=scenario)}
    order = sorted(
        newest, key=lambda name: (not newest[name]["deployable"], -newest[name]["utility"])
    )
    return {name: newest[name] for name in order}


def shown_name(name: str, line: dict[str, Any]) -> str:
    """A policy's name, with a star where no device could do the same."""
    return name if line["deployable"] else f"{name} \\*"


def run() -> str:
    """The main job: every policy, by utility."""
    rows = []
    policies = of_policies("camera")
    compared = next(iter(policies.values()))["compared"]
    for name, line in policies.items():
        cells = [
            shown_name(name, line),
            within(line["utility"], line["utility_half"]),
            f"{line['gap']:.3f}",
            f"{1e3 * line['latency_s']:.0f}",
            f"{line['accuracy']:.3f}",
            f"{1e3 * line['energy_j']:.1f}",
            f"{100 * line['deadline_misses']:.1f}",
        ]
        gain = "" if name == compared else small(line["gain"], line["gain_half"])
        rows.append([*cells, gain])
    head = ["policy", "utility", "gap to bound", "delay ms", "accuracy", "energy mJ", "late %"]
    return table([*head, f"gain on {compared}"], rows)


def small(mean: float, half: float) -> str:
    """A difference of thousandths with the half width of its interval."""
    digits = 4 if half < 0.01 else 3 if half < 0.1 else 2
    return f"{mean:+.{digits}f} ± {half:.{digits}f}"


def stopping() -> str:
    """Each learner of `stopping` beside the two strongest rules, and the gap to the bound."""
    rows = []
    names = ("camera", "reference", "reference-busy", "wifi", "campus-pi", "office-bursts")
    for scenario in measured(names):
        policies = of_policies(scenario)
        for name in ("published stopping", "continuation value", "differential value"):
            line = policies[name]
            rows.append(
                [
                    f"`{scenario}`" if name == "published stopping" else "",
                    name,
                    small(line["above_one-time_waiting"], line["above_one-time_waiting_half"]),
                    small(line["above_price_rule"], line["above_price_rule_half"]),
                    f"{line['gap']:.3f}",
                ]
            )
    return table(
        ["scenario", "learner", "above one-time waiting", "above the price rule", "gap to bound"],
        rows,
    )


def status_reports() -> str:
    """Reports per task, and utility, of each way of reporting to the server."""
    shown = [
        ("reported at every layer", "every layer", 0),
        ("twin, corrected at once", "status twin", 0),
    ]
    shown += [(f"twin, {n} slots", "status twin", n) for n in (5, 10, 50)]
    shown += [
        ("twin, never corrected", "status twin", None),
        ("last report, 10 slots", "last report", 10),
    ]
    shown += [("planned as the task arrives", "at generation", None)]
    rows = []
    for label, way, threshold in shown:
        results = [
            last("status_reports", scenario=s, way=way, threshold_slots=threshold)
            for s in ("reference", "wifi")
        ]
        cells = [f"{line['reports']:.3f} ({line['utility']:.4f})" for line in results]
        rows.append([label, *cells])
    return table(["reports per task (utility)", "`reference`", "`wifi`"], rows)


def on_demand() -> str:
    """What each policy of `on-demand` gains on the look-up table."""
    names = ("markov", "5g", "outages", "fading", "wifi", "campus")
    policies = ["published actor-critic", "soft actor-critic", "memory actor-critic"]
    policies += [
        "deep Q",
        "proximal policy",
        "reliable table",
        "LinUCB",
        "greedy",
        "best fixed action",
        "exact optimum",
        "exact with memory",
    ]
    names = [name for name in names if measured([f"on-demand-{name}"])]
    found = {name: of_policies(f"on-demand-{name}") for name in names}
    rows = [
        ["look-up table (utility)"]
        + [f"{found[name]['look-up table']['utility']:.3f}" for name in names]
    ]
    for policy in policies:
        cells = []
        for name in names:
            line = found[name].get(policy)
            key = "above_look-up_table"
            cells.append(small(line[key], line[f"{key}_half"]) if line else "")
        rows.append([policy, *cells])
    return table(["gain on the look-up table", *(f"`…-{name}`" for name in names)], rows)


def fleet() -> str:
    """What each policy costs above the certified bound, in per cent of it."""
    scenarios = measured(("fleet", "fleet-late", "fleet-cloud"))
    policies = {scenario: of_policies(scenario) for scenario in scenarios}
    rows = []
    for name in dict.fromkeys(name for lines in policies.values() for name in lines):
        of = [lines.get(name) for lines in policies.values()]
        cells = ["" if line is None else _above_bound(line) for line in of]
        known = next(line for line in of if line is not None)
        rows.append([shown_name(name, known), *cells])
    return table(["cost above the bound", *(f"`{name}`" for name in scenarios)], rows)


def _above_bound(line: dict[str, Any]) -> str:
    percent = [100.0 * line[key] / abs(line["bound"]) for key in ("gap", "gap_half")]
    return f"{percent[0]:.2f} ± {percent[1]:.2f} %"


def decision_time() -> str:
    """Milliseconds of a decision for 64 devices, alone and among 64 slots at once."""
    newest = {line["policy"]: line for line in lines("fleet", recipe="speed", scenario="fleet")}
    rows = [
        [name, *(f"{1e3 * line[key]:.3g}" for key in ("one_at_a_time_s", "batched_s"))]
        for name, line in newest.items()
    ]
    return table(["ms per decision, 64 devices", "one slot", "64 slots at once, each"], rows)


def multi_user() -> str:
    """Reward per episode of every policy, and its gap to the bound."""
    compared = last("results", scenario="multi-user")["compared"]
    rows = [
        [
            shown_name(name, line),
            within(line["utility"], line["utility_half"]),
            f"{line['gap']:.2f}",
            "" if name == compared else small(line["gain"], line["gain_half"]),
        ]
        for name, line in of_policies("multi-user").items()
    ]
    return table(["`multi-user`", "reward", "gap to bound", f"gain on {compared}"], rows)


def twin() -> str:
    """Steps to the level that a learner reaches with the twin and without."""
    newest = {line["scenario"]: line for line in lines("twin")}
    rows = []
    for name, line in newest.items():
        needed = [line["steps_with_twin"], line["steps_without"]]
        cells = ["not reached" if steps is None else f"{steps:,.0f}" for steps in needed]
        times = "" if line["times_fewer"] is None else f"{line['times_fewer']:.1f}"
        ends = [f"{line[key]:.4f}" for key in ("with_twin", "without")]
        rows.append([f"`{name}`", *cells, times, *ends])
    head = ["steps to a common level", "with the twin", "without", "times"]
    return table([*head, "end with it", "end without"], rows)


def network() -> str:
    """The measured network: accuracy by width and exit."""
    from jaxcoinfer.data import profiles
    from profiles.build import show

    rows = [
        [
            f"{width:g}",
            *(f"{100 * a:.1f} % ({f / 1e6:.1f})" for a, f in zip(accuracy, flop, strict=True)),
        ]
        for width, flop, accuracy in show.accuracy_table(profiles.load_dnn("b-alexnet"))
    ]
    return table(["width", "first exit (MFLOP)", "second exit", "whole"], rows)


def features() -> str:
    """The measured network: what bits cost, by cut."""
    from jaxcoinfer.data import profiles
    from profiles.build import show

    dnn = profiles.load_dnn("b-alexnet")
    rows = [
        [name, *(f"{100 * a:.1f} % ({s / 1e3:.1f})" for a, s in zip(accuracy, sent, strict=True))]
        for _, name, sent, accuracy in show.bits_table(dnn)
    ]
    return table(["cut after (kbit sent)", *(f"{b} bits" for b in dnn.bits[:-1]), "as it is"], rows)


def speed() -> str:
    """Items per second at each size, and at 16,384 their shares of the null step's rate and of the
    nearer limit.
    """
    sizes = (1, 64, 1024, 16384, 131072)
    rows = []
    measured = [line for line in lines("speed", device=CPU) if "size" in line]
    for name in dict.fromkeys(line["name"] for line in measured):
        of_size = {line["size"]: line for line in measured if line["name"] == name}
        cells = [_count(of_size[size]["items_per_s"]) if size in of_size else "" for size in sizes]
        large = of_size.get(16384, {})
        nearer = max(large.get("share_of_cache", 0.0), large.get("share_of_flop", 0.0))
        shares = [large.get("share_of_null", 0.0) if name != "null step" else 0.0, nearer]
        rows.append([name, *cells, *(f"{100 * share:.0f} %" if share else "" for share in shares)])
    return table(
        ["items per second at batch", *(f"{size:,}" for size in sizes), "of null", "of the limit"],
        rows,
    )


def gpu() -> str:
    """Items per second on a GPU at each size, and at 1,048,576 the share of its bandwidth."""
    sizes = (16384, 131072, 1048576, 2097152)
    measured = [
        line
        for line in lines("gpu", question="speed")
        if line["device"] != CPU and line.get("size") in sizes
    ]
    rows = []
    for name in dict.fromkeys(line["name"] for line in measured):
        of_size = {line["size"]: line for line in measured if line["name"] == name}
        rates = [_count(of_size[size]["items_per_s"]) if size in of_size else "" for size in sizes]
        large = of_size.get(1048576, {})
        moved = f"{large['bytes_per_item']:.0f}" if large else ""
        share = f"{100 * large['share_of_memory']:.0f} %" if large else ""
        rows.append([name, *rates, moved, share])
    head = ["items per second at batch", *(f"{size:,}" for size in sizes)]
    return table([*head, "bytes per item", "of the bandwidth"], rows)


def compared() -> str:
    """What is compared with something else in one run: the ratio of the rates."""
    cartpole, adapter = (
        last("stopping", n_envs=16384, device=CPU),
        last("adapters", scenario="reference", n_envs=16384),
    )
    users = max(lines("multi_user", slots=1 << 15), key=lambda line: line["times_python"])
    rollout, update = (
        last("devices", question=question, forced_devices=2) for question in ("rollout", "update")
    )
    sac, ppo = (last("training", algorithm=name, trainer="rejax") for name in ("sac", "ppo"))
    rows = [
        ["`stopping`, 16,384 environments", "gymnax CartPole-v1", cartpole["ratio"]],
        [f"`multi-user`, {users['n_envs']} environments", "plain Python", users["times_python"]],
        [
            "`stopping` through the gymnax adapter, 16,384 environments",
            "native step",
            1.0 / adapter["times_native_given"],
        ],
        [
            "the same, with a key split for every step on both sides",
            "native step",
            1.0 / adapter["times_native_split"],
        ],
        ["rollout of `stopping` on two CPU devices", "on one", rollout["ratio"]],
        ["proximal policy's update on two CPU devices", "on one", update["ratio"]],
        ["soft actor-critic, whole training", "rejax on the gymnax adapter", sac["times_ours"]],
        ["proximal policy, whole training", "rejax on the gymnax adapter", ppo["times_ours"]],
    ]
    return table(
        ["steps per second of", "compared with", "ratio"],
        [[a, b, f"{ratio:.3g}"] for a, b, ratio in rows],
    )


def theory() -> str:
    """Mean backlog of the server, simulated and by formula."""
    newest = {(line["jobs"], line["load"]): line for line in lines("validation", what="theory")}
    rows = [
        [
            jobs,
            f"{load:g}",
            f"{line['formula_s']:.4f}",
            f"{line['least_s']:.4f} to {line['most_s']:.4f}",
            f"{line['simulated_s']:.4f} ± {line['half_s']:.4f}",
        ]
        for (jobs, load), line in newest.items()
    ]
    return table(["jobs", "load", "formula", "with slots", "simulated"], rows)


def ciw() -> str:
    """Waits of uploads, here and in Ciw."""
    newest = {line["scenario"]: line for line in lines("validation", what="ciw")}
    rows = [
        [
            f"`{name}`",
            f"{line['uploads']:,} of {line['jobs']:,}",
            f"{line['mean_wait_s']:.4f} s",
            f"{line['largest_difference_s']:.1e} s",
        ]
        for name, line in newest.items()
    ]
    return table(["scenario", "uploads of all jobs", "mean wait", "largest difference"], rows)


def _count(number: float) -> str:
    for scale, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= scale:
            return f"{number / scale:.3g}{unit}"
    return f"{number:.3g}"


TABLES: dict[str, Callable[[], str]] = {
    "run": run,
    "stopping": stopping,
    "status-reports": status_reports,
    "on-demand": on_demand,
    "fleet": fleet,
    "decision-time": decision_time,
    "multi-user": multi_user,
    "twin": twin,
    "network": network,
    "features": features,
    "speed": speed,
    "gpu": gpu,
    "compared": compared,
    "theory": theory,
    "ciw": ciw,
}


def made(text: str) -> str:
    """A page's text with every named table made again."""
    return PLACE.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}", text)


def main(pages: Sequence[Path] = PAGES) -> None:
    """Writes the tables."""
    for page in pages:
        page.write_text(made(page.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
