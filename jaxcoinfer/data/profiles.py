"""Profiles: what a DNN, a device, a server and a link cost, read from TOML and checked.

Every number in a profile has a source; one without does not load. `profiles/README.md` holds the
schema. Nothing here imports jax. Letters: L layers, E exits, P = L + 1 cuts (0 sends the input, L
sends nothing), Q bit widths, V model versions, S test samples. One multiply-add is 2 FLOP; SI units
throughout.
"""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from jaxcoinfer.data.fields import (
    Place,
    ProfileError,
    check_sources,
    checked,
    flag,
    identifier,
    integer,
    many,
    named_records,
    nearest,
    number,
    record,
    sources,
    structure,
    text,
)
from jaxcoinfer.data.samples import Samples, load_samples

__all__ = [
    "Device",
    "Dnn",
    "Exit",
    "Layer",
    "Link",
    "Measured",
    "ProfileError",
    "Samples",
    "Server",
    "Version",
    "cumulative_energy_j",
    "cut_accuracy",
    "cut_bits",
    "head_seconds",
    "layer_seconds",
    "list_profiles",
    "load_device",
    "load_dnn",
    "load_link",
    "load_server",
    "profiles_root",
    "upload_bits",
    "version",
    "widths",
]

BITS_AN_ELEMENT = 32  # of a feature that nobody quantised


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One step of a DNN that is never divided, `kernels` operations long.

    `upload_bits` are sent when the DNN is cut after it: out_elements * 32 unless the profile says
    otherwise.
    """

    name: str = checked(text)
    flop: float = checked(number())
    out_elements: int = checked(integer(1))
    kernels: int = checked(integer(1), default=1)  # convolutions, linear layers, poolings in a row
    parameters: int | None = checked(integer(), default=None)
    upload_bits: int = checked(
        integer(1), default=0
    )  # 0 stands for "not given" until __post_init__
    cut: bool = checked(flag, default=True)

    def __post_init__(self) -> None:
        if not self.upload_bits:
            object.__setattr__(self, "upload_bits", self.out_elements * BITS_AN_ELEMENT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exit:
    """An early exit: its head hangs behind layer `after_layer` (counted from 1), before the last
    one.
    """

    after_layer: int = checked(integer(1))
    head_flop: float = checked(number())
    head_kernels: int = checked(integer(1), default=1)
    accuracy: float = checked(number(0.0, 1.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """The same chain of layers with `width` of its channels, trained anew: flop, out_elements,
    parameters [L]; head_flop [E-1]; accuracy [E] of its early exits, then of the whole.
    """

    width: float = checked(number(0.0, 1.0, above=True))
    flop: tuple[float, ...] = checked(many(number(), 1))
    out_elements: tuple[int, ...] = checked(many(integer(1), 1))
    parameters: tuple[int, ...] = checked(many(integer(), 1))
    head_flop: tuple[float, ...] = checked(many(number()))
    accuracy: tuple[float, ...] = checked(many(number(0.0, 1.0), 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Profile:
    name: str = checked(identifier)
    description: str = checked(text)
    source: tuple[tuple[str, str], ...] = checked(
        sources
    )  # (dotted field, where its number comes from)
    path: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dnn(_Profile):
    """A network as a chain of layers with early exits. Accuracy is a share in [0, 1]; sizes are
    bits.

    versions: thinner ones of the same network, by falling width; `version` makes a Dnn of one.
    samples: of all of them, the network itself first.
    """

    input_bits: int = checked(integer(1))
    full_accuracy: float = checked(number(0.0, 1.0))
    layers: tuple[Layer, ...] = checked(many(record(Layer), 1))
    exits: tuple[Exit, ...] = checked(many(record(Exit)), default=())
    bits: tuple[int, ...] = checked(many(integer(1, 32), 1))
    versions: tuple[Version, ...] = checked(many(record(Version)), default=())
    samples: Samples | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of each layer [L] of one DNN, and joules spent when cut after layers 1..L [L] if
    known.
    """

    dnn: str
    layer_s: tuple[float, ...] = checked(many(number(above=True), 1))
    energy_j: tuple[float, ...] = checked(many(number()), default=())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device(_Profile):
    """A machine that runs a layer in kernels * overhead_s + flop / peak_flops seconds, or as
    measured.
    """

    overhead_s: float = checked(number())
    peak_flops: float = checked(number(above=True))
    power_idle_w: float = checked(number())
    power_busy_w: float = checked(number())
    measured: tuple[Measured, ...] = checked(named_records(Measured), default=())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server(Device):
    """A machine that finishes tasks: a device's fields, apart so that one is not taken for the
    other.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link(_Profile):
    """An uplink. Sending b bits in t seconds on air costs transmit_w * t + transmit_j_per_bit * b
    joules.

    `trace` names recorded rates, the files of which are not looked at here.
    """

    rate_bps: float = checked(number(above=True))
    rtt_s: float = checked(number())
    transmit_w: float = checked(number())
    transmit_j_per_bit: float = checked(number())
    trace: tuple[str, ...] = checked(many(text), default=())


_CLASS_OF = {"dnn": Dnn, "device": Device, "server": Server, "link": Link}


def load_dnn(name_or_path: str | Path) -> Dnn:
    """The shipped DNN of that name, or the one in the file at that path, with the `.npz` beside it
    if any.

    "name@0.5" is its version of that width. Raises ProfileError in one line that names file, field,
    value and what is allowed.
    """
    name, at, width = str(name_or_path).rpartition("@")
    if at and _is_number(width):
        return version(load_dnn(name), float(width))
    dnn, table, place = _load("dnn", name_or_path)
    _check_exits(dnn, place)
    _check_versions(dnn, place)
    if list(dnn.bits) != sorted(set(dnn.bits)):
        place.at("bits").refuse(list(dnn.bits), "bit widths in increasing order, none twice")
    beside = Path(dnn.path).with_suffix(".npz")
    if not beside.is_file():
        check_sources(table, place)
        return dnn
    check_sources(table, place, extra=("samples",))
    shape = (1 + len(dnn.versions), len(dnn.exits) + 1, len(dnn.layers) + 1, len(dnn.bits))
    return dataclasses.replace(dnn, samples=load_samples(beside, shape))


def widths(dnn: Dnn) -> tuple[float, ...]:
    """Shares of the channels that the versions of a network have, 1, the network itself, first."""
    return (1.0, *(thin.width for thin in dnn.versions))


def version(dnn: Dnn, width: float) -> Dnn:
    """Returns the version of `dnn` that has `width` of its channels, named "name@width"; 1 is the
    network itself.

    Raises ProfileError where there is no such version.
    """
    if width not in widths(dnn):
        allowed = ", ".join(f"{w:g}" for w in widths(dnn))
        raise ProfileError(
            f"{dnn.name}@{width:g}: '{dnn.name}' has no version of that width; allowed: {allowed}"
        )
    number = widths(dnn).index(width)
    samples = dnn.samples and dnn.samples.of_version(number)
    if number == 0:
        return dataclasses.replace(dnn, versions=(), samples=samples)
    thin = dnn.versions[number - 1]
    columns = zip(dnn.layers, thin.flop, thin.out_elements, thin.parameters, strict=True)
    heads = zip(dnn.exits, thin.head_flop, thin.accuracy[:-1], strict=True)
    layers = [
        Layer(name=a.name, flop=f, out_elements=o, kernels=a.kernels, parameters=p, cut=a.cut)
        for a, f, o, p in columns
    ]
    return dataclasses.replace(
        dnn,
        name=f"{dnn.name}@{width:g}",
        layers=tuple(layers),
        exits=tuple(
            dataclasses.replace(e, head_flop=flop, accuracy=accuracy) for e, flop, accuracy in heads
        ),
        full_accuracy=thin.accuracy[-1],
        versions=(),
        samples=samples,
    )


def load_device(name_or_path: str | Path) -> Device:
    """The shipped device of that name, or the one in the file at that path. Raises like `load_dnn`."""
    return _load_machine("device", name_or_path)


def load_server(name_or_path: str | Path) -> Server:
    """The shipped server of that name, or the one in the file at that path. Raises like `load_dnn`."""
    return _load_machine("server", name_or_path)


def load_link(name_or_path: str | Path) -> Link:
    """The shipped link of that name, or the one in the file at that path. Raises like `load_dnn`."""
    link, table, place = _load("link", name_or_path)
    check_sources(table, place)
    return link


def profiles_root() -> Path:
    """The folder of the shipped profiles: inside an installed package, or `profiles/` of a
    checkout.
    """
    package = Path(__file__).resolve().parents[1]
    installed = package / "_profiles"
    return installed if installed.is_dir() else package.parent / "profiles"


def list_profiles() -> dict[str, tuple[str, ...]]:
    """Names of the shipped profiles by kind, sorted: {"dnn": ("alexnet", ...), "device": (...),
    ...}.
    """
    root = profiles_root()
    return {
        kind: tuple(sorted(path.stem for path in (root / kind).glob("*.toml")))
        for kind in _CLASS_OF
    }


def upload_bits(dnn: Dnn) -> np.ndarray:
    """Bits to send when cut after l layers, int64 [L + 1]; 0 layers sends the input."""
    return np.array([dnn.input_bits, *(layer.upload_bits for layer in dnn.layers)], dtype=np.int64)


def cut_accuracy(dnn: Dnn, bits: int) -> np.ndarray:
    """Accuracy of the whole network when the feature after l layers is sent at `bits` an element,
    float64 [L + 1].

    As measured, else `full_accuracy` where the feature is sent as it is. Raises ProfileError where
    it is not known.
    """
    if dnn.samples is None and bits == BITS_AN_ELEMENT:
        return np.full(len(dnn.layers) + 1, dnn.full_accuracy)
    if dnn.samples is None:
        raise ProfileError(
            f"bits = {bits}: what '{dnn.name}' loses by it is not measured; allowed: {BITS_AN_ELEMENT}"
        )
    if bits not in dnn.bits:
        raise ProfileError(
            f"bits = {bits}: '{dnn.name}' is known at {', '.join(map(str, dnn.bits))}"
        )
    return dnn.samples.unpacked()[0, -1, :, dnn.bits.index(bits)].mean(axis=-1)


def cut_bits(dnn: Dnn, bits: int) -> np.ndarray:
    """Bits to send when cut after l layers, `bits` an element, float64 [L + 1]; the input is sent
    as it is.
    """
    return np.append(dnn.input_bits, upload_bits(dnn)[1:] * (bits / BITS_AN_ELEMENT))


def layer_seconds(device: Device, dnn: Dnn) -> np.ndarray:
    """Seconds of each layer, float64 [L]: as measured, else kernels * overhead_s + flop /
    peak_flops.

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
    for i, (seconds, least) in enumerate(zip(table.layer_s, flop / device.peak_flops, strict=True)):
        if seconds < least:
            peak = f"peak_flops = {device.peak_flops:g}"
            place.item(i).refuse(
                seconds, f"a number >= {least:g}, as {flop[i]:g} FLOP take at {peak}"
            )
    return np.array(table.layer_s)


