"""Recorded traces: what is read, what is refused and in which words, and that no bit or request is
lost.
"""

import csv
import itertools
import math
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcoinfer.core import generators
from jaxcoinfer.core.generators import PARTS
from jaxcoinfer.data.processes import SPLITS, RecordedRate
from jaxcoinfer.data.profiles import profiles_root
from jaxcoinfer.data.traces import (
    ArrivalTrace,
    RateTrace,
    TraceError,
    arrival_counts,
    expand,
    observed_bits,
    of_rows,
    read_arrival_trace,
    read_rate_trace,
    shipped_traces,
    slot_bits,
    time_scale_for_rate,
)

FOLDER = profiles_root() / "traces"
LINKS = tuple(name for name in shipped_traces() if name.startswith("wifi"))
ARRIVALS = tuple(name for name in shipped_traces() if not name.startswith("wifi"))
RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data"
LINK_AND_SLOT = {
    "mbps": st.lists(st.floats(0, 1e3), min_size=2, max_size=30),
    "step_s": st.floats(0.01, 10),
    "slots_per_trace": st.floats(1, 500),
    "start_share": st.floats(0, 0.99),
}


def write(folder, text, name="mine.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rate_trace(step_s, mbps):
    return RateTrace("made", step_s, 1e6 * np.asarray(mbps, np.float64))


# Shipped files


def test_59_links_and_three_arrivals_ship_with_their_licences():
    assert (len(LINKS), len(ARRIVALS)) == (59, 3)
    text = (FOLDER / "LICENSES.md").read_text(encoding="utf-8")
    for needed in (
        "Copyright (c) 2023 Gerui Lv",
        "creativecommons.org/licenses/by/4.0",
        "Splitwise",
        "Apache-2.0",
    ):
        assert needed in text
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 1_000_000


@pytest.mark.parametrize("name", LINKS)
def test_shipped_link_reads_and_its_row_in_the_licence_table_is_true(name):
    trace = read_rate_trace(name)
    assert (trace.name, trace.step_s, trace.duration_s) == (name, 1.0, 199.0)
    table = (FOLDER / "LICENSES.md").read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in table if line.startswith(f"| `{name}`")]
    mbps = trace.rate_bps / 1e6
    averages = mbps[:195].reshape(39, 5).mean(axis=1)
    expected = [mbps.mean(), *np.percentile(mbps, [5, 50, 95]), 100 * np.mean(mbps < 0.01)]
    cells = [float(cell.strip(" %")) for cell in row.split("|")[2:-1]]
    np.testing.assert_allclose(cells[:5], expected, atol=0.0501)
    assert cells[5] == pytest.approx(100 * averages.std() / averages.mean(), abs=0.501)


@pytest.mark.parametrize(
    ("name", "requests", "duration_s", "requests_per_s"),
    [
        ("azure_llm_code_2023", 8_819, 3_436, 2.57),
        ("azure_llm_conv_2023", 19_366, 3_502, 5.53),
        ("mooncake_conversation_counts", 12_031, 3_540, 3.40),
    ],
)
def test_shipped_arrivals_have_the_stated_size(name, requests, duration_s, requests_per_s):
    trace = read_arrival_trace(name)
    assert len(trace.time_s) == requests
    assert trace.duration_s == pytest.approx(duration_s, abs=0.5)
    assert trace.requests_per_s == pytest.approx(requests_per_s, abs=0.005)
    assert np.all(np.diff(trace.time_s) >= 0)
    assert 0 <= trace.time_s[0] <= trace.time_s[-1] < trace.duration_s


def test_every_recorded_trace_of_the_full_set_reads():
    if not (RECORDED / "traces" / "manifest.csv").is_file():
        pytest.skip("the full set of recorded traces (../shared/data) is not beside this checkout")
    with open(RECORDED / "traces" / "manifest.csv", newline="", encoding="utf-8") as stream:
        manifest = list(csv.DictReader(stream))
    assert len(manifest) == len(list((RECORDED / "traces").glob("*.csv"))) - 1
    for row in manifest:
        trace = read_rate_trace(RECORDED / "traces" / row["file"])
        assert len(trace.rate_bps) == int(row["samples"]), row["file"]
        assert trace.step_s == pytest.approx(float(row["step_s"])), row["file"]
        assert trace.rate_bps.mean() / 1e6 == pytest.approx(float(row["mean_mbps"]), abs=1e-3), row[
            "file"
        ]
    for file in (RECORDED / "arrivals").glob("*.csv"):
        assert len(read_arrival_trace(file).time_s) > 1_000, file.name


