"""Figures: labelled with units, small, the same colour for a policy everywhere, and right about
what they show.
"""

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from jaxcoinfer.evaluation import plots
from jaxcoinfer.evaluation.evaluate import Interval
from jaxcoinfer.systems.fleet import figures as fleet
from jaxcoinfer.systems.on_demand import figures as on_demand
from jaxcoinfer.systems.on_demand.misses import MissRatio
from jaxcoinfer.systems.stopping import figures

NAMES = ("continuation value", "one-time greedy", "edge only", "something new")
ROWS = dict(
    zip(
        NAMES,
        (Interval(0.3, 0.02), Interval(0.28, 0.02), Interval(-5.0, 2.0), Interval(0.1, np.nan)),
        strict=True,
    )
)
GAINS = {name: Interval(row.mean - 0.28, row.half) for name, row in ROWS.items()}
POINTS = (1.0, 2.0, 4.0)
LINES = {name: [Interval(row.mean - 0.1 * x, 0.1) for x in POINTS] for name, row in ROWS.items()}
LATENCY_S = {
    name: np.random.default_rng(i).exponential(0.2 * (i + 1), 500) for i, name in enumerate(NAMES)
}
CLASSES = ("interactive", "control", "safety")
RARE, NEVER = MissRatio(1e-3, 5e-4, 2e-3, 10, 10_000), MissRatio(0.0, 0.0, 4e-4, 0, 10_000)
RATIOS = {name: (RARE, NEVER, MissRatio(1.0, 0.999, 1.0, 10_000, 10_000)) for name in NAMES}
DECIDED = tuple(np.arange(24).reshape(2, 3, 4) % n for n in (4, 7, 5))  # exit, cut, bits
BAND = {
    name: (np.arange(1, 20) * 100, np.log(np.arange(1, 20) + np.arange(3)[:, None]))
    for name in NAMES
}

KINDS = ("jetson-nano-5w", "raspberry-pi-4", "raspberry-pi-zero-w")
VERSIONS = np.full((3, 2, 4, 6), 1 / 24)
VERSIONS[2, 1] = np.nan  # there was no such task
SHARES = np.array([[0.1, 0.2], [0.0, 0.3], [np.nan, 0.05]])


def made(name: str) -> Figure:
    """Returns one of the figures of this file's data."""
    match name:
        case "utility":
            return plots.utility(ROWS, GAINS, "one-time greedy")
        case "sweeps":
            return figures.sweeps(
                {"arrival rate, tasks/s": (POINTS, LINES, 2.0), "load, share": (POINTS, LINES, 1.0)}
            )
        case "sensitivity":
            names = ("device time", "server time", "others jobs", "link rate")
            return figures.sensitivity(
                {f"{name}, factor": ((0.5, 1.0, 2.0), LINES, 1.0) for name in names}
            )
        case "delays":
            return figures.delays(LATENCY_S, 1.0)
        case "decisions":
            return figures.decisions(np.zeros((11, 5, 7), bool), np.linspace(0, 2, 7), np.arange(5))
        case "messages":
            return figures.messages(
                {
                    "twin": ((0.1, 1.0), LINES["one-time greedy"][:2]),
                    "held": ((2.0,), LINES["edge only"][:1]),
                }
            )
        case "band":
            return plots.learning_band(BAND)
        case "class delays":
            return on_demand.delays(
                {name: [values] * 3 for name, values in LATENCY_S.items()}, CLASSES
            )
        case "choices":
            return on_demand.choices(
                np.geomspace(1e6, 1e8, 4), np.linspace(0.5, 1, 3), DECIDED, CLASSES
            )
        case "misses":
            return on_demand.misses(RATIOS, CLASSES, (0.05, 1e-3, 1e-5))
        case "deadlines":
            panel = ((0.01, 0.02, 0.05), LINES, 0.02)
            return on_demand.deadlines({"interactive": panel, "control": panel})
        case "cost":
            bound = LINES["one-time greedy"]
            return fleet.cost(
                {
                    "devices": (POINTS, LINES, bound, 2.0),
                    "bandwidth, MHz": (POINTS, LINES, bound, 1.0),
                }
            )
        case "gap":
            return fleet.gap(POINTS, LINES, 2.0)
        case "versions":
            return fleet.choices(VERSIONS, KINDS, CLASSES[:2], (1.0, 0.75, 0.5, 0.25))
        case "shares":
            return fleet.shares(SHARES, SHARES[::-1], KINDS, CLASSES[:2])
        case _:
            raise ValueError(name)


