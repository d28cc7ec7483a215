"""What the figures of all systems share: styles, panels, the utility of each policy, and learning
curves.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.evaluate import Interval

DPI = 100
# Okabe and Ito's palette without its yellow, and a wine red of Tol's: distinct with any colour
# vision, and in grey by mark and line. Policy -> (colour, mark, line).
STYLES = {
    "differential value": ("#D55E00", "o", "-"),
    "continuation value": ("#332288", "h", "-"),
    "continuation value, no twin": ("#332288", "", ":"),
    "published stopping": ("#AA4499", "p", "-"),
    "price rule": ("#117733", "*", "-."),
    "predictive control": ("#AA4466", "H", "-."),
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
    "threshold exit": ("#6699CC", "8", "-."),
    # of on-demand
    "soft actor-critic": ("#D55E00", "o", "-"),
    "memory actor-critic": ("#332288", "h", "-"),
    "actor-critic, no twin": ("#6699CC", "8", "--"),
    "deep Q": ("#117733", "p", "-."),
    "proximal policy": ("#AA4499", "d", ":"),
    "greedy": ("#0072B2", "s", "--"),
    "edgent": ("#009E73", "^", "-."),
    "best fixed action": ("#CC79A7", "X", ":"),
    "full information": ("#000000", "D", ":"),
    "look-up table": ("#117733", "*", "-."),
    "reliable table": ("#999933", "X", "--"),
    "LinUCB": ("#AA4466", "H", "-."),
    "exact with memory": ("#000000", "H", "-."),
    # of fleet
    "price network": ("#D55E00", "o", "-"),
    "price network, no twin": ("#6699CC", "8", "--"),
    "learned shares": ("#332288", "h", "-"),
    "alternating": ("#882255", ">", "-."),
    "equal shares": ("#009E73", "^", "-."),
    "one version": ("#CC79A7", "X", ":"),
    "dual recovery": ("#117733", "*", "-."),
    "untrained network": ("#AA4466", "H", "-."),
    "informed recovery": ("#000000", "D", ":"),
    # of multi-user
    "best fixed split": ("#CC79A7", "X", ":"),
    "all local": ("#E69F00", "v", "--"),
}
# For ways of telling the server, which are no policies: colours that no policy has.
WAYS = (
    ("#117733", "p", "-"),
    ("#6699CC", "8", "--"),
    ("#AA4466", "H", "-."),
    ("#555555", "d", ":"),
)
_SPARE = [
    ("#117733", "p", "-"),
    ("#AA4499", "*", ":"),
    ("#6699CC", "8", "--"),
    ("#AA4466", "H", "-."),
]


def utility(
    rows: Mapping[str, Interval],
    gains: Mapping[str, Interval],
    baseline: str,
    what: str = "utility per task",
) -> Figure:
    """Utility of each policy with its interval, and next to it the gain on `baseline`, paired row
    by row.

    The panels show the policies that are close to the best, and the numbers of the others.
    """
    figure, (left, right) = panels(1, 2, sharey=True)
    order = sorted(rows, key=lambda name: rows[name].mean)
    others = {name: gains[name] for name in order if name != baseline}
    top = rows[order[-1]].mean
    lowest = max(top - 1.0, rows[order[0]].mean - 0.2)
    best = sorted(others.values(), key=lambda gain: gain.mean)[-3:]
    reach = 1.5 * max([abs(gain.mean) + np.nan_to_num(gain.half) for gain in best], default=0.1)
    _dots(
        left,
        rows,
        order,
        lowest,
        max(rows[name].high for name in order[-3:]) + 0.05 * (top - lowest),
    )
    _dots(right, others, order, -reach, reach)
    right.axvline(0.0, color="black", linewidth=1)
    left.set_xlabel(f"{what}, mean ± 95 %")
    right.set_xlabel(f"gain on {baseline}, mean ± 95 %")
    return figure


def _dots(
    axes: Axes, shown: Mapping[str, Interval], order: Sequence[str], low: float, high: float
) -> None:
    """One mark with its interval per line, in `order` from below; numbers in place of marks below
    `low`.
    """
    style_of = styles(order)
    for name, interval in shown.items():
        y, (colour, mark, _) = order.index(name), style_of[name]
        if interval.mean < low:
            text = f"◂ {interval.mean:.2f} ± {interval.half:.2f}".replace("-", "\N{MINUS SIGN}")
            axes.text(0.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=11)
        else:
            half = np.nan_to_num(interval.half)
            axes.errorbar(
                interval.mean,
                y,
                xerr=half,
                color=colour,
                marker=mark,
                markersize=8,
                capsize=4,
                linewidth=2,
            )
    axes.set_xlim(low, high if np.isfinite(high) else None)
    axes.set_yticks(range(len(order)), order)
    axes.locator_params(axis="x", nbins=5)
    axes.set_ylim(-0.6, len(order) - 0.4)


def learning_band(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Reward against steps (logarithmic), the mean over seeds with its interval as a band.

    curves: name -> (steps [n], values [S, n]) of S seeds. What is far below the end of every curve
    is cut off.
    """
    figure, (axes,) = panels(1, 1)
    style_of = styles(curves)
    ends, starts = [], []
    for name, (steps, values) in curves.items():
        colour, _, dashes = style_of[name]
        intervals = [evaluate.interval(at_step) for at_step in values.T]
        mean = np.array([interval.mean for interval in intervals])
        half = np.array([interval.half for interval in intervals])
        axes.plot(steps, mean, color=colour, linestyle=dashes, linewidth=2, label=name)
        axes.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
        ends.append(mean[-1])
        starts.append(mean.min())
    if ends:
        top = max(ends)
        span = max(3 * (top - min(ends)), min(0.5, top - min(starts)), 1e-3)
        axes.set_ylim(top - span, top + 0.15 * span)
    axes.set_xscale("log")
    axes.set_xlabel("steps of the environment seen while learning")
    axes.set_ylabel("reward per step, on the training draw, mean of seeds ± 95 %")
    axes.legend(loc="lower right", frameon=False, fontsize=12)
    return figure


