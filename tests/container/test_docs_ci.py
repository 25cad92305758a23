"""Owns the promise that the files of docs/ci.md do what the page says: their steps are run in order, in a project.

Stand-ins: the image of these tests, a free port, Docker on this machine where GitLab has a service for it, and an `apk`
that does nothing. The small model's Ollama cannot list its models, so readiness with models is tested with another one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from tests.container.conftest import GATEWAY_IMAGE
from tests.container.stack import ROOT, run
from tests.support.pages import page, the_block
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.container.stack import Stack

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]

PAGE = page("docs/ci.md")
GITHUB: dict[str, Any] = yaml.safe_load(the_block(PAGE, "yaml", "runs-on"))["jobs"]["test"]
GITLAB: dict[str, Any] = yaml.safe_load(the_block(PAGE, "yaml", "after_script"))["model"]
PUBLISHED = "ghcr.io/OWNER/ollama-gateway:0.1"
PULLING = ROOT / "tests" / "support" / "pulling_ollama.py"


class Project:
    """A project that has copied the page's files; its steps run in its directory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        stack = the_block(PAGE, "yaml", "services:\n  gateway")
        assert PUBLISHED in stack
        stack = stack.replace(PUBLISHED, GATEWAY_IMAGE).replace(":11535:11535", f":{self.port}:11535")
        self.stack = stack
        self.write(stack.replace('READY_REQUIRES_MODELS: "true"', 'READY_REQUIRES_MODELS: "false"'))
        (folder / "tests").mkdir()
        (folder / "tests" / "test_model.py").write_text(the_block(PAGE, "python", "from openai"))
        # with the machine's own environment: it may say how packages are reached
        self.environment = dict(os.environ) | {
            "COMPOSE_PROJECT_NAME": f"gateway-ci-{os.getpid()}",
            "COMPOSE_ENV_FILES": os.devnull,
            "GATEWAY_URL": f"http://127.0.0.1:{self.port}",
        }

    def write(self, stack: str) -> None:
        """Write the file for Compose."""
        (self.folder / "compose.ci.yaml").write_text(stack)

    def run(self, script: str, **settings: str) -> str:
        """What a step writes (both streams); it has to end with 0."""
        command = ["bash", "-ec", f"exec 2>&1\n{script}"]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment | settings, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def github(self, name: str, **settings: str) -> str:
        """A step of the workflow by its name."""
        (script,) = [step["run"] for step in GITHUB["steps"] if step.get("name") == name]
        return self.run(script, **GITHUB["env"], **settings)

    def report(self) -> list[dict[str, Any]]:
        """The tasks of the report; its log has lines of each program."""
        log = (self.folder / "gateway-report" / "log.txt").read_text()
        assert all(re.search(rf"\| {program} +\| ", log) for program in ("supervisord", "ollama", "gateway", "pull"))
        return list(json.loads((self.folder / "gateway-report" / "tasks.json").read_text())["items"])


@pytest.fixture
def project(running: Stack, tmp_path: Path) -> Iterator[Project]:
    """A project with the image of the running stack; its containers are gone at the end."""
    made = Project(tmp_path)
    yield made
    made.run("docker compose -f compose.ci.yaml down --volumes --timeout 5")


def test_githubs_steps_work_in_order(project: Project) -> None:
    """Start, test, report, stop: the tests pass, the report names the test, and the files belong to the job's user."""
    project.github("Start the gateway")
    assert "1 passed" in project.github("Test")
    project.github("Report")
    (task,) = project.report()
    assert (task["state"], task["extensions"]["label"]) == ("SUCCESS", "test_the_model_answers")
    owners = {path.stat().st_uid for path in (project.folder / ".ollama").rglob("*")}
    assert owners <= {os.getuid()}
    project.github("Stop")
    assert project.run("docker compose -f compose.ci.yaml ps --all --quiet") == ""


def test_another_user_can_run_it(project: Project) -> None:
    """The container becomes healthy as a user that the image does not know, as in a job that is not root's."""
    user = "1234:1234"
    (project.folder / ".ollama").mkdir()
    project.run(f"chown {user} .ollama") if os.getuid() == 0 else None
    start = "docker compose up --detach --wait --wait-timeout 300"
    user = user if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}"
    project.run(start, GATEWAY_USER=user, COMPOSE_FILE="compose.ci.yaml")
    container = project.run("docker compose -f compose.ci.yaml exec -T gateway sh -c 'echo $(id -u):$(id -g)'")
    assert container.strip() == user


def test_gitlabs_steps_work_in_order(project: Project) -> None:
    """The same for GitLab, with the stand-ins. GitHub's steps install the same packages, so not again here."""
    programs = project.folder.parent / f"{project.folder.name}-bin"
    programs.mkdir()
    for name in ("apk",) if os.getuid() == 0 else ("apk", "chown"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    settings = {name: value for name, value in GITLAB["variables"].items() if not name.startswith("DOCKER_")}
    settings |= {"GATEWAY_BIND": "127.0.0.1", "GATEWAY_URL": project.environment["GATEWAY_URL"]}
    settings |= {"PATH": f"{programs}:{os.environ['PATH']}"}
    if os.getuid():
        settings["GATEWAY_USER"] = f"{os.getuid()}:{os.getgid()}"
    (test,) = [step["run"].splitlines() for step in GITHUB["steps"] if step.get("name") == "Test"]
    assert GITLAB["script"][-3:] == test
    python = project.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    script = [line for line in GITLAB["script"] if line not in test[:2]]
    assert "1 passed" in project.run("\n".join(script), **settings)
    project.run("\n".join(GITLAB["after_script"]), **settings)
    assert [task["extensions"]["label"] for task in project.report()] == ["test_the_model_answers"]


def test_the_model_is_pulled_once(project: Project) -> None:
    """`--wait` returns when the pull is over. With the cached directory the next job pulls nothing."""
    files = "compose.ci.yaml:pulling.yaml"
    mount = {"services": {"gateway": {"volumes": [f"{PULLING}:/usr/bin/ollama:ro"]}}}
    (project.folder / "pulling.yaml").write_text(json.dumps(mount))
    project.write(project.stack)
    start = next(step["run"] for step in GITHUB["steps"] if step.get("name") == "Start the gateway")
    logs, stop = "docker compose logs --no-color", "docker compose down"
    project.run(start, COMPOSE_FILE=files)
    address = f"{project.environment['GATEWAY_URL']}/readyz"
    assert httpx.get(address, timeout=30, trust_env=False).json()["models"]["missing"] == []
    assert "smollm2:135m: pulled" in project.run(logs, COMPOSE_FILE=files)
    project.run(stop, COMPOSE_FILE=files)

    (cache,) = [step["with"]["path"] for step in GITHUB["steps"] if "actions/cache@" in step.get("uses", "")]
    (project.folder / cache).rename(project.folder / "saved")
    run("rm", "-rf", str(project.folder / ".ollama"))
    (project.folder / ".ollama").mkdir()
    (project.folder / "saved").rename(project.folder / cache)

    project.run(start, COMPOSE_FILE=files)
    assert httpx.get(address, timeout=30, trust_env=False).json()["models"]["missing"] == []
    assert "smollm2:135m: pull" not in project.run(logs, COMPOSE_FILE=files)
