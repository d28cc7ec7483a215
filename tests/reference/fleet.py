"""The `fleet` system (design.md section 8) again: device by device, choice by choice, in Python
floats.

It shares no code with the library: latencies are written out part by part, shares and costs are
sums in plain loops, and the dual function is evaluated by trying every choice of every device.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """Numbers up to each cut p = 0..P-1, in the last of which nothing is sent (SI units)."""

    device_s: Sequence  # [N][V][P] seconds of machine n for version v up to cut p
    device_energy_j: Sequence  # [N][V][P]
    work_flop: Sequence  # [V][P]
    upload_bits: Sequence  # [V][P]
    overhead_s: Sequence  # [P] of the server
    accuracy: Sequence  # [V][P]
    bandwidth_hz: float
    server_flops: float
    reference_s: float
    cap_s: float
    rtt_s: float
    transmit_w: float
    transmit_j_per_bit: float
    cloud_flops: float | None = None
    cloud_overhead_s: Sequence | None = None
    cloud_rtt_s: float | None = None
    backhaul_bps: float | None = None

    @property
    def cuts(self) -> int:
        return len(self.overhead_s)

    def choices(self) -> list[tuple[int, int, int]]:
        """(version, cut, second cut) in the order of the library's numbers, those that are not
        valid included.
        """
        seconds = range(self.cuts) if self.cloud_flops is not None else [self.cuts - 1]
        return list(itertools.product(range(len(self.accuracy)), range(self.cuts), seconds))


@dataclass(frozen=True)
class Device:
    """One device in one slot."""

    kind: int
    active: bool
    weight: float
    efficiency: float
    speed: float


@dataclass(frozen=True)
class Task:
    """How one task ended."""

    latency_s: float
    energy_j: float
    accuracy: float
    cost: float


def parts(
    system: System, device: Device, choice, bandwidth: float, server: float
) -> tuple[float, float, float]:
    """Seconds of a choice: whatever the shares, with the whole band, with the whole server."""
    version, cut, second = choice
    end = system.cuts - 1
    flop = system.work_flop[version]
    alone = system.device_s[device.kind][version][cut] / device.speed
    send = run = 0.0
    if cut < end:
        alone += system.rtt_s + system.overhead_s[second] - system.overhead_s[cut]
        send = system.upload_bits[version][cut] / (
            system.bandwidth_hz * bandwidth * device.efficiency
        )
        run = (flop[second] - flop[cut]) / (system.server_flops * server)
        if second < end:
            alone += system.cloud_rtt_s + system.upload_bits[version][second] / system.backhaul_bps
            alone += (flop[end] - flop[second]) / system.cloud_flops
            alone += system.cloud_overhead_s[end] - system.cloud_overhead_s[second]
    return alone, send, run


def valid(choice) -> bool:
    return choice[2] >= choice[1]


def best_shares(system, devices, chosen, bandwidth, server) -> tuple[list[float], list[float]]:
    """Shares in proportion to the roots of weighted seconds; nothing for absent devices."""
    roots = []
    for device, choice in zip(devices, chosen, strict=True):
        _, send, run = parts(system, device, choice, bandwidth, server)
        roots.append(
            [
                math.sqrt(device.weight * s) if device.active and valid(choice) else 0.0
                for s in (send, run)
            ]
        )
    totals = [sum(root[k] for root in roots) for k in (0, 1)]
    return tuple([root[k] / totals[k] if totals[k] > 0 else 0.0 for root in roots] for k in (0, 1))


def serve(system, devices, chosen, x, y, bandwidth, server, capped: bool) -> list[Task]:
    """Ends every task with shares x of the band and y of the server; `capped`: latencies count at
    most cap_s.
    """
    tasks = []
    for device, choice, xi, yi in zip(devices, chosen, x, y, strict=True):
        alone, send, run = parts(system, device, choice, bandwidth, server)
        air = 0.0 if send == 0 else send / xi if xi > 0 else system.cap_s
        on_server = 0.0 if run == 0 else run / yi if yi > 0 else system.cap_s
        latency = alone + air + on_server
        if (send > 0 and xi == 0) or (run > 0 and yi == 0):
            latency = system.cap_s
        if capped:
            latency, air = min(latency, system.cap_s), min(air, system.cap_s)
        accuracy = system.accuracy[choice[0]][choice[1]]
        bits = system.upload_bits[choice[0]][choice[1]]
        energy = system.device_energy_j[device.kind][choice[0]][choice[1]]
        energy += system.transmit_w * air + system.transmit_j_per_bit * bits
        cost = (1 - device.weight) * (1 - accuracy) + device.weight * latency / system.reference_s
        tasks.append(Task(latency, energy, accuracy, cost))
    return tasks


def cost(system, devices, chosen, bandwidth, server) -> float:
    """Cost of all active devices with the best shares."""
    x, y = best_shares(system, devices, chosen, bandwidth, server)
    tasks = serve(system, devices, chosen, x, y, bandwidth, server, capped=False)
    return sum(task.cost for device, task in zip(devices, tasks, strict=True) if device.active)


def optimum(system, devices, bandwidth, server) -> float:
    """The least cost of all answers, tried one by one."""
    allowed = [choice for choice in system.choices() if valid(choice)]
    return min(
        cost(system, devices, chosen, bandwidth, server)
        for chosen in itertools.product(allowed, repeat=len(devices))
    )


def dual(system, devices, bandwidth, server, mu: float, nu: float) -> float:
    """g(mu, nu) of the design, shares normalised to one."""
    total = -mu - nu
    for device in devices:
        if not device.active:
            continue
        least = math.inf
        for choice in filter(valid, system.choices()):
            alone, send, run = parts(system, device, choice, bandwidth, server)
            scale = device.weight / system.reference_s
            a = (1 - device.weight) * (1 - system.accuracy[choice[0]][choice[1]]) + scale * alone
            least = min(
                least, a + 2 * math.sqrt(mu * scale * send) + 2 * math.sqrt(nu * scale * run)
            )
        total += least
    return total
