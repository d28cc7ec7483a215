"""What the `jaxcoinfer` command prints: tables of policies and layers, lists, and progress."""

import dataclasses
import math
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

WIDTH = 80


@dataclasses.dataclass(frozen=True)
class _Column:
    """A column of the table of policies, shown where all of them have the measure."""

    head: str
    measure: str
    scale: float  # from SI units to those of the head
    digits: int | None = None  # decimals; None: as many as the largest number needs


_COLUMNS = (
    _Column("delay\nms", "latency_s", 1e3),
    _Column("accu-\nracy", "accuracy", 1.0, 3),
    _Column("energy\nmJ", "energy_j", 1e3),
    _Column("late\n%", "deadline_misses", 1e2, 1),
)


def print_policies(table: Any) -> None:
    """Prints an `evaluation.types.Table`, 80 columns wide: the policies that a device can run by
    utility, then the references.
    """
    rows, compared = table.rows, table.compared
    means = {
        name: {measure: i.mean for measure, i in row.measures.items()} for name, row in rows.items()
    }
    columns = [
        column for column in _COLUMNS if all(column.measure in mean for mean in means.values())
    ]
    digits = {
        c: _digits(max(abs(mean[c.measure]) for mean in means.values()) * c.scale) for c in columns
    }
    gaps = {name: _gap(row.gap.mean, means[name].get("gap_ratio")) for name, row in rows.items()}
    bounded = any(gaps.values())
    lines = []
    for name, row in sorted(
        rows.items(), key=lambda item: (not item[1].deployable, -item[1].measures["utility"].mean)
    ):
        cells = [name if row.deployable else f"{name} *", _short(row.measures["utility"])]
        cells += [gaps[name]] if bounded else []
        cells += [
            f"{means[name][c.measure] * c.scale:.{digits[c] if c.digits is None else c.digits}f}"
            for c in columns
        ]
        lines.append([*cells, "" if name == compared else _short(row.gain, "+")])
    heads = ["policy", "utility\n± 95 %", *(["gap to\nbound"] if bounded else [])]
    print_sheet([*heads, *(column.head for column in columns), f"gain on\n{compared}"], lines)
    if not all(row.deployable for row in rows.values()):
        print(f"* {table.reference}")
    if bounded:
        bound = table.bound
        computed = "" if bound.computed is None else f", computed {bound.computed:.4f}"
        print(f"bound: {bound.what}, {_short(bound.utility)}{computed}")
    for sheet in table.printed:
        print()
        print_sheet(*sheet)


def print_links(table: Any, learner: str) -> None:
    """Prints the utility of a learner and of the best baseline on each link of a table."""
    _, lines = table.sheets["links"]
    utility = {(policy, link): value for policy, link, value in lines}
    links = dict.fromkeys(link for _, link, _ in lines)
    rows = []
    for link in links:
        own, other = utility[learner, link], utility[table.compared, link]
        rows.append([_ending(link), f"{own:.3f}", f"{other:.3f}", f"{own - other:+.3f}"])
    print()
    print_sheet(
        ["link", learner.replace(" ", "\n"), table.compared.replace(" ", "\n"), "gain"], rows
    )


def _ending(name: str, width: int = 44) -> str:
    """The end of a name that is too long: the part in which files of a folder differ."""
    return name if len(name) <= width else f"…{name[1 - width :]}"


def print_layers(chain: Any, seconds: Sequence[float]) -> None:
    """Prints the layers of a `profiler` chain and their sums, with their seconds if known."""
    layers = chain.layers
    lines = []
    for layer in layers:
        sizes = "x".join(map(str, layer.out.shape[1:] or layer.out.shape))
        counts = [str(layer.kernels), f"{layer.flop / 1e6:.2f}", f"{layer.parameters:,}"]
        lines.append([layer.name, *counts, sizes, f"{layer.out.bits / 1e3:.1f}"])
    sums = [
        sum(values)
        for values in zip(*((x.kernels, x.flop, x.parameters) for x in layers), strict=True)
    ]
    lines.append(["all", str(sums[0]), f"{sums[1] / 1e6:.2f}", f"{sums[2]:,}", "", ""])
    header = ["layer", "kernels", "MFLOP", "parameters", "output", "sent\nkbit"]
    if seconds:
        header.append("ms")
        for line, value in zip(lines, [*seconds, sum(seconds)], strict=True):
            line.append(f"{value * 1e3:.3f}")
    print_sheet(header, lines)


def print_sheet(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table of text, its first column to the left, the others to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="")
    lines = max(head.count("\n") for head in header)
    for i, head in enumerate(header):
        table.add_column(
            "\n" * (lines - head.count("\n")) + head, justify="right" if i else "left", no_wrap=True
        )
    for row in rows:
        table.add_row(*row)
    Console(width=WIDTH, no_color=True, highlight=False).print(table)


def print_entry(name: str, *paragraphs: str) -> None:
    """Prints a name and, indented, what belongs to it; a paragraph that begins with "- " hangs."""
    print(name)
    for text in paragraphs:
        print_wrapped(text, "    ", "      " if text.startswith("- ") else "    ")


def print_wrapped(text: str, first: str, others: str) -> None:
    """Prints a paragraph within 80 columns; first, others: what its lines begin with."""
    print(
        textwrap.fill(
            text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False
        )
    )


def _gap(gap: float, ratio: float | None) -> str:
    """What is missing to the bound, in per cent where its ratio is known; "" without a bound."""
    number = gap if ratio is None else ratio
    if math.isnan(number):
        return ""
    return f"{gap:.3f}" if ratio is None else f"{100 * ratio:.2f} %"


def _digits(largest: float) -> int:
    """Decimals that leave about three figures of the largest number of a column."""
    return 0 if not largest < 100 else 1


def _short(interval: Any, sign: str = "") -> str:
    """Mean ± half width within fourteen characters (below a thousand)."""
    largest = max(abs(interval.mean), abs(interval.half))
    decimals = 3 if not largest >= 10 else 2 if largest < 100 else 1 if largest < 1000 else 0
    return f"{interval.mean:{sign}.{decimals}f} ± {interval.half:.{decimals}f}"


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Shows on stderr what is done, how fast it went and how long the rest may take: a bar in a
    terminal, else lines.
    """
    begin_s = time.perf_counter()

    def line(what: str, done: int, total: int) -> None:
        spent_s = time.perf_counter() - begin_s
        if what:
            left_s = spent_s * (total - done) / max(done, 1)
            print(
                f"{spent_s:4.0f} s {done / total:4.0%}, {left_s:.0f} s left: {what}",
                file=sys.stderr,
                flush=True,
            )

    if not sys.stderr.isatty():
        yield line
        return
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    columns = (
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        "left",
    )
    with progress.Progress(
        *columns, progress.TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("")

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if what:
                bar.console.print(what)

        yield show
