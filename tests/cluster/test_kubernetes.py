"""Owns the promises of deploy/kubernetes that need no cluster: the base and each overlay, as kubectl renders them."""

from __future__ import annotations

import configparser
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import gateway.routes
from gateway import __version__
from gateway.settings import SETTINGS
from healthcheck.alive import LIMIT_SECONDS
from healthcheck.programs import gateway_stop_seconds
from tests.cluster.manifests import (
    COMPONENT,
    KUBERNETES,
    NAME,
    PLACES,
    Network,
    containers,
    environment,
    is_selected,
    of_kind,
    pods,
    rendered,
)
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

OLLAMAS = {"OLLAMA_NUM_PARALLEL"}
VERSIONS = 4
USERS = {"ollama-gateway": 10001, "redis": 999, "sentinel": 999}
SECRET_DIRECTORY = "/etc/ollama-gateway/"

each_place = pytest.mark.parametrize("place", PLACES)


def routes() -> set[str]:
    """The paths of the gateway's own routes."""
    modules = [
        importlib.import_module(f"gateway.routes.{row.name}") for row in pkgutil.iter_modules(gateway.routes.__path__)
    ]
    described = {route.path for module in modules if hasattr(module, "router") for route in module.router.routes}
    return described | {path.decode() for module in modules for path in getattr(module, "ROUTES", ())}


@each_place
def test_kubernetes_takes_every_object(place: str) -> None:
    """Each object of Kubernetes' own API is valid, without unknown fields, in its newest four versions."""
    if not os.environ.get("CI"):
        pytest.importorskip("kubernetes_validate")
    validate = importlib.import_module("kubernetes_validate")
    versions = validate.utils.all_versions()[-VERSIONS:]
    own = [
        item
        for item in rendered(place)
        if not re.search(r"\.(sh|io|com)/", item["apiVersion"]) or "k8s.io/" in item["apiVersion"]
    ]
    own = [item for item in own if not item["apiVersion"].startswith("gateway.")]
    assert len(own) > 10
    for item in own:
        for version in versions:
            validate.validate(item, version, strict=True)


@each_place
def test_all_is_in_one_namespace_that_is_restricted(place: str) -> None:
    """All objects are in the namespace that the base makes, where the API server takes hardened pods alone."""
    [(name, namespace)] = of_kind(place, "Namespace").items()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {item["metadata"].get("namespace") for item in rendered(place) if item["kind"] != "Namespace"} == {name}


@each_place
def test_every_pod_is_hardened(place: str) -> None:
    """A plain user, a read-only root, no capabilities, no token, the runtime's seccomp profile, no service links."""
    for name, pod in pods(place).items():
        spec = pod["spec"]
        context = spec["securityContext"]
        assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
        assert (context["runAsNonRoot"], context["runAsUser"]) == (True, USERS[name])
        assert context["fsGroup"] == context["runAsGroup"] != 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & spec.keys()
        assert all(volume.keys() & {"emptyDir", "secret", "configMap"} for volume in spec["volumes"])
    for _, container in containers(place):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    accounts = of_kind(place, "ServiceAccount")
    assert [account["automountServiceAccountToken"] for account in accounts.values()] == [False]
    assert {pod["spec"]["serviceAccountName"] for pod in pods(place).values()} == set(accounts)


