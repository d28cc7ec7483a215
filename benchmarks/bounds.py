"""How close the certified bound of `fleet` is to the answer that comes with it, and what it costs
to compute.

python -m benchmarks.bounds [--scenario fleet] [--devices 8 64 512] [--instances 200]
"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import jaxcoinfer
from benchmarks.harness import measure, record
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import bound as dual
from jaxcoinfer.systems.fleet import env as fleet


def gap(scenario: str, devices: int, instances: int) -> None:
    """Appends one line: gap in shares of the cost over slots of as many rows, and seconds a slot,
    all side by side.
    """
    drawn = dataclasses.replace(
        registry.load_scenario(scenario), devices=devices, rows=instances, slots=2
    )
    env, params = jaxcoinfer.make(drawn, jax.random.key(devices))

    def solve(params):
        def of_row(row):
            state, _ = env.reset_at(row, jnp.int32(0), params)
            return dual.solve(fleet.tables(state, params))

        return jax.vmap(of_row)(jnp.arange(instances, dtype=jnp.int32))

    timed = measure("dual", solve, params, repeats=3)
    found = jax.jit(solve)(params)
    cost, bound = np.asarray(found.cost, np.float64), np.asarray(found.bound, np.float64)
    gaps = (cost - bound)[cost > 0] / cost[cost > 0]
    line = {
        "scenario": scenario,
        "devices": devices,
        "instances": len(gaps),
        "gap_mean": gaps.mean(),
    }
    line |= {"gap_p95": np.quantile(gaps, 0.95), "gap_max": gaps.max(), "gap_min": gaps.min()}
    record(
        "bounds",
        line | {"s_per_slot": timed["median_s"] / instances, "compile_s": timed["compile_s"]},
    )


def main() -> None:
    """One line a number of devices."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", default="fleet")
    parser.add_argument("--devices", nargs="+", type=int, default=[8, 64, 512])
    parser.add_argument("--instances", type=int, default=200)
    options = parser.parse_args()
    for devices in options.devices:
        gap(options.scenario, devices, options.instances)


if __name__ == "__main__":
    main()