@pytest.mark.parametrize("name", LINKS + ARRIVALS)
def test_shipped_copy_holds_the_recorded_numbers(name):
    original = RECORDED / ("traces" if name in LINKS else "arrivals") / f"{name}.csv"
    if not original.is_file():
        pytest.skip("the full set of recorded traces (../shared/data) is not beside this checkout")
    if name in LINKS:
        np.testing.assert_array_equal(
            read_rate_trace(name).rate_bps, read_rate_trace(original).rate_bps
        )
    else:
        np.testing.assert_array_equal(
            read_arrival_trace(name).time_s, read_arrival_trace(original).time_s
        )


# Reading


def test_rate_in_bits_a_second_starting_anywhere_with_other_columns(tmp_path):
    text = (
        "\ufeffnote, time_s ,rate_bps\nx,1700000000.0,5e6\ny,1700000000.1,0\n\nz,1700000000.2,7e6\n"
    )
    trace = read_rate_trace(write(tmp_path, text))
    assert (trace.name, trace.rate_bps.dtype) == ("mine", np.float64)
    assert trace.step_s == pytest.approx(0.1, rel=1e-5)
    np.testing.assert_array_equal(trace.rate_bps, [5e6, 0, 7e6])


def test_string_path_and_path_object_and_suffix_name_the_same_file(tmp_path, monkeypatch):
    write(tmp_path, "time_s,mbps\n0,1\n1,2\n")
    monkeypatch.chdir(tmp_path)
    for path in ("./mine.csv", Path("mine.csv"), str(tmp_path / "mine.csv")):
        np.testing.assert_array_equal(read_rate_trace(path).rate_bps, [1e6, 2e6])
    assert read_rate_trace(f"{LINKS[0]}.csv").name == LINKS[0]


def test_instants_count_from_the_first_and_may_repeat(tmp_path):
    trace = read_arrival_trace(write(tmp_path, "time_s,tokens\n5,a\n5,b\n6,c\n8,d\n"))
    np.testing.assert_array_equal(trace.time_s, [0, 0, 1, 3])
    assert trace.duration_s == 4.0  # 3 s from first to last over 3 gaps: mean gap 1 s, so 3 + 1
    assert trace.requests_per_s == 1.0  # 4 requests in 4 s


def test_counts_are_spread_evenly_inside_their_interval(tmp_path):
    trace = read_arrival_trace(write(tmp_path, "time_s,count\n9,2\n11,0\n13,3\n"))
    # Intervals of 2 s: 2 requests at (0 + 1/4) 2 and (0 + 3/4) 2; 3 at (2 + 1/6) 2, (2 + 3/6) 2, (2
    # + 5/6) 2.
    np.testing.assert_allclose(trace.time_s, [0.5, 1.5, 4 + 1 / 3, 5.0, 5 + 2 / 3])
    assert trace.duration_s == 6.0


# Refusals: one line that names file, line, field, value, and what is allowed

