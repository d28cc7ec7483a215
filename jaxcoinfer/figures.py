"""Every plot: data in, a matplotlib `Figure` out; nothing is shown, saved or kept.

A policy has the same colour, mark and line in every figure. Intervals are 95 %. Figures are 900 × 600 pixels or less.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxcoinfer.evaluate import Interval

DPI = 100
# Okabe and Ito's palette without its yellow, and a wine red of Tol's: told apart with any colour vision, and in grey by
# mark and line.
_STYLES = {
    "differential value": ("#D55E00", "o", "-"),
    "continuation value": ("#332288", "h", "-"),
    "exact optimum": ("#000000", "*", "-"),
    "adaptive waiting": ("#44AA99", "d", "--"),
    "one-time greedy": ("#0072B2", "s", "--"),
    "one-time waiting": ("#009E73", "^", "-."),
    "clairvoyant": ("#000000", "D", ":"),
    "device only": ("#E69F00", "v", "--"),
    "edge only": ("#56B4E9", "P", "-."),
    "best fixed point": ("#CC79A7", "X", ":"),
    "random": ("#999999", "<", "--"),
    "neurosurgeon": ("#882255", ">", "-."),
}
_SPARE = [("#117733", "p", "-"), ("#AA4499", "*", ":"), ("#6699CC", "8", "--"), ("#AA4466", "H", "-.")]
_LEARNED = ("#D55E00", "#F6D5BF")  # stop, continue


def utility(rows: Mapping[str, Interval], gains: Mapping[str, Interval], rival: str) -> Figure:
    """Utility of each policy with its interval, and beside it what it gains on `rival`, paired row by row.

    The panels show what is close to the best; of the rest they give the numbers.
    """
    figure, (left, right) = _panels(1, 2, sharey=True)
    order = sorted(rows, key=lambda name: rows[name].mean)
    others = {name: gains[name] for name in order if name != rival}
    top = rows[order[-1]].mean
    lowest = max(top - 1.0, rows[order[0]].mean - 0.2)
    best = sorted(others.values(), key=lambda gain: gain.mean)[-3:]
    reach = 1.5 * max([abs(gain.mean) + np.nan_to_num(gain.half) for gain in best], default=0.1)
    _dots(left, rows, order, lowest, max(rows[name].high for name in order[-3:]) + 0.05 * (top - lowest))
    _dots(right, others, order, -reach, reach)
    right.axvline(0.0, color="black", linewidth=1)
    left.set_xlabel("utility a task, mean ± 95 %")
    right.set_xlabel(f"gain on {rival}, mean ± 95 %")
    return figure


def _dots(axes: Axes, shown: Mapping[str, Interval], order: Sequence[str], low: float, high: float) -> None:
    """A mark with its interval a line, in `order` from below; numbers in place of marks that lie below `low`."""
    styles = _styles(order)
    for name, interval in shown.items():
        y, (colour, mark, _) = order.index(name), styles[name]
        if interval.mean < low:
            text = f"◂ {interval.mean:.2f} ± {interval.half:.2f}".replace("-", "\N{MINUS SIGN}")
            axes.text(0.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=11)
        else:
            half = np.nan_to_num(interval.half)
            axes.errorbar(interval.mean, y, xerr=half, color=colour, marker=mark, markersize=8, capsize=4, linewidth=2)
    axes.set_xlim(low, high if np.isfinite(high) else None)
    axes.set_yticks(range(len(order)), order)
    axes.locator_params(axis="x", nbins=5)
    axes.set_ylim(-0.6, len(order) - 0.4)


def sweeps(panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[Interval]], float]]) -> Figure:
    """Utility against one number of the scenario a panel, a line a policy.

    panels: label of the x axis -> (numbers, intervals of each policy at them, the number that was trained at). What
    lies more than one below the best is cut off, so that the best can be told apart. No intervals: all lines share
    their rows, so a line lies above another much more surely than its height is known.
    """
    figure, axes_of = _panels(1, len(panels), sharey=True)
    means = [i.mean for _, lines, _ in panels.values() for line in lines.values() for i in line]
    styles = _styles(next(iter(panels.values()))[1])
    for axes, (label, (numbers, lines, trained)) in zip(axes_of, panels.items(), strict=True):
        for name, line in lines.items():
            axes.plot(numbers, [interval.mean for interval in line], label=name, **_line(styles[name]))
        _mark(axes, trained, "trained here")
        axes.set_xlabel(label)
    top, low = np.nanmax(means), np.nanmin(means)
    bottom = max(low, top - 1.0)
    axes_of[0].set_ylim(bottom - 0.06 * (top - bottom), top + 0.08 * (top - bottom))
    axes_of[0].set_ylabel("utility a task" + (" (lower ones cut off)" if low < bottom else ""))
    _legend_below(figure, axes_of[0])
    return figure


def delays(latency_s: Mapping[str, np.ndarray], deadline_s: float) -> Figure:
    """Share of tasks that take longer than a delay, both axes logarithmic, a line a policy; latency_s [N] seconds."""
    figure, (axes,) = _panels(1, 1)
    styles = _styles(latency_s)
    least = min(1.0 / max(len(values), 1) for values in latency_s.values())
    for name, values in latency_s.items():
        ordered = np.sort(values)
        share = 1.0 - np.arange(len(ordered)) / len(ordered)
        axes.step(ordered, share, where="post", label=name, color=styles[name][0], ls=styles[name][2], lw=1.8)
    _mark(axes, deadline_s, "deadline")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(max(least, 1e-4), 1.2)
    axes.set_xlabel("delay of a task from arrival to result, s")
    axes.set_ylabel("share of tasks that take longer")
    _legend_below(figure, axes)
    return figure


def decisions(stops: np.ndarray, backlog_s: np.ndarray, waiting_tasks: np.ndarray) -> Figure:
    """Where the policy stops and uploads: bool [P, W, X], a panel a decision, waiting tasks W by backlog X seconds."""
    n_points = len(stops)
    n_columns = min(n_points, 4)
    figure, axes_of = _panels(-(-n_points // n_columns), n_columns, sharex=True, sharey=True)
    for layer, axes in enumerate(axes_of):
        if layer >= n_points:
            axes.remove()
            continue
        axes.pcolormesh(
            backlog_s, waiting_tasks, stops[layer], cmap=ListedColormap(_LEARNED[::-1]), vmin=0, vmax=1, rasterized=True
        )
        axes.set_title("before layer 1" if not layer else f"after {layer} layer{'s' * (layer > 1)}")
        axes.grid(False)
    figure.supxlabel("server backlog, s", fontsize=12)
    figure.supylabel("other tasks waiting for the device", fontsize=12)
    patches = [Patch(color=_LEARNED[0], label="stop and upload"), Patch(color=_LEARNED[1], label="keep computing")]
    figure.legend(handles=patches, loc="outside upper center", ncols=2, frameon=False)
    return figure


def learning(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Utility against tasks seen (logarithmic) of each learner: every look faint, means of ten a decade bold."""
    figure, (axes,) = _panels(1, 1)
    for name, (tasks, values) in curves.items():
        colour, _, line = _STYLES.get(name, ("#0072B2", "", "--"))
        bins = np.unique(np.round(10 * np.log10(tasks)), return_inverse=True)[1]
        count = np.bincount(bins)
        axes.plot(tasks, values, color=colour, linewidth=1, alpha=0.25)
        x, y = np.exp(np.bincount(bins, np.log(tasks)) / count), np.bincount(bins, values) / count
        axes.plot(x, y, color=colour, linestyle=line, linewidth=2.5, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("tasks seen while learning")
    axes.set_ylabel("utility a task, on the training draw")
    axes.legend(loc="lower right", frameon=False, fontsize=12)
    return figure


def messages(ways: Mapping[str, tuple[Sequence[float], Sequence[Interval]]]) -> Figure:
    """Utility against reports a task; ways: name -> (reports a task, utility), a line through the thresholds.

    What lies below the best of every way is cut off: without reports and without a twin nothing works.
    """
    figure, (axes,) = _panels(1, 1)
    styles = dict(zip(ways, itertools.cycle(_STYLES.values()), strict=False))
    means = {name: [interval.mean for interval in utility] for name, (_, utility) in ways.items()}
    for name, (reports, _) in ways.items():
        axes.plot(reports, means[name], label=name, **_line(styles[name]))
    top, bottom = (pick(max(line) for line in means.values()) for pick in (max, min))
    span = max(top - bottom, 1e-3)
    axes.set_ylim(bottom - 0.3 * span, top + 0.1 * span)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(left=-0.01)
    axes.set_xlabel("reports of the device a task")
    axes.set_ylabel("utility a task (lower ones cut off)")
    axes.legend(loc="lower right", frameon=False, fontsize=12)
    return figure


def _panels(n_rows: int, n_columns: int, **options) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9.0, 6.0 if n_rows * n_columns == 1 or n_rows > 1 else 5.0), dpi=DPI, layout="constrained")
    axes_of = figure.subplots(n_rows, n_columns, squeeze=False, **options).ravel().tolist()
    for axes in axes_of:
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=11)
        axes.xaxis.label.set_size(12)
        axes.yaxis.label.set_size(12)
    return figure, axes_of


def _styles(names: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    spare = iter(_SPARE * 8)
    return {name: _STYLES.get(name) or next(spare) for name in names}


def _line(style: tuple[str, str, str]) -> dict:
    return dict(zip(("color", "marker", "linestyle"), style, strict=True)) | {"markersize": 6, "linewidth": 1.6}


def _mark(axes: Axes, x: float, what: str) -> None:
    axes.axvline(x, color="grey", linewidth=1, zorder=0)
    place = axes.get_xaxis_transform()
    axes.text(x, 1.01, what, transform=place, ha="center", va="bottom", color="#444444", fontsize=10)


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    spacing = {"columnspacing": 1.2, "handlelength": 2.4, "fontsize": 10.5}
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), frameon=False, **spacing)
