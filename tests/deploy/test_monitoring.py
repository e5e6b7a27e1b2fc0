"""The dashboard and the alerts: whole, in valid PromQL, and about metrics that somebody serves."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from ingest.metrics import RESULTS, STORE_CALLS, Metrics
from ingest.summary import STAGES

from .kube import KUBERNETES, documents

#: Qdrant's own, from its documentation (Operations, Monitoring: node metrics of /metrics); without the prefix that
#: ``service.metrics_prefix`` puts before each.
QDRANT = frozenset(
    {
        "app_info", "app_status_recovery_mode", "collections_total", "collection_points", "collection_vectors",
        "collections_vector_total", "collection_indexed_only_excluded_points", "collection_active_replicas_min",
        "collection_active_replicas_max", "collection_dead_replicas", "collection_running_optimizations",
        "cluster_enabled", "cluster_peers_total", "cluster_term", "cluster_commit", "cluster_pending_operations_total",
        "cluster_voter", "rest_responses_total", "rest_responses_fail_total", "rest_responses_duration_seconds_bucket",
        "grpc_responses_total", "grpc_responses_fail_total", "grpc_responses_duration_seconds_bucket",
        "memory_active_bytes", "memory_allocated_bytes", "memory_metadata_bytes", "memory_resident_bytes",
        "memory_retained_bytes",
    }
)  # fmt: skip
#: Values that a label may be asked for, where they are ours.
LABELS = {"result": RESULTS, "stage": STAGES, "call": STORE_CALLS}
#: Grafana's variables, with a value that each may have.
VARIABLES = {"$__rate_interval": "5m", "$__range": "6h", "$namespace": "siamese-search"}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((KUBERNETES / "dashboard.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    [alerts] = documents(KUBERNETES / "alerts.yaml")
    return [rule for group in alerts["spec"]["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def served() -> frozenset[str]:
    """The names of all samples that a worker serves, and those of Qdrant with the chart's prefix."""
    metrics = Metrics()
    metrics.warned("any")
    ours = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    [values] = documents(KUBERNETES / "qdrant-values.yaml")
    prefix = values["config"]["service"]["metrics_prefix"]
    return frozenset(ours | {prefix + name for name in QDRANT})


def selectors(expression: str) -> Iterator[Any]:
    """The vector selectors of an expression. ValueError where it is no PromQL."""
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), pre_visit=visit)
    yield from found


def check_query(expression: str, served: frozenset[str]) -> None:
    """Raises unless it is PromQL about metrics, and values of our labels, that exist."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    asked = list(selectors(expression))
    assert asked, expression
    for one in asked:
        assert one.name in served, one.name
        for matcher in one.matchers.matchers:
            if matcher.name in LABELS:
                assert matcher.value in LABELS[matcher.name], matcher.value


def check_dashboard(dashboard: dict[str, Any], served: frozenset[str]) -> None:
    """Raises unless Grafana would show all of it: panels that do not overlap, with queries that have an answer."""
    assert dashboard["schemaVersion"] >= 39  # Grafana 10.4 and later
    assert {"title", "uid", "time", "templating", "panels"} <= set(dashboard)
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    source = {"type": "prometheus", "uid": "${datasource}"}
    [asked] = re.findall(r"^label_values\((\w+), namespace\)$", variables["namespace"]["query"]["query"])
    assert asked in served
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("stat", "timeseries")
        assert panel["title"]
        assert panel["datasource"] == source
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"] == source
            check_query(target["expr"], served)


def test_the_dashboard_is_whole_and_asks_for_what_is_served(dashboard: dict[str, Any], served: frozenset[str]) -> None:
    check_dashboard(dashboard, served)
    text = json.dumps(dashboard)
    for subject in ("embedded_images", 'result=\\"failed\\"', "lag_files", "store_seconds"):
        assert subject in text


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("sss_ingest_lag_files{", "sss_ingest_lags{"),
        ("qdrant_collection_points{", "collection_points{"),
        ("sum by (pod) (", "sum by pod ("),
        ("histogram_quantile(0.99", "histogram_quantil(0.99"),
        ('result=\\"failed\\"', 'result=\\"broken\\"'),
        ("[$__rate_interval]", "[$__rate_intervall]"),
        ('"uid": "${datasource}"', '"uid": "prometheus"'),
        ('"id": 3,', '"id": 2,'),
        ('"refId": "B"', '"refId": "A"'),
        ('"x": 12,', '"x": 6,'),
    ],
)
def test_a_broken_dashboard_is_noticed(dashboard: dict[str, Any], served: frozenset[str], good: str, bad: str) -> None:
    text = json.dumps(dashboard)
    assert good in text
    with pytest.raises((AssertionError, ValueError)):
        check_dashboard(json.loads(text.replace(good, bad)), served)


def test_alerts_ask_for_what_is_served(rules: list[dict[str, Any]], served: frozenset[str]) -> None:
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        check_query(rule["expr"], served)
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
    together = " ".join(rule["expr"] for rule in rules)
    for subject in ('result="failed"', "sss_ingest_lag_files", "sss_ingest_store_up == 0", "count(qdrant_app_info)"):
        assert subject in together


@pytest.mark.parametrize(
    ("good", "bad"), [("sss_ingest_", "sss_"), ("[30m]", "[30 minutes]"), ("qdrant_app_info", "qdrant_up")]
)
def test_a_broken_alert_is_noticed(rules: list[dict[str, Any]], served: frozenset[str], good: str, bad: str) -> None:
    broken = copy.deepcopy([rule for rule in rules if good in rule["expr"]])
    assert broken
    for rule in broken:
        with pytest.raises((AssertionError, ValueError)):
            check_query(rule["expr"].replace(good, bad), served)


def test_the_nodes_that_the_alert_expects_are_those_of_the_chart(rules: list[dict[str, Any]]) -> None:
    [values] = documents(KUBERNETES / "qdrant-values.yaml")
    [down] = [rule["expr"] for rule in rules if rule["alert"] == "QdrantNodeDown"]
    assert f"count(qdrant_app_info) < {values['replicaCount']} " in down


def test_two_sides_of_an_alert_have_the_same_labels(rules: list[dict[str, Any]]) -> None:
    """``and`` drops what has no partner: a label that only one side has must be ignored, or the alert never fires."""
    for rule in rules:
        for left, right in re.findall(r"^(.*?)\band\b(?! ignoring)(.*)$", rule["expr"]):
            labels = [set(re.findall(r"\b(stage|result|call|event)=", side)) for side in (left, right)]
            assert labels[0] == labels[1], rule["alert"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Prometheus")
def test_alerts_fire_in_trouble_and_only_then(tmp_path: Path) -> None:
    """``alerts.test.yaml`` beside this file says when."""
    [alerts] = documents(KUBERNETES / "alerts.yaml")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(alerts["spec"]))
    shutil.copy(Path(__file__).parent / "alerts.test.yaml", tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts.test.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
