"""What a file must pass before it loads, and the one-line error when it does not.

A record is a frozen dataclass whose fields carry a check: `name: float = checked(number())`. A
check takes the value read from TOML and its `Place`, and returns the value to keep, or raises.
Nothing is coerced: "3", true and 3.0 are not the integer 3. Only an integer written for a real
number is widened.
"""

import dataclasses
import difflib
import re
import reprlib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

Check = Callable[[Any, "Place"], Any]

SOURCE_KINDS = ("cited:", "measured:", "computed:", "assumed:")
INT_LIMIT = 2**63 - 1  # what a NumPy integer holds
REAL_LIMIT = 1e300  # above it only infinity and mistakes


class ProfileError(ValueError):
    """A profile that cannot be used. One line: file, field, value, what is allowed."""

    def __init__(self, message: str) -> None:
        # A quoted TOML key may hold a line break.
        super().__init__("\\n".join(message.splitlines()))


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a value stands."""

    file: str
    field: str = ""  # dotted; list indices count from 0

    def at(self, key: str) -> "Place":
        """Returns the place of a field of the table here."""
        return Place(self.file, f"{self.field}.{key}" if self.field else key)

    def item(self, index: int) -> "Place":
        """Returns the place of an item of the list here."""
        return Place(self.file, f"{self.field}[{index}]")

    def refuse(self, value: Any, allowed: str) -> NoReturn:
        """Raises the ProfileError of a value that is not allowed here."""
        field = self.field or "profile"
        raise ProfileError(f"{self.file}: {field} = {shown(value)} is invalid; allowed: {allowed}")


def read_table(path: Path, kind: str) -> tuple[dict[str, Any], Place]:
    """Returns what a TOML file of that `kind` says, without its kind, and its place.

    Raises ProfileError when it cannot be read, or is of another kind.
    """
    place = Place(str(path))
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # not TOML, not UTF-8, or an integer of thousands of digits
        raise ProfileError(f"{path}: not valid TOML: {' '.join(str(error).split())}") from None
    if table.get("kind") != kind:
        place.at("kind").refuse(table.get("kind"), f"'{kind}' (load_{kind} reads no other)")
    del table["kind"]
    return table, place


def shown(value: Any) -> str:
    """`value`, shortened."""
    return reprlib.repr(value)


def nearest(word: str, words: list[str]) -> str:
    """' (did you mean ...?)' for the closest of `words`, or nothing."""
    close = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def checked(check: Check, *, formerly: str = "", **options: Any) -> Any:
    """A dataclass field read from the file through `check`.

    formerly: its name in the files of an earlier version, under which it is still read.
    """
    return dataclasses.field(metadata={"check": check, "formerly": formerly}, **options)


def number(low: float = 0.0, high: float = REAL_LIMIT, *, above: bool = False) -> Check:
    """A finite real number in [low, high], or in (low, high] with `above`."""
    up_to = f" and <= {high:g}" if high < REAL_LIMIT else ""
    allowed = f"a finite number {'>' if above else '>='} {low:g}{up_to}"

    def check(value: Any, place: Place) -> float:
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not real or not low <= value <= high or (above and value == low):
            place.refuse(value, allowed)
        return float(value)

    return check


def integer(low: int = 0, high: int = INT_LIMIT) -> Check:
    """An integer in [low, high]."""
    allowed = f"an integer >= {low}" + (f" and <= {high}" if high < INT_LIMIT else "")

    def check(value: Any, place: Place) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            place.refuse(value, allowed)
        return value

    return check


def text(value: Any, place: Place) -> str:
    """A string that is not blank."""
    if not isinstance(value, str) or not value.strip():
        place.refuse(value, "a string that is not empty")
    return value


def identifier(value: Any, place: Place) -> str:
    """A name that can be a file name and a part of a dotted field: letters, digits, '-' and '_'."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        place.refuse(value, "letters, digits, '-' and '_'")
    return value


def model(value: Any, place: Place) -> str:
    """A name, or one with the width of a version behind it: name@0.5."""
    name, _, width = value.partition("@") if isinstance(value, str) else ("", "", "")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or (
        width and not re.fullmatch(r"0?\.\d+|1", width)
    ):
        place.refuse(value, "the name of a network, or name@width")
    return value


def flag(value: Any, place: Place) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        place.refuse(value, "true or false")
    return value


def many(check: Check, at_least: int = 0) -> Check:
    """A list of at least `at_least` values that each pass `check`; becomes a tuple."""

    def check_all(value: Any, place: Place) -> tuple[Any, ...]:
        if not _is_list(value) or len(value) < at_least:
            place.refuse(value, f"a list of {at_least} or more")
        return tuple(check(item, place.item(i)) for i, item in enumerate(value))

    return check_all


def pair(check: Check, *, rising: bool = False) -> Check:
    """Two values that each pass `check`; with `rising` the second is no less than the first."""

    allowed = "a list of two numbers" + ", the lesser first" * rising

    def check_pair(value: Any, place: Place) -> tuple[Any, ...]:
        if not _is_list(value) or len(value) != 2:
            place.refuse(value, allowed)
        first, second = many(check)(value, place)
        if rising and first > second:
            place.refuse(value, allowed)
        return first, second

    return check_pair


def word(*allowed: str) -> Check:
    """One of some words."""

    def check(value: Any, place: Place) -> str:
        if value not in allowed:
            place.refuse(value, ", ".join(allowed) + nearest(str(value), list(allowed)))
        return value

    return check


