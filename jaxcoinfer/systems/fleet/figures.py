"""Figures of `fleet`: cost and gap in other worlds, and how a policy decides by kind of machine and
class of task.

Axes: N kinds of machine, V versions, P cuts.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from jaxcoinfer.evaluation import plots
from jaxcoinfer.evaluation.evaluate import Interval

# Values, cost by policy, the bound, and the value at training.
Panel = tuple[
    Sequence[float] | np.ndarray, Mapping[str, Sequence[Interval]], Sequence[Interval], float
]

_MIN_GAP = 1e-5  # of the bound, below which rounding decides
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo")


def cost(panels: Mapping[str, Panel]) -> Figure:
    """Cost per task against one number of the world, with intervals, and the certified bound in
    black; one panel per number.

    What costs over 15 % more than the highest bound is cut off, so that the rest can be told apart.
    """
    figure, axes_of = plots.panels(1, len(panels), sharey=True)
    for axes, (name, (values, lines, bound, trained)) in zip(axes_of, panels.items(), strict=True):
        style_of = plots.styles(lines)
        for policy, line in lines.items():
            mean, half = _parts(line)
            axes.errorbar(
                values, mean, yerr=half, label=policy, capsize=3, **plots.line(style_of[policy])
            )
        axes.plot(
            values, _parts(bound)[0], color="black", linewidth=1, label="no policy does better"
        )
        _logarithmic(axes, values, name, trained)
    bounds = [_parts(bound)[0] for _, _, bound, _ in panels.values()]
    low, high = min(map(np.min, bounds)), 1.15 * max(map(np.max, bounds))
    means = [_parts(line)[0].max() for _, lines, _, _ in panels.values() for line in lines.values()]
    axes_of[0].set_ylim(low - 0.1 * (high - low), high)
    cut_off = " (higher ones cut off)" if max(means) > high else ""
    axes_of[0].set_ylabel(f"cost per task, mean ± 95 %{cut_off}")
    plots.legend_below(figure, axes_of[0])
    return figure


def gap(
    devices: Sequence[float], lines: Mapping[str, Sequence[Interval]], trained: float
) -> Figure:
    """How far each policy is above the bound, in %, against the number of devices; both axes
    logarithmic.
    """
    figure, (axes,) = plots.panels(1, 1)
    style_of = plots.styles(lines)
    for policy, line in lines.items():
        mean, half = _parts(line)
        low, high = (100 * np.maximum(ends, _MIN_GAP) for ends in (mean - half, mean + half))
        colour = style_of[policy][0]
        axes.plot(
            devices,
            100 * np.maximum(mean, _MIN_GAP),
            label=policy,
            **plots.line(style_of[policy]),
        )
        axes.fill_between(devices, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_yscale("log")
    _logarithmic(axes, devices, "devices", trained)
    axes.set_ylabel("cost above the certified bound, %, mean ± 95 %")
    plots.legend_below(figure, axes)
    return figure


def choices(
    shares: np.ndarray, kinds: Sequence[str], classes: Sequence[str], widths: Sequence[float]
) -> Figure:
    """Shares of the tasks that take each version and cut, [N, 2, V, P]; one row per class, one
    column per kind.
    """
    n_kinds, n_classes, n_versions, n_cuts = shares.shape
    figure, axes_of = plots.panels(n_classes, n_kinds, sharex=True, sharey=True)
    percent = np.nan_to_num(100 * shares)
    image = None
    for i, axes in enumerate(axes_of):
        task_class, kind = divmod(i, len(kinds))
        cells = percent[kind, task_class]
        image = axes.imshow(cells, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        axes.grid(False)
        for version, cut in np.ndindex(n_versions, n_cuts):
            share = cells[version, cut]
            if share >= 0.5:
                colour = "white" if share > 55 else "black"
                middle = {"ha": "center", "va": "center", "fontsize": 10}
                axes.text(cut, version, f"{share:.0f}", color=colour, **middle)
        if task_class == 0:
            axes.set_title(kinds[kind], fontsize=12)
        if kind == n_kinds - 1:
            axes.yaxis.set_label_position("right")
            axes.set_ylabel(classes[task_class])
        axes.set_yticks(range(n_versions), [f"{width:g}" for width in widths])
        axes.set_xticks(range(n_cuts), ["all\nsent", *map(str, range(1, n_cuts - 1)), "none\nsent"])
        axes.tick_params(labelsize=9)
    figure.supxlabel("cut", fontsize=12)
    figure.supylabel("width of the version", fontsize=12)
    if image is not None:
        figure.colorbar(
            image, ax=axes_of, label="share of the tasks of that kind and class, %", shrink=0.8
        )
    return figure


def shares(
    bandwidth: np.ndarray, compute: np.ndarray, kinds: Sequence[str], classes: Sequence[str]
) -> Figure:
    """Mean share of the band and of the server that a task gets, [N, 2] each, by kind of machine;
    one bar per class.
    """
    figure, axes_of = plots.panels(1, 2, sharey=True)
    for axes, share, what in zip(axes_of, (bandwidth, compute), ("band", "server"), strict=True):
        for c, name in enumerate(classes):
            place = np.arange(len(kinds)) + 0.4 * (c - 0.5)
            colour = ("#0072B2", "#E69F00")[c]
            percent = 100 * np.nan_to_num(share[:, c])
            axes.bar(place, percent, 0.38, color=colour, hatch=_HATCHES[c], label=name)
        axes.set_xticks(range(len(kinds)), [kind.replace("-", "\n", 1) for kind in kinds])
        axes.set_xlabel(f"share of the {what}")
    axes_of[0].set_ylabel("mean share per task, %")
    plots.legend_below(figure, axes_of[0])
    return figure


def _parts(line: Sequence[Interval]) -> tuple[np.ndarray, np.ndarray]:
    """Means and half widths, the latter 0 where there is none."""
    mean, half = (
        np.array([getattr(interval, part) for interval in line]) for part in ("mean", "half")
    )
    return mean, np.nan_to_num(half)


def _logarithmic(
    axes: Axes, values: Sequence[float] | np.ndarray, name: str, trained: float
) -> None:
    """A logarithmic x axis with a tick at each value, and a mark at the value of training."""
    axes.set_xscale("log")
    axes.set_xticks(values)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(name)
    plots.mark(axes, trained, "trained here")
