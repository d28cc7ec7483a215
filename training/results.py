"""The results of README.md: `jaxcoinfer run` on shipped scenarios, every policy by the protocol of
`jaxcoinfer.evaluation.protocol`.

    python -m training.results [--scenario camera wifi ...] [--seed 0] [--seeds 5]
    python -m training.results --sensitivity [--seeds 5]

Appends one line per policy to `benchmarks/results/results.jsonl`: measures, gap to the bound, and
differences to the baseline that is best on the validation links, `gain`, and to every baseline,
`above_...`, each with the half width of its 95 % interval over links and seeds. The figure of the
default scenario becomes `utility.png`. With `--sensitivity` the default scenario is evaluated with
each of its assumed numbers scaled over a decade, and `profiles/sensitivity.csv` is written, which
`jaxcoinfer profiles --assumed` shows.
"""

import csv
import dataclasses
import time
from typing import Any

from jaxcoinfer.data.profiles import profiles_root
from jaxcoinfer.evaluation.types import Run
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import run as stopping
from jaxcoinfer.systems.stopping.policies import BEST, LEARNERS
from jaxcoinfer.systems.stopping.sweeps import CONSTANTS
from training.common import RESULTS, parser, record, rounded

# What a table does not need, by field of a system's sizes.
_LEFT_OUT: dict[str, Any] = {"arrivals": (), "loads": (), "thresholds": (0,), "factors": (1.0,)}


def results(name: str, seed: int, seeds: int) -> Run:
    """Runs a scenario and appends a line per policy."""
    scenario = registry.load_scenario(name)
    system = registry.SYSTEMS[scenario.system].part("run")
    fields = {field.name for field in dataclasses.fields(system.FULL)}
    sizes = dataclasses.replace(
        system.FULL, seeds=seeds, **{k: v for k, v in _LEFT_OUT.items() if k in fields}
    )
    begin_s = time.perf_counter()
    run = system.run(scenario, seed, sizes)
    facts = {
        "scenario": name,
        "system": scenario.system,
        "seed": seed,
        "seeds": seeds,
        "seconds": round(time.perf_counter() - begin_s, 1),
        "compared": run.table.compared,
    }
    above: dict[str, dict[str, float]] = {}
    _, differences = run.table.sheets["differences"]
    for policy, other, mean, half in differences:
        key = f"above_{other.replace(' ', '_')}"
        above.setdefault(policy, {}).update({key: round(mean, 5), f"{key}_half": round(half, 5)})
    bound = {"bound": run.table.bound.utility}
    for policy, row in run.table.rows.items():
        line = facts | {"policy": policy, "deployable": row.deployable}
        numbers = row.measures | {"gap": row.gap, "gain": row.gain} | bound
        record("results", line | rounded(numbers, 5) | above.get(policy, {}))
    return run


def sensitivity(seed: int, seeds: int) -> None:
    """Writes who is best on the default scenario, by factor on each of its assumed numbers."""
    scenario = registry.load_scenario(registry.SYSTEMS["stopping"].default_scenario)
    factors = (0.32, 0.56, 1.0, 1.8, 3.2)
    sizes = dataclasses.replace(
        stopping.FULL, seeds=seeds, arrivals=(), loads=(), thresholds=(0,), factors=factors
    )
    run = stopping.run(scenario, seed, sizes)
    utility: dict[tuple[str, float], dict[str, float]] = {}
    for axis, factor, policy, mean, _ in run.sheets["sweeps"][1]:
        if axis in CONSTANTS:
            utility.setdefault((axis, factor), {})[policy] = mean
    with open(profiles_root() / "sensitivity.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("scenario", "number", "factor", "ranking", "gain"))
        for (axis, factor), by_policy in utility.items():
            order = sorted(by_policy, key=lambda name: -by_policy[name])
            rules = max(value for name, value in by_policy.items() if name not in LEARNERS)
            gain = by_policy[BEST] - rules
            ranking = " > ".join(order[:2])
            writer.writerow((scenario.name, axis, factor, ranking, f"{gain:.4f}"))


def main() -> None:
    """Runs all scenarios asked for."""
    command = parser(__doc__)
    command.add_argument("--scenario", nargs="+", default=list(registry.list_scenarios()))
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--sensitivity", action="store_true")
    options = command.parse_args()
    if options.sensitivity:
        return sensitivity(options.seed, options.seeds)
    for name in options.scenario:
        run = results(name, options.seed, options.seeds)
        if name == registry.SYSTEMS["stopping"].default_scenario:
            run.figures()["utility"].savefig(RESULTS / "utility.png")


if __name__ == "__main__":
    main()