def head_seconds(device: Device, exit_: Exit) -> float:
    """Seconds of an exit's head: head_kernels * overhead_s + head_flop / peak_flops."""
    return exit_.head_kernels * device.overhead_s + exit_.head_flop / device.peak_flops


def cumulative_energy_j(device: Device, dnn: Dnn) -> np.ndarray:
    """Joules spent when stopped after l layers, float64 [L + 1], 0 J at l = 0.

    As measured, else power_busy_w * (seconds of the first l layers). A measured table may fall at
    the end: a cut before it can include an encoder that the whole network does not run. Raises like
    `layer_seconds`.
    """
    seconds = layer_seconds(device, dnn)
    table = _measured(device, dnn)
    if table is None or not table.energy_j:
        return device.power_busy_w * np.concatenate([[0.0], np.cumsum(seconds)])
    return np.array([0.0, *table.energy_j])


def _measured(device: Device, dnn: Dnn) -> Measured | None:
    return next((table for table in device.measured if table.dnn == dnn.name), None)


def _load(kind: str, name_or_path: str | Path) -> tuple[Any, dict[str, Any], Place]:
    """(profile, its raw table, its place); the caller checks the sources and what only its kind
    has.
    """
    path = _resolve(kind, name_or_path)
    place = Place(str(path))
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not TOML, not UTF-8, or an integer of thousands of digits
        raise ProfileError(f"{path}: not valid TOML: {error}") from None
    if table.get("kind") != kind:
        place.at("kind").refuse(table.get("kind"), f"'{kind}' (load_{kind} reads no other)")
    del table["kind"]
    profile = structure(_CLASS_OF[kind], table, place)
    return dataclasses.replace(profile, path=str(path)), table, place