STOPPING = ["utility", "sweeps", "sensitivity", "delays", "decisions", "messages"]
FLEET = ["cost", "gap", "versions", "shares"]
ON_DEMAND = ["band", "class delays", "choices", "misses", "deadlines"]


@pytest.fixture(scope="module", params=STOPPING + ON_DEMAND + FLEET)
def figure(request) -> Figure:
    return made(request.param)


def test_is_small_enough_and_draws_without_a_warning(figure):
    width, height = figure.get_size_inches() * plots.DPI
    assert width <= 900 and height <= 600
    stream = io.BytesIO()
    figure.savefig(stream, dpi=plots.DPI)
    assert stream.getvalue().startswith(b"\x89PNG")


def test_every_axis_has_a_label(figure):
    shared = (figure.get_supxlabel(), figure.get_supylabel())
    for axes in figure.axes:
        assert axes.get_xlabel() or shared[0]
        names = set(NAMES) <= {
            label.get_text() for label in axes.get_yticklabels()
        }  # say themselves what they are
        assert axes.get_ylabel() or shared[1] or axes.get_subplotspec().colspan.start or names


def drawn_tick_labels(axis) -> list:
    """Labels of the ticks within the view; matplotlib keeps others beside them, and on shared axes
    hides some.
    """
    low, high = sorted(axis.get_view_interval())
    major, minor = axis.get_major_ticks(), axis.get_minor_ticks()
    return [
        tick.label1
        for tick in (*major, *minor)
        if low <= tick.get_loc() <= high and tick.label1.get_visible()
    ]


