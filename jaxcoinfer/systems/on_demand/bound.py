"""The exact optimum of an `on-demand` scenario whose link and speeds are finite Markov chains:
numbers and policies.

Actions do not move the chains, so the best that a device can do in each slot is

    argmax_a E[reward(a) | what it knows],

where the expectation is over one step of the chains if the device observes them a slot late, and
over nothing if it observes them at once. Axes: R states of the link, V distinct rates, D and E
device and edge speeds, G classes, A actions.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Oracle, Policy
from jaxcoinfer.data.processes import (
    ConstantRate,
    ConstantSpeed,
    HeldOutages,
    MarkovRate,
    MarkovSpeed,
)
from jaxcoinfer.systems.on_demand import twin
from jaxcoinfer.systems.on_demand.env import OnDemand, State
from jaxcoinfer.systems.on_demand.exogenous import Slot, slot_at
from jaxcoinfer.systems.on_demand.params import Params
from jaxcoinfer.systems.on_demand.scenario import OnDemandScenario, stationary


@dataclass(frozen=True)
class Chain:
    """A Markov chain of M states; float64."""

    values: np.ndarray  # [M], of each state
    transition: np.ndarray  # [M, M], probability to go from state i to j

    @property
    def stationary(self) -> np.ndarray:
        """The stationary distribution, [M]."""
        return stationary(self.transition)


@dataclass(frozen=True, eq=False)
class Solution:
    """Mean rewards per slot, and the actions that reach them."""

    gain: float  # of the best policy that knows only what is observed now
    # Of the best policy that remembers all observations: the most that any device can reach. Above
    # `gain` only where the past tells how long an outage has lasted.
    gain_history: float
    full_information: float  # with the true state of the slot known
    fixed_gain: float  # of the best fixed action
    fixed_action: int
    action: np.ndarray  # int32 [V, D, E, G], reaches `gain`
    action_history: np.ndarray  # int32 [R, D, E, G], reaches `gain_history`
    rates_bps: np.ndarray  # [V], ascending
    device_speeds: np.ndarray  # [D], 1 = nominal
    edge_speeds: np.ndarray  # [E], 1 = nominal


def solve(scenario: OnDemandScenario, env: OnDemand, params: Params) -> Solution | None:
    """Returns the optimum, or None where the link or a speed is not a finite chain; `env, params`
    from `make(scenario)`.

    The rate must be Markov, or constant with or without outages of either kind.
    """
    link = _link(scenario)
    if link is None:
        return None
    device, edge = _speed(scenario.device_speed), _speed(scenario.edge_speed)
    shares = np.array([c.share for c in scenario.classes])
    utility, actions = _utilities(env, params, link, device, edge)
    observed_late = scenario.delay_slots == 1
    steps = [
        chain.transition if observed_late else np.eye(len(chain.values))
        for chain in (link, device, edge)
    ]
    expected = np.einsum("rR,dD,eE,RDEga->rdega", *steps, utility, optimize=True)
    weights = np.einsum(
        "r,d,e,g->rdeg", link.stationary, device.stationary, edge.stationary, shares
    )
    # States of the link with the same rate look the same to a policy without memory.
    rates, group = np.unique(link.values, return_inverse=True)
    by_rate = np.zeros((len(rates), *expected.shape[1:]))
    np.add.at(by_rate, group, weights[..., None] * expected)
    fixed = by_rate.sum(axis=(0, 1, 2, 3))
    return Solution(
        gain=float(by_rate.max(axis=-1).sum()),
        gain_history=float((weights * expected.max(axis=-1)).sum()),
        full_information=float((weights * utility.max(axis=-1)).sum()),
        fixed_gain=float(fixed.max()),
        fixed_action=int(actions[fixed.argmax()]),
        action=actions[by_rate.argmax(axis=-1)],
        action_history=actions[expected.argmax(axis=-1)],
        rates_bps=rates,
        device_speeds=device.values,
        edge_speeds=edge.values,
    )


def exact_policy(solution: Solution) -> Policy:
    """The best policy that knows only what is observed now: it reaches `solution.gain`."""
    table = solution.action

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params) -> jax.Array:
        rate = _nearest(solution.rates_bps, state.seen.rate_bps)
        return jnp.asarray(table)[rate, *_speeds_and_class(solution, state)]

    return act


def exact_policy_with_memory(solution: Solution) -> Policy:
    """The best policy there is: it reaches `solution.gain_history`, except in outages that began
    before the row did.

    It reads from the past of the row how long the observed link has been out, which a device with
    memory knows too.
    """
    table = solution.action_history
    # Outages of up to so many slots are states of their own.
    longest = len(table) - len(solution.rates_bps) + 1
    if longest == 1:
        return exact_policy(solution)

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params) -> jax.Array:
        slots = state.slot - params.delay_slots - jnp.arange(longest, dtype=jnp.int32)
        past = slot_at(params.bank, state.row, jnp.maximum(slots, 0))
        is_out = (past.rate_bps == 0) & (slots >= 0)
        out_for = jnp.cumprod(is_out.astype(jnp.int32)).sum()
        return jnp.asarray(table)[out_for, *_speeds_and_class(solution, state)]

    return Oracle(act)


def _speeds_and_class(solution: Solution, state: State) -> tuple[jax.Array, jax.Array, jax.Array]:
    device = _nearest(solution.device_speeds, state.seen.device_speed)
    return device, _nearest(solution.edge_speeds, state.seen.edge_speed), state.task_class


def _nearest(values: np.ndarray, value: jax.Array) -> jax.Array:
    """Index of the entry of values that is closest to value."""
    return jnp.argmin(jnp.abs(jnp.asarray(values, jnp.float32) - value))


def _link(scenario: OnDemandScenario) -> Chain | None:
    """The chain of the link's rate, None where it is not a finite one."""
    match scenario.rate, scenario.outages:
        case MarkovRate(rates_bps, transition), None:
            return Chain(np.array(rates_bps), np.array(transition))
        case ConstantRate(rate_bps, ()), None:
            return Chain(np.array([rate_bps]), np.eye(1))
        case ConstantRate(rate_bps, (leave, back)), None:
            return Chain(
                np.array([rate_bps, 0.0]), np.array([[1 - leave, leave], [back, 1 - back]])
            )
        case ConstantRate(rate_bps, ()), HeldOutages() as outages:
            return _held(rate_bps, outages)
    return None


