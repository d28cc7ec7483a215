"""What a profile must pass before it loads, and the one-line refusal when it does not.

A record is a frozen dataclass whose fields carry a check: `name: float = checked(number())`. A
check takes the value read from TOML and its `Place`, and returns the value to keep or refuses it.
Nothing is coerced: "3", true and 3.0 are not the integer 3. Only an integer written for a real
number is widened.
"""

import dataclasses
import difflib
import re
import reprlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

Check = Callable[[Any, "Place"], Any]

SOURCE_KINDS = ("cited:", "measured:", "computed:", "assumed:")
INT_LIMIT = 2**63 - 1  # what a NumPy integer holds
REAL_LIMIT = 1e300  # above it only infinity and mistakes


class ProfileError(ValueError):
    """A profile that cannot be used. One line: file, field, value, what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(
            "\\n".join(message.splitlines())
        )  # a quoted TOML key may hold a line break


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a value stands: a file and a dotted field in it (list indices count from 0)."""

    file: str
    field: str = ""

    def at(self, key: str) -> "Place":
        return Place(self.file, f"{self.field}.{key}" if self.field else key)

    def item(self, index: int) -> "Place":
        return Place(self.file, f"{self.field}[{index}]")

    def refuse(self, value: Any, allowed: str) -> NoReturn:
        raise ProfileError(
            f"{self.file}: {self.field or 'profile'} = {shown(value)} is refused; allowed: {allowed}"
        )


def shown(value: Any) -> str:
    """`value`, shortened."""
    return reprlib.repr(value)


def nearest(word: str, words: list[str]) -> str:
    """' (did you mean ...?)' for the closest of `words`, or nothing."""
    close = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def checked(check: Check, **options: Any) -> Any:
    """A dataclass field read from the file through `check`."""
    return dataclasses.field(metadata={"check": check}, **options)


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

    def check_all(value: Any, place: Place) -> tuple:
        if not isinstance(value, list) or len(value) < at_least:
            place.refuse(value, f"a list of {at_least} or more")
        return tuple(check(item, place.item(i)) for i, item in enumerate(value))

    return check_all


def record(cls: Any) -> Check:
    """A table with exactly the fields of the dataclass `cls`."""
    return lambda value, place: structure(cls, value, place)


def named_records(cls: Any) -> Check:
    """Tables under names, such as [measured.vgg11]; the name is given to `cls` as its `dnn`."""

    def check(value: Any, place: Place) -> tuple:
        require_table(value, place)
        return tuple(
            structure(cls, table, place.at(name), dnn=model(name, place.at(name)))
            for name, table in value.items()
        )

    return check


def require_table(value: Any, place: Place) -> None:
    """Refuses what is not a table."""
    if not isinstance(value, dict):
        place.refuse(value, "a table")


def structure(cls: Any, table: Any, place: Place, **known: Any) -> Any:
    """The record `cls` made of `table`; refuses unknown and missing fields."""
    require_table(table, place)
    spec = {f.name: f for f in dataclasses.fields(cls) if "check" in f.metadata}
    for key, value in table.items():
        if key not in spec:
            raise ProfileError(
                f"{place.file}: unknown field {place.at(key).field} = {shown(value)}; "
                f"allowed: {', '.join(spec)}{nearest(key, list(spec))}"
            )
    required = [key for key, field in spec.items() if field.default is dataclasses.MISSING]
    for key in required:
        if key not in table:
            raise ProfileError(
                f"{place.file}: missing field {place.at(key).field}; required: {', '.join(required)}"
            )
    values = {
        key: spec[key].metadata["check"](value, place.at(key)) for key, value in table.items()
    }
    return cls(**known, **values)


def table_of(value: Any) -> Any:
    """A record as the table its TOML file would hold: the inverse of `structure`, empty and absent
    fields left out.
    """
    if isinstance(value, tuple):
        return [table_of(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    table = {}
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if "check" not in field.metadata or inner is None or inner == ():
            continue
        check = field.metadata["check"]
        names = getattr(check, "process_of", {})
        if check is sources:
            table[field.name] = dict(inner)
        elif type(inner) in names:
            table[field.name] = {"process": names[type(inner)], **table_of(inner)}
        else:
            table[field.name] = table_of(inner)
    return table


def sources(value: Any, place: Place) -> tuple[tuple[str, str], ...]:
    """The [source] table as (field, text) pairs; each text begins with one of `SOURCE_KINDS` and
    goes on.
    """
    require_table(value, place)
    for key, said in value.items():
        kind = next((k for k in SOURCE_KINDS if isinstance(said, str) and said.startswith(k)), None)
        if kind is None or not said.removeprefix(kind).strip():
            allowed = f"a text that begins with {', '.join(SOURCE_KINDS)} and goes on"
            place.at(f'"{key}"').refuse(said, allowed)
    return tuple(value.items())


def check_sources(table: dict[str, Any], place: Place, extra: tuple[str, ...] = ()) -> None:
    """Every number in `table` (and every field in `extra`) has a source, and every source has a
    number.

    A source covers the field of its own name and all fields below it: "layers" covers
    "layers.flop".
    """
    said = set(table["source"])
    used = set()
    sourced = {key: value for key, value in table.items() if key != "source"}
    leaves = [*_numbers(sourced), *((field, "(array)") for field in extra)]
    for field, value in leaves:
        parts = field.split(".")
        covering = said.intersection(".".join(parts[:n]) for n in range(1, len(parts) + 1))
        if not covering:
            raise ProfileError(
                f"{place.file}: {field} = {shown(value)} has no source; allowed: in [source] a key "
                f'"{field}" or a parent of it, with a text that begins with {", ".join(SOURCE_KINDS)}'
            )
        used |= covering
    for key in sorted(said - used):
        names = ", ".join(sorted({field for field, _ in leaves}))
        place.at(f'source."{key}"').refuse(
            table["source"][key], f"a key that is a number here: {names}"
        )


def _numbers(value: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted field without indices, value) of every number in a TOML value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{field}.{key}" if field else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, field)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield field, value