RATE_REFUSALS = {
    "empty file": ("", ["line 1", "field header", "empty file", "time_s and mbps or rate_bps"]),
    "no header": (
        "0,5\n1,6\n",
        ["line 1", "'0,5'", "does not name time_s", "a header with time_s"],
    ),
    "missing time": ("t,mbps\n0,5\n1,6\n", ["line 1", "'t,mbps'", "does not name time_s"]),
    "missing rate": (
        "time_s,speed\n0,5\n1,6\n",
        ["line 1", "'time_s,speed'", "does not name mbps or rate_bps"],
    ),
    "two rates": ("time_s,mbps,rate_bps\n0,5,5\n1,6,6\n", ["mbps or rate_bps exactly once"]),
    "header only": ("time_s,mbps\n", ["line 1", "field rows", "value 0", "2 or more"]),
    "one row": ("time_s,mbps\n0,5\n", ["line 2", "field rows", "value 1", "2 or more"]),
    "word": (
        "time_s,mbps\n0,5\n1,fast\n2,6\n",
        ["line 3", "field mbps", "'fast'", "from 0 to 1e+06"],
    ),
    "no cell": ("time_s,mbps\n0,5\n1,\n", ["line 3", "field mbps", "value ''", "finite numbers"]),
    "nan": ("time_s,mbps\n0,nan\n1,6\n", ["line 2", "field mbps", "'nan'", "finite numbers"]),
    "infinite": (
        "time_s,rate_bps\n0,1\n1,inf\n",
        ["line 3", "field rate_bps", "'inf'", "finite", "1e+12"],
    ),
    "infinite time": ("time_s,mbps\n0,1\ninf,2\n", ["line 3", "field time_s", "'inf'", "finite"]),
    "negative": ("time_s,mbps\n0,5\n1,-0.5\n", ["line 3", "field mbps", "'-0.5'", "from 0"]),
    "bit/s as Mbit/s": ("time_s,mbps\n0,5\n1,7000000\n", ["line 3", "'7000000'", "to 1e+06"]),
    "milliseconds": ("time_s,mbps\n0,5\n1700000000000,6\n", ["line 3", "field time_s", "to 1e+11"]),
    "decreasing": (
        "time_s,mbps\n0,5\n1,6\n0.5,6\n",
        ["line 4", "field time_s", "'0.5'", "not after"],
    ),
    "repeated": ("time_s,mbps\n0,5\n1,6\n\n1,6\n", ["line 5", "field time_s", "'1'", "increase"]),
    "gap": (
        "time_s,mbps\n0,5\n1,6\n2,6\n6,6\n7,1\n",
        [
            "line 5",
            "field time_s",
            "'6'",
            "leaves a gap",
            "expected 1 s",
            "found 4 s",
            "one step throughout",
        ],
    ),
    "early": (
        "time_s,mbps\n0,5\n1,6\n1.5,6\n2.5,6\n",
        ["line 4", "comes early", "expected 1 s", "found 0.5 s"],
    ),
    "odd first step": (
        "time_s,mbps\n0,5\n4,6\n5,6\n6,6\n",
        ["line 3", "expected 1 s", "found 4 s"],
    ),
    "decimal comma": ("time_s,mbps\n0,5\n1,6,5\n", ["line 3", "field row", "'1,6,5'", "2 cells"]),
    "long value": ("time_s,mbps\n0,5\n1," + "x" * 500 + "\n", ["line 3", "xxx...", "finite"]),
    "newline in a value": ('time_s,mbps\n0,5\n1,"a\nb"\n', ["'a\\nb'", "field mbps"]),
}
ARRIVAL_REFUSALS = {
    "empty file": ("", ["line 1", "field header", "empty file", "a header with time_s"]),
    "no header": ("0\n1\n", ["line 1", "'0'", "does not name time_s exactly once"]),
    "one row": ("time_s\n0\n", ["line 2", "field rows", "value 1", "2 or more"]),
    "word": ("time_s\n0\nsoon\n", ["line 3", "field time_s", "'soon'", "finite numbers"]),
    "nan": ("time_s\n0\nnan\n", ["line 3", "field time_s", "'nan'", "finite numbers"]),
    "decreasing": (
        "time_s\n0\n3\n2.5\n",
        ["line 4", "field time_s", "'2.5'", "before the row above", "sorted"],
    ),
    "no length": (
        "time_s\n7\n7\n",
        ["field time_s", "'7'", "is that of every row", "times that differ"],
    ),
    "negative count": ("time_s,count\n0,1\n1,-2\n", ["line 3", "field count", "'-2'", "from 0"]),
    "fractional count": (
        "time_s,count\n0,1\n1,2.5\n",
        ["line 3", "field count", "'2.5'", "whole numbers"],
    ),
    "infinite count": (
        "time_s,count\n0,inf\n1,2\n",
        ["line 2", "field count", "'inf'", "finite numbers"],
    ),
    "gap in counts": (
        "time_s,count\n0,1\n1,2\n3,1\n",
        ["line 4", "leaves a gap", "expected 1 s", "found 2 s"],
    ),
    "repeated interval": ("time_s,count\n0,1\n0,2\n1,1\n", ["line 3", "field time_s", "not after"]),
    "a link": ("time_s,mbps\n0,1\n1,2\n", ["line 1", "'time_s,mbps'", "belongs to a link"]),
}


