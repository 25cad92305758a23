"""Owns the promises of the components: objects of KEDA, the Gateway API and Prometheus, and several Redis servers."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from tests.cluster.manifests import (
    OVERLAYS,
    Network,
    containers,
    environment,
    of_kind,
    pods,
    rendered,
)
from tests.cluster.test_kubernetes import labels, routes
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

MONITORING = ROOT / "deploy" / "monitoring"


def fields(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """The schema of an object with these fields and no others."""
    properties = required | (optional or {})
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


def items(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a list that is not empty."""
    return {"type": "array", "minItems": 1, "items": schema}


TEXT = {"type": "string", "minLength": 1}
NUMBER = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
SCALING = fields(
    {
        "stabilizationWindowSeconds": NUMBER,
        "policies": items(fields({"type": TEXT, "value": NUMBER, "periodSeconds": NUMBER})),
    }
)
# The fields that these objects use, with the types that their definitions have.
SPECS = {
    ("keda.sh/v1alpha1", "ScaledObject"): fields(
        {
            "scaleTargetRef": fields({"name": TEXT}, {"apiVersion": TEXT, "kind": TEXT}),
            "triggers": items(
                fields({"type": TEXT, "metadata": TEXTS}, {"metricType": {"enum": ["AverageValue", "Value"]}})
            ),
        },
        {
            "pollingInterval": NUMBER,
            "minReplicaCount": NUMBER,
            "maxReplicaCount": NUMBER,
            "advanced": fields(
                {
                    "horizontalPodAutoscalerConfig": fields(
                        {"behavior": fields({"scaleUp": SCALING, "scaleDown": SCALING})}
                    )
                }
            ),
        },
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): fields(
        {
            "parentRefs": items(fields({"name": TEXT}, {"namespace": TEXT})),
            "hostnames": items(TEXT),
            "rules": items(
                fields(
                    {
                        "matches": items(
                            fields({"path": fields({"type": {"enum": ["Exact", "PathPrefix"]}, "value": TEXT})})
                        ),
                        "backendRefs": items(fields({"name": TEXT, "port": NUMBER})),
                    },
                    {"timeouts": fields({"request": DURATION, "backendRequest": DURATION})},
                )
            ),
        }
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): fields(
        {
            "selector": fields({"matchLabels": TEXTS}),
            "endpoints": items(
                fields(
                    {"port": TEXT, "path": TEXT, "interval": DURATION},
                    {
                        "authorization": fields({"type": TEXT, "credentials": fields({"name": TEXT, "key": TEXT})}),
                        "relabelings": items(
                            fields({"targetLabel": TEXT}, {"replacement": TEXT, "sourceLabels": items(TEXT)})
                        ),
                    },
                )
            ),
        }
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): fields(
        {
            "groups": items(
                fields(
                    {
                        "name": TEXT,
                        "rules": items(
                            fields(
                                {"alert": TEXT, "expr": TEXT}, {"for": DURATION, "labels": TEXTS, "annotations": TEXTS}
                            )
                        ),
                    }
                )
            )
        }
    ),
}


def the_only(place: str, kind: str) -> dict[str, Any]:
    """The spec of the one object of a kind."""
    [item] = of_kind(place, kind).values()
    return dict(item["spec"])


def test_objects_of_others_have_their_shape() -> None:
    """Objects that Kubernetes itself does not define have the fields of their definitions, with the right types."""
    found = set()
    for name in OVERLAYS:
        for item in rendered(f"overlays/{name}"):
            kind = (item["apiVersion"], item["kind"])
            if kind in SPECS:
                jsonschema.validate(item["spec"], SPECS[kind])
                assert item.keys() == {"apiVersion", "kind", "metadata", "spec"}
                found.add(kind)
    assert found == SPECS.keys()


# ---- keda


