"""The main job, `jaxcoinfer run`, as result lines: the first table and figure of README.md.

python -m benchmarks.run [--seed 0]
"""

import time

from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import run as stopping
from training.common import RESULTS, parser, record

SHOWN = ("utility", "latency_s", "accuracy", "energy_j", "deadline_misses")


def main() -> None:
    """Appends one line per policy, and draws utility.png."""
    command = parser(__doc__)
    command.add_argument("--seed", type=int, default=0)
    seed = command.parse_args().seed
    scenario = registry.load_scenario(registry.SYSTEMS["stopping"].default_scenario)
    begin_s = time.perf_counter()
    result = stopping.run(scenario, seed)
    figure = result.figures()["utility"]
    facts = {
        "scenario": scenario.name,
        "seed": seed,
        "seconds": round(time.perf_counter() - begin_s, 1),
    }
    bound = result.table.bound.utility
    for name, row in result.table.rows.items():
        line = facts | {"policy": name, "deployable": row.deployable}
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
