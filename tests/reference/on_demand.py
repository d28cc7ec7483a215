"""The `on-demand` system (design.md section 7) again: task by task, in Python floats, with no code
of the library.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scenario:
    """Layers of a network on device and edge, exits, widths and deadline classes (SI units)."""

    layer_device_s: Sequence[float]  # [L] of each block
    layer_edge_s: Sequence[float]  # [L]
    layer_energy_j: Sequence[float]  # [L]
    feature_elements: Sequence[float]  # [L] behind each block
    input_bits: float
    exit_after: Sequence[int]  # [E] blocks before each exit; the last: L
    head_device_s: Sequence[float]  # [E]
    head_edge_s: Sequence[float]  # [E]
    head_energy_j: Sequence[float]  # [E]
    exit_accuracy: Sequence[float]  # [E]
    bits: Sequence[int]  # [Q]
    bits_loss: Sequence[float]  # [Q]
    transmit_w: float
    transmit_j_per_bit: float
    rtt_s: float
    deadline_s: Sequence[float]  # [G]
    omega: Sequence[float]  # [G]
    penalty: Sequence[float]  # [G]
    cap: float


@dataclass(frozen=True)
class Draw:
    """One row of T slots."""

    rate_bps: np.ndarray
    device_speed: np.ndarray
    edge_speed: np.ndarray
    task_class: np.ndarray


@dataclass(frozen=True)
class Task:
    """What became of one task."""

    latency_s: float
    energy_j: float
    accuracy: float
    reward: float


def is_valid(scenario: Scenario, exit_: int, cut: int, width: int) -> bool:
    """Not behind the exit; and where no feature is sent, only one of the widths, the last."""
    end = scenario.exit_after[exit_]
    if cut > end:
        return False
    sends_feature = 0 < cut < end
    return sends_feature or width == len(scenario.bits) - 1


def run_task(scenario: Scenario, draw: Draw, slot: int, exit_: int, cut: int, width: int) -> Task:
    """The task of `slot` with a valid choice, at the true rate and speeds of that slot."""
    end = scenario.exit_after[exit_]
    g = int(draw.task_class[slot])
    given_up_s = scenario.cap * scenario.deadline_s[g]
    device_s = energy_j = edge_s = upload_s = bits = 0.0
    for block in range(cut):
        device_s += scenario.layer_device_s[block]
        energy_j += scenario.layer_energy_j[block]
    accuracy = scenario.exit_accuracy[exit_]
    if cut == end:
        device_s += scenario.head_device_s[exit_]
        energy_j += scenario.head_energy_j[exit_]
    else:
        for block in range(cut, end):
            edge_s += scenario.layer_edge_s[block]
        edge_s += scenario.head_edge_s[exit_]
        if cut == 0:
            bits = scenario.input_bits
        else:
            bits = scenario.feature_elements[cut - 1] * scenario.bits[width]
            accuracy = max(accuracy - scenario.bits_loss[width], 0.0)
        if bits > 0:
            rate = float(draw.rate_bps[slot])
            upload_s = min(bits / rate, given_up_s) if rate > 0 else given_up_s
    rtt_s = scenario.rtt_s if cut < end else 0.0
    latency_s = (
        device_s / float(draw.device_speed[slot])
        + upload_s
        + rtt_s
        + edge_s / float(draw.edge_speed[slot])
    )
    latency_s = min(latency_s, given_up_s)
    energy_j += scenario.transmit_w * upload_s + scenario.transmit_j_per_bit * bits
    omega, deadline_s = scenario.omega[g], scenario.deadline_s[g]
    reward = omega * accuracy - (1 - omega) * latency_s / deadline_s
    if latency_s > deadline_s:
        reward -= scenario.penalty[g]
    return Task(latency_s, energy_j, accuracy, reward)