def test_keda_scales_the_gateways_by_their_requests() -> None:
    """One gateway for every MAX_RUNNING requests that run or wait, never none, and KEDA alone sets the number."""
    scaled = the_only("overlays/keda", "ScaledObject")
    variables = environment("overlays/keda", "ollama-gateway")
    [trigger] = scaled["triggers"]
    assert scaled["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "ollama-gateway"}
    assert "replicas" not in the_only_set("overlays/keda")
    assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
    assert trigger["metadata"]["threshold"] == variables["MAX_RUNNING"] == variables["OLLAMA_NUM_PARALLEL"]
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert 2 <= scaled["minReplicaCount"] < scaled["maxReplicaCount"]


def the_only_set(place: str) -> dict[str, Any]:
    """The spec of the gateways' StatefulSet."""
    return dict(of_kind(place, "StatefulSet")["ollama-gateway"]["spec"])


def test_keda_lets_a_gateway_drain_before_it_stops_the_next() -> None:
    """At most one gateway goes in each grace period."""
    behavior = the_only("overlays/keda", "ScaledObject")["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    grace = pods("overlays/keda")["ollama-gateway"]["spec"]["terminationGracePeriodSeconds"]
    [policy] = behavior["scaleDown"]["policies"]
    assert (policy["type"], policy["value"]) == ("Pods", 1)
    assert policy["periodSeconds"] > grace
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] > grace


def test_the_query_for_keda_has_one_element(tmp_path: Path) -> None:
    """KEDA takes an answer of one element: the sum over all gateways of this namespace; none if there is no gateway."""
    promtool = shutil.which("promtool")
    if promtool is None and not os.environ.get("CI"):
        pytest.skip("promtool is not installed")
    assert promtool is not None
    query = the_only("overlays/keda", "ScaledObject")["triggers"][0]["metadata"]["query"]
    [namespace] = of_kind("overlays/keda", "Namespace")
    ours = f'job="ollama-gateway",namespace="{namespace}"'
    series = [
        *(f'ollama_gateway_running_requests{{{ours},instance="{name}"}}' for name in ("a", "b")),
        *(f'ollama_gateway_waiting_requests{{{ours},instance="{name}"}}' for name in ("a", "b")),
    ]
    others = [
        f'ollama_gateway_{name}_requests{{job="ollama-gateway",namespace="x"}}' for name in ("running", "waiting")
    ]
    tests = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "input_series": [{"series": name, "values": "3x5"} for name in [*series, *others]],
                "promql_expr_test": [
                    {"expr": query, "eval_time": "1m", "exp_samples": [{"labels": "{}", "value": 12}]}
                ],
            },
            {
                "input_series": [{"series": name, "values": "3x5"} for name in others],
                "promql_expr_test": [{"expr": query, "eval_time": "1m", "exp_samples": []}],
            },
        ],
    }
    file = tmp_path / "query.yaml"
    file.write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# ---- gateway-api


def test_the_route_has_no_timeouts_for_ollama_and_tasks() -> None:
    """Ollama's API, tasks and nodes have no time limit; every rule leads to the Service of the gateways."""
    rules = the_only("overlays/gateway-api", "HTTPRoute")["rules"]
    timeless = {row["path"]["value"] for rule in rules if rule.get("timeouts") for row in rule["matches"]}
    assert timeless == {"/v1", "/tasks", "/nodes"}
    assert all(rule["timeouts"] == {"request": "0s", "backendRequest": "0s"} for rule in rules if "timeouts" in rule)
    [port] = of_kind("overlays/gateway-api", "Service")["ollama-gateway"]["spec"]["ports"]
    assert all(rule["backendRefs"] == [{"name": "ollama-gateway", "port": port["port"]}] for rule in rules)


def test_the_route_takes_all_but_the_metrics() -> None:
    """Each of the gateway's routes has a rule, except /metrics, which is for Prometheus alone."""
    rules = the_only("overlays/gateway-api", "HTTPRoute")["rules"]
    paths = [row["path"] for rule in rules for row in rule["matches"]]
    exact = {path["value"] for path in paths if path["type"] == "Exact"}
    prefixes = [path["value"] for path in paths if path["type"] == "PathPrefix"]
    taken = {route for route in routes() if route in exact or any(is_below(route, prefix) for prefix in prefixes)}
    assert routes() - taken == {"/metrics"}
    assert len(taken) > 8


def is_below(path: str, prefix: str) -> bool:
    """Whether a path has a prefix, by whole segments."""
    return path == prefix or path.startswith(f"{prefix}/")


def test_browsers_may_use_the_name_of_the_route() -> None:
    """The gateway's ALLOWED_HOSTS are the host names of the route."""
    hosts = the_only("overlays/gateway-api", "HTTPRoute")["hostnames"]
    assert environment("overlays/gateway-api", "ollama-gateway")["ALLOWED_HOSTS"].split(",") == hosts


# ---- monitoring


def test_prometheus_scrapes_each_gateway_once() -> None:
    """The monitor selects one Service, its port and a route that exist, under the job that the alerts ask for."""
    spec = the_only("overlays/monitoring", "ServiceMonitor")
    services = of_kind("overlays/monitoring", "Service").values()
    [service] = [
        row for row in services if spec["selector"]["matchLabels"].items() <= row["metadata"]["labels"].items()
    ]
    [endpoint] = spec["endpoints"]
    [port] = service["spec"]["ports"]
    assert (port["name"], endpoint["path"] in routes()) == (endpoint["port"], True)
    jobs = [row["replacement"] for row in endpoint["relabelings"] if row["targetLabel"] == "job"]
    alerts = (MONITORING / "alerts.yaml").read_text()
    assert jobs == re.findall(r'up\{job="([^"]+)"\}', alerts)
    secrets = {
        row["secret"]["secretName"] for row in pods("base")["ollama-gateway"]["spec"]["volumes"] if "secret" in row
    }
    assert endpoint["authorization"]["credentials"]["name"] in secrets


