"""The numbers of an `on-demand` system: the record, and the one function that builds it.

Axes: K rows, T slots, E exits (the last is the full network), P cuts (0 sends the input, the last
is its end), Q bit widths, A = E P Q actions, G deadline classes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import ArrayLike

from jaxcoinfer.core.checks import (
    Numbers,
    require_finite,
    require_least,
    require_shape,
    require_shares,
)
from jaxcoinfer.systems.on_demand.exogenous import CLASS, DEVICE_SPEED, EDGE_SPEED, RATE, Bank


class Params(struct.PyTreeNode):
    """The numbers of an `on-demand` system, float32 unless said otherwise; build with
    `make_params`.
    """

    valid: jax.Array  # bool [A], whether an action may be taken
    t_dev_s: jax.Array  # [A], nominal seconds on the device
    t_edge_s: jax.Array  # [A], nominal seconds on the edge
    upload_bits: jax.Array  # [A], bits sent
    offloads: jax.Array  # bool [A], whether anything is sent
    accuracy: jax.Array  # [A], in [0, 1]
    device_energy_j: jax.Array  # [A], joules the device computes away
    rtt_s: jax.Array  # round trip of the link
    transmit_w: jax.Array  # of the radio while it sends
    transmit_j_per_bit: jax.Array  # of the radio, on top of that
    deadline_s: jax.Array  # [G], of each class
    accuracy_weight: jax.Array  # [G], omega
    penalty: jax.Array  # [G], of a miss
    cap: jax.Array  # deadlines after which a task is given up
    delay_slots: jax.Array  # int32, 0 or 1: how late link and speeds are seen
    # Rate at which the largest upload takes the shortest deadline: the scale of observed rates.
    typical_bps: jax.Array
    bank: Bank  # the exogenous processes


_OF_CLASSES = ("deadline_s", "accuracy_weight", "penalty")
_SCALARS = ("rtt_s", "transmit_w", "transmit_j_per_bit", "cap")


def make_params(
    bank: Bank,
    *,
    cut_device_s: ArrayLike,
    cut_edge_s: ArrayLike,
    cut_energy_j: ArrayLike,
    cut_allowed: ArrayLike,
    exit_cut: ArrayLike,
    exit_device_s: ArrayLike,
    exit_edge_s: ArrayLike,
    exit_energy_j: ArrayLike,
    upload_bits: ArrayLike,
    accuracy: ArrayLike,
    deadline_s: ArrayLike,
    accuracy_weight: ArrayLike,
    penalty: ArrayLike,
    transmit_w: float,
    transmit_j_per_bit: float = 0.0,
    rtt_s: float = 0.0,
    cap: float = 10.0,
    delay_slots: int = 1,
) -> Params:
    """Builds the numbers of an `on-demand` system: checks and casts each once, derives the grid.

    cut_* [P]: sums of the layers before each cut, the first 0; cut_allowed [P] bool. exit_cut [E]:
    the cut at which an exit leaves; exit_* [E]: its head. upload_bits [P, Q]; accuracy [E, P, Q];
    deadline_s, accuracy_weight, penalty [G]. Raises ValueError with the name, the value and what is
    allowed.
    """
    arguments = {k: v for k, v in locals().items() if k not in ("bank", "delay_slots")}
    numbers = {name: np.asarray(value, np.float64) for name, value in arguments.items()}
    classes = {name: numbers.pop(name) for name in _OF_CLASSES}
    scalars = {name: numbers.pop(name) for name in _SCALARS}
    grid = numbers
    _check(grid, classes, scalars)
    if delay_slots not in (0, 1):
        raise ValueError(
            f"delay_slots: {delay_slots}; allowed: 0 (seen at once) or 1 (seen a slot late)."
        )
    _check_bank(bank, len(classes["deadline_s"]))
    tables = _tables(grid, float(scalars["cap"] * classes["deadline_s"].max()))
    typical_bps = tables["upload_bits"].max() / classes["deadline_s"].min()
    masks = {name: jnp.asarray(tables.pop(name).reshape(-1)) for name in ("valid", "offloads")}
    numbers = {name: value.reshape(-1) for name, value in tables.items()} | classes | scalars
    return Params(
        **masks,
        **{name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()},
        delay_slots=jnp.asarray(delay_slots, jnp.int32),
        typical_bps=jnp.asarray(max(1.0, typical_bps), jnp.float32),
        bank=bank,
    )


def _tables(grid: Numbers, longest_s: float) -> Numbers:
    """Returns the tables of `Params` as [E, P, Q].

    The cuts up to the exit's own are valid; where the width changes nothing (input sent, nothing
    sent) the last one stands for all. An invalid action loses the task: the device is busy until
    the task is given up, with accuracy 0.
    """
    shape = grid["accuracy"].shape
    cuts, widths = np.arange(shape[1]), np.arange(shape[2])
    end = grid["exit_cut"].astype(int)
    cut, here = cuts[None, :], cuts[None, :] == end[:, None]
    sends = cut < end[:, None]
    last_width = widths[None, None, :] == shape[2] - 1
    valid = (sends & (grid["cut_allowed"] > 0)[None, :]) | here
    valid = valid[..., None] & (last_width | (sends & (cut > 0))[..., None])
    edge_s = (
        grid["cut_edge_s"][end][:, None]
        - grid["cut_edge_s"][None, :]
        + grid["exit_edge_s"][:, None]
    )
    device_s = grid["cut_device_s"][None, :] + here * grid["exit_device_s"][:, None]
    energy_j = grid["cut_energy_j"][None, :] + here * grid["exit_energy_j"][:, None]

    def where_valid(values: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
        return np.where(valid, np.broadcast_to(values, shape), otherwise)

    return {
        "valid": valid,
        "t_dev_s": where_valid(device_s[..., None], 1e6 * longest_s),  # also at the fastest speed
        "t_edge_s": where_valid((sends * edge_s)[..., None]),
        "upload_bits": where_valid(sends[..., None] * grid["upload_bits"][None]),
        "offloads": where_valid(sends[..., None]) > 0,
        "accuracy": where_valid(grid["accuracy"]),
        "device_energy_j": where_valid(energy_j[..., None]),
    }


def _check(grid: Numbers, classes: Numbers, scalars: Numbers) -> None:
    if grid["accuracy"].ndim != 3 or 0 in grid["accuracy"].shape:
        raise ValueError(
            f"accuracy: shape {grid['accuracy'].shape}; must be (exits, cuts, bit widths)."
        )
    n_exits, n_cuts, n_bits = grid["accuracy"].shape
    n_classes = classes["deadline_s"].size
    shapes: dict[str, tuple[int, ...]] = {
        name: (n_cuts,) for name in grid if name.startswith("cut_")
    }
    shapes |= {name: (n_exits,) for name in grid if name.startswith("exit_")}
    shapes |= {"upload_bits": (n_cuts, n_bits), "accuracy": grid["accuracy"].shape}
    shapes |= dict.fromkeys(classes, (n_classes,)) | dict.fromkeys(scalars, ())
    for name, value in (grid | classes | scalars).items():
        require_shape(name, value, shapes[name], ", as accuracy and deadline_s say")
        require_finite(name, value)
    require_shares("accuracy", grid["accuracy"])
    require_shares("accuracy_weight", classes["accuracy_weight"])
    for name in ("cut_device_s", "cut_edge_s", "cut_energy_j"):
        if grid[name][0] != 0 or (name != "cut_energy_j" and np.any(np.diff(grid[name]) < 0)):
            raise ValueError(
                f"{name}: {grid[name]}; must begin with 0 and never fall: sums of the layers "
                "before a cut."
            )
    end = grid["exit_cut"]
    if (
        np.any(end != np.round(end))
        or np.any(np.diff(end) < 0)
        or end[0] < 1
        or end[-1] != n_cuts - 1
    ):
        raise ValueError(
            f"exit_cut: {end}; must be whole, never fall, begin above 0 and end with {n_cuts - 1}."
        )
    if n_classes == 0 or np.any(classes["deadline_s"] <= 0) or scalars["cap"] <= 1:
        raise ValueError(
            f"deadline_s: {classes['deadline_s']}, cap: {scalars['cap']}; must be above 0 and "
            "above 1."
        )


def _check_bank(bank: Bank, n_classes: int) -> None:
    slots = np.asarray(bank.slots)
    if bank.n_slots < 2:
        raise ValueError(f"bank: rows of {bank.n_slots} slots; must be 2 or more.")
    if not np.isfinite(slots).all():
        raise ValueError(
            "bank: holds numbers that are not finite; check rate_bps and the speeds of the draw."
        )
    for name, column, above in (
        ("rate_bps", RATE, False),
        ("device_speed", DEVICE_SPEED, True),
        ("edge_speed", EDGE_SPEED, True),
    ):
        lowest = float(slots[..., column].min())
        require_least(name, lowest, 0, above=above, where=" of the bank")
    if slots[..., RATE].max() == 0:
        raise ValueError(
            "rate_bps: 0 in every slot of the bank; allowed: a link that carries something."
        )
    kinds = slots[..., CLASS]
    if kinds.min() < 0 or kinds.max() >= n_classes:
        raise ValueError(
            f"task_class: {kinds.min():g} to {kinds.max():g} in the bank; allowed: 0 to "
            f"{n_classes - 1}."
        )