def _resolve(kind: str, name_or_path: str | Path) -> Path:
    """The file meant: a bare name is a shipped profile, anything with a separator or .toml a path."""
    name = str(name_or_path)
    names = list(list_profiles()[kind])
    bare = not (
        isinstance(name_or_path, Path) or name.endswith(".toml") or "/" in name or "\\" in name
    )
    path = profiles_root() / kind / f"{name}.toml" if bare else Path(name)
    if not path.is_file():
        what = f"no shipped {kind} profile '{name}'" if bare else f"{name}: no such file"
        raise ProfileError(
            f"{what}; shipped {kind} profiles: {', '.join(names)}{nearest(path.stem, names)}"
        )
    return path


def _check_exits(dnn: Dnn, place: Place) -> None:
    """Exits stand before the last layer (what follows it is the full network) and in order."""
    last = len(dnn.layers) - 1
    before = 0
    for i, exit_ in enumerate(dnn.exits):
        if not before < exit_.after_layer <= last:
            allowed = (
                f"an integer > {before} (the exit before it) and <= {last} (before the last layer)"
            )
            place.at("exits").item(i).at("after_layer").refuse(exit_.after_layer, allowed)
        before = exit_.after_layer


def _check_versions(dnn: Dnn, place: Place) -> None:
    """Versions have the layers and exits of the network, in order of falling width below 1."""
    n_layers, n_exits = len(dnn.layers), len(dnn.exits)
    lengths = {"flop": n_layers, "out_elements": n_layers, "parameters": n_layers}
    lengths |= {"head_flop": n_exits, "accuracy": n_exits + 1}
    before = 1.0
    for i, thin in enumerate(dnn.versions):
        here = place.at("versions").item(i)
        if not thin.width < before:
            here.at("width").refuse(thin.width, f"a number < {before:g} (the version before it)")
        for name, length in lengths.items():
            if len(getattr(thin, name)) != length:
                here.at(name).refuse(
                    list(getattr(thin, name)), f"{length} values, as '{dnn.name}' has"
                )
        before = thin.width


def _is_number(text_: str) -> bool:
    try:
        float(text_)
    except ValueError:
        return False
    return True


def _load_machine(kind: str, name_or_path: str | Path) -> Any:
    machine, table, place = _load(kind, name_or_path)
    for m in machine.measured:
        if m.energy_j and len(m.energy_j) != len(m.layer_s):
            energy_place = place.at("measured").at(m.dnn).at("energy_j")
            energy_place.refuse(list(m.energy_j), f"{len(m.layer_s)} values, as many as layer_s")
    check_sources(table, place)
    return machine
