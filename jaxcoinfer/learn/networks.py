"""What the learners share: networks (Flax Linen modules behind `init` and `apply`) and gradient
steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxcoinfer.core.sharding import replicate

# A rule's values times this are its logits: of two choices, the one that is worth .05 more is taken
# twelve times as often.
RULE_SHARPNESS = 50.0


class TrainResult(struct.PyTreeNode):
    """What a training returns."""

    weights: Any  # of the policy
    curve: jax.Array  # float32 [n_evaluations], mean utility per task, or reward per step
    steps: jax.Array  # int32 [n_evaluations], tasks, or environment steps, up to each evaluation


@dataclass(frozen=True)
class PolicySignature:
    """What a learned function takes and returns, for those who run it without this library."""

    features: tuple[str, ...]  # names of what it takes, in order
    meaning: str  # of what it returns
    made_by: str  # name of the function of this library that makes the features


def orthogonal(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Flax's orthogonal matrices of norm sqrt(2), under `jax.vmap` drawn one after another.

    On a CPU the QR of a batch waits for threads of the pool it runs in; as many of them at once as
    there are threads, on several devices or of several layers, wait for each other for ever.
    """
    draw = nn.initializers.orthogonal(2**0.5)
    return jax.custom_batching.sequential_vmap(lambda key: draw(key, tuple(shape), dtype))(key)


class Mlp(nn.Module):
    """Fully connected network, tanh between layers: [..., F] -> [..., outputs]; the last layer
    starts at zero.
    """

    hidden: Sequence[int]
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.hidden:
            x = nn.tanh(nn.Dense(width, kernel_init=orthogonal)(x))
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros)(x)


@dataclass(frozen=True)
class Corrected:
    """A rule and what is learned on top of it: `scale rule(x) + net(x)`, as a Flax module behind
    `init` and `apply`. With nothing learned it is the rule.

    Of a network with several outputs the rule is part of the first.
    """

    net: nn.Module
    rule: Callable[[jax.Array], jax.Array] | None  # x [..., F] -> [..., outputs]; None: zero
    scale: float = 1.0

    def init(self, key: jax.Array, x: jax.Array) -> Any:
        """Returns the weights of the network; consumes the key."""
        return self.net.init(key, x)

    def apply(self, weights: Any, x: jax.Array) -> Any:
        """Returns the sum; no gradient goes to the rule."""
        learned: Any = self.net.apply(weights, x)
        if self.rule is None:
            return learned
        base = jax.lax.stop_gradient(self.scale * self.rule(x))
        if isinstance(learned, tuple):
            return base + learned[0], *learned[1:]
        return base + learned


def cosine_adam(learning_rate: jax.Array | float, n_updates: int) -> optax.GradientTransformation:
    """Adam on gradients of norm 1 at most; the step size decays to 0 on a cosine over n_updates."""
    decay = optax.cosine_decay_schedule(1.0, n_updates)
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(lambda i: learning_rate * decay(i))
    )


def descend(
    optimiser: optax.GradientTransformation, gradient: Any, weights: Any, state: Any
) -> tuple[Any, Any]:
    """Returns weights and optimiser state after one step."""
    with jax.numpy_dtype_promotion("standard"):  # Adam raises a float to its integer count
        change, state = optimiser.update(replicate(gradient), state, weights)
    return optax.apply_updates(weights, change), state
