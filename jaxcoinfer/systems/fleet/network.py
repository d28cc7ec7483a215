"""The network of `fleet`: prices of link and server that devices agree on in a few rounds, and what
each device then does.

At prices mu, nu of the two shares, a choice costs its device `a + 2 sqrt(mu b) + 2 sqrt(nu c)`
(`systems.fleet.bound`), and the root of a price is the demand of all devices together,
`sqrt(mu) = sum_i sqrt(b_i)`. So the network starts from the demand at prices of zero. In each round
every device answers softly to the prices, the demand is summed, and the prices move towards it; how
fast, how softly, and what is added is learned. The logits of a device are minus its costs at the
last prices, and a learned part from its own features and those of the fleet.

Devices influence each other through sums only: permuting the devices permutes the answer; an absent
one, whose tables are zeros, changes nothing; and weights learned with one number of devices serve
any other. The cost is linear in D. Sums over sets are as in Zaheer et al., *Deep Sets* (arXiv
1703.06114); that they iterate to prices is ours. Axes: D devices, C choices, F features, H width, R
rounds, L levels of shares.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxcoinfer.core.contract import Env, TimeStep, Wrapper
from jaxcoinfer.learn import distributions
from jaxcoinfer.learn.networks import Mlp
from jaxcoinfer.systems.fleet import twin
from jaxcoinfer.systems.fleet.env import Fleet, FleetAction, FleetState, tables
from jaxcoinfer.systems.fleet.params import FleetParams

_MIN_ROOT_PRICE = 1e-6  # for its logarithm


class FleetView(struct.PyTreeNode):
    """What the network sees."""

    features: jax.Array  # float32 [D, F], the observation
    active: jax.Array  # bool [D]
    base: jax.Array  # float32 [D, C], cost without link and server; 0 where invalid
    send: jax.Array  # float32 [D, C], root of the cost with all the band
    run: jax.Array  # float32 [D, C], root of the cost with the whole server
    valid: jax.Array  # bool [D, C]


def view(env: Env, state: FleetState, observation: jax.Array, params: FleetParams) -> FleetView:
    """Returns what is known of a slot, as `learn.ppo.Config.view` wants it."""
    costs = tables(state.seen, params)
    valid = jnp.isfinite(costs.base)
    return FleetView(
        features=observation,
        active=state.seen.active,
        base=jnp.where(valid, costs.base, 0.0),
        send=jnp.sqrt(costs.bandwidth),
        run=jnp.sqrt(costs.compute),
        valid=valid,
    )


class PriceNet(nn.Module):
    """FleetView -> (logits [..., D, C], or a `FleetAction` of logits with those of shares
    [..., D, L]; value [...], minus the mean cost).
    """

    hidden: tuple[int, ...]  # widths of the layers
    n_choices: int
    n_rounds: int = 4
    n_levels: int = 0  # of shares; 0: they are not learned

    @nn.compact
    def __call__(self, view: FleetView) -> tuple[Any, jax.Array]:
        here = view.active.astype(jnp.float32)[..., None]
        n = jnp.maximum(here.sum(axis=-2), 1.0)
        own = nn.tanh(Mlp((self.hidden[0],), self.hidden[-1])(view.features)) * here
        pooled = own.sum(axis=-2) / n
        sharpness = jnp.exp(
            self.param("log_sharpness", nn.initializers.constant(3.0), (self.n_rounds + 1,))
        )
        damping = nn.sigmoid(self.param("damping", nn.initializers.zeros, (self.n_rounds,)))
        shift = nn.Dense(2 * (self.n_rounds + 1), kernel_init=nn.initializers.zeros)(pooled)
        log_prices = (
            self._log_demand(view, jnp.zeros((*n.shape[:-1], 2)), sharpness[0]) + shift[..., :2]
        )
        for k in range(self.n_rounds):
            log_demand = self._log_demand(view, jnp.exp(log_prices), sharpness[k])
            log_prices = (
                log_prices
                + damping[k] * (log_demand - log_prices)
                + shift[..., 2 * k + 2 : 2 * k + 4]
            )
        cost = self._cost(view, jnp.exp(log_prices))
        together = jnp.broadcast_to(pooled[..., None, :], own.shape)
        parts = jnp.concatenate([own, together], axis=-1)
        best = jnp.where(view.valid, cost, jnp.inf).min(axis=-1, keepdims=True)
        logits = -sharpness[-1] * jnp.where(view.valid, cost - best, 0.0) + Mlp(
            self.hidden, self.n_choices
        )(parts)
        # At these prices, the least costs of the devices less the prices themselves are a lower
        # bound on the cost of all.
        bound = (best * here).sum(axis=(-2, -1)) - jnp.exp(2.0 * log_prices).sum(axis=-1)
        value = -bound / n[..., 0] + Mlp(self.hidden, 1)(pooled)[..., 0]
        if not self.n_levels:
            return logits, value
        levels = Mlp(self.hidden, 2 * self.n_levels)(parts)
        bandwidth, compute = jnp.split(levels, 2, axis=-1)
        return FleetAction(logits, bandwidth, compute), value

    def _cost(self, view: FleetView, root_prices: jax.Array) -> jax.Array:
        """Costs [..., D, C] at roots of prices [..., 2]."""
        return view.base + 2.0 * (
            root_prices[..., :1, None] * view.send + root_prices[..., 1:, None] * view.run
        )

    def _log_demand(
        self, view: FleetView, root_prices: jax.Array, sharpness: jax.Array
    ) -> jax.Array:
        """Logarithm of the demand of devices that answer softly to the prices, [..., 2]."""
        log_answer = distributions.masked_log_softmax(
            -sharpness * self._cost(view, root_prices), view.valid
        )
        sums = [
            distributions.masked_expectation(log_answer, root, view.valid).sum(axis=-1)
            for root in (view.send, view.run)
        ]
        return jnp.log(jnp.maximum(jnp.stack(sums, axis=-1), _MIN_ROOT_PRICE))


@dataclass(frozen=True)
class Leveled(Wrapper):
    """A fleet with `learned_shares`, whose shares are in proportion to powers of `sqrt(2)`, one of
    n_levels for each device.
    """

    env: Fleet
    n_levels: int = 16

    def mask(self, state: FleetState, params: FleetParams) -> FleetAction:
        """Returns which choices, and which levels of either share, are valid; for an absent device
        only the first ones.
        """
        here = state.seen.active[:, None]
        levels = here | (jnp.arange(self.n_levels) == 0)[None]
        return FleetAction(self.env.mask(state, params), levels, levels)

    def step(
        self, state: FleetState, action: FleetAction, params: FleetParams
    ) -> tuple[FleetState, TimeStep]:
        """Serves the tasks of this slot; action: choice and levels of shares, [D] int32 each."""
        bandwidth, compute = (
            jnp.exp2(0.5 * level.astype(jnp.float32))
            for level in (action.bandwidth, action.compute)
        )
        return self.env.step(state, FleetAction(action.choice, bandwidth, compute), params)


def network(env: Env, config: Any) -> PriceNet:
    """Returns the network as `learn.ppo.Config.network` wants it; it learns shares where the
    environment is a `Leveled`.
    """
    n_levels = env.n_levels if isinstance(env, Leveled) else 0
    return PriceNet(config.hidden, env.n_choices, n_levels=n_levels)


def outcomes(env: Any, state: FleetState, action: jax.Array, params: FleetParams) -> jax.Array:
    """Returns the mean reward of all tasks for each other choice of each device, shares following,
    [D, C].
    """
    tasks = jnp.maximum(state.now.active.sum(), 1).astype(jnp.float32)
    cost = twin.evaluate(env, state, params, action)
    return jnp.where(jnp.isfinite(cost), -cost / tasks, 0.0)