def assert_refused(read, path, parts):
    with pytest.raises(TraceError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    for part in [str(path), "field ", "value ", "allowed: ", *parts]:
        assert part in message


@pytest.mark.parametrize("case", RATE_REFUSALS)
def test_bad_rate_file_is_refused_with_its_place(tmp_path, case):
    text, parts = RATE_REFUSALS[case]
    assert_refused(read_rate_trace, write(tmp_path, text), parts)


@pytest.mark.parametrize("case", ARRIVAL_REFUSALS)
def test_bad_arrival_file_is_refused_with_its_place(tmp_path, case):
    text, parts = ARRIVAL_REFUSALS[case]
    assert_refused(read_arrival_trace, write(tmp_path, text), parts)


@pytest.mark.parametrize("read", [read_rate_trace, read_arrival_trace])
def test_missing_file_is_refused_with_the_nearest_shipped_names(tmp_path, read):
    nearest = "wifi_ul_static_cafe_231115-151422"
    assert_refused(read, "wifi_ul_static_cafe_15142", ["is no shipped trace", "./my.csv", nearest])
    assert_refused(
        read, tmp_path / "wifi_cafe.csv", ["is no file", "nearest: ", "wifi_ul_static_cafe"]
    )
    assert_refused(read, str(tmp_path / "azure.csv"), ["is no file", "azure_llm_co"])


def test_what_is_no_text_file_is_refused(tmp_path):
    zipped = tmp_path / "trace.csv"
    zipped.write_bytes(b"\x1f\x8b\x08\x00\xff\xfe")
    assert_refused(
        read_rate_trace, zipped, ["field file", "UnicodeDecodeError", "a CSV file in UTF-8"]
    )
    assert_refused(read_rate_trace, tmp_path, ["field file", "a CSV file in UTF-8"])


# Names


def test_a_pattern_stands_for_the_shipped_traces_that_fit_it_sorted():
    cafes = tuple(name for name in LINKS if "_cafe_" in name)
    assert len(cafes) == 15 and cafes == tuple(sorted(cafes))
    assert expand(["wifi_ul_static_cafe_*"]) == cafes
    assert expand(["wifi_ul_static_cafe_*.csv"]) == cafes  # the ending may be there
    assert expand(["wifi_ul_static_cafe_231115-15142?"]) == cafes[:1]
    assert expand(["wifi_ul_static_cafe_231115-15[1-2]*"]) == tuple(
        name for name in cafes if name[-6:-3] in ("151", "152")
    )
    assert set(expand(["*"])) == set(shipped_traces())


def test_names_keep_their_order_and_each_stands_once(tmp_path):
    # Names and paths as they are given, also where there is no such file: the reader says so.
    first, last = LINKS[0], LINKS[-1]
    assert expand([last, "./mine.csv", first, last]) == (last, "./mine.csv", first)
    # What a pattern adds stands where the pattern does, but for what has been named before it.
    cafes = expand(["wifi_ul_static_cafe_*"])
    found = expand([cafes[3], "wifi_ul_static_cafe_*", cafes[5], last, "*_cafe_*"])
    assert found == (cafes[3], *cafes[:3], *cafes[4:], last)
    assert expand([]) == ()


def test_a_pattern_with_a_folder_stands_for_files(tmp_path, monkeypatch):
    for name in ("b.csv", "a.csv", "other.txt"):
        write(tmp_path, "time_s,mbps\n0,1\n1,2\n", name)
    monkeypatch.chdir(tmp_path)
    assert expand(["./*.csv"]) == ("./a.csv", "./b.csv")
    assert expand([f"{tmp_path}/*.csv"]) == (f"{tmp_path}/a.csv", f"{tmp_path}/b.csv")
    for path in expand(["./*.csv"]):  # what it stands for can be read
        np.testing.assert_array_equal(read_rate_trace(path).rate_bps, [1e6, 2e6])


def test_a_pattern_that_fits_nothing_is_refused(tmp_path):
    def expanded(name):
        return expand([LINKS[0], str(name)])

    parts = ["field pattern", "fits no shipped trace", "one that fits a trace"]
    assert_refused(expanded, "wifi_dl_*", parts)
    assert_refused(expanded, tmp_path / "*.csv", ["field pattern", "fits no file"])


def test_rows_take_the_traces_in_turn():
    cafes = expand(["wifi_ul_static_cafe_*"])
    assert of_rows(["wifi_ul_static_cafe_*"], 32) == cafes * 2 + cafes[:2]
    assert of_rows(["b", "a", "b"], 3) == ("b", "a", "b")
    assert of_rows(["b", "a"], 0) == ()
    # Fewer rows than traces: the first ones.
    assert of_rows(["wifi_ul_static_cafe_*", "b"], 2) == cafes[:2]


LINK = rate_trace(1.0, [10, 20])
REQUESTS = ArrivalTrace("made", np.array([0.0, 1.0]), 2.0)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: slot_bits(LINK, 0.0, 1), ["field slot_s", "value 0.0", "above 0"]),
        (lambda: slot_bits(LINK, math.nan, 1), ["field slot_s", "value nan", "above 0"]),
        (lambda: slot_bits(LINK, 0.4, 0), ["field n_slots", "value 0", "1 to 5"]),
        (lambda: slot_bits(LINK, 0.4, 2.5), ["field n_slots", "value 2.5", "1 to 5"]),
        (
            lambda: slot_bits(LINK, 0.4, 6),
            ["field n_slots", "value 6", "1 to 5, the slots of 0.4 s that fit"],
        ),
        (
            lambda: slot_bits(LINK, 0.4, 4, start_s=0.8),
            ["value 4", "1 to 3", "between 0.8 and 2 s"],
        ),
        (
            lambda: slot_bits(LINK, 0.4, 1, start_s=-0.1),
            ["field start_s", "value -0.1", "0 to below 2 s"],
        ),
        (
            lambda: slot_bits(LINK, 0.4, 1, start_s=2.0),
            ["field start_s", "value 2.0", "0 to below 2 s"],
        ),
        (
            lambda: observed_bits(LINK, 0.4, 2, start_s=0.9),
            ["field start_s", "value 0.9", "before any step is over", "1 s, a step", "or later"],
        ),
        (
            lambda: observed_bits(LINK, 0.4, 3, start_s=1.0),
            ["field n_slots", "value 3", "1 to 2", "between 1 and 2 s"],
        ),
        (
            lambda: observed_bits(LINK, 0.4, 1, start_s=2.0),
            ["field start_s", "value 2.0", "0 to below 2 s"],
        ),
        (lambda: arrival_counts(REQUESTS, 0.4, 6), ["field n_slots", "value 6", "1 to 5"]),
        (lambda: REQUESTS.part(0.6, 0.9), ["field requests", "value 0", "from 1.2 to 1.8 s"]),
        (
            lambda: arrival_counts(REQUESTS, 0.4, 11, time_scale=2.0),
            ["value 11", "1 to 10", "and 4 s"],
        ),
        (
            lambda: arrival_counts(REQUESTS, 0.4, 1, time_scale=-1.0),
            ["field time_scale", "value -1.0"],
        ),
        (
            lambda: time_scale_for_rate(REQUESTS, math.inf),
            ["field requests_per_s", "value inf", "finite"],
        ),
    ],
)
def test_slots_that_do_not_fit_are_refused(call, parts):
    assert_refused(lambda _: call(), "made", parts)


