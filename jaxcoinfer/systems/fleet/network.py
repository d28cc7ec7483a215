"""The network of `fleet`: prices of link and server that devices agree on in a few rounds, and what
each then does.

At prices mu, nu of the two shares a choice costs its device `a + 2 sqrt(mu b) + 2 sqrt(nu c)`
(`systems.fleet.bound`), and the root of a price is what all devices together ask for, `sqrt(mu) =
sum_i sqrt(b_i)`. So the network starts from the demand at no price, and in each round lets every
device answer softly to the prices, sums the demand and moves the prices towards it; how fast, how
softly, and what is added to it is learned. The logits of a device are its costs at the last prices,
and a learned part of its own features and of the fleet's.

All that one device tells another goes through sums: permuting the devices permutes the answer, an
absent one, whose tables are zeros, changes nothing, and weights learned at one D serve any other.
The cost is linear in D. Sums over sets as in Zaheer et al., *Deep Sets* (arXiv 1703.06114); that
they iterate to prices is ours. Axes: D devices, C choices, F features, H width, R rounds.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxcoinfer.core.contract import TimeStep
from jaxcoinfer.learn import distributions
from jaxcoinfer.learn.networks import Mlp
from jaxcoinfer.systems.fleet import env as fleet
from jaxcoinfer.systems.fleet import twin
from jaxcoinfer.systems.fleet.env import Fleet, FleetAction, FleetState
from jaxcoinfer.systems.fleet.params import FleetParams

_LEAST = 1e-6  # of a root of a price, of which the logarithm is taken


class FleetView(struct.PyTreeNode):
    """What the network sees: features [D, F] of `fleet.observe`; active [D] bool; base [D, C], 0
    where not valid, and send, run [D, C], roots of the costs of all the band and all the server;
    valid [D, C] bool.
    """

    features: jax.Array
    active: jax.Array
    base: jax.Array
    send: jax.Array
    run: jax.Array
    valid: jax.Array


def view(env: Any, state: FleetState, observation: jax.Array, params: FleetParams) -> FleetView:
    """Returns what is known of a slot, as `learn.ppo.Config.view` wants it."""
    of = fleet.tables(state, params)
    valid = jnp.isfinite(of.base)
    base = jnp.where(valid, of.base, 0.0)
    return FleetView(
        observation,
        fleet.active(state, params),
        base,
        jnp.sqrt(of.bandwidth),
        jnp.sqrt(of.compute),
        valid,
    )


class PriceNet(nn.Module):
    """FleetView -> (logits [..., D, C], or a tree with those of shares, value [...]: minus the mean
    cost).
    """

    hidden: tuple[int, ...]
    n_choices: int
    n_rounds: int = 4
    n_levels: int = 0

    @nn.compact
    def __call__(self, seen: FleetView) -> tuple[Any, jax.Array]:
        here = seen.active.astype(jnp.float32)[..., None]
        n = jnp.maximum(here.sum(axis=-2), 1.0)
        own = nn.tanh(Mlp((self.hidden[0],), self.hidden[-1])(seen.features)) * here
        pooled = own.sum(axis=-2) / n
        sharpness = jnp.exp(
            self.param("log_sharpness", nn.initializers.constant(3.0), (self.n_rounds + 1,))
        )
        damping = nn.sigmoid(self.param("damping", nn.initializers.zeros, (self.n_rounds,)))
        shift = nn.Dense(2 * (self.n_rounds + 1), kernel_init=nn.initializers.zeros)(pooled)
        log_prices = (
            self._log_demand(seen, jnp.zeros((*n.shape[:-1], 2)), sharpness[0]) + shift[..., :2]
        )
        for k in range(self.n_rounds):
            asked = self._log_demand(seen, jnp.exp(log_prices), sharpness[k])
            log_prices = (
                log_prices + damping[k] * (asked - log_prices) + shift[..., 2 * k + 2 : 2 * k + 4]
            )
        cost = self._cost(seen, jnp.exp(log_prices))
        together = jnp.broadcast_to(pooled[..., None, :], own.shape)
        parts = jnp.concatenate([own, together], axis=-1)
        best = jnp.where(seen.valid, cost, jnp.inf).min(axis=-1, keepdims=True)
        logits = -sharpness[-1] * jnp.where(seen.valid, cost - best, 0.0) + Mlp(
            self.hidden, self.n_choices
        )(parts)
        # At those prices the devices' least costs less the prices themselves bound the cost of all
        # from below.
        bound = (best * here).sum(axis=(-2, -1)) - jnp.exp(2.0 * log_prices).sum(axis=-1)
        value = -bound / n[..., 0] + Mlp(self.hidden, 1)(pooled)[..., 0]
        if not self.n_levels:
            return logits, value
        levels = Mlp(self.hidden, 2 * self.n_levels)(parts)
        bandwidth, compute = jnp.split(levels, 2, axis=-1)
        return FleetAction(logits, bandwidth, compute), value

    def _cost(self, seen: FleetView, prices: jax.Array) -> jax.Array:
        """Costs [..., D, C] at roots of prices [..., 2]."""
        return seen.base + 2.0 * (
            prices[..., :1, None] * seen.send + prices[..., 1:, None] * seen.run
        )

    def _log_demand(self, seen: FleetView, prices: jax.Array, sharpness: jax.Array) -> jax.Array:
        """Logarithm of what devices that answer softly to the prices ask for, [..., 2]."""
        log_answer = distributions.masked_log_softmax(
            -sharpness * self._cost(seen, prices), seen.valid
        )
        sums = [
            distributions.masked_expectation(log_answer, root, seen.valid).sum(axis=-1)
            for root in (seen.send, seen.run)
        ]
        return jnp.log(jnp.maximum(jnp.stack(sums, axis=-1), _LEAST))


@dataclass(frozen=True)
class Leveled:
    """A fleet with `learned_shares`, whose shares are in proportion to one of n_levels powers of
    `sqrt(2)`.
    """

    env: Fleet
    n_levels: int = 16

    @property
    def n_choices(self) -> int:
        return self.env.n_choices

    @property
    def observation_shape(self) -> tuple[int, int]:
        return self.env.observation_shape

    def mask(self, state: FleetState, params: FleetParams) -> FleetAction:
        """Returns which choices, and which levels of either share, are valid; an absent device has
        the first ones.
        """
        here = fleet.active(state, params)[:, None]
        levels = here | (jnp.arange(self.n_levels) == 0)[None]
        return FleetAction(self.env.mask(state, params), levels, levels)

    def reset(self, key: jax.Array, params: FleetParams) -> tuple[FleetState, TimeStep]:
        """Starts as the fleet does; consumes the key."""
        return self.env.reset(key, params)

    def reset_at(
        self, row: jax.Array, slot: jax.Array, params: FleetParams
    ) -> tuple[FleetState, TimeStep]:
        """Starts at a slot of a row, as the fleet does."""
        return self.env.reset_at(row, slot, params)

    def step(
        self, state: FleetState, action: FleetAction, params: FleetParams
    ) -> tuple[FleetState, TimeStep]:
        """Serves the slot; action: choice and the levels of both shares, [D] int32 each."""
        bandwidth, compute = (
            jnp.exp2(0.5 * level.astype(jnp.float32))
            for level in (action.bandwidth, action.compute)
        )
        return self.env.step(state, FleetAction(action.choice, bandwidth, compute), params)


def network(env: Any, config: Any) -> PriceNet:
    """As `learn.ppo.Config.network` wants it; shares are learned where the environment is a
    `Leveled`.
    """
    return PriceNet(
        config.hidden, env.n_choices, n_levels=env.n_levels if isinstance(env, Leveled) else 0
    )


def outcomes(env: Any, state: FleetState, action: jax.Array, params: FleetParams) -> jax.Array:
    """Returns what all devices would have earned a task had one chosen otherwise and shares
    followed, [D, C].
    """
    tasks = jnp.maximum(fleet.active(state, params).sum(), 1).astype(jnp.float32)
    cost = twin.evaluate(state, action, params)
    return jnp.where(jnp.isfinite(cost), -cost / tasks, 0.0)
