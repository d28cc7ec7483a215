"""Chains and timings as the TOML of `profiles/README.md`. What cannot be known here is left to be
filled in.
"""

import datetime
import json
from pathlib import Path

from jaxcoinfer.data.fields import ProfileError
from jaxcoinfer.data.profiles import BITS_AN_ELEMENT
from jaxcoinfer.profiler.graph import Chain, Layer
from jaxcoinfer.profiler.timing import FIGURES, Timing

_COUNTED = (
    "computed: 2 FLOP per multiply-add of every convolution and linear layer, 1 FLOP per element "
    "of every pooling window; activations, biases, normalisation and additions are not counted; "
    "from the shapes in "
)
_DNN = """\
# Made by `jaxcoinfer profile`. {todo}
# Early exits cannot be read off a network: train heads, measure them, add [[exits]]
# (profiles/README.md).

kind = "dnn"
name = {name}
description = {description}
input_bits = {input_bits:_} # {input_sizes}
full_accuracy = {accuracy}
bits = [32]
"""
_LAYER = """
[[layers]] # {labels}
name = "{name}"
flop = {flop:_}
kernels = {kernels}
out_elements = {elements:_} # {shape}
parameters = {parameters:_}
"""
_DEVICE = """\
# Made by `jaxcoinfer profile`. Fill in the watts, and by which meter. For another device, copy the
# table [measured.*].

kind = "device"
name = "this-machine"
description = {description}
overhead_s = {overhead_s}
peak_flops = {peak_flops}
power_idle_w = "fill in, watts"
power_busy_w = "fill in, watts"

[measured.{name}]
layer_s = [{layer_s}]

[source]
overhead_s = {fit}
peak_flops = "computed: the same fit, not below the rate of the fastest layer"
power_idle_w = "fill in, as in measured: which meter, when"
power_busy_w = "fill in, as in measured: which meter, when"
"measured.{name}.layer_s" = {how}
"""


def dnn_toml(chain: Chain, accuracy: float | None = None) -> str:
    """The DNN profile of `chain`. Without its accuracy, a share in [0, 1], it loads only once that
    is filled in.
    """
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise ProfileError(f"accuracy {accuracy:g} is invalid; allowed: a share from 0 to 1")
    head = _DNN.format(
        todo="Fill in full_accuracy and its source."
        if accuracy is None
        else "Say how full_accuracy was measured.",
        name=quoted(chain.name),
        description=quoted(
            f"{chain.name} in {len(chain.layers)} layers, cut wherever a single tensor flows"
        ),
        input_bits=chain.input_bits,
        input_sizes=f"{_shape(chain.input.shape)} * {chain.input_bits // chain.input.elements}",
        accuracy='"fill in, 0.0 to 1.0"' if accuracy is None else repr(float(accuracy)),
    )
    last = len(chain.layers) - 1
    layers = [
        _layer(layer) + "cut = false # nothing is left for the server\n" * (i == last)
        for i, layer in enumerate(chain.layers)
    ]
    source_lines = [
        f"{field} = {quoted(source)}\n" for field, source in _sources(chain, accuracy).items()
    ]
    return "".join([head, *layers, "\n[source]\n", *source_lines])


def device_toml(chain: Chain, timing: Timing) -> str:
    """A device profile of the machine that was timed, without its watts, which must be filled in
    before it loads.
    """
    how = (
        f"median of {timing.runs} warm runs or more of each layer alone with {timing.runtime}, "
        "batch 1, 1 thread"
    )
    fit = "least squares of the relative error of kernels * overhead_s + flop / peak_flops"
    return _DEVICE.format(
        name=chain.name,
        description=quoted(f"{timing.machine}, one thread"),
        overhead_s=f"{timing.overhead_s:.4g}",
        peak_flops=exactly(timing.peak_flops),
        layer_s=", ".join(map(exactly, timing.layer_s)),
        fit=quoted(f"computed: {fit} to measured.{chain.name}.layer_s"),
        how=quoted(f"measured: {timing.machine}, {datetime.date.today()}: {how}"),
    )


def write_new(path: Path, text: str) -> None:
    """Writes a file that must not be there yet: a profile may hold what somebody measured."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ProfileError(f"{path}: is there already; remove it or choose another --out") from None
    except OSError as error:
        raise ProfileError(f"{path}: cannot be written: {error.strerror}") from None


def exactly(number: float) -> str:
    """Returns the TOML of `number` from which the same number is read.

    Nothing is rounded here: numbers of a profile depend on each other.
    """
    short = f"{number:.{FIGURES}g}"
    return short if float(short) == number else repr(float(number))


def _layer(layer: Layer) -> str:
    first, last = map(_plain, layer.labels)
    upload = "" if layer.out.width == BITS_AN_ELEMENT else f"upload_bits = {layer.out.bits:_}\n"
    table = _LAYER.format(
        labels=first if first == last else f"{first} to {last}",
        name=layer.name,
        flop=layer.flop,
        kernels=layer.kernels,
        elements=layer.out.elements,
        shape=_shape(layer.out.shape),
        parameters=layer.parameters,
    )
    return table + upload


def _sources(chain: Chain, accuracy: float | None) -> dict[str, str]:
    shapes = f"computed: from the shapes in {chain.origin}"
    counted = f"counted in {chain.origin}"
    values, width = chain.input.elements, chain.input_bits // chain.input.elements
    values_text = f"{values} values of {width} bits"
    measured = (
        f"measured: given to `jaxcoinfer profile`, {datetime.date.today()}; say here on which"
    )
    texts = {
        "input_bits": f"assumed: a picture of {values_text}"
        if chain.is_picture
        else f"computed: {values_text}",
        "full_accuracy": "fill in, as in measured: on which test set, when"
        if accuracy is None
        else f"{measured} test set",
        "bits": "computed: features are sent as they are; add widths once you have measured what "
        "they cost in accuracy",
        '"layers.flop"': _COUNTED + chain.origin,
        '"layers.kernels"': f"computed: convolutions, linear layers and poolings {counted}",
        '"layers.out_elements"': shapes,
        '"layers.parameters"': f"{shapes}: weights, biases and normalisation scales",
    }
    if any(layer.out.width != BITS_AN_ELEMENT for layer in chain.layers):
        texts['"layers.upload_bits"'] = f"{shapes}: out_elements times the bits of an element"
    return texts


def quoted(text: str) -> str:
    """A TOML string of one line."""
    return json.dumps(_plain(text), ensure_ascii=False)


def _plain(text: str) -> str:
    """`text` on one line, without what TOML allows in no comment."""
    return "".join(c if c.isprintable() else " " for c in text)


def _shape(shape: tuple[int, ...]) -> str:
    """The sizes behind the batch, as a product."""
    return " * ".join(map(str, shape[1:] or shape))
