"""What a decision of `stopping` costs as rows get longer: it should not depend on their length.

python -m benchmarks.length [--lengths 1000 10000 100000 1000000]
"""

import dataclasses

import jax

import jaxcoinfer
from benchmarks.stopping import BLOCK, stopping_loop
from jaxcoinfer.systems import registry
from training.common import measure, parser, record

N_ENVS, N_BLOCKS, N_ROWS = 1024, 16, 8


def main() -> None:
    """Appends one line per length: nanoseconds per decision of 1,024 environments on 8 rows."""
    command = parser(__doc__)
    command.add_argument(
        "--lengths", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000]
    )
    for n_slots in command.parse_args().lengths:
        scenario = dataclasses.replace(
            registry.load_scenario("reference"), rows=N_ROWS, slots=n_slots
        )
        env, params = jaxcoinfer.make(scenario)
        keys = jax.random.split(jax.random.key(1), N_ENVS)
        start = jax.jit(jax.vmap(env.reset, (0, None)))(keys, params)
        timed = measure(
            "length", stopping_loop(env, N_ENVS, N_BLOCKS), jax.random.key(2), params, *start
        )
        record(
            "length",
            {
                "n_slots": n_slots,
                "ns_per_decision": 1e9 * timed["median_s"] / (N_ENVS * N_BLOCKS * BLOCK),
            },
        )


if __name__ == "__main__":
    main()
