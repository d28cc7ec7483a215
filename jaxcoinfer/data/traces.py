"""Recorded link rates and request arrivals: read them from CSV, put them on slots.

Axes: `N` steps of a rate trace, `M` requests of an arrival trace, `T` slots. Time counts from the
first row. Every refusal is a `TraceError` of one line: file, line, field, value, and what is
allowed.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import fnmatch
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxcoinfer.data.profiles import profiles_root

# What a field may hold; the bounds catch wrong units: an epoch in milliseconds, bit/s in a column
# of Mbit/s.
_RANGES = {
    "time_s": (-1e11, 1e11),
    "mbps": (0.0, 1e6),
    "rate_bps": (0.0, 1e12),
    "count": (0.0, 1e6),
}
_STEP_TOLERANCE = 1e-6  # of a step: rounding in the file, not a gap
# Of a slot: an instant this close before an edge is on it (in floats, 3 * 0.1 > 0.3).
_SLOT_TOLERANCE = 1e-6


class TraceError(ValueError):
    """A trace file, or a request made of a trace, that cannot be used; the message is one line."""


@dataclass(frozen=True, eq=False)
class RateTrace:
    """A recorded link."""

    name: str  # of the file, without its ending
    step_s: float  # seconds of a step
    rate_bps: np.ndarray  # float64 [N], mean bit/s from `i step_s` to `(i + 1) step_s`

    @property
    def duration_s(self) -> float:
        """Seconds covered, `N * step_s`."""
        return self.step_s * len(self.rate_bps)

    def scaled(self, factor: float) -> RateTrace:
        """The same link at `factor` times the rate."""
        return dataclasses.replace(self, rate_bps=self.rate_bps * factor)


@dataclass(frozen=True, eq=False)
class ArrivalTrace:
    """Recorded requests."""

    name: str  # of the file, without its ending
    time_s: np.ndarray  # float64 [M], seconds, sorted, all in `[0, duration_s)`
    duration_s: float  # seconds that the trace covers

    @property
    def requests_per_s(self) -> float:
        """Mean rate, `M / duration_s`."""
        return len(self.time_s) / self.duration_s

    def part(self, begin: float, end: float) -> ArrivalTrace:
        """The requests from `begin` to `end`, shares of the duration; time counts from there."""
        begin_s, end_s = begin * self.duration_s, end * self.duration_s
        inside = self.time_s[(begin_s <= self.time_s) & (self.time_s < end_s)]
        if not len(inside):
            span = f"from {begin_s:g} to {end_s:g} s"
            raise _refusal(self.name, "requests", 0, span, "1 or more")
        return ArrivalTrace(self.name, inside - begin_s, end_s - begin_s)


def shipped_traces() -> tuple[str, ...]:
    """Names of the traces that come with the package, sorted; each is a `path` for one of the
    readers.
    """
    return tuple(sorted(file.stem for file in (profiles_root() / "traces").glob("*.csv")))


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the traces that names, paths and patterns stand for, each once, in their order; those
    of a pattern (with `*`, `?` or `[`) sorted. Raises `TraceError` where a pattern fits none.
    """
    found: dict[str, None] = {}
    for name in names:
        if not any(character in name for character in "*?["):
            found[name] = None
            continue
        named = "/" not in name and os.sep not in name
        paths = Path(name).parent.glob(Path(name).name)
        fitting = (
            fnmatch.filter(shipped_traces(), name.removesuffix(".csv"))
            if named
            else sorted(str(path) if path.is_absolute() else f"./{path}" for path in paths)
        )
        if not fitting:
            where = "shipped trace" if named else "file"
            raise _refusal(name, "pattern", name, f"fits no {where}", "one that fits a trace")
        found |= dict.fromkeys(fitting)
    return tuple(found)


def of_rows(names: Sequence[str], n_rows: int) -> tuple[str, ...]:
    """Returns the trace of each row: rows take what the names stand for in turn."""
    files = expand(names)
    return tuple(files[row % len(files)] for row in range(n_rows))


def read_rate_trace(path: str | Path) -> RateTrace:
    """Read a link rate from CSV: a header, `time_s` in uniform steps, and `mbps` (10^6 bit/s) or
    `rate_bps`.

    Other columns are ignored. A string without a `/` names a shipped trace; a file of yours is
    `./my.csv`. Raises `TraceError`: no such file or column, under 2 rows, a value that is no number
    or too large, a gap.
    """
    table = _read_table(path, ("time_s",), ("mbps", "rate_bps"))
    rate_bps = 1e6 * table.column("mbps") if "mbps" in table.header else table.column("rate_bps")
    return RateTrace(Path(table.file).stem, _uniform_step_s(table), rate_bps)


