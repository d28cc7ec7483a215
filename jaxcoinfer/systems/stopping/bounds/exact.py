"""The exact optimum of a `stopping` scenario, as a number and as a policy."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Oracle, Policy
from jaxcoinfer.data import processes
from jaxcoinfer.physics.compute import SLOT_TOLERANCE
from jaxcoinfer.physics.energy import transmit_energy_j
from jaxcoinfer.systems.stopping import scenario as scenarios
from jaxcoinfer.systems.stopping.bounds import dynamic_program
from jaxcoinfer.systems.stopping.bounds.dynamic_program import Solution
from jaxcoinfer.systems.stopping.bounds.tables import Model
from jaxcoinfer.systems.stopping.env import CONTINUE, STOP
from jaxcoinfer.systems.stopping.observation import known
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.scenario import StoppingScenario
from jaxcoinfer.systems.stopping.state import State


def model_of(scenario: StoppingScenario) -> Model | None:
    """Returns the model that `dynamic_program.solve` takes, or None where the scenario is beyond
    it.

    It needs Bernoulli arrivals, Poisson batches of load, one rate without outages, one speed, and
    no exit head whose confidence is observed.
    """
    if scenarios.task_samples(scenario.task) is not None:
        return None
    match scenario:
        case StoppingScenario(
            arrivals=processes.Bernoulli(probability),
            edge_load=processes.PoissonBatches(load, job_s, jobs),
            rate=processes.ConstantRate(rate_bps, ()),
            speed=processes.ConstantSpeed(),
        ):
            pass
        case _:
            return None
    task = {
        name: np.asarray(value, float)
        for name, value in scenarios.task_numbers(scenario.task).items()
    }
    job_mean_s = job_s / 2 if jobs == "uniform" else job_s
    bits_a_slot = round(rate_bps * scenario.slot_s)
    upload_slots = np.ceil(np.round(task["upload_bits"]) / bits_a_slot).astype(int)
    return Model(
        slot_s=scenario.slot_s,
        arrival_probability=probability,
        jobs_per_slot=load * scenario.slot_s / job_mean_s,
        job_mean_s=job_mean_s,
        job_law=jobs,
        layer_slots=np.ceil(task["layer_s"] / scenario.slot_s - SLOT_TOLERANCE).astype(int),
        upload_slots=upload_slots,
        server_s=task["server_s"],
        device_energy_j=task["device_energy_j"],
        transmit_energy_j=np.asarray(
            transmit_energy_j(
                upload_slots * scenario.slot_s,
                task["transmit_w"],
                task["upload_bits"],
                task["transmit_j_per_bit"],
            )
        ),
        accuracy=task["accuracy"],
        alpha=scenario.accuracy_weight,
        beta=scenario.energy_weight,
        rtt_s=float(task["rtt_s"]),
    )


def policy(solution: Solution) -> Policy:
    """The optimal policy: `dynamic_program.act` on what the device knows, and the radio's slots."""

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params):
        k = known(state, params)
        # At one rate, known from the bits that are left.
        radio = jnp.maximum(state.hidden.radio_free - state.slot, 0)
        # The device counts its work from the moment it is handed over, so none of it is under way
        # any more.
        stops = dynamic_program.act(
            solution,
            state.layer,
            k.waiting_tasks.astype(jnp.int32),
            k.server_backlog_s,
            radio,
            jnp.zeros(()),
        )
        return jnp.where(stops, STOP, CONTINUE)

    return Oracle(act)