# Slots


def test_slot_bits_by_hand():
    # 10 Mbit/s for 1 s, then 20 Mbit/s for 1 s; slots of 0.4 s end at 0.4, 0.8, 1.2, 1.6, 2.0 s.
    # 0.0-0.4: 0.4 x 10 = 4 Mbit; 0.4-0.8: the same; 0.8-1.2: 0.2 x 10 + 0.2 x 20 = 6 Mbit;
    # 1.2-1.6: 0.4 x 20 = 8 Mbit; 1.6-2.0: the same. Sum 30 Mbit = 10 + 20.
    bits = slot_bits(LINK, 0.4, 5)
    assert bits.dtype == np.int64
    np.testing.assert_array_equal(bits, [4_000_000, 4_000_000, 6_000_000, 8_000_000, 8_000_000])
    # From 0.9 s: 0.9-1.3 is 0.1 x 10 + 0.3 x 20 = 7 Mbit; 1.3-1.7 is 8 Mbit.
    np.testing.assert_array_equal(slot_bits(LINK, 0.4, 2, start_s=0.9), [7_000_000, 8_000_000])


def test_observed_bits_by_hand():
    # 10, 20, 40 Mbit/s, a second each; slots of 0.4 s begin at 1.0, 1.4, 1.8, 2.2, 2.6 s. Up to
    # 2 s the last step that is over is the first: 0.4 x 10 = 4 Mbit a slot; then 0.4 x 20 = 8.
    trace = rate_trace(1.0, [10, 20, 40])
    bits = observed_bits(trace, 0.4, 5, 1.0)
    assert bits.dtype == np.int64
    np.testing.assert_array_equal(bits, [4_000_000, 4_000_000, 4_000_000, 8_000_000, 8_000_000])
    # A step that ends as the slot begins is over: slots begin at 1.5, 2.0 and 2.5 s.
    np.testing.assert_array_equal(
        observed_bits(trace, 0.5, 3, 1.5), [5_000_000, 10_000_000, 10_000_000]
    )
    # Steps of 0.1 s have no exact float, 3 x 0.1 > 0.3: slot k still observes step k.
    fine = rate_trace(0.1, np.arange(1, 102))
    np.testing.assert_array_equal(observed_bits(fine, 0.1, 100, 0.1), 100_000 * np.arange(1, 101))
    # Whole bits: 2.5 bit/s in slots of 1 s are rounded, to even.
    np.testing.assert_array_equal(
        observed_bits(RateTrace("slow", 1.0, np.array([2.5, 3.7, 0.0])), 1.0, 2, 1.0), [2, 4]
    )


