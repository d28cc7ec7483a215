"""Writes what was measured as profiles: `<name>.toml` and `.npz` of the network, `<machine>.toml`
of this machine.
"""

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import jax
import numpy as np

from jaxcoinfer.profiler.timing import processor, rounded, rounded_up
from jaxcoinfer.profiler.writing import exactly, quoted
from profiles.build.data import Images
from profiles.build.measure import BITS, Answers, Costs
from profiles.build.model import EXIT_LAYERS, LAYERS, POOLED
from profiles.build.train import Config

INPUT_BITS = 32 * 32 * 3 * 8
KERNELS = [1 + (name in POOLED) for name in LAYERS]
HEAD_KERNELS = 3  # convolution, pooling, linear layer


def network(
    folder: Path,
    widths: Sequence[float],
    costs: Sequence[Costs],
    answers: Sequence[Answers],
    images: Images,
    config: Config,
) -> Path:
    """Writes `b-alexnet.toml` and `.npz` into `folder`; one of each sequence a version, the whole
    network first.
    """
    right = [_own_accuracy(a) for a in answers]
    lines = [
        "# Written by `python -m profiles.build measure`; the same command makes it again.",
        "",
        'kind = "dnn"',
        'name = "b-alexnet"',
        'description = "B-AlexNet on CIFAR-10: trained with two early exits, in four widths, '
        'measured image by image"',
        f"input_bits = {INPUT_BITS} # 3 * 32 * 32 * 8",
        f"full_accuracy = {right[0][-1]}",
        f"bits = {list(BITS)}",
        *_layers(costs[0]),
        *_exits(costs[0], right[0]),
    ]
    for width, cost, own in list(zip(widths, costs, right, strict=True))[1:]:
        lines += _version(width, cost, own)
    lines += _sources(len(answers[0].entropy[0]), images, config, thin=len(widths) > 1)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "b-alexnet.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    _samples(path.with_suffix(".npz"), answers)
    return path


def _layers(cost: Costs) -> list[str]:
    lines = []
    for i, name in enumerate(LAYERS):
        lines += [
            "",
            "[[layers]]",
            f'name = "{name}"',
            f"flop = {cost.flop[i]}",
            f"out_elements = {cost.elements[i]}",
        ]
        lines += [f"kernels = {KERNELS[i]}", f"parameters = {cost.parameters[i]}"]
    return [*lines, "cut = false # nothing is left for the server"]


def _exits(cost: Costs, accuracy: Sequence[float]) -> list[str]:
    lines = []
    for i, layer in enumerate(EXIT_LAYERS):
        lines += ["", "[[exits]]", f"after_layer = {layer}", f"head_flop = {cost.head_flop[i]}"]
        lines += [f"head_kernels = {HEAD_KERNELS}", f"accuracy = {accuracy[i]}"]
    return lines


def _version(width: float, cost: Costs, accuracy: Sequence[float]) -> list[str]:
    lines = ["", "[[versions]]", f"width = {width}", f"flop = {cost.flop.tolist()}"]
    lines += [
        f"out_elements = {cost.elements.tolist()}",
        f"parameters = {cost.parameters.tolist()}",
    ]
    return [*lines, f"head_flop = {cost.head_flop.tolist()}", f"accuracy = {accuracy}"]


