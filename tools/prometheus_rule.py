"""Writes the alerts of deploy/monitoring as a PrometheusRule for deploy/kubernetes.

kustomize cannot make one from a file of rules, so the object is in the repository. A test compares it with the alerts.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALERTS = ROOT / "deploy" / "monitoring" / "alerts.yaml"
RULE = ROOT / "deploy" / "kubernetes" / "components" / "monitoring" / "alerts.yaml"
HEAD = """\
# Made by tools/prometheus_rule.py from deploy/monitoring/alerts.yaml. Change that file and run it again.

apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: ollama-gateway
  labels: {app.kubernetes.io/name: ollama-gateway}
spec:
"""


def prometheus_rule(alerts: str) -> str:
    """The object with the groups of `alerts`, their comments included."""
    _, _, groups = alerts.partition("groups:\n")
    return HEAD + textwrap.indent("groups:\n" + groups, "  ")


if __name__ == "__main__":
    RULE.write_text(prometheus_rule(ALERTS.read_text()))
