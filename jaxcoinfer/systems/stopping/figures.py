"""Figures of `stopping`."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxcoinfer.evaluation import plots
from jaxcoinfer.evaluation.evaluate import Interval

_LEARNED = ("#D55E00", "#F6D5BF")  # stop, continue


def sweeps(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[Interval]], float]],
) -> Figure:
    """Utility against one number of the scenario on each panel, one line per policy.

    panels: label of the x axis -> (numbers, intervals of each policy at them, the number that was
    trained at). What lies more than one below the best is cut off, so that the best can be
    distinguished. No intervals: all lines share their rows, so their order is much more certain
    than their height.
    """
    figure, axes_of = plots.panels(1, len(panels), sharey=True)
    means = [i.mean for _, lines, _ in panels.values() for line in lines.values() for i in line]
    styles = plots.styles(next(iter(panels.values()))[1])
    for axes, (label, (numbers, lines, trained)) in zip(axes_of, panels.items(), strict=True):
        for name, line in lines.items():
            axes.plot(
                numbers,
                [interval.mean for interval in line],
                label=name,
                **plots.line(styles[name]),
            )
        plots.mark(axes, trained, "trained here")
        axes.set_xlabel(label)
    top, low = np.nanmax(means), np.nanmin(means)
    bottom = max(low, top - 1.0)
    axes_of[0].set_ylim(bottom - 0.06 * (top - bottom), top + 0.08 * (top - bottom))
    axes_of[0].set_ylabel("utility per task" + (" (lower ones cut off)" if low < bottom else ""))
    plots.legend_below(figure, axes_of[0])
    return figure


def sensitivity(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[Interval]], float]],
) -> Figure:
    """Utility against factors on one assumed number on each panel, logarithmic, three panels a row;
    panels as in `sweeps`. What lies more than a half below the best of a panel is cut off.
    """
    n_rows = -(-len(panels) // 3)
    figure, axes_of = plots.panels(n_rows, min(len(panels), 3))
    styles = plots.styles(next(iter(panels.values()))[1])
    for axes, (label, (factors, lines, own)) in zip(axes_of, panels.items(), strict=False):
        means = {name: [interval.mean for interval in line] for name, line in lines.items()}
        for name, line in means.items():
            axes.plot(factors, line, label=name, **plots.line(styles[name]))
        axes.set_xscale("log")
        axes.set_xticks(factors, [f"{factor:g}" for factor in factors])
        axes.set_xticks([], minor=True)
        axes.axvline(own, color="black", linewidth=1, alpha=0.5)
        axes.set_xlabel(label)
        top, low = (f([*means.values()]) for f in (np.nanmax, np.nanmin))
        bottom = max(low, top - 0.5)
        axes.set_ylim(bottom - 0.06 * (top - bottom), top + 0.08 * (top - bottom))
    for axes in axes_of[len(panels) :]:
        axes.remove()
    for row in range(n_rows):
        axes_of[3 * row].set_ylabel("utility per task")
    plots.legend_below(figure, axes_of[0])
    return figure


def delays(latency_s: Mapping[str, np.ndarray], deadline_s: float) -> Figure:
    """Share of tasks that take longer than a delay, both axes logarithmic, one line per
    policy; latency_s [N] seconds.
    """
    figure, (axes,) = plots.panels(1, 1)
    styles = plots.styles(latency_s)
    smallest = min(1.0 / max(len(values), 1) for values in latency_s.values())
    for name, values in latency_s.items():
        ordered = np.sort(values)
        share = 1.0 - np.arange(len(ordered)) / len(ordered)
        axes.step(
            ordered,
            share,
            where="post",
            label=name,
            color=styles[name][0],
            ls=styles[name][2],
            lw=1.8,
        )
    plots.mark(axes, deadline_s, "deadline")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(max(smallest, 1e-4), 1.2)
    axes.set_xlabel("delay of a task from arrival to result, s")
    axes.set_ylabel("share of tasks that take longer")
    plots.legend_below(figure, axes)
    return figure


def decisions(stops: np.ndarray, backlog_s: np.ndarray, waiting_tasks: np.ndarray) -> Figure:
    """Where the policy stops and uploads: bool [P, W, X], one panel per decision, waiting
    tasks W by backlog X seconds.
    """
    n_points = len(stops)
    n_columns = min(n_points, 4)
    figure, axes_of = plots.panels(-(-n_points // n_columns), n_columns, sharex=True, sharey=True)
    for layer, axes in enumerate(axes_of):
        if layer >= n_points:
            axes.remove()
            continue
        axes.pcolormesh(
            backlog_s,
            waiting_tasks,
            stops[layer],
            cmap=ListedColormap(_LEARNED[::-1]),
            vmin=0,
            vmax=1,
            rasterized=True,
        )
        axes.set_title("before layer 1" if not layer else f"after {layer} layer{'s' * (layer > 1)}")
        axes.grid(False)
    figure.supxlabel("server backlog, s", fontsize=12)
    figure.supylabel("other tasks waiting for the device", fontsize=12)
    patches = [
        Patch(color=_LEARNED[0], label="stop and upload"),
        Patch(color=_LEARNED[1], label="keep computing"),
    ]
    figure.legend(handles=patches, loc="outside upper center", ncols=2, frameon=False)
    return figure


def messages(ways: Mapping[str, tuple[Sequence[float], Sequence[Interval]]]) -> Figure:
    """Utility against reports per task; ways: name -> (reports per task, utility), one line through
    the thresholds of each.

    What lies far below the best point of the worst way is cut off: without reports and without a
    twin nothing works.
    """
    figure, (axes,) = plots.panels(1, 1)
    styles = dict(zip(ways, plots.WAYS, strict=False))
    means = {name: [interval.mean for interval in utility] for name, (_, utility) in ways.items()}
    for name, (reports, _) in ways.items():
        axes.plot(reports, means[name], label=name, **plots.line(styles[name]))
    top, bottom = (pick(max(line) for line in means.values()) for pick in (max, min))
    span = max(top - bottom, 1e-3)
    axes.set_ylim(bottom - 0.3 * span, top + 0.1 * span)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(left=-0.01)
    axes.set_xlabel("reports of the device per task")
    axes.set_ylabel("utility per task (lower ones cut off)")
    axes.legend(loc="lower right", frameon=False, fontsize=12)
    return figure
