"""How close the certified bound of `fleet` is to the cost of its answer, and how long it takes.

python -m benchmarks.bounds [--scenario fleet] [--devices 8 64 512] [--instances 200]
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcoinfer
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import bound as dual
from jaxcoinfer.systems.fleet import env as fleet
from training.common import measure, parser, record


def gap(scenario: str, devices: int, instances: int) -> None:
    """Appends one line: gap as a share of the cost over one slot of each of `instances` rows, and
    seconds per slot, with all in one batch.
    """
    drawn = dataclasses.replace(
        registry.load_scenario(scenario), devices=devices, rows=instances, slots=2
    )
    env, params = jaxcoinfer.make(drawn, jax.random.key(devices))

    def solve(params: Any) -> dual.Certificate:
        def of_row(row: jax.Array) -> dual.Certificate:
            state, _ = env.reset_at(row, jnp.int32(0), params)
            return dual.solve(fleet.tables(state, params))

        return jax.vmap(of_row)(jnp.arange(instances, dtype=jnp.int32))

    timed = measure("dual", solve, params, repeats=3)
    certificate = jax.jit(solve)(params)
    cost, bound = (
        np.asarray(certificate.cost, np.float64),
        np.asarray(certificate.bound, np.float64),
    )
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
    """Appends one line per number of devices."""
    command = parser(__doc__)
    command.add_argument("--scenario", default="fleet")
    command.add_argument("--devices", nargs="+", type=int, default=[8, 64, 512])
    command.add_argument("--instances", type=int, default=200)
    options = command.parse_args()
    for devices in options.devices:
        gap(options.scenario, devices, options.instances)


if __name__ == "__main__":
    main()
