"""Owns the promise that the files of docs/ci.md are what they seem: valid, one model, one start, actions by commit."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.pages import blocks, page, the_block
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGE = page("docs/ci.md")
GITHUB, GITLAB = the_block(PAGE, "yaml", "runs-on"), the_block(PAGE, "yaml", "after_script")
STACK = the_block(PAGE, "yaml", "services:\n  gateway")


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ("vendor.github-workflows", GITHUB),
        ("custom.github-workflows-require-timeout", GITHUB),
        ("vendor.gitlab-ci", GITLAB),
        ("vendor.compose-spec", STACK),
    ],
    ids=["GitHub", "GitHub, limits of time", "GitLab", "Compose"],
)
def test_each_file_is_valid(schema: str, text: str, tmp_path: Path) -> None:
    """Its schema takes it."""
    file = tmp_path / "file.yml"
    file.write_text(text)
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_actions_are_those_of_our_own_workflows() -> None:
    """Each is pinned by commit; where our workflows use the same action, they use the same commit."""
    found = re.findall(r"uses: (\S+)@([0-9a-f]{40}) # v\d+\.\d+\.\d+$", GITHUB, re.MULTILINE)
    assert len(found) == GITHUB.count("uses:") == 3
    ours = "".join(path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    assert all(f"{name}@{commit}" in ours for name, commit in found if f"{name}@" in ours)


def test_the_cache_is_where_the_models_are() -> None:
    """Both cache the directory that the image keeps models in, below the one that the stack mounts."""
    (mount,) = yaml.safe_load(STACK)["services"]["gateway"]["volumes"]
    models = re.search(r"OLLAMA_MODELS=/var/lib/ollama/(\w+)", (ROOT / "Containerfile").read_text())
    assert (mount, models and models[1]) == ("./.ollama:/var/lib/ollama", "models")
    (cache,) = [
        step["with"]
        for step in yaml.safe_load(GITHUB)["jobs"]["test"]["steps"]
        if "actions/cache@" in step.get("uses", "")
    ]
    gitlab = yaml.safe_load(GITLAB)["model"]["cache"]
    assert [cache["path"]] == gitlab["paths"] == [".ollama/models"]
    assert cache["key"] == gitlab["key"]
    assert (
        yaml.safe_load(STACK)["services"]["gateway"]["environment"]["OLLAMA_PULL_MODELS"] in PAGE.split("```python")[1]
    )


def test_readiness_means_the_model() -> None:
    """The stack is healthy only with its model, and the start may take as long as `--wait` waits."""
    service = yaml.safe_load(STACK)["services"]["gateway"]
    assert service["environment"]["READY_REQUIRES_MODELS"] == "true"
    assert service["healthcheck"]["start_period"] == "10m"
    assert GITHUB.count("--wait --wait-timeout 600") == GITLAB.count("--wait --wait-timeout 600") == 1


def test_every_example_is_tested() -> None:
    """The page has no other examples than those that tests know."""
    assert {language: len(blocks(PAGE, language)) for language in ("yaml", "python", "sh")} == {
        "yaml": 3, "python": 1, "sh": 1,
    }  # fmt: skip
    assert PAGE.count("\n```") == 10