def read_arrival_trace(path: str | Path) -> ArrivalTrace:
    """Read arrivals from CSV: `time_s`, one row per request; or `time_s,count`, one row per uniform
    interval.

    Instants: sorted, may repeat; `duration_s = (last - first) * M / (M - 1)`, one mean gap past the
    last. Counts: request j of the c in interval i is put at `(i + (j + 1/2) / c) * step`;
    `duration_s = N * step`. Counts must be whole. Other columns, names, paths and errors are as in
    `read_rate_trace`.
    """
    table = _read_table(path, ("time_s",))
    if {"mbps", "rate_bps"} & set(table.header):
        header, allowed = ",".join(table.header), "time_s, or time_s and count"
        raise _refusal(f"{table.file}: line 1", "header", header, "belongs to a link", allowed)
    time_s, duration_s = _spread_counts(table) if "count" in table.header else _instants(table)
    return ArrivalTrace(Path(table.file).stem, time_s, duration_s)


def slot_bits(trace: RateTrace, slot_s: float, n_slots: int, start_s: float = 0.0) -> np.ndarray:
    """Whole bits carried in each slot, int64[T], such that
    `sum(bits[:k]) = floor(C(start_s + k slot_s) - C(start_s))`.

    `C(t)` integrates the rate from 0 to t: no bit is lost or made, a fraction is carried to the
    next slot. Raises `TraceError` where the slots reach past the end of the trace, and says how
    many fit.
    """
    edges_s = _slot_edges_s(trace.name, trace.duration_s, slot_s, n_slots, start_s)
    step_edges_s = trace.step_s * np.arange(len(trace.rate_bps) + 1)
    carried_bits = np.concatenate([[0.0], np.cumsum(trace.rate_bps * trace.step_s)])
    at_edge_bits = np.interp(edges_s, step_edges_s, carried_bits)
    since_start_bits: NDArray[np.float64] = at_edge_bits - at_edge_bits[0]
    # Rounded to a thousandth of a bit first: where floats make 3999999.9999999995 of 4e6, the floor
    # alone would lose a bit.
    return np.diff(np.floor(np.round(since_start_bits, 3)).astype(np.int64))


def observed_bits(trace: RateTrace, slot_s: float, n_slots: int, start_s: float) -> np.ndarray:
    """Bits a slot that are known of the link at the start of each slot, int64[T]: its mean rate in
    the last step of the trace that is over, `rate[floor(t / step_s) - 1] slot_s` at time t.

    A recorded rate is the mean of its step, which nobody knows before the step is over. Raises
    `TraceError` where no step is over at `start_s`, else as `slot_bits`.
    """
    edges_s = _slot_edges_s(trace.name, trace.duration_s, slot_s, n_slots, start_s)
    last = np.floor(edges_s[:-1] / trace.step_s + _STEP_TOLERANCE).astype(int) - 1
    if last[0] < 0:
        allowed = f"{trace.step_s:g} s, a step of the trace, or later"
        raise _refusal(trace.name, "start_s", start_s, "is before any step is over", allowed)
    return np.round(trace.rate_bps[last] * slot_s).astype(np.int64)


def arrival_counts(
    trace: ArrivalTrace, slot_s: float, n_slots: int, start_s: float = 0.0, time_scale: float = 1.0
) -> np.ndarray:
    """Requests per slot, int32[T]: how many `time_scale * time_s` are in
    `[start_s + k slot_s, start_s + (k + 1) slot_s)`.

    `start_s` is in scaled seconds; `time_scale_for_rate` gives the scale of a rate. Errors as in
    `slot_bits`.
    """
    _positive(trace.name, "time_scale", time_scale)
    edges_s = _slot_edges_s(trace.name, time_scale * trace.duration_s, slot_s, n_slots, start_s)
    before_edge = np.searchsorted(time_scale * trace.time_s, edges_s - _SLOT_TOLERANCE * slot_s)
    return np.diff(before_edge).astype(np.int32)


def time_scale_for_rate(trace: ArrivalTrace, requests_per_s: float) -> float:
    """The `time_scale` for a mean of `requests_per_s` (1/s): recorded rate / wanted rate; the shape
    stays.
    """
    _positive(trace.name, "requests_per_s", requests_per_s)
    return trace.requests_per_s / requests_per_s


@dataclass(frozen=True)
class _Table:
    file: str  # its path
    header: list[str]
    lines: list[int]  # of the file, one per row
    rows: list[list[str]]  # the cells of each

    def refuse(
        self, bad: Sequence[bool] | np.ndarray, field: str, problem: str, allowed: str
    ) -> None:
        """Refuse the first row that `bad`, one truth value per row, marks."""
        if np.any(bad):
            row = int(np.argmax(bad))
            value = (
                ",".join(self.rows[row])
                if field == "row"
                else self.rows[row][self.header.index(field)]
            )
            raise _refusal(f"{self.file}: line {self.lines[row]}", field, value, problem, allowed)

    def column(self, field: str) -> np.ndarray:
        """The numbers of a field, float64[rows]."""
        index, (low, high) = self.header.index(field), _RANGES[field]
        values = np.array([_number_or_nan(row[index]) for row in self.rows])
        in_range = (low <= values) & (values <= high)  # NaN is not
        self.refuse(~in_range, field, "cannot be used", f"finite numbers from {low:g} to {high:g}")
        if field == "count":
            self.refuse(values % 1 > 0, field, "is fractional", "whole numbers")
        return values


