"""Figures of `on-demand`: one panel or row per deadline class.

Axes: N tasks, G classes, X rates, Y speeds.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxcoinfer.evaluation import plots
from jaxcoinfer.evaluation.evaluate import Interval
from jaxcoinfer.systems.on_demand.misses import MissRatio

_MAX_PANELS = 4  # classes
_TIGHT = {"fontsize": 9, "handlelength": 1.2, "columnspacing": 0.8, "handletextpad": 0.4}
# From few to many, told apart in grey; Tol's "iridescent" cut to eight.
_SCALE = ("#FEFBE9", "#EAF0B5", "#C2E3D2", "#9BD2E1", "#7EB2E4", "#9B8AC4", "#9A709E", "#684957")


def delays(in_deadlines: Mapping[str, Sequence[np.ndarray]], classes: Sequence[str]) -> Figure:
    """Share of the tasks of each class that take longer than x deadlines, both axes logarithmic;
    one line per policy.

    in_deadlines: policy -> the delays [N] of each class in deadlines.
    """
    shown = classes[:_MAX_PANELS]
    figure, axes_of = plots.panels(1, len(shown), sharex=True, sharey=True)
    style_of = plots.styles(in_deadlines)
    max_tasks = max(len(delays) for by_class in in_deadlines.values() for delays in by_class)
    for i, (axes, name) in enumerate(zip(axes_of, shown, strict=True)):
        for policy, by_class in in_deadlines.items():
            ordered = np.sort(by_class[i])
            share = 1.0 - np.arange(len(ordered)) / max(len(ordered), 1)
            colour, _, dashes = style_of[policy]
            axes.step(ordered, share, where="post", label=policy, color=colour, ls=dashes, lw=1.6)
        axes.axvline(1.0, color="grey", linewidth=1, zorder=0)
        axes.set_title(name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("delay, deadlines")
    axes_of[0].set_ylim(1.0 / max_tasks, 1.3)
    axes_of[0].set_ylabel("share of tasks that take longer")
    plots.legend_below(figure, axes_of[0])
    return figure


def choices(
    rate_bps: np.ndarray, speed: np.ndarray, decided: tuple[np.ndarray, ...], classes: Sequence[str]
) -> Figure:
    """Exit, cut and bits that are chosen at each rate [X] and device speed [Y]; one row per class.

    decided: exit, cut, bits [G, Y, X], bits 0 where no feature is sent.
    """
    n_rows = len(decided[0])
    figure, axes_of = plots.panels(n_rows, 3, sharex=True, sharey=True)
    titles = ("exit", "cut, layers on the device", "bits of the feature")
    for column, (title, values) in enumerate(zip(titles, decided, strict=True)):
        levels = np.unique(values)
        n_levels = len(levels)
        shades = np.linspace(0, len(_SCALE) - 1, max(n_levels, 2)).round().astype(int)
        colours = [_SCALE[shade] for shade in shades]
        for row in range(n_rows):
            axes = axes_of[3 * row + column]
            axes.pcolormesh(
                rate_bps / 1e6,
                speed,
                np.searchsorted(levels, values[row]),
                cmap=ListedColormap(colours[:n_levels]),
                vmin=-0.5,
                vmax=n_levels - 0.5,
                rasterized=True,
            )
            axes.set_xscale("log")
            axes.grid(False)
            if column == 2:
                axes.yaxis.set_label_position("right")
                axes.set_ylabel(classes[row])
        axes_of[column].set_title(title)
        patches = [
            Patch(facecolor=colour, edgecolor="grey", label=_label(title, level))
            for colour, level in zip(colours, levels, strict=False)
        ]
        lowest = axes_of[3 * (n_rows - 1) + column]
        lowest.legend(
            handles=patches,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.18),
            ncols=3,
            frameon=False,
            **_TIGHT,
        )
    figure.supxlabel("link rate, Mbit/s", fontsize=12)
    figure.supylabel("speed of the device, 1 = nominal", fontsize=12)
    return figure


def _label(title: str, value: int) -> str:
    """What a colour means. As a cut 0 means that the input is sent, as bits that no feature is."""
    return str(value) if value else "none sent" if title.startswith("bits") else "0, input sent"


def misses(
    ratios: Mapping[str, Sequence[MissRatio]], classes: Sequence[str], targets: Sequence[float]
) -> Figure:
    """Share of late tasks of each class with its interval, logarithmic, and the target, dashed; one
    line per policy.

    Where no task was late, an arrow points down from the upper end of the interval.
    """
    shown = classes[:_MAX_PANELS]
    figure, axes_of = plots.panels(1, len(shown), sharey=True)
    style_of, order = plots.styles(ratios), list(ratios)[::-1]
    for i, (axes, name) in enumerate(zip(axes_of, shown, strict=True)):
        of_class = {policy: by_class[i] for policy, by_class in ratios.items()}
        low_ends = [ratio.low for ratio in of_class.values() if ratio.low > 0]
        below_high = [ratio.high / 10 for ratio in of_class.values()]
        left_end = min([*low_ends, targets[i], *below_high]) / 2
        for policy, ratio in of_class.items():
            _ratio(axes, ratio, order.index(policy), style_of[policy], left_end)
        axes.axvline(targets[i], color="black", linewidth=1, linestyle="--")
        axes.set_title(f"{name}\ntarget {targets[i]:g}", fontsize=12)
        axes.set_xscale("log")
        axes.set_xlim(left_end, 1.5)
        axes.set_xlabel("share of late tasks")
    axes_of[0].set_yticks(range(len(order)), order)
    axes_of[0].set_ylim(-0.6, len(order) - 0.4)
    return figure


def _ratio(
    axes: Axes, ratio: MissRatio, y: int, style: tuple[str, str, str], left_end: float
) -> None:
    """Draws one share with its interval, or an arrow from its upper end to `left_end`."""
    colour, mark, _ = style
    if ratio.mean > 0:
        ends = [[ratio.mean - ratio.low], [ratio.high - ratio.mean]]
        axes.errorbar(
            ratio.mean,
            y,
            xerr=ends,
            color=colour,
            marker=mark,
            markersize=7,
            capsize=3,
            linewidth=2,
        )
    else:
        axes.annotate(
            "",
            (left_end, y),
            (ratio.high, y),
            arrowprops={"arrowstyle": "->", "color": colour, "lw": 2},
        )


def deadlines(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[Interval]], float]],
) -> Figure:
    """Accuracy in time (a late task counts 0) against the deadline of a class, with intervals; one
    panel per class.

    panels: class -> (deadlines, accuracy of each policy at them, deadline at training), seconds.
    """
    figure, axes_of = plots.panels(1, len(panels), sharey=True)
    for axes, (name, (deadlines_s, lines, trained_s)) in zip(axes_of, panels.items(), strict=True):
        style_of, deadlines_ms = plots.styles(lines), np.array(deadlines_s) * 1e3
        for policy, line in lines.items():
            mean, half = ([getattr(i, part) for i in line] for part in ("mean", "half"))
            axes.errorbar(
                deadlines_ms,
                mean,
                yerr=half,
                label=policy,
                capsize=3,
                **plots.line(style_of[policy]),
            )
        plots.mark(axes, trained_s * 1e3, "trained here")
        axes.set_xlabel(f"deadline of {name}, ms")
    axes_of[0].set_ylabel("accuracy, late tasks count 0")
    plots.legend_below(figure, axes_of[0])
    return figure
