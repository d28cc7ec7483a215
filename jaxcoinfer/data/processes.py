"""Processes that scenarios name: arrivals, loads, link rates, outages, speeds; and checks they
share. No jax.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from jaxcoinfer.data.fields import (
    Check,
    Place,
    checked,
    integer,
    many,
    nearest,
    number,
    require_table,
    structure,
    text,
)

Split = Literal[
    "train", "eval"
]  # of recorded files and images: those to learn from, those to be judged on
MAX_SLOTS = 1 << 20  # of a row: longer ones are not exact in int32


def one_of(allowed: Mapping[str, Any]) -> Check:
    """A table whose `process` names which of the records it is."""

    def check(value: Any, place: Place) -> Any:
        require_table(value, place)
        process = value.get("process")
        if process not in allowed:
            place.at("process").refuse(
                process, ", ".join(allowed) + nearest(str(process), list(allowed))
            )
        return structure(
            allowed[process], {k: v for k, v in value.items() if k != "process"}, place
        )

    check.process_of = {record: name for name, record in allowed.items()}  # for `fields.table_of`
    return check


def word(*allowed: str) -> Check:
    """One of some words."""

    def check(value: Any, place: Place) -> str:
        if value not in allowed:
            place.refuse(value, ", ".join(allowed) + nearest(str(value), list(allowed)))
        return value

    return check


def pair(check: Check) -> Check:
    """Two values that each pass `check`, or nothing."""

    def check_pair(value: Any, place: Place) -> tuple:
        if not isinstance(value, list) or len(value) != 2:
            place.refuse(value, "a list of two numbers")
        return many(check)(value, place)

    return check_pair


@dataclasses.dataclass(frozen=True)
class ConstantRate:
    """A link of one rate; `outage_leave`: probabilities a slot to leave the good and the dead
    state, if any.
    """

    rate_bps: float = checked(number(above=True))
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
    """Recorded links: files learning may use, and files only evaluation reads; outages as in
    ConstantRate.

    share: of the link that this device gets, the rest is others'.
    """

    train: tuple[str, ...] = checked(many(text, 1))
    evaluation: tuple[str, ...] = checked(many(text, 1))
    outage_leave: tuple[float, ...] = checked(pair(number(0.0, 1.0, above=True)), default=())
    share: float = checked(number(0.0, 1.0, above=True), default=1.0)


@dataclasses.dataclass(frozen=True)
class ConstantSpeed:
    """The device always runs at its nominal speed."""


@dataclasses.dataclass(frozen=True)
class MarkovSpeed:
    """The device jumps between `speeds` (1 = nominal), leaving state i with probability leave[i] a
    slot.
    """

    speeds: tuple[float, ...] = checked(many(number(above=True), 2))
    leave: tuple[float, ...] = checked(many(number(0.0, 1.0, above=True), 2))


@dataclasses.dataclass(frozen=True)
class MarkovRate:
    """A link that jumps between `rates_bps` [M]; row i of `transition` [M, M] is where it goes from
    state i.
    """

    rates_bps: tuple[float, ...] = checked(many(number(), 2))
    transition: tuple[tuple[float, ...], ...] = checked(many(many(number(0.0, 1.0), 2), 2))


@dataclasses.dataclass(frozen=True)
class HeldOutages:
    """Outages that last a number of slots, uniform from shortest_slots to longest_slots; then the
    link is up again for at least a slot, and one begins with probability `begin` a slot. How long
    one has lasted says how soon it ends.
    """

    begin: float = checked(number(0.0, 1.0, above=True))
    shortest_slots: int = checked(integer(1, 1 << 12))
    longest_slots: int = checked(integer(1, 1 << 12))


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """At most one task a slot."""

    probability: float = checked(number(0.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Poisson:
    """Tasks a slot, Poisson with this mean."""

    mean: float = checked(number(0.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Mmpp:
    """Two-state Markov-modulated Poisson: tasks a slot in each state, probability a slot to leave
    it.
    """

    means: tuple[float, ...] = checked(pair(number(0.0, 1.0)))
    leave: tuple[float, ...] = checked(pair(number(0.0, 1.0, above=True)))


@dataclasses.dataclass(frozen=True)
class RecordedArrivals:
    """Instants of a recorded trace, its time rescaled to `mean` tasks a slot."""

    trace: str = checked(text)
    mean: float = checked(number(0.0, 1.0, above=True))


@dataclasses.dataclass(frozen=True)
class PoissonBatches:
    """Jobs of other devices, Poisson many a slot, that take the share `load` of the server.

    jobs: "uniform" on (0, job_s), or "exponential" with mean job_s, seconds.
    """

    load: float = checked(number(0.0, 10.0))
    job_s: float = checked(number(above=True))
    jobs: str = checked(word("uniform", "exponential"), default="uniform")


@dataclasses.dataclass(frozen=True)
class RecordedLoad:
    """Jobs of job_s seconds at the instants of a recorded trace, its time rescaled to the share
    `load`.
    """

    trace: str = checked(text)
    load: float = checked(number(0.0, 10.0, above=True))
    job_s: float = checked(number(above=True))
