"""B-AlexNet: AlexNet for 32x32 images with early exits after its second and third convolution.

Architecture of Teerapittayanon et al., BranchyNet (arXiv 1709.01686): convolutions 32@5x5, 64@5x5,
96@3x3, 96@3x3, 64@3x3, then 256, 128 and 10 units; each exit head is a 3x3 convolution of 32
channels and a linear layer. Ours normalises by batch in place of local responses, which is folded
into the convolution before the network is deployed.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
EXIT_LAYERS = (2, 3)  # an exit head hangs behind the second and the third layer
CHANNELS = {
    "conv1": (32, 5),
    "conv2": (64, 5),
    "conv3": (96, 3),
    "conv4": (96, 3),
    "conv5": (64, 3),
}
POOLED = ("conv1", "conv2", "conv5")
UNITS = {"fc6": 256, "fc7": 128}
HEAD_CHANNELS = 32
DROPOUT = 0.1


def halved(x: jax.Array) -> jax.Array:
    """Maximum over windows of 3 at a stride of 2, [N, H, W, C] to [N, H/2, W/2, C]; H and W even.

    By maxima of slices: the gradient of a pooling window on a CPU takes four times as long.
    """
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-jnp.inf)
    for axis in (1, 2):
        n = x.shape[axis] - 1
        slices = [jax.lax.slice_in_dim(x, i, i + n - 1, 2, axis) for i in range(3)]
        x = jnp.maximum(jnp.maximum(slices[0], slices[1]), slices[2])
    return x


class Convolution(nn.Module):
    """Convolution, batch normalisation, rectifier, and a pooling of stride 2: [N, H, W, C] to [N,
    H', W', channels].
    """

    channels: int
    kernel: int
    pooled: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(self.channels, (self.kernel, self.kernel), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return halved(x) if self.pooled else x


class Dense(nn.Module):
    """Linear layer on flattened features, with rectifier and dropout unless it is the last: [N,
    ...] to [N, units].
    """

    units: int
    last: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(self.units)(x.reshape(x.shape[0], -1))
        return x if self.last else nn.Dropout(DROPOUT, deterministic=not train)(nn.relu(x))


class Head(nn.Module):
    """What hangs at an early exit: features [N, H, W, C] to class scores [N, classes]."""

    channels: int
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return Dense(self.classes, last=True)(
            Convolution(self.channels, 3, pooled=True)(x, train), train
        )


class BAlexNet(nn.Module):
    """The network with `width` of its channels, layer by layer; its exits are the two heads and the
    last layer.
    """

    width: float = 1.0
    classes: int = 10

    def setup(self) -> None:
        def thin(channels: int) -> int:
            return max(1, round(channels * self.width))

        self.layers = [
            *(
                Convolution(thin(channels), kernel, name in POOLED)
                for name, (channels, kernel) in CHANNELS.items()
            ),
            *(Dense(thin(units)) for units in UNITS.values()),
            Dense(self.classes, last=True),
        ]
        self.heads = [Head(thin(HEAD_CHANNELS), self.classes) for _ in EXIT_LAYERS]

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Class scores of every exit [E, N, classes] of images [N, 32, 32, 3]."""
        x, scores = images, []
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, train)
            if number in EXIT_LAYERS:
                scores.append(self.heads[EXIT_LAYERS.index(number)](x, train))
        return jnp.stack([*scores, x])

    def part(self, x: jax.Array, first: int, last: int) -> jax.Array:
        """The features behind layer `last`, of those behind layer `first` (0: the images); not for
        training.
        """
        for layer in self.layers[first:last]:
            x = layer(x, False)
        return x

    def leave(self, x: jax.Array, exit_: int) -> jax.Array:
        """Class scores [N, classes] of the features at an exit; those of the last exit are its
        features.
        """
        return x if exit_ == len(self.heads) else self.heads[exit_](x, False)


def exit_layers() -> tuple[int, ...]:
    """The layer behind which each exit leaves, the last one included [E]."""
    return (*EXIT_LAYERS, len(LAYERS))
