"""The exact optimum of an `on-demand` scenario whose link and speeds are finite Markov chains:
numbers and policies.

Actions do not move the chains, so the best a device can do is, in each slot,

    argmax_a E[reward(a) | what it knows],

with the expectation over one step of the chains where the device sees them a slot late, and over
nothing where it sees them at once. Axes: R states of the link, V rates that can be told apart, D
and E device and edge speeds, G classes, A actions.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.data.processes import (
    ConstantRate,
    ConstantSpeed,
    HeldOutages,
    MarkovRate,
    MarkovSpeed,
)
from jaxcoinfer.systems.on_demand import exogenous, twin
from jaxcoinfer.systems.on_demand.env import OnDemand, State
from jaxcoinfer.systems.on_demand.exogenous import Slot
from jaxcoinfer.systems.on_demand.params import Params
from jaxcoinfer.systems.on_demand.scenario import OnDemandScenario, stationary


@dataclass(frozen=True)
class Chain:
    """values [M] of the states of a Markov chain, and transition [M, M]; float64."""

    values: np.ndarray
    transition: np.ndarray

    @property
    def law(self) -> np.ndarray:
        return stationary(self.transition)


@dataclass(frozen=True, eq=False)
class Solution:
    """Mean rewards a slot, and the actions that reach them.

    gain: of the best policy that knows only what is observed now. gain_history: of the best that
    remembers all it saw, the most any device can reach; above `gain` only where the past says how
    long an outage has lasted. full_information: with the slot's true state known. fixed_gain: of
    fixed_action, the best one. action [V, D, E, G] and action_history [R, D, E, G]: the first
    two's, int32; rates_bps [V], device_speeds [D], edge_speeds [E].
    """

    gain: float
    gain_history: float
    full_information: float
    fixed_gain: float
    fixed_action: int
    action: np.ndarray
    action_history: np.ndarray
    rates_bps: np.ndarray
    device_speeds: np.ndarray
    edge_speeds: np.ndarray


def of(scenario: OnDemandScenario, env: OnDemand, params: Params) -> Solution | None:
    """Returns the optimum, or None where link or speeds are no finite chains; `env, params` from
    `make(scenario)`.

    It takes a Markov rate, or a constant one, which may have outages of either kind.
    """
    link = _link(scenario)
    if link is None:
        return None
    device, edge = _speed(scenario.device_speed), _speed(scenario.edge_speed)
    shares = np.array([c.share for c in scenario.classes])
    utility, actions = _utilities(env, params, link, device, edge)
    late = scenario.delay_slots == 1
    steps = [
        chain.transition if late else np.eye(len(chain.values)) for chain in (link, device, edge)
    ]
    expected = np.einsum("rR,dD,eE,RDEga->rdega", *steps, utility, optimize=True)
    weights = np.einsum("r,d,e,g->rdeg", link.law, device.law, edge.law, shares)
    rates, group = np.unique(link.values, return_inverse=True)
    together = np.zeros((len(rates), *expected.shape[1:]))
    np.add.at(together, group, weights[..., None] * expected)
    fixed = together.sum(axis=(0, 1, 2, 3))
    return Solution(
        gain=float(together.max(axis=-1).sum()),
        gain_history=float((weights * expected.max(axis=-1)).sum()),
        full_information=float((weights * utility.max(axis=-1)).sum()),
        fixed_gain=float(fixed.max()),
        fixed_action=int(actions[fixed.argmax()]),
        action=actions[together.argmax(axis=-1)],
        action_history=actions[expected.argmax(axis=-1)],
        rates_bps=rates,
        device_speeds=device.values,
        edge_speeds=edge.values,
    )


def policy(solution: Solution) -> Policy:
    """The best policy that knows only what is observed now: it reaches `solution.gain`."""
    table = solution.action

    def act(key, state, observation, params):
        rate = _nearest(solution.rates_bps, state.seen.rate_bps)
        return jnp.asarray(table)[rate, *_speeds_and_class(solution, state)]

    return act


def policy_with_memory(solution: Solution) -> Policy:
    """The best policy there is: it reaches `solution.gain_history`, but for outages that began
    before the row did.

    It looks up how long the link it sees has been out: the past of the row, nothing that the device
    has not seen.
    """
    table = solution.action_history
    longest = (
        len(table) - len(solution.rates_bps) + 1
    )  # outages of up to so many slots are states of their own
    if longest == 1:
        return policy(solution)

    def act(key, state, observation, params):
        ago = state.slot - params.delay_slots - jnp.arange(longest, dtype=jnp.int32)
        past = exogenous.slot_at(params.bank, state.row, jnp.maximum(ago, 0))
        out = (past.rate_bps == 0) & (ago >= 0)
        return jnp.asarray(table)[
            jnp.cumprod(out.astype(jnp.int32)).sum(), *_speeds_and_class(solution, state)
        ]

    return act


def _speeds_and_class(solution: Solution, state: State) -> tuple[jax.Array, jax.Array, jax.Array]:
    device = _nearest(solution.device_speeds, state.seen.device_speed)
    return device, _nearest(solution.edge_speeds, state.seen.edge_speed), state.now.task_class


def _nearest(values: np.ndarray, value: jax.Array) -> jax.Array:
    return jnp.argmin(jnp.abs(jnp.asarray(values, jnp.float32) - value))


def _link(scenario: OnDemandScenario) -> Chain | None:
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
    """State 0: up; state n: out for the n-th slot, followed by another with probability P(length >
    n | length >= n).
    """
    longest = outages.longest_slots
    ages = np.arange(1, longest + 1)
    lasts = np.minimum(
        longest + 1 - ages, longest + 1 - outages.shortest_slots
    )  # proportional to P(length >= n)
    goes_on = np.append(lasts[1:], 0) / lasts
    transition = np.zeros((longest + 1, longest + 1))
    transition[0, :2] = 1 - outages.begin, outages.begin
    transition[ages, 0] = 1 - goes_on
    transition[ages[:-1], ages[:-1] + 1] = goes_on[:-1]
    return Chain(np.append(rate_bps, np.zeros(longest)), transition)


def _speed(speed: ConstantSpeed | MarkovSpeed) -> Chain:
    match speed:
        case MarkovSpeed(speeds, leave):
            n, out = len(speeds), np.array(leave)
            others = (1 - np.eye(n)) * out[:, None] / (n - 1)
            return Chain(np.array(speeds), others + np.diag(1 - out))
    return Chain(np.ones(1), np.eye(1))


def _utilities(
    env: OnDemand, params: Params, link: Chain, device: Chain, edge: Chain
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the reward of each valid action in each state, float64 [R, D, E, G, A'], and those
    actions [A'].
    """
    classes = np.arange(env.n_classes)
    axes = np.meshgrid(link.values, device.values, edge.values, classes, indexing="ij")
    slots = Slot(jnp.asarray(np.stack(axes, axis=-1), jnp.float32).reshape(-1, len(axes)))
    zero = jnp.zeros((), jnp.int32)

    def of_slot(slot):
        return twin.evaluate(env, State(zero, zero, zero > 0, slot, slot), params).utility

    actions = np.flatnonzero(np.asarray(params.valid)).astype(np.int32)
    utility = np.asarray(jax.jit(jax.vmap(of_slot))(slots), np.float64)[:, actions]
    return utility.reshape(*axes[0].shape, -1), actions
