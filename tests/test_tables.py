"""The tables of README.md and docs/ are what the results say."""

import re

import pytest

from benchmarks import curves, tables

TEXT = "".join(page.read_text("utf-8") for page in tables.PAGES)


def test_pages_show_what_the_results_say():
    assert tables.made(TEXT) == TEXT, "run `python -m benchmarks.tables`"


def test_every_table_has_its_place():
    assert sorted(name for _, name, _ in tables.PLACE.findall(TEXT)) == sorted(tables.TABLES)


def test_a_changed_number_is_seen():
    changed = re.sub(r"(\| differential value \| )\d", r"\g<1>9", TEXT)
    assert changed != TEXT and tables.made(changed) == TEXT


def test_a_missing_result_says_which():
    with pytest.raises(LookupError, match=r"validation\.jsonl has no line with"):
        tables.last("validation", scenario="nowhere")


def test_numbers_as_they_are_printed():
    assert tables.within(0.1234, 0.0456) == "0.123 ± 0.046"
    assert tables.within(-11.27, 2.42, sign=True) == "-11.27 ± 2.42"
    assert tables.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def test_curves_show_every_rate():
    panels = dict(zip(curves.PANELS, curves.draw().axes, strict=True))
    for kind, panel in panels.items():
        measured = {
            (line["name"], line["size"])
            for line in tables.lines("speed", kind=kind, device=tables.CPU)
        }
        assert sum(len(line.get_xdata()) for line in panel.get_lines()) == len(measured) > 10
