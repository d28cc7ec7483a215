"""Figures of `on-demand`: a panel a deadline class."""

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
    """Share of the tasks of each class that take longer than x deadlines, both axes logarithmic, a
    line a policy.

    in_deadlines: name -> of each class the delays [N] in deadlines.
    """
    shown = classes[:_MAX_PANELS]
    figure, axes_of = plots.panels(1, len(shown), sharex=True, sharey=True)
    style_of = plots.styles(in_deadlines)
    most = max(len(values) for several in in_deadlines.values() for values in several)
    for kind, (axes, name) in enumerate(zip(axes_of, shown, strict=True)):
        for policy, several in in_deadlines.items():
            ordered = np.sort(several[kind])
            share = 1.0 - np.arange(len(ordered)) / max(len(ordered), 1)
            colour, _, dashes = style_of[policy]
            axes.step(ordered, share, where="post", label=policy, color=colour, ls=dashes, lw=1.6)
        axes.axvline(1.0, color="grey", linewidth=1, zorder=0)
        axes.set_title(name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("delay, deadlines")
    axes_of[0].set_ylim(1.0 / most, 1.3)
    axes_of[0].set_ylabel("share of tasks that take longer")
    plots.legend_below(figure, axes_of[0])
    return figure


def choices(
    rate_bps: np.ndarray, speed: np.ndarray, decided: tuple[np.ndarray, ...], classes: Sequence[str]
) -> Figure:
    """Exit, cut and bits that are chosen at each rate [X] and device speed [Y], a row a class.

    decided: exit, cut, bits [G, Y, X], bits 0 where no feature is sent.
    """
    n_rows = len(decided[0])
    figure, axes_of = plots.panels(n_rows, 3, sharex=True, sharey=True)
    titles = ("exit", "cut, layers on the device", "bits of the feature")
    for column, (title, values) in enumerate(zip(titles, decided, strict=True)):
        found = np.unique(values)
        colours = [
            _SCALE[i]
            for i in np.linspace(0, len(_SCALE) - 1, max(len(found), 2)).round().astype(int)
        ]
        for row in range(n_rows):
            axes = axes_of[3 * row + column]
            place = np.searchsorted(found, values[row])
            cmap = ListedColormap(colours[: len(found)])
            axes.pcolormesh(
                rate_bps / 1e6,
                speed,
                place,
                cmap=cmap,
                vmin=-0.5,
                vmax=len(found) - 0.5,
                rasterized=True,
            )
            axes.set_xscale("log")
            axes.grid(False)
            if column == 2:
                axes.yaxis.set_label_position("right")
                axes.set_ylabel(classes[row])
        axes_of[column].set_title(title)
        patches = [
            Patch(facecolor=colours[i], edgecolor="grey", label=_label(title, v))
            for i, v in enumerate(found)
        ]
        below = axes_of[3 * (n_rows - 1) + column]
        below.legend(
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
    """What a colour means; 0 is no cut but the input, and no width but no feature."""
    return str(value) if value else "none sent" if title.startswith("bits") else "0, input sent"


def misses(
    ratios: Mapping[str, Sequence[MissRatio]], classes: Sequence[str], targets: Sequence[float]
) -> Figure:
    """Share of late tasks of each class with its interval, logarithmic, a line a policy; the target
    dashed.

    Where no task was late an arrow stands, from the upper end of the interval on down.
    """
    shown = classes[:_MAX_PANELS]
    figure, axes_of = plots.panels(1, len(shown), sharey=True)
    style_of, order = plots.styles(ratios), list(ratios)[::-1]
    for kind, (axes, name) in enumerate(zip(axes_of, shown, strict=True)):
        of_class = {policy: several[kind] for policy, several in ratios.items()}
        seen = [r.low for r in of_class.values() if r.low > 0] + [targets[kind]]
        least = min([*seen, *(r.high / 10 for r in of_class.values())]) / 2
        for policy, ratio in of_class.items():
            _ratio(axes, ratio, order.index(policy), style_of[policy], least)
        axes.axvline(targets[kind], color="black", linewidth=1, linestyle="--")
        axes.set_title(f"{name}\ntarget {targets[kind]:g}", fontsize=12)
        axes.set_xscale("log")
        axes.set_xlim(least, 1.5)
        axes.set_xlabel("share of late tasks")
    axes_of[0].set_yticks(range(len(order)), order)
    axes_of[0].set_ylim(-0.6, len(order) - 0.4)
    return figure


def _ratio(axes: Axes, ratio: MissRatio, y: int, style: tuple[str, str, str], least: float) -> None:
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
            (least, y),
            (ratio.high, y),
            arrowprops={"arrowstyle": "->", "color": colour, "lw": 2},
        )


def deadlines(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[Interval]], float]],
) -> Figure:
    """Accuracy in time (a late task counts 0) against the deadline of a class, a panel a class,
    with intervals.

    panels: class -> (deadlines, accuracy of each policy at them, the deadline that was trained at),
    seconds.
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