def test_texts_do_not_overlap(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    texts = [
        text for axes in figure.axes for text in (axes.xaxis.label, axes.yaxis.label, axes.title)
    ]
    texts += [
        text
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for text in drawn_tick_labels(axis)
    ]
    legends = figure.legends + [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    texts += [text for legend in legends for text in legend.get_texts()]
    boxes = [
        (text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text()
    ]
    for i, (name, box) in enumerate(boxes):
        for other_name, other in boxes[:i]:
            apart = (
                box.x0 >= other.x1 or other.x0 >= box.x1 or box.y0 >= other.y1 or other.y0 >= box.y1
            )
            assert apart or box.bounds == other.bounds, f"{name!r} lies on {other_name!r}"


def test_a_policy_has_one_colour_everywhere_and_no_two_share_one():
    sweeps, delays = made("sweeps"), made("delays")
    colours = [
        {
            line.get_label(): to_hex(line.get_color())
            for line in axes.get_lines()
            if line.get_label() in NAMES
        }
        for axes in (*sweeps.axes, *delays.axes)
    ]
    assert all(found == colours[0] for found in colours)
    assert set(colours[0]) == set(NAMES) and len(set(colours[0].values())) == len(NAMES)
    learned = made("band").axes[0].get_lines()
    assert {line.get_label(): to_hex(line.get_color()) for line in learned} == colours[0]


def test_utility_gives_numbers_where_a_mark_would_be_off_scale():
    left, right = made("utility").axes
    assert [text.get_text() for text in left.texts] == ["◂ −5.00 ± 2.00"]
    assert [label.get_text() for label in left.get_yticklabels()] == [
        "edge only",
        "something new",
        *NAMES[1::-1],
    ]
    assert -5.0 < left.get_xlim()[0] < 0.1
    assert right.get_xlim()[0] == -right.get_xlim()[1]
    marks = [container.lines[0].get_xdata()[0] for container in right.containers]
    assert 0.0 not in marks  # the baseline is not compared with itself
    assert 0.3 - 0.28 in marks


def test_delays_show_the_share_above():
    axes = figures.delays({"random": np.array([4.0, 1.0, 2.0, 3.0])}, 1.0).axes[0]
    x, y = axes.get_lines()[0].get_data()
    np.testing.assert_array_equal(x, [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(
        y, [1.0, 0.75, 0.5, 0.25]
    )  # a quarter takes longer than anything below 4
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


@pytest.mark.parametrize("n_points", [2, 4, 5, 11])
def test_a_panel_a_decision(n_points):
    stops = np.zeros((n_points, 3, 4), bool)
    stops[1, 2, 0] = True
    found = figures.decisions(stops, np.array([0.0, 0.5, 1.0, 1.5]), np.arange(3))
    titles = [axes.get_title() for axes in found.axes]
    assert titles == [
        "before layer 1",
        "after 1 layer",
        *(f"after {i} layers" for i in range(2, n_points)),
    ]
    shown = found.axes[1].collections[0].get_array()
    np.testing.assert_array_equal(np.asarray(shown).reshape(3, 4), stops[1])


def test_a_band_is_the_mean_and_interval_of_seeds():
    axes = plots.learning_band(
        {"x": (np.array([10, 20]), np.array([[1.0, 4.0], [3.0, 4.0]]))}
    ).axes[0]
    np.testing.assert_allclose(axes.get_lines()[0].get_data(), [[10, 20], [2.0, 4.0]])
    ends = axes.collections[0].get_paths()[0].vertices[:, 1]
    # t_{.975, 1} = 12.706, deviation sqrt(2), over sqrt(2)
    assert (ends.min(), ends.max()) == pytest.approx((2 - 12.706, 2 + 12.706), abs=1e-3)


def test_misses_show_intervals_targets_and_an_arrow_where_none_was_late():
    interactive, control, _ = made("misses").axes
    assert interactive.get_xscale() == "log" and len(interactive.containers) == len(NAMES)
    mark, _, (ends,) = interactive.containers[0].lines
    np.testing.assert_allclose(ends.get_segments()[0][:, 0], [5e-4, 2e-3])
    assert mark.get_xdata()[0] == 1e-3 and [
        line.get_xdata()[0] for line in control.get_lines()
    ] == [1e-3]
    assert [text.xyann[0] for text in control.texts] == [4e-4] * len(
        NAMES
    )  # from the upper end of the interval


def test_choices_show_each_decision_where_it_was_taken():
    drawn = made("choices").axes
    assert [axes.get_title() for axes in drawn[:3]] == [
        "exit",
        "cut, layers on the device",
        "bits of the feature",
    ]
    for i, axes in enumerate(drawn):
        shown = np.asarray(axes.collections[0].get_array()).reshape(3, 4)
        np.testing.assert_array_equal(np.unique(DECIDED[i % 3])[shown], DECIDED[i % 3][i // 3])


def test_versions_and_cuts_show_their_shares_in_percent():
    drawn = made("versions").axes
    assert {text.get_text() for text in drawn[0].texts} == {"4"} and len(drawn[0].texts) == 24
    assert not drawn[5].texts  # of the kind and class that had no task
    assert [axes.get_title() for axes in drawn[:3]] == list(KINDS)


def test_shares_are_bars_in_percent():
    band, server = made("shares").axes
    np.testing.assert_allclose([bar.get_height() for bar in band.patches], [10, 0, 0, 20, 30, 5])
    np.testing.assert_allclose([bar.get_height() for bar in server.patches], [0, 0, 10, 5, 30, 20])


def test_pyplot_is_not_imported():
    code = (
        "import sys, numpy as np, jaxcoinfer.evaluation.plots as plots; "
        "import jaxcoinfer.systems.stopping.figures as figures; "
        "plots.learning_band({}); figures.delays({'x': np.ones(3)}, 1.0); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