def test_the_alerts_are_those_of_deploy_monitoring() -> None:
    """The PrometheusRule is what tools/prometheus_rule.py makes of deploy/monitoring/alerts.yaml, rule by rule."""
    source = importlib.util.spec_from_file_location("prometheus_rule", ROOT / "tools" / "prometheus_rule.py")
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    assert module.RULE.read_text() == module.prometheus_rule(module.ALERTS.read_text())
    assert the_only("overlays/monitoring", "PrometheusRule") == yaml.safe_load(module.ALERTS.read_text())


def test_the_dashboard_is_that_of_deploy_monitoring() -> None:
    """The ConfigMap that Grafana's sidecar finds by its label holds the dashboard."""
    item = of_kind("overlays/monitoring", "ConfigMap")["ollama-gateway-dashboard"]
    assert item["metadata"]["labels"] == {"grafana_dashboard": "1"}
    [text] = item["data"].values()
    assert json.loads(text) == json.loads((MONITORING / "grafana" / "ollama-gateway.json").read_text())


# ---- ha


@pytest.mark.parametrize("name", ["redis", "sentinel"])
def test_three_of_each_are_kept_apart(name: str) -> None:
    """Three servers and three Sentinels, on different nodes where possible; a drain of nodes takes one at a time."""
    spec = of_kind("overlays/ha", "StatefulSet")[name]["spec"]
    assert (spec["replicas"], spec["podManagementPolicy"]) == (3, "Parallel")
    [rule] = spec["template"]["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert rule["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert rule["podAffinityTerm"]["labelSelector"] == spec["selector"]
    assert of_kind("overlays/ha", "PodDisruptionBudget")[name]["spec"]["maxUnavailable"] == 1
    assert of_kind("overlays/ha", "Service")[name]["spec"]["publishNotReadyAddresses"] is True


def test_ha_can_follow_the_base() -> None:
    """The fields of Redis's StatefulSet that cannot be changed are the same, so its data stays."""
    plain, replicated = (of_kind(place, "StatefulSet")["redis"]["spec"] for place in ("base", "overlays/ha"))
    for name in ("serviceName", "podManagementPolicy", "selector", "volumeClaimTemplates"):
        assert plain[name] == replicated[name]
    image = {name: container["image"] for name, container in containers("overlays/ha")}
    assert image["redis"] == image["sentinel"] == dict(containers("base"))["redis"]["image"]


def test_all_name_the_same_servers() -> None:
    """Gateways and Redis servers name every Sentinel's pod; Sentinels and servers agree on the first primary."""
    sets = of_kind("overlays/ha", "StatefulSet")
    names = {
        name: [f"{name}-{number}.{item['spec']['serviceName']}" for number in range(item["spec"]["replicas"])]
        for name, item in sets.items()
        if name != "ollama-gateway"
    }
    redis, sentinel = environment("overlays/ha", "redis"), environment("overlays/ha", "sentinel")
    url = environment("overlays/ha", "ollama-gateway")["REDIS_URL"]
    assert url == f"redis+sentinel://{','.join(f'{name}:26379' for name in names['sentinel'])}/ollama/0"
    assert redis["SENTINELS"].split() == names["sentinel"]
    assert redis["FIRST"] == sentinel["FIRST"] == names["redis"][0]
    assert (redis["NAME"], sentinel["NAME"]) == ("$(POD).redis", "$(POD).sentinel")


def test_replication_and_sentinel_pass_the_network() -> None:
    """Redis servers and Sentinels reach each other, gateways reach both, and no other pod reaches any of them."""
    network = Network("overlays/ha")
    wanted = {
        ("gateway", "redis"), ("gateway", "sentinel"), ("redis", "redis"), ("redis", "sentinel"), ("sentinel", "redis"),
        ("sentinel", "sentinel"),
    }  # fmt: skip
    ports = {"redis": 6379, "sentinel": 26379}
    components = ("gateway", "redis", "sentinel", "other")
    allowed = {
        (source, target)
        for source in components
        for target, port in ports.items()
        if network.allows(labels(source) if source != "other" else {"app": "other"}, labels(target), port)
    }
    assert allowed == wanted
    assert network.allows_out(labels("redis"), 443) == network.allows_out(labels("sentinel"), 443) == []
