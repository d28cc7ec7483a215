"""The draw of a `stopping` scenario's world, and the environment and numbers made of it. Axes: K
rows, T slots.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core import generators
from jaxcoinfer.data import processes
from jaxcoinfer.data.processes import Split
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.exogenous import Draw
from jaxcoinfer.systems.stopping.params import Params, make_params
from jaxcoinfer.systems.stopping.samples import make_samples
from jaxcoinfer.systems.stopping.scenario import StoppingScenario, task_numbers, task_samples


def make(
    scenario: StoppingScenario, key: jax.Array, *, split: Split = "train"
) -> tuple[Stopping, Params]:
    """Returns environment and numbers of a scenario; consumes the key. Raises ProfileError,
    TraceError, ValueError.
    """
    params = params_of(scenario, draw(key, scenario, split=split), split=split)
    return Stopping(
        params.layer_s.shape[0] - 1, observes_confidence=params.samples is not None
    ), params


def params_of(
    scenario: StoppingScenario,
    world: Draw,
    *,
    split: Split,
    scale: Mapping[str, float] | None = None,
) -> Params:
    """Returns the params of a `stopping` scenario in a world that was drawn for it; raises like
    `make`.

    scale: factors on arguments of `make_params`, by name.
    """
    numbers, samples, by_image = task_numbers(scenario.task), None, task_samples(scenario.task)
    for name, factor in (scale or {}).items():
        numbers[name] = np.asarray(numbers[name]) * factor
    if by_image is not None:
        samples, numbers["accuracy"] = make_samples(*by_image, split=split)
    return make_params(
        exogenous.make_bank(world),
        world.slot_bits,
        slot_s=scenario.slot_s,
        accuracy_weight=scenario.accuracy_weight,
        energy_weight=scenario.energy_weight,
        samples=samples,
        **numbers,
    )


def draw(key: jax.Array, scenario: StoppingScenario, *, split: Split = "train") -> Draw:
    """Returns one realisation of a scenario, [rows, slots]; consumes the key.

    Recorded links are those of the split, and of recorded arrivals and loads it has a part of the
    log. Each row takes the next link in turn, from a random instant; arrivals start at a random
    instant too.
    """
    key_arrivals, key_load, key_rate, key_speed = jax.random.split(key, 4)
    shape = (scenario.rows, scenario.slots)
    link = generators.link(key_rate, shape, scenario.rate, scenario.slot_s, split)
    return Draw(
        arrivals=_arrivals(key_arrivals, shape, scenario, split),
        edge_work=_edge_work(key_load, shape, scenario, split),
        slot_bits=link.bits,
        observed_bits=link.observed_bits,
        speed=generators.speeds(key_speed, shape, scenario.speed),
    )


def _arrivals(
    key: jax.Array, shape: tuple[int, int], scenario: StoppingScenario, split: Split
) -> jax.Array:
    match scenario.arrivals:
        case processes.Bernoulli(probability):
            return generators.bernoulli_arrivals(key, shape, probability)
        case processes.Poisson(mean):
            return generators.poisson_arrivals(key, shape, mean)
        case processes.Mmpp(means, leave):
            return generators.mmpp_arrivals(
                key, shape, jnp.asarray(means, jnp.float32), jnp.asarray(leave, jnp.float32)
            )
        case processes.RecordedArrivals(trace, mean):
            return generators.recorded_counts(key, shape, scenario.slot_s, trace, mean, split)
    raise TypeError(
        f"arrivals: {scenario.arrivals!r} is no process of `jaxcoinfer.systems.stopping.scenario`."
    )


def _edge_work(
    key: jax.Array, shape: tuple[int, int], scenario: StoppingScenario, split: Split
) -> jax.Array:
    match scenario.edge_load:
        case processes.PoissonBatches(load, job_s, jobs):
            return generators.poisson_batch_work(key, shape, load, job_s, scenario.slot_s, jobs)
        case processes.RecordedLoad(trace, load, job_s):
            jobs_a_slot = load * scenario.slot_s / job_s
            counts = generators.recorded_counts(
                key, shape, scenario.slot_s, trace, jobs_a_slot, split
            )
            return generators.to_ticks(counts.astype(jnp.float32) * job_s, scenario.slot_s)
    raise TypeError(
        f"edge_load: {scenario.edge_load!r} is no process of "
        "`jaxcoinfer.systems.stopping.scenario`."
    )
