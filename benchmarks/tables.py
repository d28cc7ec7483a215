"""The tables of README.md, made from the results; a test checks that both agree.

python -m benchmarks.tables  # writes them into README.md, between the lines that name them
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.common import RESULTS

README = RESULTS.parents[1] / "README.md"
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


def seeds(question: str, number: str, /, **wanted: Any) -> float:
    """Mean of a number over the newest line of each seed."""
    newest = {line["seed"]: line[number] for line in lines(question, **wanted)}
    return sum(newest.values()) / len(newest)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    parts = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in parts)


def within(mean: float, half: float, sign: bool = False) -> str:
    """A mean with the half width of its interval, as many digits as the interval has."""
    digits = 3 if half < 0.1 else 2
    return f"{mean:{'+' if sign else ''}.{digits}f} ± {half:.{digits}f}"


def run() -> str:
    """The main job: every policy, by utility."""
    newest = {line["policy"]: line for line in lines("run", scenario="camera", seed=0)}
    rows = []
    for name, line in sorted(newest.items(), key=lambda item: -item[1]["utility"]):
        cells = [
            name if line["deployable"] else f"{name} \\*",
            within(line["utility"], line["utility_half"]),
            f"{line['gap']:.3f}",
            f"{1e3 * line['latency_s']:.0f}",
            f"{line['accuracy']:.3f}",
            f"{1e3 * line['energy_j']:.0f}",
            f"{100 * line['deadline_misses']:.1f}",
        ]
        compared = name == "one-time greedy"
        gain = "" if compared else within(line["gain"], line["gain_half"], sign=True)
        rows.append([*cells, gain])
    head = [
        "policy",
        "utility",
        "gap to bound",
        "delay ms",
        "accuracy",
        "energy mJ",
        "late %",
        "gain on greedy",
    ]
    return table(head, rows)


def recorded() -> str:
    """What the differential learner gains on recorded links."""
    names = ("wifi", "campus-pi", "office-bursts")
    results = [last("reference", scenario=name, policy="differential value") for name in names]
    above = {
        "one-time greedy": "greedy",
        "one-time waiting": "waiting",
        "adaptive waiting": "adaptive",
    }
    above |= {"clairvoyant": "clairvoyant"}
    rows = [
        [
            baseline,
            *(within(r[f"above_{key}"], r[f"above_{key}_half"], sign=True) for r in results),
        ]
        for baseline, key in above.items()
    ]
    return table(["utility per task above …", *(f"`{name}`" for name in names)], rows)


def reference() -> str:
    """The small system that can be solved exactly."""
    policies = [
        "device only",
        "edge only",
        "random",
        "one-time greedy",
        "one-time waiting",
        "adaptive waiting",
    ]
    policies += ["continuation value", "clairvoyant", "differential value", "exact optimum"]
    rows = []
    for policy in policies:
        easy, busy = (
            last("reference", scenario=s, policy=policy) for s in ("reference", "reference-busy")
        )
        utility = [within(line["utility"], line["utility_half"]) for line in (easy, busy)]
        rows.append(
            [policy, *utility, within(busy["above_waiting"], busy["above_waiting_half"], sign=True)]
        )
    head = [
        "policy",
        "`reference` (2 tasks/s)",
        "`reference-busy` (3 tasks/s)",
        "above one-time waiting, busy",
    ]
    return table(head, rows)


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
    """The Markov scenario, where the exact optimum is known."""
    wanted = {"recipe": "table", "scenario": "on-demand-markov"}
    baselines = ["neurosurgeon", "best fixed action", "edgent", "greedy"]
    learners = ["proximal policy", "deep Q", "soft actor-critic"]
    rows = [
        [name, f"{last('on_demand', policy=name, **wanted)['utility']:.3f}"] for name in baselines
    ]
    learned = [name for name in learners if lines("on_demand", policy=name, **wanted)]
    rows += [
        [f"{n}, five seeds", f"{seeds('on_demand', 'utility', policy=n, **wanted):.3f}"]
        for n in learned
    ]
    known = (
        ("exact optimum given the observations", "exact optimum"),
        ("full information", "full information"),
    )
    rows += [
        [label, f"{last('on_demand', policy=name, **wanted)['utility']:.3f}"]
        for label, name in known
    ]
    return table(["`on-demand-markov`", "utility per task"], rows)


def fleet() -> str:
    """Cost above the certified bound, by number of devices."""
    sizes = (4, 16, 64)
    wanted = {"recipe": "table", "scenario": "fleet"}
    rows = []
    for name in ("one version", "equal shares", "alternating"):
        gaps = [last("fleet", policy=name, devices=size, **wanted)["gap_ratio"] for size in sizes]
        rows.append([name, *(f"{100 * gap:.2f} %" for gap in gaps)])
    gaps = [
        seeds("fleet", "gap_ratio", policy="price network", devices=size, **wanted)
        for size in sizes
    ]
    rows.append(["price network, five seeds", *(f"{100 * gap:.2f} %" for gap in gaps)])
    return table(["cost above the bound", *(f"{size} devices" for size in sizes)], rows)


def multi_user() -> str:
    """Reward per episode and cost per task of every policy; of the learner, over its seeds."""
    wanted = {"recipe": "table", "scenario": "multi-user"}
    rows = []
    for name in ("all local", "random", "greedy", "best fixed split", "proximal policy"):
        if name == "proximal policy":
            means = {
                key: seeds("multi_user", key, policy=name, **wanted)
                for key in ("reward", "cost", "delay_s", "energy_j")
            }
        else:
            means = last("multi_user", policy=name, **wanted)
        shown = f"{name}, five seeds" if name == "proximal policy" else name
        numbers = [
            f"{means['reward']:.2f}",
            *(f"{1e3 * means[key]:.0f}" for key in ("cost", "delay_s", "energy_j")),
        ]
        rows.append([shown, *numbers])
    return table(
        ["`multi-user`", "reward per episode", "cost per task, 10⁻³", "delay ms", "energy mJ"],
        rows,
    )


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


def _count(number: float) -> str:
    for scale, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= scale:
            return f"{number / scale:.3g}{unit}"
    return f"{number:.3g}"


TABLES: dict[str, Callable[[], str]] = {
    "run": run,
    "recorded": recorded,
    "reference": reference,
    "status-reports": status_reports,
    "on-demand": on_demand,
    "fleet": fleet,
    "multi-user": multi_user,
    "network": network,
    "features": features,
    "speed": speed,
    "compared": compared,
}


def made(text: str) -> str:
    """README's text with every named table made again."""
    return PLACE.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}", text)


def main(readme: Path = README) -> None:
    """Writes the tables."""
    readme.write_text(made(readme.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