@each_place
def test_what_the_gateway_writes_to_is_a_volume(place: str) -> None:
    """/tmp, and the image's own volume for the models and Ollama's key; everything else is mounted read-only."""
    [container] = pods(place)["ollama-gateway"]["spec"]["containers"]
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    [volume] = re.findall(r"^VOLUME (\S+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert writable == {"/tmp", volume}
    [claim] = of_kind(place, "StatefulSet")["ollama-gateway"]["spec"]["volumeClaimTemplates"]
    assert {
        mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == claim["metadata"]["name"]
    } == {volume}


@each_place
def test_secrets_come_from_secrets_alone(place: str) -> None:
    """No object holds a secret. Each is a file of a Secret that must exist, in a directory that is mounted whole."""
    assert of_kind(place, "Secret") == {}
    secret_names = {row.name for row in SETTINGS if row.is_secret} - {"REDIS_URL"}
    assert not secret_names & environment(place, "ollama-gateway").keys()
    assert "@" not in environment(place, "ollama-gateway").get("REDIS_URL", "")
    for pod in pods(place).values():
        volumes = {row["name"]: row["secret"] for row in pod["spec"]["volumes"] if "secret" in row}
        mounts = [row for row in pod["spec"]["containers"][0]["volumeMounts"] if row["name"] in volumes]
        assert len(mounts) == len(volumes) > 0
        assert all(row.get("readOnly") and "subPath" not in row for row in mounts)
        assert not any(secret.get("optional") for secret in volumes.values())
        assert {secret["defaultMode"] for secret in volumes.values()} == {0o440}


@each_place
def test_files_of_secrets_are_where_the_settings_say(place: str) -> None:
    """Every `…_FILE` is a file of a mounted Secret, and keys and password both have one."""
    pod = pods(place)["ollama-gateway"]["spec"]
    secrets = {row["name"]: row["secret"]["items"] for row in pod["volumes"] if "secret" in row}
    files = {
        f"{mount['mountPath']}/{item['path']}"
        for mount in pod["containers"][0]["volumeMounts"]
        for item in secrets.get(mount["name"], ())
    }
    named = {name: text for name, text in environment(place, "ollama-gateway").items() if name.endswith("_FILE")}
    assert {"GATEWAY_API_KEYS_FILE", "REDIS_PASSWORD_FILE"} <= named.keys()
    assert set(named.values()) == files


@each_place
def test_every_variable_is_a_setting(place: str) -> None:
    """What the gateway's container gets is a setting of ours, or a known one of Ollama's; its name is the pod's."""
    variables = environment(place, "ollama-gateway")
    assert variables.keys() <= {row.name for row in SETTINGS} | OLLAMAS
    assert variables["GATEWAY_INSTANCE"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@each_place
def test_the_gateway_takes_its_settings(place: str, tmp_path: Path) -> None:
    """The gateway's own check of the settings finds nothing wrong and warns of nothing."""
    variables = environment(place, "ollama-gateway") | {"GATEWAY_INSTANCE": "ollama-gateway-0"}
    for path in {text for name, text in variables.items() if name.endswith("_FILE")}:
        file = tmp_path / path.removeprefix(SECRET_DIRECTORY)
        file.parent.mkdir(exist_ok=True)
        file.write_text("a-key-of-more-than-16-characters")
    variables = {name: text.replace(SECRET_DIRECTORY, f"{tmp_path}/") for name, text in variables.items()}
    command = [sys.executable, "-m", "gateway", "--check"]
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@each_place
def test_the_stop_limits_nest(place: str) -> None:
    """Notice and drain < the gateway's stop wait; all stop waits together < the pod's grace period."""
    variables = environment(place, "ollama-gateway")
    programs = configparser.RawConfigParser(strict=False)
    programs.read(ROOT / "supervisord.conf")
    others = [
        programs.getint(row, "stopwaitsecs") for row in programs if row.endswith((":ollama", ":pull", ":listener"))
    ]
    gateway_seconds = gateway_stop_seconds(variables)
    drain_seconds = int(variables["DRAIN_NOTICE_SEC"]) + int(variables["DRAIN_SEC"])
    pod = pods(place)["ollama-gateway"]["spec"]
    assert len(others) == 3
    assert drain_seconds < gateway_seconds < gateway_seconds + sum(others) < pod["terminationGracePeriodSeconds"]
    assert "lifecycle" not in pod["containers"][0]  # a preStop would take its time from the drain


@each_place
def test_the_notice_outlasts_the_readiness_probe(place: str) -> None:
    """A balancer that asks as the kubelet does has seen that the pod is not ready before the notice is over."""
    probe = probes(place)["readinessProbe"]
    slowest = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert slowest < int(environment(place, "ollama-gateway")["DRAIN_NOTICE_SEC"])


def probes(place: str) -> dict[str, Any]:
    """The probes of the gateway's container."""
    [container] = pods(place)["ollama-gateway"]["spec"]["containers"]
    return {name: probe for name, probe in container.items() if name.endswith("Probe")}


@each_place
def test_probes_outlast_a_model_load_and_a_pull(place: str) -> None:
    """Only readiness asks Ollama. Neither Ollama nor Redis has the pod restarted; a frozen gateway has, in a minute."""
    found = probes(place)
    liveness, startup = found["livenessProbe"], found["startupProbe"]
    assert {name: probe["httpGet"] for name, probe in found.items() if probe is not liveness} == {
        "startupProbe": {"path": "/livez", "port": "http"},
        "readinessProbe": {"path": "/readyz", "port": "http"},
    }
    assert {"/livez", "/readyz"} <= routes()
    python, script = liveness["exec"]["command"]
    assert (python, script) == ("/opt/gateway/venv/bin/python", "/opt/gateway/healthcheck/alive.py")
    assert liveness["timeoutSeconds"] > 2 * LIMIT_SECONDS  # for the connection, and for the answer
    assert 30 <= liveness["periodSeconds"] * liveness["failureThreshold"] <= 60
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 120
    assert found["readinessProbe"]["timeoutSeconds"] > 2  # the gateway waits for Ollama for 2 s


@each_place
def test_selectors_select(place: str) -> None:
    """Every selector of a set, a Service, a budget or a policy matches the pods of exactly one set."""
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(place).items()}
    selectors = [
        *(
            item["spec"]["selector"]
            for kind in ("StatefulSet", "PodDisruptionBudget")
            for item in of_kind(place, kind).values()
        ),
        *({"matchLabels": item["spec"]["selector"]} for item in of_kind(place, "Service").values()),
        *(item["spec"]["podSelector"] for item in of_kind(place, "NetworkPolicy").values()),
    ]
    for selector in selectors:
        assert len([name for name, found in labels.items() if is_selected(selector, found)]) == 1, selector
    for name, item in of_kind(place, "StatefulSet").items():
        assert is_selected(item["spec"]["selector"], labels[name])
        assert of_kind(place, "Service")[item["spec"]["serviceName"]]["spec"]["clusterIP"] == "None"


@each_place
def test_ports_match(place: str) -> None:
    """Each port of a Service leads to a named port of its pods with the same number; the gateway's is the image's."""
    for name, item in of_kind(place, "Service").items():
        [port] = item["spec"]["ports"]
        found = {
            row["containerPort"]
            for pod in pods(place).values()
            for container in pod["spec"]["containers"]
            for row in container["ports"]
            if item["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
            and row["name"] == port["targetPort"]
        }
        assert found == {port["port"]}, name
    [exposed] = re.findall(r"^EXPOSE (\d+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert of_kind(place, "Service")["ollama-gateway"]["spec"]["ports"][0]["port"] == int(exposed)


@each_place
def test_images_have_versions(place: str) -> None:
    """No image is `latest` or a tag that moves: the gateway's is this version, all Redis servers have the same one."""
    images = {(name, container["image"]) for name, container in containers(place)}
    suffix = "-rocm" if place.endswith("amd") else ""
    assert {image for name, image in images if name == "ollama-gateway"} == {f"ollama-gateway:{__version__}{suffix}"}
    [redis] = {image for name, image in images if name != "ollama-gateway"}
    assert re.fullmatch(r"redis:\d+\.\d+\.\d+-alpine", redis)


@each_place
def test_a_rolling_restart_takes_one_gateway_at_a_time(place: str) -> None:
    """Pods start together but are replaced one by one; a drain of nodes takes one, and is never blocked."""
    spec = of_kind(place, "StatefulSet")["ollama-gateway"]["spec"]
    assert "updateStrategy" not in spec  # RollingUpdate, one at a time
    assert (spec["podManagementPolicy"], spec["minReadySeconds"] >= 10) == ("Parallel", True)
    assert spec.get("replicas", 2) == 2
    budget = of_kind(place, "PodDisruptionBudget")["ollama-gateway"]["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def labels(component: str) -> dict[str, str]:
    """The labels of a pod."""
    return {NAME: "ollama-gateway", COMPONENT: component}


@each_place
def test_only_the_gateways_reach_redis(place: str) -> None:
    """In the base, Redis is reached by the gateways and itself reaches nothing."""
    network = Network(place)
    assert network.allows(labels("gateway"), labels("redis"), 6379)
    assert not network.allows({"app": "other"}, labels("redis"), 6379)
    assert not network.allows({"app": "other"}, labels("redis"), 6379, {"ollama-gateway/client": "true"})
    assert not network.allows(labels("redis"), labels("gateway"), 11535)
    assert network.allows_out(labels("redis"), 443) == []


@each_place
def test_who_reaches_the_gateway(place: str) -> None:
    """Pods of its namespace and of namespaces with the label, at its one port; Ollama's cannot be reached."""
    network = Network(place)
    assert network.allows({"app": "other"}, labels("gateway"), 11535)
    assert network.allows({"app": "other"}, labels("gateway"), 11535, {"ollama-gateway/client": "true"})
    assert not network.allows({"app": "other"}, labels("gateway"), 11535, {"team": "other"})
    assert not network.allows({"app": "other"}, labels("gateway"), 11434)
    monitoring = network.allows({}, labels("gateway"), 11535, {"kubernetes.io/metadata.name": "monitoring"})
    assert monitoring is place.endswith("monitoring")


@each_place
def test_the_gateway_pulls_models_and_asks_dns(place: str) -> None:
    """It connects to the internet at port 443 alone, to no private network and no metadata service."""
    network = Network(place)
    assert network.allows_out(labels("gateway"), 443) == ["0.0.0.0/0", "::/0"]
    assert network.allows_out(labels("gateway"), 80) == []
    assert network.allows(labels("gateway"), {"k8s-app": "kube-dns"}, 53)
    policy = of_kind(place, "NetworkPolicy")["ollama-gateway"]["spec"]["egress"]
    excepted = {
        block for rule in policy for peer in rule.get("to", ()) for block in peer.get("ipBlock", {}).get("except", ())
    }
    assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"} <= excepted


@pytest.mark.parametrize(("name", "resource"), [("gpu", "nvidia.com/gpu"), ("amd", "amd.com/gpu")])
def test_gpus_are_asked_for(name: str, resource: str) -> None:
    """Each gateway gets one GPU and goes to nodes that are kept for GPUs; the rest is the base."""
    pod = pods(f"overlays/{name}")["ollama-gateway"]["spec"]
    plain = pods("base")["ollama-gateway"]["spec"]
    [container], [plain_container] = pod["containers"], plain["containers"]
    assert container["resources"]["limits"] == {resource: 1}
    assert container["resources"]["requests"] == plain_container["resources"]["requests"]
    assert [row["key"] for row in pod["tolerations"]] == [resource]
    assert pod["securityContext"] == plain["securityContext"]


def test_the_rocm_image_is_of_the_same_ollama() -> None:
    """The command for AMD's image names the Ollama of the Containerfile."""
    [ollama] = re.findall(r"^ARG OLLAMA_IMAGE=(\S+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    text = (KUBERNETES / "components" / "amd" / "kustomization.yaml").read_text()
    assert f"OLLAMA_IMAGE={ollama}-rocm -t ollama-gateway:{__version__}-rocm ." in text
