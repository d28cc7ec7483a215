"""The `stopping` system on a grid of states: its numbers, checked, and the tables for a sweep of
`dynamic_program`.

Host work in NumPy float64. Axes: A = Le+1 stopping points with an upload, R radio states, X
backlogs, W waiting tasks.
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import jax
import numpy as np
from flax import struct

from jaxcoinfer.core.checks import is_amount
from jaxcoinfer.systems.stopping.bounds import backlog as backlog_law

Table = np.ndarray | jax.Array  # made on the host, used on the device


@struct.dataclass
class Model:
    """Numbers of one system; new numbers on the same grid retrace nothing."""

    slot_s: float
    arrival_probability: float  # of a task in a slot
    jobs_per_slot: float  # Poisson mean of the others' jobs
    job_mean_s: float  # seconds of server work of a job
    layer_slots: np.ndarray  # int [A], layers 1..Le, then the head
    upload_slots: np.ndarray  # int [A], when stopping at l = 0..Le
    server_s: np.ndarray  # [A], likewise
    device_energy_j: np.ndarray  # [A+1], likewise, cumulative; last: finished on the device
    transmit_energy_j: np.ndarray  # [A], when stopping at l = 0..Le
    accuracy: np.ndarray  # [A+1], as device_energy_j
    alpha: float  # weight of accuracy in the utility
    beta: float  # weight of energy, per joule
    rtt_s: float = 0.0  # round trip
    # Of a job's work: "uniform" on (0, 2 job_mean_s), or "exponential".
    job_law: str = struct.field(pytree_node=False, default="uniform")


@dataclass(frozen=True)
class Grid:
    """Sizes of the state space: backlogs 0..backlog_max_s, W, R.

    Nodes are spacing_s apart up to linear_s and then ever further by the factor 1 + growth. The law
    near an empty server is exact if spacing_s divides the slot and linear_s covers the longest
    layer. Past the grid's ends work is cut off, tasks beyond W-1 waiting are lost, and a radio busy
    for longer counts as busy for R-1 slots.
    """

    backlog_max_s: float
    spacing_s: float  # of the nodes up to linear_s
    linear_s: float
    waiting: int  # W
    radio: int  # R
    growth: float  # of the spacing beyond linear_s, per node

    def __post_init__(self) -> None:
        if self.spacing_s <= 0 or self.growth < 0 or self.waiting < 1 or self.radio < 1:
            raise ValueError(f"{self}: spacing_s must be > 0, growth >= 0, waiting and radio >= 1")

    def nodes_s(self) -> np.ndarray:
        """Returns the backlogs of the grid, seconds, float64 [X]."""
        nodes = list(np.arange(0.0, self.linear_s + self.spacing_s / 2, self.spacing_s))
        step_s = self.spacing_s
        while nodes[-1] < self.backlog_max_s:
            step_s *= 1 + self.growth
            nodes.append(nodes[-1] + step_s)
        return np.array(nodes)


class Place(NamedTuple):
    """What a sweep needs before layer l+1; R counts the radio states that can be met there."""

    flow: Table  # [X, X] backlog over the layer
    arrivals: Table  # [W, W] waiting tasks over the layer, from the second axis to the first's
    next_radio: Table  # int [R] radio state after the layer
    sent_radio: Table  # int [R] radio state after stopping
    sent_node: Table  # int [R, X] node below the backlog after stopping
    sent_weight: Table  # [R, X] share of the node above it
    stop_reward: Table  # [R, X]
    go_reward: Table  # [W]


class Tables(NamedTuple):
    """What a sweep needs."""

    places: tuple[Place, ...]  # A
    idle: Table  # [X, X] backlog over an idle period
    one_slot: Table  # [X, X] backlog over a slot
    arrival_probability: Table


def default_grid(model: Model, **sizes: float) -> Grid:
    """Returns a grid up to the 1e-7 tail of the others' backlog; `sizes` replace fields of it.
    Raises like `solve`.

    `P(Q > x)` falls like `exp(-2 (1 - rho) x / (lambda E[job^2]))` (heavy traffic), lambda jobs a
    second, rho load.
    """
    model = checked(model)
    second_moment = {"uniform": 4 / 3, "exponential": 2.0}[model.job_law] * model.job_mean_s**2
    spare_s = model.slot_s - model.jobs_per_slot * model.job_mean_s
    tail_s = model.jobs_per_slot * second_moment / (2 * spare_s)
    longest_s = model.slot_s * (model.layer_slots.max() + 1)
    chosen = {
        "backlog_max_s": float(max(16 * tail_s, 4 * longest_s, 16 * model.server_s.max())),
        "spacing_s": float(model.slot_s),
        "linear_s": float(longest_s),
        "waiting": 64,
        "radio": int(2 * model.upload_slots.max() + 1),
        "growth": 0.005,
    }
    return Grid(**{**chosen, **sizes})


def checked(model: Model) -> Model:
    """The record with NumPy leaves; ValueError with field, value and what is allowed."""
    names = [field.name for field in fields(model) if field.name != "job_law"]
    leaves = {name: np.asarray(getattr(model, name)) for name in names}
    model = replace(
        model, **{name: leaf.astype(leaf.dtype.kind + "8") for name, leaf in leaves.items()}
    )
    places = model.layer_slots.size
    sizes = {"layer_slots": 0, "upload_slots": 0, "server_s": 0, "transmit_energy_j": 0}
    for name, more in {**sizes, "device_energy_j": 1, "accuracy": 1}.items():
        value = getattr(model, name)
        if value.shape != (places + more,):
            raise ValueError(f"{name} has shape {value.shape}, must be ({places + more},)")
        if name.endswith("_slots") and (value.dtype.kind != "i" or value.min() < 1):
            raise ValueError(f"{name} is {value}, must be integers >= 1")
        if not is_amount(value):
            raise ValueError(f"{name} is {value}, must be finite and >= 0")
    if not 0 < model.slot_s < np.inf:
        raise ValueError(f"slot_s is {model.slot_s}, must be positive")
    if not 0 < model.arrival_probability < 1:
        raise ValueError(f"arrival_probability is {model.arrival_probability}, must be in (0, 1)")
    if not 0 <= model.jobs_per_slot * model.job_mean_s < model.slot_s:
        raise ValueError(
            f"jobs_per_slot is {model.jobs_per_slot}, its work must be below slot_s a slot"
        )
    backlog_law.job_stop_loss(np.zeros(()), float(model.job_mean_s), model.job_law)
    return model


def radio_states(model: Model, grid: Grid) -> tuple[int, ...]:
    """Numbers of radio states that can be met before layers 1..Le, before the head, after it."""
    passed = np.append(0, np.cumsum(model.layer_slots))
    return tuple(int(busy) + 1 for busy in np.maximum(grid.radio - 1 - passed, 0))


def make_tables(model: Model, grid: Grid) -> Tables:
    """Laws and rewards, float64. An idle period: `G = sum_{k <= K} p (1-p)^(k-1) P_k + (1-p)^K P_K
    G`.
    """
    nodes_s, late = grid.nodes_s(), 1 - float(model.arrival_probability)
    slots = int(max(model.layer_slots.max(), grid.radio - 1 + model.upload_slots.max(), 32))
    slot_s, jobs_per_slot, job_mean_s = map(
        float, (model.slot_s, model.jobs_per_slot, model.job_mean_s)
    )
    kept, expected_s, soon = {}, [], np.zeros((nodes_s.size, nodes_s.size))
    laws = backlog_law.flows(nodes_s, slot_s, jobs_per_slot, job_mean_s, model.job_law, slots)
    for count, law in enumerate(laws):
        expected_s.append(law @ nodes_s)
        soon += (1 - late) * late ** (count - 1) * law * (count > 0)
        if count in (1, slots, *model.layer_slots):
            kept[count] = law
    idle = np.linalg.solve(np.eye(nodes_s.size) - late**slots * kept[slots], soon)
    radios, places = radio_states(model, grid), []
    for layer, count in enumerate(model.layer_slots):
        busy = np.arange(radios[layer])
        places.append(_place(model, grid, layer, busy, kept[int(count)], np.stack(expected_s)))
    return Tables(tuple(places), idle, kept[1], np.asarray(model.arrival_probability))


def _place(
    model: Model, grid: Grid, layer: int, busy: np.ndarray, flow: np.ndarray, expected_s: np.ndarray
):
    """Tables before layer l+1: `busy` slots of the radio [R], `expected_s` E[Q_n | y] [n, X]."""
    nodes_s, slots, probability = (
        grid.nodes_s(),
        model.layer_slots[layer],
        model.arrival_probability,
    )
    flight = busy + model.upload_slots[layer]
    spare_s = flight * (model.slot_s - model.jobs_per_slot * model.job_mean_s)
    met_s = np.maximum(expected_s[flight] + spare_s[:, None], nodes_s) + model.server_s[layer]
    node = np.clip(np.searchsorted(nodes_s, met_s, side="right") - 1, 0, nodes_s.size - 2)
    stop = model.alpha * model.accuracy[layer] - model.beta * model.transmit_energy_j[layer]
    stop = (
        stop
        - model.server_s[layer]
        - model.rtt_s
        - model.slot_s * flight[:, None]
        - expected_s[flight]
    )
    waits = slots * np.arange(grid.waiting) + probability * slots * (slots - 1) / 2
    go = -model.slot_s * (slots + waits) - model.beta * np.diff(model.device_energy_j)[layer]
    first = -model.beta * model.device_energy_j[0] * (layer == 0)
    last = model.alpha * model.accuracy[-1] * (layer + 1 == model.layer_slots.size)
    return Place(
        flow=flow,
        arrivals=_arrivals(int(slots), float(probability), grid.waiting),
        next_radio=np.maximum(busy - slots, 0),
        sent_radio=np.minimum(flight, grid.radio - 1),
        sent_node=node,
        sent_weight=np.clip((met_s - nodes_s[node]) / np.diff(nodes_s)[node], 0, 1),
        stop_reward=stop + first,
        go_reward=go + first + last,
    )


def _arrivals(slots: int, probability: float, waiting: int) -> np.ndarray:
    """Law of `min(w + Bin(slots, p), W-1)`, [W to, W from]."""
    law = np.ones(1)
    for _ in range(slots):
        law = np.convolve(law, [1 - probability, probability])
    flow = np.zeros((waiting, waiting))
    for more, share in enumerate(law):
        flow[np.minimum(np.arange(waiting) + more, waiting - 1), np.arange(waiting)] += share
    return flow
