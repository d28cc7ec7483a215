"""The network of `multi-user`: one actor for all users, and a critic.

What one user learns of the others goes through the mean over users, as in Zaheer et al., *Deep
Sets* (arXiv 1703.06114). Users that are alike would then all take the same channel, so each also
has its place among the users as a feature. Splits, channels and powers of all users are decided at
once from one view, as in Hao et al. (arXiv 2205.11854), who have one actor per user. Axes: U users,
F features.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxcoinfer.learn.distributions import LogitNormal
from jaxcoinfer.learn.networks import Mlp
from jaxcoinfer.physics.link import snr
from jaxcoinfer.systems.multi_user.env import MultiUser
from jaxcoinfer.systems.multi_user.events import UsersAction, UsersState
from jaxcoinfer.systems.multi_user.params import MultiUserParams


class UsersView(struct.PyTreeNode):
    """What the network sees."""

    features: jax.Array  # float32 [U, F]
    max_w: jax.Array  # float32, watts, the bound of powers


def view(
    env: MultiUser, state: UsersState, observation: jax.Array, params: MultiUserParams
) -> UsersView:
    """Returns what is known at a slot, as `learn.ppo.Config.view` wants it.

    Features: the observation; log10 of the signal-to-noise ratio at full power / 10; whether there
    are tasks left; the user's place, one-hot [U].
    """
    ratio = snr(params.max_w, state.distance_m, params.path_loss, params.noise_w)
    columns = [jnp.log1p(ratio) / (10.0 * jnp.log(10.0)), (state.tasks > 0).astype(jnp.float32)]
    place = jnp.eye(env.n_users, dtype=jnp.float32)
    return UsersView(
        jnp.concatenate([observation, jnp.stack(columns, axis=1), place], axis=1), params.max_w
    )


class UsersNet(nn.Module):
    """UsersView -> (UsersAction of distributions, value); before learning the logit of each power
    is standard normal.
    """

    hidden: tuple[int, ...]  # widths of the layers
    n_splits: int
    n_channels: int

    @nn.compact
    def __call__(self, view: UsersView) -> tuple[UsersAction, jax.Array]:
        outputs = Mlp(self.hidden, self.n_splits + self.n_channels + 2)(
            self._with_others(view.features)
        )
        split, channel, power = jnp.split(
            outputs, [self.n_splits, self.n_splits + self.n_channels], axis=-1
        )
        high = jnp.broadcast_to(view.max_w[..., None], power.shape[:-1])
        power_w: Any = LogitNormal(power[..., 0], power[..., 1], high)
        value = Mlp(self.hidden, 1)(self._with_others(view.features)).mean(axis=-2)
        return UsersAction(split, channel, power_w), value[..., 0]

    def _with_others(self, features: jax.Array) -> jax.Array:
        own = nn.tanh(Mlp((self.hidden[0],), self.hidden[-1])(features))
        mean = jnp.broadcast_to(own.mean(axis=-2, keepdims=True), own.shape)
        return jnp.concatenate([features, own, mean], axis=-1)


def network(env: MultiUser, config: Any) -> UsersNet:
    """Returns the network, as `learn.ppo.Config.network` wants it."""
    return UsersNet(config.hidden, env.n_splits, env.n_channels)
