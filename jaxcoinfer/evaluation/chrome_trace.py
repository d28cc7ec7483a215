"""Events of the Chrome trace format, which Perfetto opens: one track each for processor, radio and
server.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PROCESSOR, RADIO, SERVER = 1, 2, 3  # tracks
TRACKS = {PROCESSOR: "device: processor", RADIO: "device: radio", SERVER: "server: own work"}


def tracks(
    system: str, names: Mapping[int, str] = MappingProxyType(TRACKS)
) -> list[dict[str, Any]]:
    """Returns the events that name the system and its tracks."""
    events = [_named("process_name", 0, system)]
    for track, name in names.items():
        events += [_named("thread_name", track, name), _named("thread_sort_index", track, track)]
    return events


def slice_of(
    track: int, name: str, begin_us: float, end_us: float, numbers: dict[str, Any]
) -> dict[str, Any]:
    """Returns an event that lasts from begin to end; numbers: shown where it is selected."""
    begin, end = round(float(begin_us), 3), round(float(end_us), 3)
    return {
        "ph": "X",
        "pid": 1,
        "tid": track,
        "name": name,
        "ts": begin,
        "dur": round(end - begin, 3),
        "args": numbers,
    }


def _named(what: str, track: int, value: Any) -> dict[str, Any]:
    key = "sort_index" if what.endswith("sort_index") else "name"
    return {"ph": "M", "pid": 1, "tid": track, "name": what, "args": {key: value}}
