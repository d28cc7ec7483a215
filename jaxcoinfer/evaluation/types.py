"""What a run is, of any system: what it was asked for, what it found, what its policies are made
of.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax

from jaxcoinfer.evaluation.evaluate import Interval
from jaxcoinfer.learn.networks import PolicySignature

Progress = Callable[
    [str, int, int], None
]  # what is over, work done, work in all (about seconds of one core)
Sheet = tuple[
    Sequence[str], Sequence[Sequence[Any]]
]  # header, rows: a CSV file, or a small table to print


class RunError(ValueError):
    """A run that cannot be made or read because of what was asked for; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What the policies of a run are made of.

    scenario: as it was run. fixed: the best fixed choice on the training draw, None where none is
    played. hidden, weights: of the network of each learner. threshold: confidence of an exit head
    at which it is best to settle for its answer, on the training draw, where one is looked at.
    """

    scenario: Any
    seed: int
    fixed: Any
    hidden: dict[str, tuple[int, ...]]
    weights: dict[str, Any]
    threshold: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """One policy: every measure by name, its gain in utility on the policy it is compared with, how
    far it is below the bound, paired row by row, and whether a device could do the same.
    """

    measures: dict[str, Interval]
    gain: Interval
    gap: Interval
    deployable: bool


@dataclasses.dataclass(frozen=True)
class Bound:
    """What no policy exceeds, utility a task: what it is, and how much; of an exact optimum also
    the computed gain.
    """

    what: str
    utility: Interval
    computed: float | None


@dataclasses.dataclass(frozen=True)
class Table:
    """What the policies achieve on the same held-out rows.

    rows by policy; compared: gains are differences to it. sheets: what else there is to say about
    them, a CSV file each; found: the same or more for JSON; printed: small tables of text that
    belong below the first one; reference: what is one.
    """

    rows: dict[str, Row]
    bound: Bound
    compared: str
    sheets: dict[str, Sheet] = dataclasses.field(default_factory=dict)
    found: dict[str, Any] = dataclasses.field(default_factory=dict)
    printed: tuple[Sheet, ...] = ()
    reference: str = "a reference: knows the future, or the law of the world"


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run found.

    sheets, found: as in `Table`, of learning and the like. figures: draws all of them, by name;
    only then is matplotlib imported. trace: the first tasks of a policy, for Perfetto.
    """

    checkpoint: Checkpoint
    table: Table
    sheets: dict[str, Sheet]
    found: dict[str, Any]
    figures: Callable[[], Mapping[str, Any]]
    trace: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Portable:
    """A learned function [batch, features] -> [batch, outputs], whose it is, and how to use it
    elsewhere.

    inputs: where it takes several arrays [batch, ...], their names in order, shapes without the
    batch, and types.
    """

    policy: str
    function: Callable[..., jax.Array]
    signature: PolicySignature
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
