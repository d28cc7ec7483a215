"""How fast every environment, twin, bound and learner is, and how far from the peak rates of the
machine.

    python -m benchmarks.speed [environments twins bounds learners] [--sizes 1 64 1024 16384 131072]
    [--only NAME]

One line for each and size: items per second (decisions, outcomes, bounds, learned steps), seconds
to compile, memory of the program, and for what has no loop inside, bytes and FLOP per item with the
shares of the machine's limits that they reach. `null` is a step that does next to nothing, and
`share_of_null` the rate relative to its rate, which no environment here can exceed. The same on CPU
and GPU. Bounds, learners and worlds of many devices are measured at fewer sizes.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import cases, limits
from benchmarks.cases import Case
from training.common import measure, parser, record

KINDS = {
    "environments": cases.environments,
    "twins": cases.twins,
    "bounds": cases.bounds,
    "learners": cases.learners,
}
# Smallest and largest size measured; the other kinds are measured at all sizes.
SIZES = {"bounds": (1, 16384), "learners": (64, 4096)}


def main() -> None:
    """Measures the chosen kinds and appends one line per case and size."""
    command = parser(__doc__)
    command.add_argument(
        "kinds", nargs="*", default=list(KINDS), metavar="KIND", help=", ".join(KINDS)
    )
    command.add_argument("--sizes", type=int, nargs="+", default=[1, 64, 1024, 16384, 131072])
    command.add_argument("--only", metavar="NAME")
    command.add_argument("--repeats", type=int, default=7)
    options = command.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        command.error(f"{', '.join(sorted(unknown))}: no such kind; there are {', '.join(KINDS)}")
    limit = limits.limits()
    record("speed", {"kind": "limits", **limit})
    for kind in options.kinds:
        smallest, largest = SIZES.get(kind, (1, max(options.sizes)))
        for size in (size for size in options.sizes if smallest <= size <= largest):
            for line in lines(kind, size, limit, options.repeats, options.only):
                record("speed", line)
    if "bounds" in options.kinds:
        for name, find in cases.optima().items():
            if options.only in (None, name):
                record(
                    "speed",
                    {
                        "kind": "bounds",
                        "name": name,
                        "size": 1,
                        "items_per_s": 1.0 / _second_call_s(find),
                    },
                )


def lines(
    kind: str, size: int, limit: dict[str, float], repeats: int = 7, only: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yields the line of every case of a kind at a size, against the limits of the machine."""
    null_per_s = None
    for case in KINDS[kind](size):
        if only not in (None, case.name) and case.name != "null step":
            continue
        line = _line(case, size, limit, repeats)
        null_per_s = line["items_per_s"] if case.name == "null step" else null_per_s
        if null_per_s is not None and case.once is not None:
            line["share_of_null"] = line["items_per_s"] / null_per_s
        yield {"kind": kind, "name": case.name, "size": size} | line


def _line(case: Case, size: int, limit: dict[str, float], repeats: int) -> dict[str, Any]:
    timed = measure(case.name, case.loop, *case.arguments, repeats=repeats)
    per_s = case.items / timed["median_s"]
    line = {
        "items_per_s": per_s,
        "compile_s": timed["compile_s"],
        "memory_mib": timed["memory_mib"],
    }
    if case.once is None:
        return line
    counted = limits.count(case.once, case.once_items, size, *case.once_arguments)
    return line | limits.against(limit, per_s, counted)


def _second_call_s(function: Callable) -> float:
    function()
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