def _sources(n_images: int, images: Images, config: Config, *, thin: bool) -> list[str]:
    tested = f"{n_images} CIFAR-10 test images ({images.note}); {_here()}"
    trained = (
        f"trained by profiles/build, seed {config.seed}, {config.epochs} epochs of "
        f"{len(images.train)} images, batches of {config.batch}, exits weighted "
        f"{', '.join(f'{w:g}' for w in config.exit_weights)}"
    )
    counted = (
        "computed: from weights and shapes, 2 FLOP per multiply-add of every convolution and "
        "linear layer, 1 per element of a pooling window; normalisation folded into the "
        "convolutions; architecture of BranchyNet (arXiv 1709.01686)"
    )
    retrained = f"measured: accuracy, as full_accuracy, each width trained anew; the rest {counted}"
    lines = [
        "",
        "[source]",
        'input_bits = "computed: 3 * 32 * 32 values of 8 bits"',
        f"full_accuracy = {quoted(f'measured: share of {tested}; {trained}')}",
        'bits = "measured: integers of 2, 4 and 8 bits, one range for a whole tensor, from the '
        "least value that training images give up to where the mean square error is least; "
        '32 stands for the feature as it is"',
        f'layers = "{counted}"',
        '"exits.after_layer" = "cited: BranchyNet (arXiv 1709.01686), branches after the second '
        'and third convolution"',
        f'"exits.head_flop" = "{counted}"',
        '"exits.head_kernels" = "computed: convolution, pooling, linear layer"',
        '"exits.accuracy" = "measured: as full_accuracy"',
    ]
    if thin:
        lines.append(f'versions = "{retrained}"')
    return [*lines, f"samples = {quoted(f'measured: on {tested}')}", ""]


def _samples(path: Path, answers: Sequence[Answers]) -> None:
    correct, confidence, entropy = (
        np.stack([getattr(a, name) for a in answers])
        for name in ("correct", "confidence", "entropy")
    )
    np.savez_compressed(
        path,
        samples=np.array(correct.shape[-1]),
        correct=np.packbits(correct, axis=-1),
        confidence=confidence.astype(np.float16),
        # That of a sure answer is rounded to a hair below 0.
        entropy=np.maximum(entropy, 0.0).astype(np.float16),
    )


def machine(
    folder: Path,
    name: str,
    widths: Sequence[float],
    costs: Sequence[Costs],
    layer_s: Sequence[np.ndarray],
) -> Path:
    """Writes the profile of this machine, as a server, with the seconds of each layer [L] of each
    version.

    peak_flops is the highest rate of any layer; overhead_s the median of what is left, by kernel.
    """
    # All is derived from the seconds as written: a peak derived from unrounded ones could be below
    # the rate of a layer, and the loader refuses such a profile.
    written_s = [np.array([rounded(s) for s in seconds]) for seconds in layer_s]
    pairs = list(zip(costs, written_s, strict=True))
    peak = rounded_up(max(1.0, *(float((cost.flop / seconds).max()) for cost, seconds in pairs)))
    left = [(seconds - cost.flop / peak) / np.array(KERNELS) for cost, seconds in pairs]
    description = f"{processor()}, one image at a time, as measured with B-AlexNet"
    lines = [
        "# Written by `python -m profiles.build measure`.",
        "",
        'kind = "server"',
        f'name = "{name}"',
        f"description = {quoted(description)}",
        f"overhead_s = {float(np.median(left)):.3g}",
        f"peak_flops = {exactly(peak)}",
        "power_idle_w = 8.0",
        "power_busy_w = 35.0",
    ]
    for width, seconds in zip(widths, written_s, strict=True):
        key = "b-alexnet" if width == 1 else f'"b-alexnet@{width:g}"'
        lines += ["", f"[measured.{key}]", f"layer_s = [{', '.join(map(exactly, seconds))}]"]
    how = "median seconds of each layer, one image, compiled and warm"
    lines += [
        "",
        "[source]",
        'overhead_s = "computed: median of (seconds - FLOP / peak_flops) / kernels over the layers '
        'below"',
        'peak_flops = "computed: the highest rate of any layer below, rounded up; not the limit of '
        'the hardware"',
        'power_idle_w = "assumed: not measured; the energy of a server is charged to no device"',
        'power_busy_w = "assumed: not measured; the energy of a server is charged to no device"',
        f"measured = {quoted(f'measured: {how}; {_here()}')}",
        "",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text("\n".join(lines), encoding="utf-8")
    return folder / f"{name}.toml"


def _own_accuracy(answers: Answers) -> list[float]:
    """Accuracy of each exit where nothing is lost on the way [E]."""
    return [round(float(right[0, -1].mean()), 5) for right in answers.correct]


def _here() -> str:
    device = jax.devices()[0]
    cores = f"{os.cpu_count()} cores"
    return f"{processor()}, {cores}, {device.platform}, jax {jax.__version__}, {date.today()}"
