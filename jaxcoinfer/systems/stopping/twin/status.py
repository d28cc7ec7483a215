"""Where the server believes the device to be, and when the device corrects it.

The server decides. It knows the tasks' arrivals and the layers' times, so from the last report it
can tell where the device is without being told: at layer l of task n at slot `t^_l`. The device's
true progress depends on its speed, and it reports only where the estimate is off by more than a
threshold. Between reports the server decides on what it knew at `t^_l`, and the command waits at
the device for the layer to end. How sure an exit head is the device reports always.

The twin assumes the fastest speed of the device: it is never behind, so a command is always there
in time and nothing is decided on what has not happened yet. Status twin of Hu et al. (arXiv
2405.17664); thresholds and speeds are ours.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxcoinfer.core.contract import TimeStep, Wrapper, select
from jaxcoinfer.physics.compute import layer_slots
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping.device import observed
from jaxcoinfer.systems.stopping.env import STOP, Stopping
from jaxcoinfer.systems.stopping.observation import observe
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.state import State


class StatusParams(Params):
    """Params of the system, and of the reports; build with `watch`."""

    threshold_slots: jax.Array  # int32, how far behind the estimate the device need not report
    # float32, with which the estimate runs ahead, 1 = nominal, at least the fastest
    assumed_speed: jax.Array
    # bool, whether the estimate moves on between reports, or the server takes the last report for
    # the truth
    extrapolates: jax.Array


class BeliefState(State):
    """The state the server believes in, which policies see."""

    truth: State  # the state of the device
    reports: jax.Array  # int32, of this task


def watch(params: Params, threshold_slots: int, extrapolate: bool = True) -> StatusParams:
    """Returns the params with a report threshold, in slots; one beyond the row's length means no
    report ever.

    extrapolate: the estimate moves on between reports; without it the server takes the last report
    for the truth.
    """
    if threshold_slots < 0:
        raise ValueError(f"threshold_slots: {threshold_slots}; must be at least 0.")
    fastest = (
        params.bank.slots[:, :, exogenous.SPEED].max().astype(jnp.float32) / exogenous.SPEED_ONE
    )
    threshold, moves_on = jnp.asarray(threshold_slots, jnp.int32), jnp.asarray(extrapolate, bool)
    return StatusParams(
        **vars(params), threshold_slots=threshold, assumed_speed=fastest, extrapolates=moves_on
    )


@dataclass(frozen=True)
class StatusTwinEnv(Wrapper):
    """`stopping` as the server sees it: the same contract, params from `watch`, observations of the
    believed state.
    """

    env: Stopping

    @property
    def n_layers(self) -> int:
        return self.env.n_layers

    def mask(self, state: BeliefState, params: StatusParams) -> jax.Array:
        """Returns which actions are valid, bool [2]."""
        return self.env.mask(state.truth, params)

    def visible(self, state: BeliefState, params: StatusParams) -> tuple[State, Params]:
        """Returns what the server believes, without the truth."""
        believed, known = self.env.visible(state, params)
        return believed.replace(truth=None), known

    def reset(self, key: jax.Array, params: StatusParams) -> tuple[BeliefState, TimeStep]:
        """Starts at a random slot of a random row, with the truth reported; consumes the key."""
        return _first(*self.env.reset(key, params))

    def reset_at(
        self, row: jax.Array, slot: jax.Array, params: StatusParams
    ) -> tuple[BeliefState, TimeStep]:
        """Starts at a slot of a row, with the truth reported."""
        return _first(*self.env.reset_at(row, slot, params))

    def step(
        self, state: BeliefState, action: jax.Array, params: StatusParams
    ) -> tuple[BeliefState, TimeStep]:
        """Continues (0) or stops (1) the true device; the server's estimate moves on by what it
        knows.
        """
        truth, timestep = self.env.step(state.truth, action, params)
        ends = (action == STOP) | (state.layer == self.env.n_layers)
        layer_s = params.layer_s.at[state.layer].get(mode="promise_in_bounds")
        slots = jnp.where(
            action == STOP, 0, layer_slots(layer_s, params.assumed_speed, params.slot_s)
        )
        moved = state.slot + slots
        moved = jnp.where(ends, jnp.maximum(truth.arrival, moved), moved)
        slot = jnp.where(params.extrapolates, moved, state.slot)
        reports = truth.slot - slot > params.threshold_slots
        if self.env.observes_confidence:  # how sure the exit head is, only the device can tell
            reports = reports | (truth.layer == self.env.n_layers)
        slot = jnp.where(reports, truth.slot, slot)
        start = jnp.where(ends, slot, state.start)
        outcome = timestep.outcome.replace(reports=state.reports)
        n_reports = jnp.where(ends, 0, state.reports) + reports.astype(jnp.int32)
        believed = BeliefState(
            **vars(observed(truth.replace(slot=slot, start=start), params)),
            truth=truth,
            reports=n_reports,
        )
        believed = select(state.truth.done, state, believed)
        return believed, timestep.replace(observation=observe(believed, params), outcome=outcome)


def _first(state: State, timestep: TimeStep) -> tuple[BeliefState, TimeStep]:
    return BeliefState(**vars(state), truth=state, reports=jnp.ones_like(state.layer)), timestep
