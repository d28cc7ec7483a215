"""What others can repeat: the queues of `stopping` against theory, and against a simulator of a
third party on the same draws.

    python -m benchmarks.validation [--rows 64] [--slots 65536] [--tasks 2000]

Theory: the mean backlog that an upload meets at the server, in the recorded units of a bank, beside
Pollaczek and Khinchine's `lambda E[S^2] / (2 (1 - load))` (M/D/1, M/M/1 and uniform jobs). Slots
bring the work of a slot together at its end, which adds between load / 2 and one times load of a
slot: that range is shown. Ciw (needs the `validation` extra): one first-come first-served server
that takes the others' work and our uploads at the same instants as a played row; every wait is
compared.
"""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np

import jaxcoinfer
from jaxcoinfer.core import generators
from jaxcoinfer.evaluation.evaluate import interval
from jaxcoinfer.physics.queueing import TICKS
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import baselines, exogenous, timeline
from training.common import parser, record

_LAWS = {"deterministic": 1.0, "uniform": 4.0 / 3.0, "exponential": 2.0}  # E[S^2] / E[S]^2


def theory(law: str, load: float, rows: int, slots: int) -> None:
    """Appends one line: simulated and theoretical mean backlog, seconds."""
    slot_s, mean_s, warm = 0.01, 0.05, slots // 8
    key, shape = jax.random.key(0), (rows, slots)
    if law == "deterministic":
        jobs = generators.poisson_arrivals(key, shape, load * slot_s / mean_s)
        work = jobs * round(mean_s / slot_s * TICKS)
    else:
        job_s = 2 * mean_s if law == "uniform" else mean_s
        work = generators.poisson_batch_work(key, shape, load, job_s, slot_s, law)
    nothing, ones = jnp.zeros(shape, jnp.int32), jnp.ones(shape, jnp.int32)
    bank = exogenous.make_bank(
        exogenous.Draw(nothing, work, ones, ones, jnp.ones(shape, jnp.float32))
    )
    backlog = np.asarray(bank.slots[:, warm:, exogenous.BACKLOG], np.float64)
    simulated = interval((backlog * slot_s / TICKS).mean(axis=1))
    formula_s = load / mean_s * _LAWS[law] * mean_s**2 / (2 * (1 - load))
    record(
        "validation",
        {
            "what": "theory",
            "jobs": law,
            "load": load,
            "simulated_s": round(simulated.mean, 6),
            "half_s": round(simulated.half, 6),
            "formula_s": round(formula_s, 6),
            "least_s": round(formula_s + slot_s * load / 2, 6),
            "most_s": round(formula_s + slot_s * load, 6),
        },
    )


def same_draws(scenario: str, n_tasks: int) -> None:
    """Appends one line: how far the waits of a played row are from those of Ciw, seconds."""
    ciw = importlib.import_module("ciw")
    small = dataclasses.replace(registry.load_scenario(scenario), rows=2, slots=65536)
    env, params = jaxcoinfer.make(small, jax.random.key(0), split="test")
    policy = baselines.adaptive_waiting(env)
    trips = timeline.record(env, params, policy, jax.random.key(1), n_tasks)
    sent = trips.valid & (trips.choice < env.n_layers + 1)
    slot_s, tick_s = float(params.slot_s), float(params.slot_s) / TICKS
    columns = np.asarray(params.bank.slots[0], np.int64)
    backlog, idle = columns[:, exogenous.BACKLOG], columns[:, exogenous.IDLE]
    # Work of slot t joins at the start of t + 1: Q[t+1] = max(Q[t] - slot, 0) + W[t].
    work = np.diff(backlog) + np.minimum(backlog[:-1], TICKS)
    assert (work >= 0).all() and (np.diff(idle) >= 0).all()
    end = int(trips.upload_end[sent].max())
    others = [(slot + 1, 0, int(w) * tick_s, None) for slot, w in enumerate(work[:end]) if w]
    own = [
        (int(slot), 1, float(seconds), i)
        for i, (slot, seconds) in enumerate(
            zip(trips.upload_end[sent], trips.server_s[sent], strict=True)
        )
    ]
    jobs = sorted(others + own, key=lambda job: job[:2])
    instants = np.array([slot * slot_s for slot, *_ in jobs])
    # A hair apart, so that those of one instant come in their order.
    instants = instants + 1e-9 * np.arange(len(jobs))
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Sequential([*np.diff(instants, prepend=0.0), np.inf])],
        service_distributions=[ciw.dists.Sequential([seconds for *_, seconds, _ in jobs])],
        number_of_servers=[1],
    )
    simulation = ciw.Simulation(network, exact=False)
    simulation.simulate_until_max_time(float(instants[-1]) + 1e3)
    records = sorted(simulation.get_all_records(), key=lambda one: one.arrival_date)
    waits = np.array([one.waiting_time for one in records])[: len(jobs)]
    mine = np.array([i is not None for *_, i in jobs])
    order = [i for *_, i in jobs if i is not None]
    wrong_s = np.abs(waits[mine] - np.asarray(trips.server_wait_s[sent], np.float64)[order])
    record(
        "validation",
        {
            "what": "ciw",
            "scenario": scenario,
            "uploads": len(own),
            "jobs": len(jobs),
            "mean_wait_s": round(float(waits[mine].mean()), 6),
            "largest_difference_s": float(wrong_s.max()),
        },
    )


def main() -> None:
    """Runs both."""
    command = parser(__doc__)
    command.add_argument("--rows", type=int, default=64)
    command.add_argument("--slots", type=int, default=65536)
    command.add_argument("--tasks", type=int, default=2000)
    options = command.parse_args()
    for law in _LAWS:
        for load in (0.3, 0.6, 0.9):
            theory(law, load, options.rows, options.slots)
    for scenario in ("reference", "camera"):
        same_draws(scenario, options.tasks)


if __name__ == "__main__":
    main()
