"""Figures of `multi-user`: what a task costs, and how a policy decides by distance.

Axes: S splits, B bins of distance.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from jaxcoinfer.evaluation import plots
from jaxcoinfer.evaluation.evaluate import Interval

_PARTS = (("delay", "#0072B2", ""), ("energy, weighted", "#E69F00", "///"))


def cost(
    total: Mapping[str, Interval], delay_s: Mapping[str, float], energy: Mapping[str, float]
) -> Figure:
    """Cost per task with its interval and its two parts; one bar per policy, the cheapest on top.

    energy: joules by their weight, seconds.
    """
    figure, (axes,) = plots.panels(1, 1)
    order = sorted(total, key=lambda name: -total[name].mean)
    left = np.zeros(len(order))
    for (label, colour, hatch), part in zip(_PARTS, (delay_s, energy), strict=True):
        width = 1e3 * np.array([part[name] for name in order])
        axes.barh(order, width, 0.6, left=left, color=colour, hatch=hatch, label=label)
        left = left + width
    half = 1e3 * np.nan_to_num([total[name].half for name in order])
    axes.errorbar(left, order, xerr=half, color="black", linestyle="none", capsize=4, linewidth=2)
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    axes.set_xlabel("cost per task, 10⁻³, mean ± 95 %")
    plots.legend_below(figure, axes)
    return figure


def choices(
    edges_m: np.ndarray, decisions: np.ndarray, power_w: Mapping[str, np.ndarray]
) -> Figure:
    """Share of the decisions [B, S] at each distance that take each split, and mean power [B] of
    each policy.
    """
    figure, (left, right) = plots.panels(1, 2)
    n_splits = decisions.shape[1]
    percent = 100 * decisions / np.maximum(decisions.sum(axis=1, keepdims=True), 1)
    image = left.pcolormesh(
        edges_m, np.arange(n_splits + 1) - 0.5, percent.T, cmap="Blues", vmin=0, vmax=100
    )
    left.grid(False)
    middle_m = (edges_m[:-1] + edges_m[1:]) / 2
    for (i, split), share in np.ndenumerate(percent):
        if share >= 0.5:
            colour = "white" if share > 55 else "black"
            middle = {"ha": "center", "va": "center", "fontsize": 10}
            left.text(float(middle_m[i]), split, f"{share:.0f}", color=colour, **middle)
    inner = map(str, range(1, n_splits - 1))
    left.set_yticks(range(n_splits), ["all sent", *inner, "none\nsent"])
    left.set_ylabel("split")
    left.set_xlabel("distance, m")
    figure.colorbar(
        image, ax=left, label="share of the decisions at that distance, %", location="top"
    )
    style_of = plots.styles(power_w)
    for policy, line in power_w.items():
        right.plot(middle_m, line, label=policy, **plots.line(style_of[policy]))
    right.set_ylim(bottom=0)
    right.set_xlabel("distance, m")
    right.set_ylabel("mean power, W")
    right.legend(frameon=False, fontsize=11)
    return figure
