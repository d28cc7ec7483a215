"""How rates grow with the batch, drawn from the lines of `benchmarks.speed`, as `speed.png`.

python -m benchmarks.curves
"""

from matplotlib.figure import Figure

from benchmarks.tables import CPU, lines
from jaxcoinfer.evaluation.plots import STYLES, panels
from training.common import RESULTS

PANELS = {"environments": "decisions/s", "twins": "outcomes/s"}


def draw() -> Figure:
    """Draws a panel per kind, a line per case."""
    figure, axes = panels(1, len(PANELS))
    for panel, (kind, unit) in zip(axes, PANELS.items(), strict=True):
        names = list(dict.fromkeys(line["name"] for line in lines("speed", kind=kind, device=CPU)))
        for name, (colour, mark, dash) in zip(names, STYLES.values(), strict=False):
            rates = {
                line["size"]: line["items_per_s"]
                for line in lines("speed", kind=kind, name=name, device=CPU)
            }
            shown = name.removesuffix(" step").removesuffix(" twin")
            panel.plot(
                *zip(*sorted(rates.items()), strict=True),
                dash,
                color=colour,
                marker=mark,
                label=shown,
            )
        panel.set(
            xscale="log", yscale="log", xlabel="environments in the batch", ylabel=unit, title=kind
        )
        panel.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    return figure


if __name__ == "__main__":
    draw().savefig(RESULTS / "speed.png")
