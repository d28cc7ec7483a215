"""The `multi-user` system again: user by user, event by event, in Python floats.

It shares no code with the library: benchmarks time the library against it, and tests compare the
two. Every user has a phase, "computes", "sends" or "free", and the events of a slot are kept as
(seconds into the slot, user, what ended), so that two simulators can be compared one event at a
time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

TIE_S = 1e-10


@dataclass(frozen=True)
class System:
    """Numbers of all users. Axis: S splits."""

    compute_s: Sequence[float]  # [S], seconds of the device up to the split
    compute_w: Sequence[float]  # [S], watts of the device meanwhile
    upload_bits: Sequence[float]  # [S], to send at the split
    slot_s: float = 0.5
    bandwidth_hz: float = 1e6  # of each channel
    noise_w: float = 1e-9  # in each channel
    path_loss: float = 3.0  # exponent
    energy_weight: float = 1.0  # seconds per joule
    tasks_floor: float = 0.8  # least number of tasks that a slot counts
    scale_s: float = 0.045887  # of the observation
    scale_bits: float = 1204224.0  # of the observation
    nearest_m: float = 1.0
    farthest_m: float = 100.0


@dataclass
class User:
    """One user: where it is, what it still has to do, and how far it is with the task at hand."""

    distance_m: float  # to the receiver
    all_tasks: int  # at the beginning
    split: int  # of the task at hand
    channel: int  # of the task at hand
    power_w: float = 1e-10  # of its radio
    tasks: int = 0  # not yet finished
    phase: str = "free"  # or "computes", "sends"
    left_s: float = 0.0  # seconds left to compute of the task at hand
    left_bits: float = 0.0  # bits left to send of the task at hand
    watts: float = 0.0  # of the task at hand while it computes
    next_split: int = 0  # of tasks that begin from now on
    next_channel: int = 0  # of tasks that begin from now on
    finished: int = 0  # tasks, in this slot
    energy_j: float = 0.0  # spent in this slot


@dataclass
class World:
    """All users, and the events of the slot played last."""

    system: System
    users: list[User]
    # Seconds into the slot, user, what ended.
    events: list[tuple[float, int, str]] = field(default_factory=list)


def begin(
    system: System,
    distances_m: Sequence[float],
    tasks: Sequence[int],
    splits: Sequence[int],
    channels: Sequence[int],
) -> World:
    """Returns a world at the beginning of an episode."""
    drawn = zip(distances_m, tasks, splits, channels, strict=True)
    users = [User(float(d), int(n), int(s), int(c)) for d, n, s, c in drawn]
    for user in users:
        user.tasks = user.all_tasks
        start_task(system, user)
    return World(system, users)


def start_task(system: System, user: User) -> None:
    """Begins a task at the split of the user."""
    user.left_s = system.compute_s[user.split]
    user.left_bits = system.upload_bits[user.split]
    user.watts = system.compute_w[user.split]
    user.phase = "sends" if user.split == 0 else "computes"


def finish_task(system: System, user: User) -> None:
    """Counts the task at hand as finished and begins the next."""
    user.finished += 1
    user.tasks -= 1
    user.left_s = user.left_bits = 0.0
    if user.tasks == 0:
        user.phase = "free"
        return
    user.split, user.channel = user.next_split, user.next_channel
    start_task(system, user)


def rate_bps(world: World, user: User) -> float:
    """Returns the rate of a user that sends, among the others that send on its channel."""
    system = world.system
    heard = system.noise_w
    for other in world.users:
        if other is not user and other.phase == "sends" and other.channel == user.channel:
            heard += other.power_w * other.distance_m**-system.path_loss
    own = user.power_w * user.distance_m**-system.path_loss
    return system.bandwidth_hz * math.log1p(own / heard) / math.log(2.0)


def remaining_s(world: World, user: User, rate: float) -> float:
    """Returns the seconds until the phase of a user ends; a slot for one that is free."""
    if user.phase == "computes":
        return user.left_s
    if user.phase == "sends":
        return user.left_bits / rate
    return world.system.slot_s


def advance(world: World, rates: list[float], seconds: float, at_s: float) -> None:
    """Lets every user go on for some seconds, in which no rate changes."""
    last = len(world.system.compute_s) - 1
    for i, (user, rate) in enumerate(zip(world.users, rates, strict=True)):
        done = remaining_s(world, user, rate) - seconds < TIE_S
        if user.phase == "computes":
            user.energy_j += user.watts * seconds
            user.left_s = 0.0 if done else user.left_s - seconds
            if done:
                world.events.append((at_s, i, "computed"))
                if user.split == last:
                    finish_task(world.system, user)
                else:
                    user.phase = "sends"
        elif user.phase == "sends":
            user.energy_j += user.power_w * seconds
            user.left_bits = 0.0 if done else user.left_bits - rate * seconds
            if done:
                world.events.append((at_s, i, "sent"))
                finish_task(world.system, user)


def step(
    world: World, splits: Sequence[int], channels: Sequence[int], powers_w: Sequence[float]
) -> tuple[float, bool]:
    """Plays one slot; returns the reward and whether all users are free."""
    system = world.system
    world.events = []
    for user, split, channel, power_w in zip(world.users, splits, channels, powers_w, strict=True):
        user.next_split, user.next_channel, user.power_w = int(split), int(channel), float(power_w)
        user.finished, user.energy_j = 0, 0.0
    gone_s = 0.0
    while True:
        rates = [rate_bps(world, user) if user.phase == "sends" else 0.0 for user in world.users]
        until_s = min(
            remaining_s(world, user, rate) for user, rate in zip(world.users, rates, strict=True)
        )
        if not gone_s + until_s < system.slot_s:
            break
        gone_s += until_s
        advance(world, rates, until_s, gone_s)
    if system.slot_s > gone_s:
        advance(world, rates, system.slot_s - gone_s, system.slot_s)
    n = len(world.users)
    energy_j = sum(user.energy_j for user in world.users) / n
    finished = max(sum(user.finished for user in world.users) / n, system.tasks_floor)
    reward = -system.slot_s / finished - system.energy_weight * energy_j / finished
    return reward, all(user.phase == "free" for user in world.users)


def observe(world: World) -> list[list[float]]:
    """Returns of each user tasks left of all, seconds left, bits left, distance, each scaled."""
    system = world.system
    span_m = system.farthest_m - system.nearest_m
    return [
        [
            user.tasks / user.all_tasks,
            user.left_s / system.scale_s,
            user.left_bits / system.scale_bits,
            (user.distance_m - system.nearest_m) / span_m,
        ]
        for user in world.users
    ]
