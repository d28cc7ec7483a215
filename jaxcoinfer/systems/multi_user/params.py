"""The numbers of a `multi-user` system: the record, and the one function that builds it. Axes: K
rows, U users, S splits, of which the first sends the input and the last sends nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import ArrayLike

from jaxcoinfer.core.checks import (
    Numbers,
    require_finite,
    require_index,
    require_least,
    require_range,
    require_shape,
)
from jaxcoinfer.systems.multi_user.exogenous import InitialStates


class MultiUserParams(struct.PyTreeNode):
    """The numbers of a `multi-user` system, float32; build with `make_params`."""

    compute_s: jax.Array  # [S], seconds of the device up to a split
    compute_w: jax.Array  # [S], its watts meanwhile
    upload_bits: jax.Array  # [S], bits sent at a split
    slot_s: jax.Array  # seconds of a slot
    bandwidth_hz: jax.Array  # of each sub-channel
    noise_w: jax.Array  # watts, in each sub-channel
    path_loss: jax.Array  # exponent of the distance
    max_w: jax.Array  # highest power of a radio
    least_w: jax.Array  # lowest power of a radio
    distances_m: jax.Array  # [2], metres from user to receiver, nearest and farthest
    energy_weight: jax.Array  # beta, per joule
    tasks_floor: jax.Array  # a reward divides by at least this number of tasks
    scale_s: jax.Array  # of seconds in the observation
    scale_bits: jax.Array  # of bits in the observation
    bank: InitialStates  # of episodes


_SHAPES = {"compute_s": "S", "compute_w": "S", "upload_bits": "S", "distances_m": "2"}
_MAY_BE_ZERO = ("compute_s", "compute_w", "upload_bits", "path_loss", "energy_weight")


def make_params(
    bank: InitialStates,
    *,
    compute_s: ArrayLike,
    compute_w: ArrayLike,
    upload_bits: ArrayLike,
    slot_s: float,
    bandwidth_hz: float,
    noise_w: float,
    path_loss: float,
    max_w: float,
    least_w: float,
    distances_m: ArrayLike,
    energy_weight: float,
    tasks_floor: float,
    scale_s: float,
    scale_bits: float,
) -> MultiUserParams:
    """Builds the numbers of a `multi-user` system: checks and casts each once.

    Raises ValueError with the name, the value and what is allowed.
    """
    arguments = {name: value for name, value in locals().items() if name != "bank"}
    numbers = {name: np.asarray(value, np.float64) for name, value in arguments.items()}
    _check(numbers)
    _check_starts(bank, numbers)
    return MultiUserParams(
        **{name: jnp.asarray(x, jnp.float32) for name, x in numbers.items()}, bank=bank
    )


def _check(numbers: Numbers) -> None:
    sizes = {"S": numbers["compute_s"].size, "2": 2}
    for name, value in numbers.items():
        wanted = tuple(sizes[axis] for axis in _SHAPES.get(name, ""))
        require_shape(name, value, wanted)
        require_finite(name, value, above=name not in _MAY_BE_ZERO)
    endless = (numbers["compute_s"] == 0) & (numbers["upload_bits"] == 0)
    if endless.any():
        split = int(np.argmax(endless))
        raise ValueError(
            f"split {split}: 0 s and 0 bits; allowed: one of them above 0, or tasks would end at "
            "once."
        )
    for low, high in ((numbers["least_w"], numbers["max_w"]), tuple(numbers["distances_m"])):
        if not low < high:
            raise ValueError(
                f"least_w and max_w, distances_m: {low} and {high}; allowed: the lesser first."
            )


def _check_starts(bank: InitialStates, numbers: Numbers) -> None:
    shape = bank.distance_m.shape
    for name in ("tasks", "split", "channel"):
        require_shape(f"bank.{name}", getattr(bank, name), shape, ", as distance_m")
    nearest_m, farthest_m = numbers["distances_m"].astype(np.float32)
    allowed = f"{nearest_m:g} to {farthest_m:g} m"
    require_range("bank.distance_m", bank.distance_m, float(nearest_m), float(farthest_m), allowed)
    require_least("bank.tasks", int(bank.tasks.min()), 1)
    require_index("bank.split", bank.split, numbers["compute_s"].size, "splits")
    require_least("bank.channel", int(bank.channel.min()), 0)
