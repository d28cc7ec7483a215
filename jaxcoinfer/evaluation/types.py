"""What a run is, of any system: what it was asked for, what it found, what its policies are made
of.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax

from jaxcoinfer.evaluation.evaluate import Interval
from jaxcoinfer.learn.networks import PolicySignature

# (what was done, work done, work in all), about seconds of one core
Progress = Callable[[str, int, int], None]
# (header, rows): a CSV file, or a small table to print
Sheet = tuple[Sequence[str], Sequence[Sequence[Any]]]


class RunError(ValueError):
    """A run that cannot be made or read because of what was asked for; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What the policies of a run are made of."""

    scenario: Any  # as it was run
    seed: int
    hidden: dict[str, tuple[int, ...]]  # learner -> widths of the layers of its network
    weights: dict[str, Any]  # learner -> weights of its network, leaves [S, ...] of S seeds
    # What was chosen on training and validation rows: "compared", the best baseline, "best", the
    # learner that is exported, "seed_of_best", which of its seeds, and what the system's baselines
    # take.
    chosen: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One policy in a `Table`."""

    measures: dict[str, Interval]  # by name
    gain: Interval  # in utility, on the policy that all are compared with
    gap: Interval  # in utility, how far below the bound, paired row by row
    deployable: bool  # whether a device could do the same


@dataclasses.dataclass(frozen=True)
class Bound:
    """What no policy exceeds."""

    what: str
    utility: Interval  # per task
    computed: float | None  # of an exact optimum its computed gain, else None


@dataclasses.dataclass(frozen=True)
class Table:
    """What the policies achieve on the same held-out rows."""

    rows: dict[str, Row]  # by policy
    bound: Bound
    compared: str  # the policy that gains are differences to
    sheets: dict[str, Sheet] = dataclasses.field(default_factory=dict)  # more about them, CSV files
    found: dict[str, Any] = dataclasses.field(default_factory=dict)  # more about them, for JSON
    printed: tuple[Sheet, ...] = ()  # small tables to print below
    reference: str = "a reference: knows the future, or the law of the world"  # what is one


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run found."""

    checkpoint: Checkpoint
    table: Table
    sheets: dict[str, Sheet]  # of learning, sweeps and the like, a CSV file each
    found: dict[str, Any]  # the same or more, for JSON
    figures: Callable[[], Mapping[str, Any]]  # draws all, by name; imports matplotlib when called
    trace: dict[str, Any]  # the first tasks of a policy, for Perfetto


@dataclasses.dataclass(frozen=True)
class Portable:
    """A learned function that can be used without this library."""

    policy: str  # whose function it is
    function: Callable[..., jax.Array]  # [batch, features] -> [batch, outputs]
    signature: PolicySignature
    # Where it takes several arrays [batch, ...]: name -> (shape without the batch, type), in order.
    inputs: Mapping[str, tuple[tuple[int, ...], str]] | None = None


class System(Protocol):
    """What the module of a system has: `jaxcoinfer.systems.stopping.run`, say."""

    LEARNERS: Any
    FULL: Any
    QUICK: Any

    def run(self, scenario: Any, seed: int, sizes: Any, progress: Progress) -> Run:
        """Trains and evaluates. Raises RunError, ProfileError or TraceError in one line if the
        input is at fault.
        """
        ...

    def evaluate_again(self, checkpoint: Checkpoint, seed: int, progress: Progress) -> Table:
        """Returns the table of the trained policies and their baselines on fresh rows. Raises like
        `run`.
        """
        ...

    def portable(self, checkpoint: Checkpoint) -> Portable:
        """Returns the best learner's function."""
        ...