def panels(n_rows: int, n_columns: int, **options: Any) -> tuple[Figure, list[Axes]]:
    """Returns a figure of rows × columns of axes, and these."""
    figure = Figure(
        figsize=(9.0, 6.0 if n_rows * n_columns == 1 or n_rows > 1 else 5.0),
        dpi=DPI,
        layout="constrained",
    )
    axes_of = figure.subplots(n_rows, n_columns, squeeze=False, **options).ravel().tolist()
    for axes in axes_of:
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=11)
        axes.xaxis.label.set_size(12)
        axes.yaxis.label.set_size(12)
    return figure, axes_of


def styles(names: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Returns colour, mark and line of each policy; spare ones for those not in STYLES."""
    spare = iter(_SPARE * 8)
    return {name: STYLES.get(name) or next(spare) for name in names}


def line(style: tuple[str, str, str]) -> dict[str, Any]:
    """Returns a style as keywords of `plot`."""
    return dict(zip(("color", "marker", "linestyle"), style, strict=True)) | {
        "markersize": 6,
        "linewidth": 1.6,
    }


def mark(axes: Axes, x: float, what: str) -> None:
    """Draws a grey vertical line with a label above it."""
    axes.axvline(x, color="grey", linewidth=1, zorder=0)
    place = axes.get_xaxis_transform()
    axes.text(
        x, 1.01, what, transform=place, ha="center", va="bottom", color="#444444", fontsize=10
    )


def legend_below(figure: Figure, axes: Axes) -> None:
    """Draws the legend of the axes below the figure."""
    handles, labels = axes.get_legend_handles_labels()
    spacing = {"columnspacing": 1.2, "handlelength": 2.4, "fontsize": 10.5}
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 5),
        frameon=False,
        **spacing,
    )