@settings(deadline=None, max_examples=200)
@given(
    **LINK_AND_SLOT,
    moment=st.floats(0, 1),
)
def test_what_is_observed_says_nothing_of_the_present_step_or_later(
    mbps, step_s, slots_per_trace, start_share, moment
):
    trace = rate_trace(step_s, mbps)
    start_s = step_s + start_share * (trace.duration_s - step_s)
    slot_s, n_slots = (trace.duration_s - start_s) / slots_per_trace, int(slots_per_trace)
    bits = observed_bits(trace, slot_s, n_slots, start_s)
    slot = min(int(moment * n_slots), n_slots - 1)
    present = int((start_s + slot * slot_s) / step_s + 1e-6)
    rate_bps = trace.rate_bps.copy()
    rate_bps[present:] = rate_bps[present:] * 3 + 1e6
    changed = observed_bits(RateTrace("changed", step_s, rate_bps), slot_s, n_slots, start_s)
    np.testing.assert_array_equal(changed[: slot + 1], bits[: slot + 1])
    # What it is: the mean of the step before.
    assert bits[slot] == round(trace.rate_bps[present - 1] * slot_s)


def test_a_part_of_an_arrival_log_by_hand():
    # Ten seconds, from .2 to .6 of it: 2 s is in it, 6 s is not; time counts from 2 s.
    log = ArrivalTrace("made", np.array([0.0, 1.9, 2.0, 3.5, 5.9, 6.0, 9.0]), 10.0)
    part = log.part(0.2, 0.6)
    assert (part.name, part.duration_s) == ("made", 4.0)
    np.testing.assert_allclose(part.time_s, [0.0, 1.5, 3.9])
    whole = log.part(0.0, 1.0)
    assert whole.duration_s == log.duration_s
    np.testing.assert_array_equal(whole.time_s, log.time_s)


@pytest.mark.parametrize("name", ARRIVALS)
def test_parts_of_a_shipped_log_make_the_whole(name):
    log = read_arrival_trace(name)
    edges = [0.0, 0.5, 0.7, 1.0]
    parts = [log.part(*ends) for ends in itertools.pairwise(edges)]
    assert sum(part.duration_s for part in parts) == pytest.approx(log.duration_s)
    joined = [
        part.time_s + share * log.duration_s for part, share in zip(parts, edges[:-1], strict=True)
    ]
    np.testing.assert_allclose(np.concatenate(joined), log.time_s, atol=1e-6)


def test_fractions_of_bits_are_carried_not_dropped():
    # 10 bit/s in slots of 0.25 s: 2.5 bits a slot; 2.5, 5, 7.5, 10 carried after each, whole 2, 5,
    # 7, 10.
    trace = RateTrace("slow", 1.0, np.array([10.0, 10.0]))
    np.testing.assert_array_equal(slot_bits(trace, 0.25, 4), [2, 3, 2, 3])


def test_float_noise_takes_no_bit():
    # 7.97 Mbit/s in slots of 0.01 s: 79,700 bits in every one, although 0.01 s has no exact float.
    np.testing.assert_array_equal(slot_bits(rate_trace(1.0, [7.97] * 199), 0.01, 19_900), 79_700)


def test_an_outage_carries_nothing():
    np.testing.assert_array_equal(slot_bits(rate_trace(1.0, [1, 0, 1]), 0.5, 6)[2:4], [0, 0])


def test_arrival_counts_by_hand():
    # Slots of 0.1 s: 0 and 0.05 in slot 0; 0.1 is on an edge, so in slot 1; 0.3 in slot 3, though
    # in floats 3 x 0.1 > 0.3; slots 2 and 4 are empty.
    trace = ArrivalTrace("made", np.array([0.0, 0.05, 0.1, 0.3]), 0.5)
    counts = arrival_counts(trace, 0.1, 5)
    assert counts.dtype == np.int32
    np.testing.assert_array_equal(counts, [2, 1, 0, 1, 0])
    # Twice as slow: 0, 0.1, 0.2, 0.6. From 0.2 s on: 0.2 in the first slot, 0.6 in the fifth.
    np.testing.assert_array_equal(
        arrival_counts(trace, 0.1, 8, 0.2, time_scale=2.0), [1, 0, 0, 0, 1, 0, 0, 0]
    )


