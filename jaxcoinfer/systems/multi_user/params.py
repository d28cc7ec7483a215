"""The numbers of a `multi-user` system: the record, and the one function that builds it. Axes: K
rows, U users, S splits, of which the first sends the input and the last sends nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import ArrayLike

from jaxcoinfer.core.checks import Numbers, require_finite, require_shape
from jaxcoinfer.systems.multi_user.exogenous import InitialStates


class MultiUserParams(struct.PyTreeNode):
    """The numbers of a `multi-user` system; build with `make_params`.

    compute_s, compute_w, upload_bits [S]: seconds and watts of the device up to a split, bits sent
    there. slot_s. bandwidth_hz, noise_w: of each sub-channel. path_loss: exponent. max_w, least_w:
    of a radio. distances_m [2]: their range. energy_weight: beta. tasks_floor: least number of
    tasks a slot is reckoned with. scale_s, scale_bits: of the observation. bank: the initial states
    of episodes.
    """

    compute_s: jax.Array
    compute_w: jax.Array
    upload_bits: jax.Array
    slot_s: jax.Array
    bandwidth_hz: jax.Array
    noise_w: jax.Array
    path_loss: jax.Array
    max_w: jax.Array
    least_w: jax.Array
    distances_m: jax.Array
    energy_weight: jax.Array
    tasks_floor: jax.Array
    scale_s: jax.Array
    scale_bits: jax.Array
    bank: InitialStates


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
    """Builds the numbers of a `multi-user` system: casts every one once, refuses what is wrong.

    Raises ValueError with the name, the value and what is allowed.
    """
    given = {name: value for name, value in locals().items() if name != "bank"}
    numbers = {name: np.asarray(value, np.float64) for name, value in given.items()}
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
        if getattr(bank, name).shape != shape:
            raise ValueError(
                f"bank.{name}: shape {getattr(bank, name).shape}; must be {shape}, as distance_m."
            )
    nearest_m, farthest_m = numbers["distances_m"].astype(np.float32)
    least, most = float(bank.distance_m.min()), float(bank.distance_m.max())
    if not nearest_m <= least <= most <= farthest_m:
        raise ValueError(
            f"bank.distance_m: from {least} to {most}; allowed: {nearest_m:g} to {farthest_m:g} m."
        )
    if int(bank.tasks.min()) < 1:
        raise ValueError(f"bank.tasks: {int(bank.tasks.min())} is the least; allowed: at least 1.")
    n_splits = numbers["compute_s"].size
    if int(bank.split.min()) < 0 or int(bank.split.max()) >= n_splits:
        raise ValueError(f"bank.split: up to {int(bank.split.max())}; there are {n_splits} splits.")
    if int(bank.channel.min()) < 0:
        raise ValueError(
            f"bank.channel: {int(bank.channel.min())} is the least; allowed: at least 0."
        )
