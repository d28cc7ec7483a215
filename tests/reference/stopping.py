"""The `stopping` system (design.md sections 5 and 6) again: slot by slot, in Python floats.

It shares no code with the library and prefers the literal reading to the fast one: the server is
one real queue that is drained slot after slot, an upload is sent slot after slot, and waiting tasks
are counted in every slot. A slot number t names the instant at which slot t begins; slot t lasts
until t+1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# A layer that overshoots a slot boundary by less than this many slots counts as ending on it.
# Without it, 0.08 s of layer in 0.01 s slots would be 8 or 9 slots depending on rounding in the
# division.
SLOT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Scenario:
    """Numbers of one system with Le layers on the device, then an exit head (SI units)."""

    slot_s: float
    layer_s: Sequence[float]  # [Le+1] nominal seconds of layers 1..Le, then of the exit head
    upload_bits: Sequence[float]  # [Le+1] bits uploaded when stopping at l = 0..Le (0: the input)
    server_s: Sequence[float]  # [Le+1] e_l, server seconds of the layers that remain
    # [Le+2] cumulative joules at l = 0..Le, last: finished locally
    device_energy_j: Sequence[float]
    accuracy: Sequence[float]  # [Le+2] in the same order
    transmit_w: float  # watts while the upload is on air, outages included
    transmit_j_per_bit: float  # joules on top for each uploaded bit
    alpha: float  # utility U = alpha * accuracy - T - beta * E
    beta: float


@dataclass(frozen=True)
class Draw:
    """One row of T slots of everything that no decision changes."""

    arrivals: np.ndarray  # [T] tasks that arrive in each slot
    edge_work_s: np.ndarray  # [T] seconds of server work that others bring in slot t
    slot_bits: np.ndarray  # [T] bits the link carries in slot t
    observed_bits: np.ndarray  # [T] bits a slot, as last measured when slot t begins
    speed: np.ndarray  # [T] device speed, 1 = nominal, > 0


@dataclass(frozen=True)
class View:
    """What a policy may see at a decision slot."""

    server_backlog_s: float  # others and own work that has reached the server by this slot
    radio_backlog_slots: int  # slots until the uploads already decided are through
    waiting_tasks: int  # arrived, not started, the task in hand excluded
    wait_slots: int  # s_n - a_n, what the task in hand waited before it started
    rate_bits: float  # bits a slot, as last measured when this one begins
    speed: float


@dataclass(frozen=True)
class Task:
    """What became of one task; slots are integers, those of an upload None without one."""

    index: int  # n, counted over the whole row
    arrival: int  # a_n
    start: int  # s_n
    free: int  # F_n, first slot in which the processor may serve the next task
    choice: int  # l in 0..Le, or Le+1 for the local exit
    decision_slots: list[int]  # t_0, t_1, ...: one for each decision taken
    upload_begin: int | None  # b
    upload_end: int | None  # tau
    server_wait_s: float  # Q_tot(tau)
    delay_s: float  # T_n
    energy_j: float  # E_n
    accuracy: float
    utility: float  # U_n = alpha * acc - T_n - beta * E_n
    waiting_cost_s: float  # slot_s * D_n, the waiting of others while n held the processor
    value: float  # U_n with its own wait replaced by waiting_cost_s
    rewards: list[float]  # one for each decision; they sum to value


Stop = Callable[[int, int, int, View], bool]  # (task index n, layer l, slot t_l, view) -> stop?


def backlog_of_others(edge_work_s: Sequence[float], slot_s: float) -> np.ndarray:
    """Q[0] = 0, Q[t+1] = max(Q[t] - slot_s, 0) + W[t]; returns Q[T+1] in seconds."""
    backlog_s = [0.0]
    for work_s in edge_work_s:
        backlog_s.append(max(backlog_s[-1] - slot_s, 0.0) + float(work_s))
    return np.array(backlog_s)


class _RowEnd(Exception):
    """A slot at or past the end of the row was needed."""


class _Server:
    """One real first-come first-served queue for the work of others and ours, in seconds."""

    def __init__(self, edge_work_s: Sequence[float], slot_s: float):
        self.edge_work_s, self.slot_s = edge_work_s, slot_s
        self.own_s = [0.0] * len(edge_work_s)  # own work that reaches the server at the start of t
        self.before_s = [0.0]  # backlog at the start of t, before own work of that slot

    def backlog(self, slot: int):
        """Total backlog at the start of `slot`, seconds, own uploads that ended there included."""
        while len(self.before_s) <= slot:
            t = len(self.before_s) - 1
            left_s = max(self.before_s[t] + self.own_s[t] - self.slot_s, 0.0)
            self.before_s.append(left_s + float(self.edge_work_s[t]))
        return self.before_s[slot] + self.own_s[slot]

    def add(self, slot: int, seconds: float):
        """Own work joins at the start of `slot`, the latest slot so far: uploads end in order."""
        assert len(self.before_s) == slot + 1  # else later slots were drained without this work
        self.own_s[slot] += seconds


class _Row:
    """The device, its radio and the server while one row is played."""

    def __init__(self, scenario: Scenario, draw: Draw, start_slot: int):
        self.scenario, self.draw = scenario, draw
        self.arrival_slot = [t for t, k in enumerate(draw.arrivals) for _ in range(int(k))]
        self.arrived = np.cumsum(draw.arrivals)  # A[t], arrivals in slots 0..t
        self.server = _Server(draw.edge_work_s, scenario.slot_s)
        self.processor_free = self.radio_free = start_slot

    def inside(self, slot: int):
        """`slot` itself, if the row has it."""
        if slot >= len(self.draw.arrivals):
            raise _RowEnd
        return slot

    def waiting(self, n: int, slot: int):
        """A[t] - (n+1): tasks behind n that have arrived by `slot`."""
        return int(self.arrived[slot]) - (n + 1)

    def view(self, n: int, start: int, slot: int):
        """What the policy sees of task n at `slot`."""
        radio, wait = max(self.radio_free - slot, 0), start - self.arrival_slot[n]
        rate, speed = float(self.draw.observed_bits[slot]), float(self.draw.speed[slot])
        return View(self.server.backlog(slot), radio, self.waiting(n, slot), wait, rate, speed)

    def layer_slots(self, layer: int, slot: int):
        """ceil(c / (v[t] slot_s)) slots of the layer after `layer`, begun at `slot`."""
        seconds = self.scenario.layer_s[layer]
        exact = seconds / (float(self.draw.speed[slot]) * self.scenario.slot_s)
        return max(math.ceil(exact - SLOT_TOLERANCE), 1) if seconds > 0 else 0

    def upload_end(self, begin: int, bits: float):
        """First slot tau >= begin with sum(slot_bits[begin:tau]) >= bits."""
        tau, sent = begin, 0.0
        while sent < bits:
            sent += float(self.draw.slot_bits[self.inside(tau)])
            tau += 1
        return self.inside(tau)

    def run_task(self, n: int, stop: Stop):
        """Follow task n from arrival to result."""
        sc, slot_s, beta = self.scenario, self.scenario.slot_s, self.scenario.beta
        local = len(sc.layer_s)  # Le+1
        arrival = self.arrival_slot[n]
        start = slot = self.inside(max(arrival, self.processor_free))
        decision_slots, rewards, waiting_cost_s = [], [], 0.0
        choice = local
        for layer in range(local):
            decision_slots.append(slot)
            if stop(n, layer, slot, self.view(n, start, slot)):
                choice = layer
                break
            end = self.inside(slot + self.layer_slots(layer, slot))
            waiting_s = slot_s * sum(self.waiting(n, t) for t in range(slot, end))
            layer_j = sc.device_energy_j[layer + 1] - sc.device_energy_j[layer]
            rewards.append(-(end - slot) * slot_s - waiting_s - beta * layer_j)
            waiting_cost_s += waiting_s
            slot = end
        free = slot

        begin = tau = None
        server_wait_s = after_s = transmit_j = 0.0  # after_s: seconds from leaving the processor on
        if choice < local:
            bits = sc.upload_bits[choice]
            begin = max(free, self.radio_free)
            tau = self.radio_free = self.upload_end(begin, bits)
            server_wait_s = self.server.backlog(tau)
            self.server.add(tau, sc.server_s[choice])
            after_s = (tau - free) * slot_s + server_wait_s + sc.server_s[choice]
            transmit_j = sc.transmit_w * (tau - begin) * slot_s + sc.transmit_j_per_bit * bits
            rewards.append(-after_s - beta * transmit_j)
        self.processor_free = free
        rewards[-1] += sc.alpha * sc.accuracy[choice]
        rewards[0] -= beta * sc.device_energy_j[0]  # spent whatever is chosen: due at once

        wait_s = (start - arrival) * slot_s
        delay_s = wait_s + (free - start) * slot_s + after_s
        energy_j = sc.device_energy_j[choice] + transmit_j
        utility = sc.alpha * sc.accuracy[choice] - delay_s - beta * energy_j
        return Task(
            index=n,
            arrival=arrival,
            start=start,
            free=free,
            choice=choice,
            decision_slots=decision_slots,
            upload_begin=begin,
            upload_end=tau,
            server_wait_s=server_wait_s,
            delay_s=delay_s,
            energy_j=energy_j,
            accuracy=sc.accuracy[choice],
            utility=utility,
            waiting_cost_s=waiting_cost_s,
            value=utility + wait_s - waiting_cost_s,
            rewards=rewards,
        )


def simulate(
    scenario: Scenario, draw: Draw, stop: Stop, start_slot: int = 0, max_tasks: int | None = None
) -> tuple[Task, ...]:
    """Tasks that arrive from `start_slot` on, in order, up to the first that needs a slot >= T."""
    row = _Row(scenario, draw, start_slot)
    # Tasks before it keep their numbers but never run.
    first = int(np.sum(draw.arrivals[:start_slot]))
    tasks = []
    try:
        for n in range(first, len(row.arrival_slot))[:max_tasks]:
            tasks.append(row.run_task(n, stop))
    except _RowEnd:
        pass
    return tuple(tasks)


def counterfactual(
    scenario: Scenario,
    draw: Draw,
    history_choices: Sequence[int],
    task_position: int,
    choice: int,
    start_slot: int = 0,
) -> Task:
    """Task at `task_position` (0 = first) under `choice` after that history; IndexError past the
    row.
    """
    choices = [*history_choices[:task_position], choice]
    first = int(np.sum(draw.arrivals[:start_slot]))

    def stop(n: int, layer: int, slot: int, view: View):
        return layer == choices[n - first]

    return simulate(scenario, draw, stop, start_slot, task_position + 1)[task_position]
