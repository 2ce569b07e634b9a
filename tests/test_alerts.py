"""The alerts, the runbook and the dashboard: they name only metrics, labels and headings that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rudderpipe.observe.metrics.table import METRICS

yaml: Any = pytest.importorskip("yaml", reason="needs pyyaml, of the extra test")

DOCS = Path(__file__).parent.parent / "docs"
ALERTS = DOCS / "deploy" / "prometheus" / "alerts.yml"
CASES = DOCS / "deploy" / "prometheus" / "tests.yml"
DASHBOARD = DOCS / "deploy" / "grafana.json"
RUNBOOK = DOCS / "runbook.md"
LABELS_OF_PROMETHEUS = frozenset(("instance", "le"))
SERIES = {
    f"{metric.name}{suffix}": metric
    for metric in METRICS
    for suffix in (("_bucket", "_sum", "_count") if metric.bounds else ("",))
}
"""Every name that a series of ours has."""


def rules() -> list[dict[str, Any]]:
    """Return the alerts."""
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard, without the titles of rows."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def expressions() -> Iterator[Any]:
    """Yield each expression of alerts, cases and dashboard."""
    for rule in rules():
        yield pytest.param(rule["expr"], id=rule["alert"])
    for panel in panels():
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        yield pytest.param("\n".join(each["series"] for each in case["input_series"]), id=case["name"])
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            yield pytest.param(variable["definition"], id=variable["name"])


@pytest.mark.parametrize("expression", list(expressions()))
def test_an_expression_names_only_what_is_exported(expression: str) -> None:
    """An alert on a metric or a label that does not exist never fires."""
    named = re.findall(r"\b(rudderpipe_\w+)(?:\{([^}]*)\})?", expression)
    assert named
    labels: set[str] = set()
    for name, matchers in named:
        metric = SERIES[name]
        own = LABELS_OF_PROMETHEUS | set(metric.label_names)
        labels |= own
        for label, values in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
            assert label in own, (name, label)
            if known := metric.labels.get(label):
                assert set(values.split("|")) <= set(known), (name, label, values)
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
        assert set(group.replace(" ", "").split(",")) <= labels, group


def test_every_alert_has_its_heading_and_every_heading_its_alert() -> None:
    """Its link leads to it."""
    names = [rule["alert"] for rule in rules()]

    assert len(names) == 17
    assert re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE) == names
    for rule in rules():
        assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbook.md#{rule['alert'].lower()}")
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}


def test_every_alert_fires_in_a_case_and_not_in_others() -> None:
    """promtool runs the cases (native_tests/test_promtool.py)."""
    fired = CASES.read_text()

    for rule in rules():
        assert f'{{alertname="{rule["alert"]}"}}' in fired


def test_every_panel_says_what_it_shows_and_leads_to_the_runbook() -> None:
    """A person at 3 a.m. has not made the dashboard."""
    headings = {name.lower() for name in re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)}
    for panel in panels():
        text, anchor = re.fullmatch(r"(.+\.) \[Runbook\]\(\S+/docs/runbook\.md#(\w+)\)", panel["description"]).groups()  # type: ignore[union-attr]  # it raises
        assert anchor in headings, panel["title"]
        assert text


def test_the_dashboard_lies_on_a_grid_in_the_order_of_the_flow() -> None:
    """No panel covers another, and no id is there twice."""
    board = json.loads(DASHBOARD.read_text())
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells
        assert max(x for x, _ in own) < 24
        cells |= own
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "pipe", "queue", "instance"]
