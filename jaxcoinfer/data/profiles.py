"""Profiles: what a DNN, a device, a server and a link cost, read from TOML and checked.

Every number in a profile has a source; one without does not load. `profiles/README.md` holds the
schema. Nothing here imports JAX. Letters: L layers, E exits (the last is the whole network), P = L
+ 1 cuts (0 sends the input, L sends nothing), Q bit widths, V model versions, S test samples. One
multiply-add is 2 FLOP; SI units throughout.
"""

import csv
import dataclasses
from pathlib import Path
from typing import Any

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
    read_table,
    record,
    sources,
    structure,
    text,
)
from jaxcoinfer.data.samples import Samples, load_samples

__all__ = [
    "BITS_AN_ELEMENT",
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
    "list_profiles",
    "load_device",
    "load_dnn",
    "load_link",
    "load_server",
    "profiles_root",
    "version",
    "widths",
]

BITS_AN_ELEMENT = 32  # of a feature that nobody quantised


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One step of a DNN that is never divided."""

    name: str = checked(text)
    flop: float = checked(number())
    out_elements: int = checked(integer(1))  # of its output
    kernels: int = checked(integer(1), default=1)  # convolutions, linear layers, poolings in a row
    parameters: int | None = checked(integer(), default=None)  # None: not known
    # Sent when the DNN is cut after it; 0 becomes out_elements * 32.
    upload_bits: int = checked(integer(1), default=0)
    cut: bool = checked(flag, default=True)  # whether the DNN may be cut after it

    def __post_init__(self) -> None:
        if not self.upload_bits:
            object.__setattr__(self, "upload_bits", self.out_elements * BITS_AN_ELEMENT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exit:
    """An early exit, a head behind one of the layers."""

    after_layer: int = checked(integer(1))  # counted from 1, before the last one
    head_flop: float = checked(number())
    head_kernels: int = checked(integer(1), default=1)
    accuracy: float = checked(number(0.0, 1.0))  # share of right answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """The same chain of layers with fewer channels, trained anew."""

    width: float = checked(number(0.0, 1.0, above=True))  # share of the channels
    flop: tuple[float, ...] = checked(many(number(), 1))  # [L]
    out_elements: tuple[int, ...] = checked(many(integer(1), 1))  # [L]
    parameters: tuple[int, ...] = checked(many(integer(), 1))  # [L]
    head_flop: tuple[float, ...] = checked(many(number()))  # [E - 1]
    # [E], of the early exits, then of the whole.
    accuracy: tuple[float, ...] = checked(many(number(0.0, 1.0), 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Profile:
    name: str = checked(identifier)
    description: str = checked(text)
    # (dotted field, where its number comes from)
    source: tuple[tuple[str, str], ...] = checked(sources)
    path: str = dataclasses.field(default="", compare=False)  # of the file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dnn(_Profile):
    """A network as a chain of layers with early exits."""

    input_bits: int = checked(integer(1))
    full_accuracy: float = checked(number(0.0, 1.0))  # of the whole network, nothing quantised
    layers: tuple[Layer, ...] = checked(many(record(Layer), 1))  # [L]
    exits: tuple[Exit, ...] = checked(many(record(Exit)), default=())  # [E - 1], in order
    bits: tuple[int, ...] = checked(many(integer(1, 32), 1))  # [Q], of an element, rising
    # By falling width; `version` makes a Dnn of one.
    versions: tuple[Version, ...] = checked(many(record(Version)), default=())
    # Those of the network itself first, then those of its versions.
    samples: Samples | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What one DNN takes on a machine, as measured."""

    dnn: str  # its name
    layer_s: tuple[float, ...] = checked(many(number(above=True), 1))  # [L], seconds of each layer
    # [L], joules spent when cut after layers 1 to L; () if not known.
    energy_j: tuple[float, ...] = checked(many(number()), default=())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device(_Profile):
    """A machine that runs a layer in kernels * overhead_s + flop / peak_flops seconds, or as
    measured.
    """

    overhead_s: float = checked(number())  # seconds of every kernel
    peak_flops: float = checked(number(above=True))  # FLOP/s
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
    """

    rate_bps: float = checked(number(above=True))
    rtt_s: float = checked(number())  # round trip, seconds
    transmit_w: float = checked(number())
    transmit_j_per_bit: float = checked(number())
    trace: tuple[str, ...] = checked(
        many(text), default=()
    )  # names of recorded rates, not read here


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
    """The shipped device of that name, or that of the file at that path. Raises like `load_dnn`."""
    return _load_machine("device", name_or_path)


def load_server(name_or_path: str | Path) -> Server:
    """The shipped server of that name, or that of the file at that path. Raises like `load_dnn`."""
    return _load_machine("server", name_or_path)


def load_link(name_or_path: str | Path) -> Link:
    """The shipped link of that name, or that of the file at that path. Raises like `load_dnn`."""
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


def read_sensitivity() -> list[list[str]]:
    """Returns the table of `sensitivity.csv`, header first: who is best on the default scenario by
    factor on each of its assumed numbers.
    """
    with open(profiles_root() / "sensitivity.csv", newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def list_profiles() -> dict[str, tuple[str, ...]]:
    """Names of the shipped profiles by kind, sorted: {"dnn": ("alexnet", ...), "device": (...),
    ...}.
    """
    root = profiles_root()
    return {
        kind: tuple(sorted(path.stem for path in (root / kind).glob("*.toml")))
        for kind in _CLASS_OF
    }


def _load(kind: str, name_or_path: str | Path) -> tuple[Any, dict[str, Any], Place]:
    """(profile, its raw table, its place); the caller checks the sources and what only its kind
    has.
    """
    path = _resolve(kind, name_or_path)
    table, place = read_table(path, kind)
    profile = structure(_CLASS_OF[kind], table, place)
    return dataclasses.replace(profile, path=str(path)), table, place


def _resolve(kind: str, name_or_path: str | Path) -> Path:
    """The file of a shipped profile, or that at a path: a name with a separator or .toml."""
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
