"""Networks: Flax Linen modules behind `init` and `apply`."""

from collections.abc import Sequence

import flax.linen as nn
import jax


class Mlp(nn.Module):
    """Fully connected network, tanh between layers: [..., F] -> [..., outputs]; the last layer starts at zero."""

    hidden: Sequence[int]
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.hidden:
            x = nn.tanh(nn.Dense(width, kernel_init=nn.initializers.orthogonal(2**0.5))(x))
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros)(x)
