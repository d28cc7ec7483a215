"""Processes that scenarios name: arrivals, loads, link rates, outages, speeds. No JAX."""

import dataclasses
from typing import Literal

from jaxcoinfer.data.fields import checked, integer, many, number, pair, text, word

# Of recorded links, arrival logs and images: those to learn from, those to choose by, and those on
# which results are counted.
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# Slots of a row. Longer rows are not exact: the idle time and backlog of a stable server, 2^10
# ticks per slot, must fit an int32.
MAX_SLOTS = 1 << 20


@dataclasses.dataclass(frozen=True)
class ConstantRate:
    """A link of one rate."""

    rate_bps: float = checked(number(above=True))
    # Probabilities per slot to leave the good and the dead state, if there are outages.
    outage_leave: tuple[float, ...] = checked(pair(number(0.0, 1.0, above=True)), default=())


@dataclasses.dataclass(frozen=True)
class Fading:
    """Gauss-Markov shadowing and Rayleigh block fading through Shannon capacity; outages as in
    ConstantRate.
    """

    bandwidth_hz: float = checked(number(above=True))
    snr_db: float = checked(number(-100.0, 100.0))
    shadowing_db: float = checked(number(0.0, 50.0))
    shadowing_memory: float = checked(number(0.0, 1.0))
    block_slots: int = checked(integer(1))
    outage_leave: tuple[float, ...] = checked(pair(number(0.0, 1.0, above=True)), default=())


@dataclasses.dataclass(frozen=True)
class RecordedRate:
    """Recorded links; outages as in ConstantRate."""

    # Traces, by name, path or pattern (`wifi_*`, `./mine/*`): to learn from, and for results.
    train: tuple[str, ...] = checked(many(text, 1))
    test: tuple[str, ...] = checked(many(text, 1), formerly="evaluation")
    outage_leave: tuple[float, ...] = checked(pair(number(0.0, 1.0, above=True)), default=())
    # Of the link that this device gets; the rest is for others.
    share: float = checked(number(0.0, 1.0, above=True), default=1.0)
    # To choose by: which baseline is the best, say. Without any, the training links serve.
    validation: tuple[str, ...] = checked(many(text, 0), default=())
    # Learning meets every link at a rate times a factor, log-uniform from 1 / vary to vary, drawn
    # for each row: so it learns for more links than were recorded.
    vary: float = checked(number(1.0), default=1.0)

    def of(self, split: Split) -> tuple[str, ...]:
        """Returns the traces of a split, patterns as they were given."""
        chosen = {"train": self.train, "validation": self.validation, "test": self.test}[split]
        return chosen or self.train


@dataclasses.dataclass(frozen=True)
class ConstantSpeed:
    """The device always runs at its nominal speed."""


@dataclasses.dataclass(frozen=True)
class MarkovSpeed:
    """The device jumps between M speeds."""

    speeds: tuple[float, ...] = checked(many(number(above=True), 2))  # [M], 1 is nominal
    # [M], probability per slot to leave each.
    leave: tuple[float, ...] = checked(many(number(0.0, 1.0, above=True), 2))


@dataclasses.dataclass(frozen=True)
class MarkovRate:
    """A link that jumps between M rates."""

    rates_bps: tuple[float, ...] = checked(many(number(), 2))  # [M], bit/s
    # [M, M], row i: the probabilities of the next state after state i.
    transition: tuple[tuple[float, ...], ...] = checked(many(many(number(0.0, 1.0), 2), 2))


@dataclasses.dataclass(frozen=True)
class HeldOutages:
    """Outages that last a number of slots, uniform from shortest_slots to longest_slots; then the
    link is up again for at least a slot. How long one has lasted says how soon it ends.
    """

    begin: float = checked(number(0.0, 1.0, above=True))  # probability per slot, while it is up
    shortest_slots: int = checked(integer(1, 1 << 12))
    longest_slots: int = checked(integer(1, 1 << 12))


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """At most one task per slot."""

    probability: float = checked(number(0.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Poisson:
    """Tasks per slot, Poisson with this mean."""

    mean: float = checked(number(0.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Mmpp:
    """Two-state Markov-modulated Poisson."""

    means: tuple[float, ...] = checked(pair(number(0.0, 1.0)))  # tasks per slot in each state
    # Probability per slot to leave each state.
    leave: tuple[float, ...] = checked(pair(number(0.0, 1.0, above=True)))


@dataclasses.dataclass(frozen=True)
class RecordedArrivals:
    """Instants of a recorded trace, its time rescaled to `mean` tasks per slot."""

    trace: str = checked(text)
    mean: float = checked(number(0.0, 1.0, above=True))


@dataclasses.dataclass(frozen=True)
class PoissonBatches:
    """Jobs of other devices, a Poisson number per slot."""

    load: float = checked(number(0.0, 10.0))  # share of the server that they take
    job_s: float = checked(number(above=True))
    # Seconds of a job: "uniform" on (0, job_s), or "exponential" with mean job_s.
    jobs: str = checked(word("uniform", "exponential"), default="uniform")


@dataclasses.dataclass(frozen=True)
class RecordedLoad:
    """Jobs of job_s seconds at the instants of a recorded trace, its time rescaled to the share
    `load`.
    """

    trace: str = checked(text)
    load: float = checked(number(0.0, 10.0, above=True))
    job_s: float = checked(number(above=True))