@pytest.mark.parametrize("name", ARRIVALS)
def test_time_scale_gives_the_wanted_rate(name):
    trace = read_arrival_trace(name)
    scale = time_scale_for_rate(trace, 3.0)
    n_slots = int(trace.duration_s * scale / 0.01)
    assert arrival_counts(trace, 0.01, n_slots, time_scale=scale).mean() / 0.01 == pytest.approx(
        3.0, rel=1e-3
    )


@settings(deadline=None, max_examples=200)
@given(
    **LINK_AND_SLOT,
)
def test_no_bit_is_lost_whatever_the_slot(mbps, step_s, slots_per_trace, start_share):
    trace = rate_trace(step_s, mbps)
    start_s, slot_s = (
        start_share * trace.duration_s,
        trace.duration_s * (1 - start_share) / slots_per_trace,
    )
    n_slots = int(slots_per_trace)
    bits = slot_bits(trace, slot_s, n_slots, start_s)
    assert bits.shape == (n_slots,) and np.all(bits >= 0)

    def carried_bits(end_s):  # every step's rate times its overlap with the window
        overlaps_s = [
            max(min((i + 1) * step_s, end_s) - max(i * step_s, start_s), 0.0)
            for i in range(len(mbps))
        ]
        return math.fsum(
            1e6 * rate * overlap_s for rate, overlap_s in zip(mbps, overlaps_s, strict=True)
        )

    for k in {1, n_slots // 2 or 1, n_slots}:
        expected = carried_bits(start_s + k * slot_s)
        # A whole number below, and by less than 1 bit; floats may put a bit on either side of an
        # edge.
        assert -0.01 - 1e-12 * expected <= expected - bits[:k].sum() < 1.01 + 1e-12 * expected


@settings(deadline=None, max_examples=200)
@given(
    gaps_s=st.lists(st.floats(0, 5), min_size=1, max_size=40).filter(lambda gaps: sum(gaps) > 1e-3),
    n_slots=st.integers(1, 200),
    time_scale=st.floats(0.01, 100),
)
def test_no_request_is_lost_whatever_the_slot(tmp_path_factory, gaps_s, n_slots, time_scale):
    times_s = np.concatenate([[3.0], 3.0 + np.cumsum(gaps_s)])
    path = tmp_path_factory.mktemp("arrivals") / "a.csv"
    path.write_text("time_s\n" + "".join(f"{float(time)!r}\n" for time in times_s))
    trace = read_arrival_trace(path)
    slot_s = time_scale * trace.duration_s / n_slots
    counts = arrival_counts(trace, slot_s, n_slots, time_scale=time_scale)
    assert counts.sum() == len(times_s)
    split = n_slots // 2
    if split:
        tail = arrival_counts(trace, slot_s, n_slots - split, split * slot_s, time_scale)
        np.testing.assert_array_equal(tail, counts[split:])


@settings(deadline=None, max_examples=100)
@given(
    counts=st.lists(st.integers(0, 50), min_size=2, max_size=30).filter(any),
    step_s=st.floats(0.01, 100),
)
def test_counts_come_back_when_a_slot_is_an_interval(tmp_path_factory, counts, step_s):
    path = tmp_path_factory.mktemp("counts") / "c.csv"
    path.write_text(
        "time_s,count\n" + "".join(f"{i * step_s!r},{c}\n" for i, c in enumerate(counts))
    )
    trace = read_arrival_trace(path)
    np.testing.assert_array_equal(arrival_counts(trace, step_s, len(counts)), counts)


# Splits


def log_of(folder, counts):
    path = folder / "log.csv"
    path.write_text("time_s,count\n" + "".join(f"{i},{c}\n" for i, c in enumerate(counts)))
    return path


@pytest.mark.parametrize("split", SPLITS)
def test_windows_of_a_split_lie_in_its_share_of_the_log(split, tmp_path):
    """What lies outside the share does not matter, all that lies inside does; and the shares of two
    splits have nothing in common. So no window of one overlaps a window of another.
    """
    begin, end = (round(1000 * share) for share in PARTS[split])
    counts = np.random.default_rng(0).integers(0, 20, 1000)
    counts[[begin, end - 1]] = 7
    mean = counts[begin:end].mean() / 10  # slots of a tenth of a second: time is not rescaled
    key, shape = jax.random.key(3), (300, 400)

    def drawn():
        return np.asarray(generators.recorded_counts(key, shape, 0.1, str(path), mean, split))

    path = log_of(tmp_path, counts)
    rows = drawn()
    assert rows.shape == shape and rows.dtype == np.int32
    assert rows.mean() / mean == pytest.approx(1.0, abs=0.05)
    outside = np.r_[:begin, end:1000]
    other = counts.copy()
    other[outside] = 20 - counts[outside]
    path = log_of(tmp_path, other)
    np.testing.assert_array_equal(drawn(), rows)
    met = np.zeros(10, bool)
    for tenth, seconds in enumerate(np.array_split(np.arange(begin, end), 10)):
        other = counts.copy()
        other[seconds] = np.roll(counts[seconds], 1)
        path = log_of(tmp_path, other)
        met[tenth] = (drawn() != rows).any()
    assert met.all()  # the rows see all of the share


def test_shares_of_a_log_do_not_overlap_and_are_all_of_it():
    assert set(PARTS) == set(SPLITS)
    ends = [end for split in SPLITS for end in PARTS[split]]
    assert ends[0] == 0.0 and ends[-1] == 1.0
    assert ends == sorted(ends) and ends[1:-1:2] == ends[2:-1:2]


def test_a_window_longer_than_its_share_is_refused(tmp_path):
    path = log_of(tmp_path, [5] * 1000)  # the share of validation are 200 s
    draw = partial(generators.recorded_counts, jax.random.key(0), slot_s=1.0, file=str(path))
    assert draw(shape=(2, 200), mean=5.0, split="validation").sum() == 2 * 1000
    with pytest.raises(TraceError, match=r"field n_slots: value 201 is out of range; .*1 to 200"):
        draw(shape=(2, 201), mean=5.0, split="validation")
    assert draw(shape=(2, 201), mean=5.0, split="train").shape == (2, 201)


def test_links_are_scaled_and_observed_after_their_first_step(tmp_path):
    """Each row is a window of its link, of a rate that varies where it is for learning; what is
    observed lags behind by a step.
    """
    for name, mbps in (("low", 1.0), ("high", 3.0)):
        write(
            tmp_path, "time_s,mbps\n" + "".join(f"{i},{mbps}\n" for i in range(40)), f"{name}.csv"
        )
    low, high = f"{tmp_path}/low.csv", f"{tmp_path}/high.csv"
    rate = RecordedRate((low, high), (high,), share=0.5, validation=(low,), vary=4.0)
    key = jax.random.key(1)
    for split, mbps in (("validation", 1.0), ("test", 3.0)):
        link = generators.link(key, (3, 20), rate, 0.1, split)
        np.testing.assert_array_equal(link.bits, np.full((3, 20), round(mbps * 1e6 * 0.5 * 0.1)))
        np.testing.assert_array_equal(link.observed_bits, link.bits)
    link = generators.link(key, (400, 20), rate, 0.1, "train")
    factors = np.asarray(link.bits[:, 0]) / (np.tile([1.0, 3.0], 200) * 1e6 * 0.5 * 0.1)
    assert 0.25 <= factors.min() < 0.27 and 3.7 < factors.max() <= 4.0
    # Log-uniform: as many links are slower as are faster, and half lie within a factor of two.
    assert np.mean(factors < 1) == pytest.approx(0.5, abs=0.08)
    assert np.mean(np.abs(np.log2(factors)) < 1) == pytest.approx(0.5, abs=0.08)
    # A rate that is the number of the step: observed is one less than what the link carries.
    write(tmp_path, "time_s,mbps\n" + "".join(f"{i},{i + 1}\n" for i in range(40)), "ramp.csv")
    ramp = RecordedRate((f"{tmp_path}/ramp.csv",), (f"{tmp_path}/ramp.csv",))
    link = generators.link(key, (50, 380), ramp, 0.1, "test")
    mbps, observed = np.asarray(link.bits) / 1e5, np.asarray(link.observed_bits) / 1e5
    assert observed.min() == 1.0 and mbps.min() < 2.5  # some rows begin right after the first step
    np.testing.assert_array_equal(observed, np.floor(observed))
    assert (mbps - observed > 0.999).all() and (mbps - observed < 2.001).all()
