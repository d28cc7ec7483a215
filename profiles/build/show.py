"""The measured network as tables and a figure, from its profile alone.

    python -m profiles.build show

Axes as in `measure`: V versions, E exits, P cuts, Q bit widths, S test images.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxcoinfer.data import costs, profiles
from jaxcoinfer.data.profiles import Dnn

ENTROPIES = (
    (0.001, 0.01),
    (0.01, 0.05),
    (0.05, 0.2),
    (0.1, 0.5),
    (0.3, 0.8),
    (0.8, 1.2),
)  # nats, at each early exit


def accuracy_table(dnn: Dnn) -> list[tuple[Any, ...]]:
    """Rows (width, FLOP up to each exit [E], accuracy of each exit [E])."""
    return [(width, flop_to_exits(thin), _right(thin)[:, 0, -1]) for width, thin in versions(dnn)]


def bits_table(dnn: Dnn) -> list[tuple[Any, ...]]:
    """Rows (cut, its name, bits sent [Q], accuracy of the whole network [Q]); the cuts before the
    last layer.
    """
    names = ["input", *(layer.name for layer in dnn.layers)]
    return [
        (cut, names[cut], sent, _right(dnn)[-1, cut]) for cut, sent in enumerate(sent_bits(dnn))
    ]


def exits_table(dnn: Dnn) -> list[tuple[Any, ...]]:
    """Rows (entropies below which an image leaves [E-1], share that leaves at each exit [E],
    accuracy of all).
    """
    assert dnn.samples is not None
    entropy, right = dnn.samples.entropy[0], dnn.samples.unpacked()[0, :, 0, -1]
    rows = []
    for limits in ENTROPIES:
        sure = np.vstack(
            [entropy[:-1] < np.array(limits)[:, None], np.ones_like(entropy[:1], bool)]
        )
        leaves = sure.argmax(axis=0)
        share = np.bincount(leaves, minlength=len(right)) / len(leaves)
        rows.append((limits, share, np.take_along_axis(right, leaves[None], axis=0).mean()))
    return rows


def versions(dnn: Dnn) -> list[tuple[float, Dnn]]:
    """(width, the version as a network), the whole one first."""
    return [(width, profiles.version(dnn, width)) for width in profiles.widths(dnn)]


def flop_to_exits(dnn: Dnn) -> np.ndarray:
    """FLOP of an image that leaves at each exit, its own head included and no other [E]."""
    flop = np.cumsum([layer.flop for layer in dnn.layers])
    return np.array([*(flop[e.after_layer - 1] + e.head_flop for e in dnn.exits), flop[-1]])


def sent_bits(dnn: Dnn) -> np.ndarray:
    """Bits sent at each cut before the last layer and each width [P-1, Q]; the input's at cut 0."""
    sent = np.outer(costs.upload_bits(dnn)[:-1] / profiles.BITS_AN_ELEMENT, dnn.bits)
    sent[0] = dnn.input_bits
    return sent


def figure(dnn: Dnn) -> Any:
    """Accuracy against FLOP, by exit and version; accuracy of the whole against bits sent, by cut
    and width.
    """
    from jaxcoinfer.evaluation.plots import panels

    made, (left, right) = panels(1, 2)
    for (width, flop, accuracy), mark in zip(accuracy_table(dnn), "osD^v", strict=False):
        left.plot(flop / 1e6, 100 * accuracy, marker=mark, label=f"{width:g} of the channels")
    left.set(
        xscale="log", xlabel="MFLOP to the exit and its head", ylabel="accuracy, % of test images"
    )
    left.set_xticks([3, 5, 10, 20, 50], labels=["3", "5", "10", "20", "50"])
    left.minorticks_off()
    left.legend()
    sent, accuracy = sent_bits(dnn)[1:], _right(dnn)[-1, 1:-1]
    for q, (bits, mark) in enumerate(zip(dnn.bits, "v^so", strict=False)):
        label = f"{bits} bits an element" if bits < profiles.BITS_AN_ELEMENT else "as it is"
        right.plot(
            sent[:, q] / 1e3, 100 * accuracy[:, q], marker=mark, linestyle="none", label=label
        )
    right.axvline(dnn.input_bits / 1e3, color="black", linewidth=1, linestyle=":")
    right.set(xscale="log", xlabel="kbit sent at a cut (dotted: its input)", ylabel="accuracy, %")
    right.legend()
    return made


def show(name_or_path: str, picture: Path | None) -> None:
    """Prints the tables in 80 columns and writes the figure."""
    from rich.console import Console

    dnn, console = profiles.load_dnn(name_or_path), Console(width=80)
    console.print(
        _table(
            "accuracy by width and exit (MFLOP)",
            ["width", *_exit_names(dnn)],
            [
                [
                    f"{width:g}",
                    *(
                        f"{100 * a:.2f} % ({f / 1e6:.1f})"
                        for a, f in zip(accuracy, flop, strict=True)
                    ),
                ]
                for width, flop, accuracy in accuracy_table(dnn)
            ],
        )
    )
    console.print(
        _table(
            "accuracy of the whole network, % (kbit sent)",
            ["cut after", *(_bits(b) for b in dnn.bits)],
            [
                [
                    name,
                    *(
                        f"{100 * a:.2f} ({s / 1e3:.1f})"
                        for a, s in zip(accuracy, sent, strict=True)
                    ),
                ]
                for _, name, sent, accuracy in bits_table(dnn)
            ],
        )
    )
    console.print(
        _table(
            "leaving where sure",
            ["entropy below", *_exit_names(dnn), "accuracy"],
            [
                [
                    ", ".join(f"{x:g}" for x in limits),
                    *(f"{100 * s:.1f} %" for s in share),
                    f"{100 * accuracy:.2f} %",
                ]
                for limits, share, accuracy in exits_table(dnn)
            ],
        )
    )
    console.print(dict(dnn.source)["full_accuracy"], highlight=False)
    if picture:
        figure(dnn).savefig(picture)


def _right(dnn: Dnn) -> np.ndarray:
    assert dnn.samples is not None, f"{dnn.name} has no results image by image"
    return dnn.samples.unpacked()[0].mean(axis=-1)


def _exit_names(dnn: Dnn) -> list[str]:
    return [*(f"after {dnn.layers[e.after_layer - 1].name}" for e in dnn.exits), "whole"]


def _bits(bits: int) -> str:
    return f"{bits} bits" if bits < profiles.BITS_AN_ELEMENT else "as it is"


def _table(title: str, head: list[str], rows: list[list[str]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    return table