def _number_or_nan(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _refusal(place: str, field: str, value: object, problem: str, allowed: str) -> TraceError:
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    return TraceError(f"{place}, field {field}: value {shown} {problem}; allowed: {allowed}")


def _resolve(path: str | Path) -> Path:
    named = isinstance(path, str) and "/" not in path and os.sep not in path
    file = (
        profiles_root() / "traces" / f"{str(path).removesuffix('.csv')}.csv"
        if named
        else Path(path)
    )
    if file.exists():
        return file
    nearest = ", ".join(difflib.get_close_matches(file.stem, shipped_traces(), n=3, cutoff=0.0))
    allowed = f"a path (./my.csv) or a shipped name; nearest: {nearest}"
    raise _refusal(
        str(file), "path", str(path), f"is no {'shipped trace' if named else 'file'}", allowed
    )


def _read_table(path: str | Path, *needed: tuple[str, ...]) -> _Table:
    """The rows of a CSV file whose header names exactly one field of each group in `needed`."""
    file = str(_resolve(path))
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            lines = [
                (reader.line_num, row) for row in reader if len(row) > 1 or "".join(row).strip()
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _refusal(
            file, "file", type(error).__name__, "on reading", "a CSV file in UTF-8"
        ) from error
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    for names in needed:
        if sum(map(header.count, names)) != 1:
            problem = (
                f"does not name {' or '.join(names)} exactly once" if lines else "of an empty file"
            )
            allowed = "a header with " + " and ".join(" or ".join(names) for names in needed)
            raise _refusal(f"{file}: line 1", "header", ",".join(header), problem, allowed)
    table = _Table(file, header, [line for line, _ in lines[1:]], [row for _, row in lines[1:]])
    too_wide = [len(row) != len(header) for row in table.rows]
    table.refuse(too_wide, "row", "does not fit the header", f"{len(header)} cells")
    if len(table.rows) < 2:
        raise _refusal(
            f"{file}: line {lines[-1][0]}", "rows", len(table.rows), "is too few", "2 or more"
        )
    return table


def _uniform_step_s(table: _Table) -> float:
    time_s = table.column("time_s")
    steps_s = np.diff(time_s, prepend=-np.inf)  # row by row; inf at the first
    table.refuse(steps_s <= 0, "time_s", "is not after the row above", "times that increase")
    # The median: one odd step cannot pose as the rule.
    expected_s = np.sort(steps_s)[(len(steps_s) - 2) // 2]
    # Far from 0 (an epoch), floats are coarser than a millionth of a short step.
    slack_s = _STEP_TOLERANCE * expected_s + 4 * np.spacing(np.abs(time_s).max())
    off = np.isfinite(steps_s) & (np.abs(steps_s - expected_s) > slack_s)
    step_s = steps_s[off.argmax()]
    what = "leaves a gap" if step_s > expected_s else "comes early"
    problem = f"{what} (step expected {expected_s:.9g} s, found {step_s:.9g} s)"
    table.refuse(
        off, "time_s", problem, f"one step throughout, to within {_STEP_TOLERANCE:g} of it"
    )
    return float(time_s[-1] - time_s[0]) / (len(time_s) - 1)


def _instants(table: _Table) -> tuple[np.ndarray, float]:
    time_s = table.column("time_s")
    table.refuse(
        np.diff(time_s, prepend=-np.inf) < 0, "time_s", "is before the row above", "sorted times"
    )
    time_s = time_s - time_s[0]
    table.refuse(
        np.full(len(time_s), not time_s[-1]), "time_s", "is that of every row", "times that differ"
    )
    return time_s, float(time_s[-1]) * len(time_s) / (len(time_s) - 1)


def _spread_counts(table: _Table) -> tuple[np.ndarray, float]:
    step_s, counts = _uniform_step_s(table), table.column("count").astype(np.int64)
    interval = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(interval)) - (np.cumsum(counts) - counts)[interval]
    return step_s * (interval + (within + 0.5) / counts[interval]), step_s * len(counts)


def _positive(name: str, field: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise _refusal(name, field, value, "is out of range", "a finite number above 0")


def _slot_edges_s(
    name: str, duration_s: float, slot_s: float, n_slots: int, start_s: float
) -> np.ndarray:
    """Edges of the slots, float64[T + 1], from `start_s`; refuses slots that reach past
    `duration_s`.
    """
    _positive(name, "slot_s", slot_s)
    if not 0 <= start_s < duration_s:
        raise _refusal(name, "start_s", start_s, "is outside", f"0 to below {duration_s:g} s")
    fit = math.floor(min((duration_s - start_s) / slot_s + _SLOT_TOLERANCE, 2.0**31))
    if n_slots % 1 or not 1 <= n_slots <= fit:
        span = f"between {start_s:g} and {duration_s:g} s"
        allowed = f"1 to {fit}, the slots of {slot_s:g} s that fit {span}"
        raise _refusal(name, "n_slots", n_slots, "is out of range", allowed)
    return start_s + slot_s * np.arange(n_slots + 1)
