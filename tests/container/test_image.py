"""Promises of the image itself: who runs in it, what lies in it, what it may do."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest

from gateway import __version__
from tests.container.conftest import GATEWAY_IMAGE, OLLAMA_IMAGE
from tests.container.stack import PROGRAMS, run
from tests.support.locks import IMAGE_LOCKS, pins

if TYPE_CHECKING:
    from pathlib import Path

    from tests.container.stack import Stack

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
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
    """Every process, Ollama and the gateway among them, runs as 10001, has no capability and can gain none."""
    processes = stack.processes()
    for program in PROGRAMS.values():
        assert any(process.command.endswith(program) for process in processes), program
    assert any(process.pid == 1 for process in processes)
    for process in processes:
        assert set(process.status["Uid"].split() + process.status["Gid"].split()) == {"10001"}, process
        assert {int(process.status[name], 16) for name in CAPABILITIES} == {0}, process
        assert process.status["NoNewPrivs"] == "1", process


@pytest.mark.parametrize(("service", "user"), [("gateway", "10001:10001"), ("redis", "999:1000")])
def test_the_four_locks_hold_together(stack: Stack, service: str, user: str) -> None:
    """In each container as it runs: a plain user, a read-only root, no capability, no new privileges."""
    assert stack.sh("echo $(id -u):$(id -g)", service) == f"{user}\n"
    assert "Read-only file system" in stack.sh("touch /x", service, check=False)
    status = dict(line.split(":", 1) for line in stack.sh("cat /proc/1/status", service).splitlines())
    assert {int(status[name], 16) for name in CAPABILITIES} == {0}
    assert status["NoNewPrivs"].strip() == "1"
    host = stack.container(service)["HostConfig"]
    assert (host["Privileged"], host["CapAdd"], host["Devices"] or []) == (False, None, [])


@pytest.mark.parametrize("place", ["/", "/etc", "/opt/gateway", "/usr/bin", "/var/lib"])
def test_the_root_file_system_is_read_only(stack: Stack, place: str) -> None:
    """Nothing can be written beside /tmp and the volume."""
    assert "Read-only file system" in stack.sh(f"touch {place.rstrip('/')}/x", check=False)


@pytest.mark.parametrize("place", ["/tmp", "/var/lib/ollama", "/var/lib/ollama/models"])
def test_tmp_and_the_volume_are_writable(stack: Stack, place: str) -> None:
    """Ollama's home and its models lie in a volume that belongs to the plain user."""
    assert stack.sh(f"touch {place}/x && rm {place}/x && echo written") == "written\n"


def test_the_code_cannot_be_changed_even_on_a_writable_root(stack: Stack) -> None:
    """All of /opt/gateway belongs to root, is readable for everybody and writable for no one else."""
    odd = r"\( ! -user root -o -perm /022 -o ! -perm -004 \)"
    assert stack.sh("find /opt/gateway -name '*.py' | head -1").strip()
    assert stack.sh(f"find /opt/gateway ! -type l {odd}") == ""


def test_nothing_of_the_build_stays(stack: Stack) -> None:
    """No pip, no way to get it, no compiler; the gateway's Python has the locked packages and no others.

    What rich would need to show source code is not there.
    """
    tools = "pip pip3 gcc cc g++ make ld curl wget"
    assert stack.sh(f"for tool in {tools}; do command -v $tool; done; true") == ""
    assert "No module named pip" in stack.sh("python -m pip", check=False)
    locked = {pin.name for lock in IMAGE_LOCKS for pin in pins(lock)}
    installed = set(stack.sh(f'python -c "{INSTALLED}"').split())
    assert installed
    assert installed <= locked - {"markdown-it-py", "mdurl", "pygments"}


def test_our_layers_tell_nothing_of_the_machine_that_built_them(stack: Stack) -> None:
    """What our Containerfile adds to the history names no proxy, no certificate and no credential."""
    history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", GATEWAY_IMAGE)
    ours, base, _ = history.partition('ENTRYPOINT ["/bin/ollama"]')
    assert base
    assert not re.search(r"(?i)(proxy|cert|password|passwd|token|secret)\w*=", ours)


def test_nothing_lies_in_the_image_that_a_run_should_make(stack: Stack) -> None:
    """No key of Ollama's, no environment file, no leftover: each container makes what is its own itself."""
    places = "/var/lib/ollama /tmp /home /root/.ollama /opt/gateway -maxdepth 1"
    as_root = ("docker", "run", "--rm", "--user", "0", "--entrypoint", "sh", GATEWAY_IMAGE, "-c")
    seen = run(*as_root, f"find {places} 2>&1; true")
    ours = {line for line in seen.splitlines() if "No such file" not in line and "/home/" not in line}
    assert ours == {
        "/var/lib/ollama",
        "/var/lib/ollama/models",
        "/tmp",
        "/home",
        "/opt/gateway",
        *(f"/opt/gateway/{name}" for name in ("gateway", "healthcheck", "supervisord.conf", "venv")),
    }


def test_an_old_ollama_is_not_built_upon(stack: Stack, tmp_path: Path) -> None:
    """A base image whose Ollama has known holes ends the build, with the version and the way out."""
    old = tmp_path / "Containerfile"
    script = "#!/bin/sh\\necho ollama version is 0.17.0\\n"
    old.write_text(f"FROM {OLLAMA_IMAGE}\nRUN printf '{script}' >/usr/bin/ollama\n")
    run("docker", "build", "-f", str(old), "-t", "ollama-old:test", str(tmp_path), seconds=120)
    build = ("docker", "build", "-f", "Containerfile", "--target", "code", "--build-arg")
    with pytest.raises(AssertionError, match=r"(?s)version is 0\.17\.0.*take 0\.17\.1 or newer"):
        run(*build, "OLLAMA_IMAGE=ollama-old:test", ".", seconds=300)


def test_make_image_labels_the_image(running: Stack) -> None:
    """Version, commit, time and title are in the image that `make image` builds on the real Containerfile."""
    name = f"ollama-gateway:labels-{os.getpid()}"
    try:
        run("make", "image", seconds=400, environment={"GATEWAY_IMAGE": name, "OLLAMA_IMAGE": OLLAMA_IMAGE})
        [image] = json.loads(run("docker", "image", "inspect", name))
    finally:
        run("docker", "image", "rm", name, check=False)
    labels = image["Config"]["Labels"]
    prefix = "org.opencontainers.image."
    said = dict(line.split("=", 1) for line in run("tools/image.sh", "labels").splitlines())
    assert labels[prefix + "title"] == "ollama-gateway"
    assert {label: labels[prefix + label.lower()] for label in said} == said
    assert said["VERSION"] == __version__
