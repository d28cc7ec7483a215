"""The main job, bare `jaxcoinfer run`, as result lines: the table and the figure of README.

python -m benchmarks.run [--seed 0]
"""

import argparse
import time

from benchmarks.harness import RESULTS, record
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import run as stopping

SHOWN = ("utility", "latency_s", "accuracy", "energy_j", "deadline_misses")


def main() -> None:
    """Appends a line a policy, and draws utility.png."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    scenario = registry.load_scenario(registry.SYSTEMS["stopping"].default_scenario)
    begin_s = time.perf_counter()
    found = stopping.run(scenario, seed)
    figure = found.figures()["utility"]
    asked = {
        "scenario": scenario.name,
        "seed": seed,
        "seconds": round(time.perf_counter() - begin_s, 1),
    }
    bound = found.table.bound.utility
    for name, row in found.table.rows.items():
        line = asked | {"policy": name, "deployable": row.deployable}
        numbers = {measure: row.measures[measure] for measure in SHOWN} | {
            "gap": row.gap,
            "gain": row.gain,
        }
        for measure, interval in numbers.items():
            line |= {measure: interval.mean, f"{measure}_half": interval.half}
        record("run", line | {"bound": bound.mean, "bound_half": bound.half})
    figure.savefig(RESULTS / "utility.png")


if __name__ == "__main__":
    main()
