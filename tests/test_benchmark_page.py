"""The page of the benchmarks is made from their results."""

from __future__ import annotations

import re

import pytest

from bench import page
from bench.report import Result, Rig

RUN = page.Run(
    version="1.0.0",
    date="2026-01-01",
    quick=False,
    python="CPython 3.11.7",
    system="Linux x86_64",
    processor="2 x a processor",
    load=0.0,
    redis="7.0.15",
    packages={},
    results=[Result("speed", "events a second", "events/s", {"ours": [9.0, 12.0, 10.0], "theirs": [4.0]}, Rig())],
)


def test_the_page_is_what_the_newest_results_make() -> None:
    """Figures in the page may not differ from the measured ones. `python -m bench.page` makes the page."""
    assert page.PAGE.read_text() == page.current()


def test_results_name_no_path() -> None:
    """Results are published, so they must not tell the directories of the machine."""
    for path in page.RESULTS.glob("*.json"):
        assert re.findall(r"(?<!\w)/\w[^\"]*", path.read_text()) == []


@pytest.mark.parametrize(
    ("higher_is_better", "best", "ratio"), [pytest.param(True, "12.0", "2.5"), pytest.param(False, "9.00", "0.4")]
)
def test_a_table_compares_with_its_first_line(higher_is_better: bool, best: str, ratio: str) -> None:
    """A ratio above 1 means that the first line is better, whichever direction is better."""
    samples = {"ours": [9.0, 12.0, 10.0], "theirs": [4.0]}
    result = Result("speed", "speed", "s", samples, Rig(), higher_is_better=higher_is_better)

    lines = page.table(result).splitlines()

    assert f"| ours | 10.0 | {best} | 30% | 1.0 |" in lines
    assert f"| theirs | 4.00 | 4.00 | 0% | {ratio} |" in lines


@pytest.mark.parametrize("template", ["{{machine}}\n", "{{machine}}\n{{speed}}\n{{size}}\n"])
def test_each_result_has_its_place_on_the_page(template: str) -> None:
    """A result without a place would not be seen, and a place without a result would be an empty heading."""
    with pytest.raises(ValueError, match=r"only in the results or only in the template: (speed|size)"):
        page.page(RUN, template)


@pytest.mark.parametrize(
    ("value", "shown"), [(123_456.0, "123,000"), (99.96, "100"), (12.345, "12.3"), (0.2468, "0.25"), (0.0, "0")]
)
def test_a_figure_has_three_digits(value: float, shown: str) -> None:
    """More digits than the spread leaves are noise."""
    assert page.figure(value) == shown
