"""What a DNN costs on a device or server, cut by cut: seconds, joules, bits, accuracy.

Letters as in `jaxcoinfer.data.profiles`: L layers, P cuts. Cut l is behind l layers: 0 sends the
input, L sends nothing.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxcoinfer.data.fields import Place, ProfileError
from jaxcoinfer.data.profiles import BITS_AN_ELEMENT, Device, Dnn, Exit, Measured


def cuts(dnn: Dnn, end: int | None = None, also: Collection[int] = ()) -> list[int]:
    """Returns the cuts that a task may choose from: 0, those the profile allows before layer `end`,
    and `end`.

    end: the last layer that runs on the device, that of the whole network by default; also: cuts
    that count although the profile forbids them.
    """
    end = len(dnn.layers) if end is None else end
    before = enumerate(dnn.layers[:end], 1)
    return [0, *(i for i, layer in before if layer.cut or i in also or i == end)]


def cumulative(values: ArrayLike) -> NDArray[np.float64]:
    """Returns the sum of the first l values, float64 [L + 1], 0 at l = 0."""
    return np.concatenate([[0.0], np.cumsum(values)])


def cumulative_seconds(device: Device, dnn: Dnn) -> NDArray[np.float64]:
    """Returns the seconds of the first l layers, float64 [L + 1]. Raises like `layer_seconds`."""
    return cumulative(layer_seconds(device, dnn))


def upload_bits(dnn: Dnn) -> NDArray[np.int64]:
    """Returns the bits to send when cut after l layers, int64 [L + 1]; 0 layers sends the input."""
    return np.array([dnn.input_bits, *(layer.upload_bits for layer in dnn.layers)], dtype=np.int64)


def cut_accuracy(dnn: Dnn, bits: int) -> NDArray[np.float64]:
    """Returns the accuracy of the whole network when the feature after l layers is sent at `bits`
    per element, float64 [L + 1].

    As measured, else `full_accuracy` where the feature is sent as it is. Raises ProfileError where
    it is not known.
    """
    if dnn.samples is None and bits == BITS_AN_ELEMENT:
        return np.full(len(dnn.layers) + 1, dnn.full_accuracy)
    if dnn.samples is None:
        raise ProfileError(
            f"bits = {bits}: what '{dnn.name}' loses by it is not measured; "
            f"allowed: {BITS_AN_ELEMENT}"
        )
    if bits not in dnn.bits:
        raise ProfileError(
            f"bits = {bits}: '{dnn.name}' is known at {', '.join(map(str, dnn.bits))}"
        )
    return dnn.samples.unpacked()[0, -1, :, dnn.bits.index(bits)].mean(axis=-1)


def cut_bits(dnn: Dnn, bits: int) -> NDArray[np.float64]:
    """Returns the bits to send when cut after l layers, `bits` per element, float64 [L + 1]; the
    input is sent as it is.
    """
    return np.append(dnn.input_bits, upload_bits(dnn)[1:] * (bits / BITS_AN_ELEMENT))


def layer_seconds(device: Device, dnn: Dnn) -> NDArray[np.float64]:
    """Returns the seconds of each layer, float64 [L]: as measured, else
    `kernels * overhead_s + flop / peak_flops`.

    The affine form, because a constant FLOP/s is off by 90 % on real layers; the overhead counts
    for every kernel, else a network listed in a few blocks would look faster than the same one
    listed layer by layer.

    Raises ProfileError when a measured table has not L entries or implies a rate above the device's
    peak.
    """
    flop = np.array([layer.flop for layer in dnn.layers])
    table = _measured(device, dnn)
    if table is None:
        kernels = np.array([layer.kernels for layer in dnn.layers])
        return kernels * device.overhead_s + flop / device.peak_flops
    place = Place(device.path or device.name, f"measured.{dnn.name}.layer_s")
    if len(table.layer_s) != len(flop):
        place.refuse(list(table.layer_s), f"{len(flop)} values, one for each layer of '{dnn.name}'")
    shortest_s = flop / device.peak_flops
    for i, (seconds, lowest) in enumerate(zip(table.layer_s, shortest_s, strict=True)):
        if seconds < lowest:
            peak = f"peak_flops = {device.peak_flops:g}"
            place.item(i).refuse(
                seconds, f"a number >= {lowest:g}, as {flop[i]:g} FLOP take at {peak}"
            )
    return np.array(table.layer_s)


def head_seconds(device: Device, exit_: Exit) -> float:
    """Returns the seconds of an exit's head: head_kernels * overhead_s + head_flop / peak_flops."""
    return exit_.head_kernels * device.overhead_s + exit_.head_flop / device.peak_flops


def computing_w(device: Device) -> float:
    """Returns the watts that computing adds, power_busy_w - power_idle_w: a device that waits draws
    the idle power too.
    """
    return max(device.power_busy_w - device.power_idle_w, 0.0)


def cumulative_energy_j(device: Device, dnn: Dnn) -> NDArray[np.float64]:
    """Returns the joules spent when stopped after l layers, float64 [L + 1], 0 J at l = 0.

    As measured, else `computing_w` * (seconds of the first l layers). A measured table may fall at
    the end: a cut before it can include an encoder that the whole network does not run. Raises like
    `layer_seconds`.
    """
    seconds = layer_seconds(device, dnn)
    table = _measured(device, dnn)
    if table is None or not table.energy_j:
        return computing_w(device) * np.concatenate([[0.0], np.cumsum(seconds)])
    return np.array([0.0, *table.energy_j])


def _measured(device: Device, dnn: Dnn) -> Measured | None:
    return next((table for table in device.measured if table.dnn == dnn.name), None)
