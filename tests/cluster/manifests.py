"""Owns what the tests ask of deploy/kubernetes: the objects that kubectl renders, and who may reach whom in them."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
PLACES = ["base", *(f"overlays/{name}" for name in OVERLAYS)]
Object = dict[str, Any]
Labels = dict[str, str]
NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"


def kubectl(*arguments: str) -> str:
    """What kubectl says, without a cluster. Without kubectl the test is skipped at home and fails in CI."""
    program = shutil.which("kubectl")
    if program is None and not os.environ.get("CI"):
        pytest.skip("kubectl is not installed")
    assert program is not None, "kubectl is not installed"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered_at(directory: Path) -> list[Object]:
    """The objects of a kustomization."""
    return list(yaml.safe_load_all(kubectl("kustomize", str(directory))))


@cache
def rendered(place: str) -> tuple[Object, ...]:
    """The objects of the base, or of an overlay. Treat them as read-only."""
    return tuple(rendered_at(KUBERNETES / place))


def of_kind(place: str, kind: str) -> dict[str, Object]:
    """The objects of a kind, by name."""
    return {item["metadata"]["name"]: item for item in rendered(place) if item["kind"] == kind}


def pods(place: str) -> dict[str, Object]:
    """The pod of each StatefulSet, by name. No other kind of object makes pods here."""
    sets = of_kind(place, "StatefulSet")
    makers = {"Deployment", "DaemonSet", "Job", "CronJob", "Pod", "ReplicaSet"}
    assert not makers & {item["kind"] for item in rendered(place)}
    return {name: item["spec"]["template"] for name, item in sets.items()}


def containers(place: str) -> Iterator[tuple[str, Object]]:
    """Each container, with the name of its StatefulSet."""
    for name, pod in pods(place).items():
        assert not {"initContainers", "ephemeralContainers"} & pod["spec"].keys()
        for container in pod["spec"]["containers"]:
            yield name, container


def environment(place: str, name: str) -> dict[str, Any]:
    """The variables of a StatefulSet's container: its ConfigMaps' and its own. A field of the pod stays an object."""
    [container] = pods(place)[name]["spec"]["containers"]
    found: dict[str, Any] = {}
    for source in container.get("envFrom", ()):
        found |= of_kind(place, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    return found | {row["name"]: row.get("value", row.get("valueFrom")) for row in container.get("env", ())}


def is_selected(selector: Object, labels: Labels) -> bool:
    """Whether a label selector matches. These files use matchLabels alone."""
    assert selector.keys() <= {"matchLabels"}, selector
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


class Network:
    """The NetworkPolicies of a place: whether a connection between two pods is allowed at both ends."""

    def __init__(self, place: str) -> None:
        self.policies = [item["spec"] for item in of_kind(place, "NetworkPolicy").values()]
        self.ports = {
            port["name"]: port["containerPort"] for _, container in containers(place) for port in container["ports"]
        }

    def allows(self, source: Labels, target: Labels, port: int, source_namespace: Labels | None = None) -> bool:
        """From a pod to a pod. `source_namespace` is None if both are in one namespace."""
        is_inside = source_namespace is None
        leaves = not is_inside or self._passes(source, "Egress", target, None, port)
        return leaves and self._passes(target, "Ingress", source, source_namespace, port)

    def allows_out(self, source: Labels, port: int) -> list[str]:
        """The blocks of addresses to which a pod may connect at a port."""
        rules = self._rules(source, "Egress") or []
        peers = [peer for rule in rules if self._has_port(rule, port) for peer in rule.get("to", ())]
        return sorted(peer["ipBlock"]["cidr"] for peer in peers if "ipBlock" in peer)

    def _rules(self, pod: Labels, way: str) -> list[Object] | None:
        """The rules that count for a pod; None if no policy does, so that all is allowed."""
        policies = [
            policy
            for policy in self.policies
            if way in policy["policyTypes"] and is_selected(policy["podSelector"], pod)
        ]
        return [rule for policy in policies for rule in policy.get(way.lower()) or ()] if policies else None

    def _passes(self, pod: Labels, way: str, other: Labels, namespace: Labels | None, port: int) -> bool:
        rules = self._rules(pod, way)
        if rules is None:
            return True
        peers = "to" if way == "Egress" else "from"
        return any(
            self._has_port(rule, port)
            and (peers not in rule or any(self._is_peer(peer, other, namespace) for peer in rule[peers]))
            for rule in rules
        )

    def _has_port(self, rule: Object, port: int) -> bool:
        return any(self.ports.get(row["port"], row["port"]) == port for row in rule["ports"])

    @staticmethod
    def _is_peer(peer: Object, pod: Labels, namespace: Labels | None) -> bool:
        if "ipBlock" in peer:
            return False
        if "namespaceSelector" not in peer:
            return namespace is None and is_selected(peer["podSelector"], pod)
        return namespace is not None and is_selected(peer["namespaceSelector"], namespace) and "podSelector" not in peer