def _held(rate_bps: float, outages: HeldOutages) -> Chain:
    """State 0: up; state n: out for the n-th slot, followed by another one with probability
    `P(length > n | length >= n)`.
    """
    longest = outages.longest_slots
    ages = np.arange(1, longest + 1)
    # Proportional to P(length >= n).
    survival = np.minimum(longest + 1 - ages, longest + 1 - outages.shortest_slots)
    stays_out = np.append(survival[1:], 0) / survival
    transition = np.zeros((longest + 1, longest + 1))
    transition[0, :2] = 1 - outages.begin, outages.begin
    transition[ages, 0] = 1 - stays_out
    transition[ages[:-1], ages[:-1] + 1] = stays_out[:-1]
    return Chain(np.append(rate_bps, np.zeros(longest)), transition)


def _speed(speed: ConstantSpeed | MarkovSpeed) -> Chain:
    match speed:
        case MarkovSpeed(speeds, leave):
            n, leave_probability = len(speeds), np.array(leave)
            others = (1 - np.eye(n)) * leave_probability[:, None] / (n - 1)
            return Chain(np.array(speeds), others + np.diag(1 - leave_probability))
    return Chain(np.ones(1), np.eye(1))


def _utilities(
    env: OnDemand, params: Params, link: Chain, device: Chain, edge: Chain
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the reward of each valid action in each state, float64 [R, D, E, G, A'], and those
    actions [A'].
    """
    classes = np.arange(env.n_classes)
    axes = np.meshgrid(link.values, device.values, edge.values, classes, indexing="ij")
    columns = np.stack([*axes, axes[0]], axis=-1)  # the rate as observed is that of the slot
    slots = Slot(jnp.asarray(columns, jnp.float32).reshape(-1, columns.shape[-1]))
    zero = jnp.zeros((), jnp.int32)

    def utility_in(slot: Slot) -> jax.Array:
        return twin.evaluate(
            env, State(zero, zero, zero > 0, slot.task_class, slot, slot), params
        ).utility

    actions = np.flatnonzero(np.asarray(params.valid)).astype(np.int32)
    utility = np.asarray(jax.jit(jax.vmap(utility_in))(slots), np.float64)[:, actions]
    return utility.reshape(*axes[0].shape, -1), actions