def record(cls: Any) -> Check:
    """A table with exactly the fields of the dataclass `cls`."""
    return lambda value, place: structure(cls, value, place)


def named_records(cls: Any) -> Check:
    """Tables under names, such as [measured.vgg11]; the name is given to `cls` as its `dnn`."""

    def check(value: Any, place: Place) -> tuple[Any, ...]:
        return tuple(
            structure(cls, table, place.at(name), dnn=model(name, place.at(name)))
            for name, table in table_in(value, place).items()
        )

    return check


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A table whose `process` names which of some records it is."""

    records: Mapping[str, Any]  # name of the process -> class of its record

    def __call__(self, value: Any, place: Place) -> Any:
        table = table_in(value, place)
        process, names = table.get("process"), list(self.records)
        if process not in names:
            place.at("process").refuse(process, ", ".join(names) + nearest(str(process), names))
        rest = {key: inner for key, inner in table.items() if key != "process"}
        return structure(self.records[process], rest, place)

    def process_of(self, value: Any) -> str:
        """Returns the name of the process that a record is."""
        return next(name for name, cls in self.records.items() if type(value) is cls)


def table_in(value: Any, place: Place) -> dict[str, Any]:
    """Returns `value`, which must be a table."""
    if not _is_table(value):
        place.refuse(value, "a table")
    return value


# `isinstance` alone would leave it open to a type checker what is inside.
def _is_table(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_tuple(value: Any) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(value, tuple)


def structure(cls: Any, value: Any, place: Place, **known: Any) -> Any:
    """The record `cls` made of a table; unknown and missing fields are invalid."""
    spec = {f.name: f for f in dataclasses.fields(cls) if "check" in f.metadata}
    table = _renamed(spec, table_in(value, place))
    for key, value in table.items():
        if key not in spec:
            raise ProfileError(
                f"{place.file}: unknown field {place.at(key).field} = {shown(value)}; "
                f"allowed: {', '.join(spec)}{nearest(key, list(spec))}"
            )
    required = [key for key, field in spec.items() if field.default is dataclasses.MISSING]
    for key in required:
        if key not in table:
            field, names = place.at(key).field, ", ".join(required)
            raise ProfileError(f"{place.file}: missing field {field}; required: {names}")
    values = {
        key: spec[key].metadata["check"](value, place.at(key)) for key, value in table.items()
    }
    return cls(**known, **values)


def _renamed(spec: Mapping[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """`table` with the fields of files of an earlier version under the names they have now."""
    fields = [field for field in spec.values() if field.metadata["formerly"]]
    now = {field.metadata["formerly"]: field.name for field in fields}
    renamed = {key: now[key] for key in table if key in now and now[key] not in table}
    return {renamed.get(key, key): value for key, value in table.items()}


def table_of(value: Any) -> Any:
    """A record as the table its TOML file would hold: the inverse of `structure`. Optional fields
    that are empty are left out.
    """
    if _is_tuple(value):
        return [table_of(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    table: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        inner: Any = getattr(value, field.name)
        is_absent = field.default in (None, ()) and inner == field.default
        if "check" not in field.metadata or is_absent:
            continue
        check = field.metadata["check"]
        if check is sources:
            table[field.name] = dict(inner)
        elif isinstance(check, OneOf):
            table[field.name] = {"process": check.process_of(inner), **table_of(inner)}
        else:
            table[field.name] = table_of(inner)
    return table


def sources(value: Any, place: Place) -> tuple[tuple[str, str], ...]:
    """The [source] table as (field, text) pairs; each text begins with one of `SOURCE_KINDS` and
    goes on.
    """
    table = table_in(value, place)
    for key, source in table.items():
        words = source if isinstance(source, str) else ""
        kind = next((kind for kind in SOURCE_KINDS if words.startswith(kind)), None)
        if kind is None or not words.removeprefix(kind).strip():
            allowed = f"a text that begins with {', '.join(SOURCE_KINDS)} and goes on"
            place.at(f'"{key}"').refuse(source, allowed)
    return tuple(table.items())


def check_sources(table: dict[str, Any], place: Place, extra: tuple[str, ...] = ()) -> None:
    """Every number in `table` (and every field in `extra`) has a source, and every source has a
    number.

    A source covers the field of its own name and all fields below it: "layers" covers
    "layers.flop".
    """
    keys: set[str] = set(table["source"])
    used: set[str] = set()
    sourced = {key: value for key, value in table.items() if key != "source"}
    leaves = [*_numbers(sourced), *((field, "(array)") for field in extra)]
    for field, value in leaves:
        parts = field.split(".")
        covering = keys.intersection(".".join(parts[:n]) for n in range(1, len(parts) + 1))
        if not covering:
            raise ProfileError(
                f"{place.file}: {field} = {shown(value)} has no source; allowed: in [source] a key "
                f'"{field}" or a parent of it, with a text that begins with '
                f"{', '.join(SOURCE_KINDS)}"
            )
        used |= covering
    for key in sorted(keys - used):
        names = ", ".join(sorted({field for field, _ in leaves}))
        place.at(f'source."{key}"').refuse(
            table["source"][key], f"a key that is a number here: {names}"
        )


def _numbers(value: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted field without indices, value) of every number in a TOML value."""
    if _is_table(value):
        for key, inner in value.items():
            yield from _numbers(inner, f"{field}.{key}" if field else key)
    elif _is_list(value):
        for inner in value:
            yield from _numbers(inner, field)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield field, value
