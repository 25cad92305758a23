"""Promises of the image itself: who runs in it, what lies in it, what it may do."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.container.conftest import GATEWAY_IMAGE
from tests.container.stack import ROOT, run

if TYPE_CHECKING:
    from tests.container.stack import Stack

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]
INSTALLED = "import importlib.metadata as m; print(*{d.name.lower().replace('_', '-') for d in m.distributions()})"


def test_the_image_is_set_up_for_loopback_and_a_plain_user(stack: Stack) -> None:
    """The base's entry point and OLLAMA_HOST are replaced, NVIDIA's variables stay, the user is a number."""
    [image] = json.loads(run("docker", "image", "inspect", GATEWAY_IMAGE))
    seen = image["Config"]
    environment = dict(line.split("=", 1) for line in seen["Env"])
    assert seen["User"] == "10001:10001"
    assert environment["OLLAMA_HOST"] == "127.0.0.1:11434"
    assert environment["OLLAMA_NO_CLOUD"] == "1"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert "launcher.py" in " ".join(seen["Entrypoint"])
    assert not seen["Cmd"]
    assert seen["Healthcheck"]["Test"][0] == "CMD"
    assert list(seen["Volumes"]) == ["/var/lib/ollama"]
    assert seen["Labels"]["org.opencontainers.image.licenses"] == "MIT"


def test_no_process_has_rights_to_spare(stack: Stack) -> None:
    """Every process runs as 10001, has no capability and can gain none."""
    processes = stack.processes()
    assert len(processes) >= 3
    for process in processes:
        assert set(process.status["Uid"].split()) == {"10001"}, process
        assert int(process.status["CapEff"], 16) == int(process.status["CapBnd"], 16) == 0, process
        assert process.status["NoNewPrivs"] == "1", process


@pytest.mark.parametrize("place", ["/", "/etc", "/opt/gateway", "/usr/bin", "/var/lib"])
def test_the_root_file_system_is_read_only(stack: Stack, place: str) -> None:
    """Nothing can be written beside /tmp and the volume."""
    assert "Read-only file system" in stack.sh(f"touch {place.rstrip('/')}/x", check=False)


@pytest.mark.parametrize("place", ["/tmp", "/var/lib/ollama", "/var/lib/ollama/models"])
def test_tmp_and_the_volume_are_writable(stack: Stack, place: str) -> None:
    """Ollama's home and its models lie in a volume that belongs to the plain user."""
    assert stack.sh(f"touch {place}/x && rm {place}/x && echo written") == "written\n"


def test_the_code_cannot_be_changed_even_on_a_writable_root(stack: Stack) -> None:
    """All of /opt/gateway belongs to root, is readable for everybody and writable for nobody else."""
    odd = r"\( ! -user root -o -perm /022 -o ! -perm -004 \)"
    assert stack.sh("find /opt/gateway -name '*.py' | head -1").strip()
    assert stack.sh(f"find /opt/gateway ! -type l {odd}") == ""


def test_nothing_of_the_build_stays(stack: Stack) -> None:
    """No pip, no way to get it, no compiler; the gateway's Python has the locked packages and no others."""
    tools = "pip pip3 gcc cc g++ make ld curl wget"
    assert stack.sh(f"for tool in {tools}; do command -v $tool; done; true") == ""
    assert "No module named pip" in stack.sh("python -m pip", check=False)
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements/gateway.txt").read_text(), re.MULTILINE))
    installed = set(stack.sh(f'python -c "{INSTALLED}"').split())
    assert installed
    assert installed <= locked


def test_our_layers_tell_nothing_of_the_machine_that_built_them(stack: Stack) -> None:
    """What our Containerfile adds to the history names no proxy, no certificate and no credential."""
    history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", GATEWAY_IMAGE)
    ours, base, _ = history.partition('ENTRYPOINT ["/bin/ollama"]')
    assert base
    assert not re.search(r"(?i)(proxy|cert|password|passwd|token|secret)\w*=", ours)
