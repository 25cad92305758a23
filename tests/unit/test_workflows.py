"""Owns the promises of .github/workflows: valid, pinned, with few rights; their shell steps are run as they stand.

A step runs in a small repository with a copy of our scripts, and with stand-ins for docker and gh that note their call.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.installing import needed
from tests.support.process import ROOT, environment

if TYPE_CHECKING:
    from pathlib import Path

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TESTS, RELEASE = (yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text()) for name in
                  ("tests", "release"))  # fmt: skip
PIN = re.compile(r"([\w-]+/[\w-]+)@([0-9a-f]{40}) # v\d+\.\d+\.\d+")
CHANGES = """# Changelog

## [Unreleased]

- Not yet.

## [1.2.4] - 2026-11-30

### Added

- The newest.

## [1.2.3] - 2026-11-29

- The older one.

## [1.1.0]

[1.2.4]: https://example.com
"""

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def steps(path: Path) -> list[dict[str, Any]]:
    """All steps of all jobs of a workflow."""
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    return [step for job in jobs for step in job.get("steps", [])]


def shell(job: str, name: str) -> str:
    """The shell step of release.yml with this name."""
    (script,) = [step["run"] for step in RELEASE["jobs"][job]["steps"] if step.get("name") == name]
    return str(script)


class Clone:
    """A small repository with our scripts, at version 1.2.4; `outputs` are what steps gave to GitHub."""

    def __init__(self, folder: Path) -> None:
        self.git_program = needed("git")
        self.folder, self.bin, self.outputs = folder / "clone", folder / "bin", folder / "outputs"
        (self.folder / "tools").mkdir(parents=True)
        self.bin.mkdir()
        for name in ("image.sh", "release.sh"):
            copy = self.folder / "tools" / name
            copy.write_bytes((ROOT / "tools" / name).read_bytes())
            copy.chmod(0o755)
        (self.folder / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1.2.4"\n')
        (self.folder / "CHANGELOG.md").write_text(CHANGES)
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "all")

    def git(self, *words: str) -> str:
        dates = {"GIT_AUTHOR_DATE": "2026-11-30T03:04:05+02:00", "GIT_COMMITTER_DATE": "2026-11-30T03:04:05+02:00"}
        command = [self.git_program, "-c", "user.name=x", "-c", "user.email=x@example.com", *words]
        done = subprocess.run(
            command, cwd=self.folder, env=environment(dates), capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def note(self, program: str, view: str = "exit 0") -> Path:
        """A stand-in for a program that writes its arguments and its input to the file that is returned."""
        calls, path = self.folder.parent / f"{program}.calls", self.bin / program
        path.write_text(f'#!/bin/bash\n[ "$2" != view ] || {view}\nprintf "%s\\n" "$@" >>{calls}\n'
                        f'[ "${{!#}}" != - ] || cat >>{calls}\n')  # fmt: skip
        path.chmod(0o755)
        return calls

    def step(self, script: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a step as GitHub does."""
        given = {"PATH": f"{self.bin}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(self.outputs)} | settings
        command = ["bash", "-e", "-c", script]
        return subprocess.run(
            command, cwd=self.folder, env=environment(given), capture_output=True, text=True, check=False
        )

    def given(self) -> dict[str, str]:
        """What steps gave to GitHub: name and value of each line."""
        return dict(line.split("=", 1) for line in self.outputs.read_text().splitlines())


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone with the tags v1.1.0, v1.2.3 and v1.2.4, two that are no versions, and one made by mistake."""
    made = Clone(tmp_path)
    for tag in ("v1.2.4", "v1.3.0-rc.1", "vault", "v9.0.0"):
        made.git("tag", tag)
    for version in ("1.1.0", "1.2.3"):
        (made.folder / "pyproject.toml").write_text(f'[project]\nname = "x"\nversion = "{version}"\n')
        (made.folder / "CHANGELOG.md").write_text(f"# Changelog\n\n## [{version}]\n\n- Its changes.\n")
        made.git("commit", "--quiet", "--all", "--message", version)
        made.git("tag", f"v{version}")
    made.git("reset", "--quiet", "--hard", "v1.2.4")
    return made


def test_the_workflows_are_those_we_mean() -> None:
    """There is one for tests and one for releases."""
    assert [path.name for path in WORKFLOWS] == ["release.yml", "tests.yml"]


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_workflows_are_valid(schema: str) -> None:
    """GitHub's schema takes them, and each job has a limit of time."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, WORKFLOWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_actions_are_pinned() -> None:
    """Each action is named by commit, its version is beside it, and all uses of it have one commit."""
    used = [line.split("uses: ")[1] for path in WORKFLOWS for line in path.read_text().splitlines() if "uses: " in line]
    local = [name for name in used if name.startswith("./")]
    pins = [PIN.fullmatch(name) for name in used if name not in local]
    assert local == ["./.github/workflows/tests.yml"]
    assert all(pins), used
    found = {(pin[1], pin[2]) for pin in pins if pin}
    assert len(found) == len({name for name, _ in found}) > 5


def test_jobs_have_few_rights() -> None:
    """A job can write only what it makes; the tests can write nothing; there is no secret but GitHub's own token."""
    assert TESTS["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in TESTS["jobs"].values())
    assert RELEASE["permissions"] == {}
    written = {
        name: {right for right, kind in job["permissions"].items() if kind == "write"}
        for name, job in RELEASE["jobs"].items()
    }
    assert written == {
        "check": set(), "tests": set(), "image": {"packages", "id-token", "attestations"}, "release": {"contents"},
    }  # fmt: skip
    text = "".join(path.read_text() for path in WORKFLOWS)
    assert set(re.findall(r"secrets\.(\w+)", text)) == {"GITHUB_TOKEN"}
    assert "secrets: inherit" not in text
    checkouts = [step for path in WORKFLOWS for step in steps(path) if "actions/checkout@" in step.get("uses", "")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_old_runs_end_and_releases_do_not() -> None:
    """A newer push ends the tests of a pull request; a release is never cut."""
    assert "pull_request" in TESTS["concurrency"]["cancel-in-progress"]
    assert "github.workflow" not in TESTS["concurrency"]["group"]  # it would be the release's own group
    assert RELEASE["concurrency"]["cancel-in-progress"] is False


@each_workflow
def test_shell_steps_are_one_line_of_ours(path: Path) -> None:
    """A step is one valid line; what it calls is there; no text from outside becomes part of it."""
    scripts = [step["run"] for step in steps(path) if "run" in step]
    assert scripts
    for script in scripts:
        assert "\n" not in script.strip(), script
        assert set(re.findall(r"\${{ (\S+) }}", script)) <= {"matrix.suite"}, script
        plain = re.sub(r"\${{ \S+ }}", "check", script)
        subprocess.run(["bash", "-n", "-c", plain], check=True)
        for name in re.findall(r"(?:^|<)((?:tools|tests|\.ci)/\S+)", plain):
            assert (ROOT / name).is_file(), script
            assert os.access(ROOT / name, os.X_OK) or f"<{name}" in plain, script
        for target in re.findall(r"^make (\S+)", plain):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), script


def test_each_suite_is_a_job() -> None:
    """The jobs of a pull request run `make check` and every suite of the Makefile."""
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("test")}
    suites = set(TESTS["jobs"]["suite"]["strategy"]["matrix"]["suite"])
    assert suites | {"test-container"} == targets | {"check"}
    assert ".ci/run test-container" in [step.get("run") for step in TESTS["jobs"]["container"]["steps"]]


def test_a_release_comes_after_its_tests() -> None:
    """Nothing is pushed before the tag is checked and all tests have passed; the release comes last."""
    jobs = RELEASE["jobs"]
    assert (jobs["tests"]["needs"], jobs["image"]["needs"], jobs["release"]["needs"]) == ("check", "tests", "image")
    assert jobs["tests"]["uses"] == "./.github/workflows/tests.yml"


def test_the_published_image_is_for_two_platforms_with_its_papers() -> None:
    """amd64 and arm64, an SBOM, provenance, and all labels of the Containerfile."""
    (build,) = [step["with"] for step in RELEASE["jobs"]["image"]["steps"] if step.get("id") == "build"]
    assert (build["platforms"], build["sbom"], build["provenance"]) == ("linux/amd64,linux/arm64", True, "mode=max")
    end = (ROOT / "Containerfile").read_text().split("ENTRYPOINT")[1]
    names = re.findall(r"^ARG (\w+)=", end, re.MULTILINE)
    assert names == ["VERSION", "REVISION", "CREATED", "SOURCE"]
    assert build["build-args"].splitlines() == [f"{name}=${{{{ steps.labels.outputs.{name} }}}}" for name in names]
    for name in names:
        assert f'org.opencontainers.image.{name.lower()}="${{{name}}}"' in end


def test_the_right_tag_can_be_released(clone: Clone) -> None:
    """The tag is v and the version of pyproject.toml, and the changelog has its section."""
    done = clone.step(shell("check", "The tag is the version, and the changelog has it"), GITHUB_REF_NAME="v1.2.4")
    assert (done.returncode, done.stdout, done.stderr) == (0, "version=1.2.4\n", "")


@pytest.mark.parametrize(
    ("tag", "version", "said"),
    [
        ("v1.2.3", "1.2.4", "the tag is v1.2.3, but pyproject.toml says 1.2.4"),
        ("v1.2.5", "1.2.5", "CHANGELOG.md has no section [1.2.5]"),
        ("v1.1.0", "1.1.0", "the section [1.1.0] of CHANGELOG.md is empty"),
        ("v1.2", "1.2.4", "the tag v1.2 is not vX.Y.Z"),
        ("1.2.4", "1.2.4", "the tag 1.2.4 is not vX.Y.Z"),
        ("v1.2.4-rc.1", "1.2.4", "the tag v1.2.4-rc.1 is not vX.Y.Z"),
        ("v1.2.04", "1.2.4", "the tag v1.2.04 is not vX.Y.Z"),
        ("v1.2.4;id", "1.2.4", "the tag v1.2.4;id is not vX.Y.Z"),
    ],
)
def test_a_wrong_tag_is_refused(clone: Clone, tag: str, version: str, said: str) -> None:
    """One line says why; nothing else happens."""
    (clone.folder / "pyproject.toml").write_text(f'version = "{version}"\n')
    done = clone.step(shell("check", "The tag is the version, and the changelog has it"), GITHUB_REF_NAME=tag)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"release: {said}\n")


@pytest.mark.parametrize(
    ("tag", "names"),
    [("v1.2.4", ["1.2.4", "1.2", "latest"]), ("v1.2.3", ["1.2.3"]), ("v1.1.0", ["1.1.0", "1.1"])],
    ids=["the newest", "an older one", "the newest of an older line"],
)
def test_only_the_newest_version_takes_the_moving_names(clone: Clone, tag: str, names: list[str]) -> None:
    """The image of a version is X.Y.Z; X.Y and latest go to the newest alone. Capital letters become small.

    A tag whose files are of another version was never released, so it takes nothing.
    """
    script = shell("image", "Names of the image")
    done = clone.step(script, GITHUB_REPOSITORY="Owner/Ollama-Gateway", GITHUB_REF_NAME=tag)
    assert done.returncode == 0, done.stderr
    image = "ghcr.io/owner/ollama-gateway"
    assert clone.given()["name"] == image
    assert clone.given()["tags"].split(",") == [f"{image}:{name}" for name in names]


@pytest.mark.parametrize(
    ("view", "verb"), [("exit 1", "create"), ("exit 0", "edit")], ids=["the first time", "once more"]
)
def test_a_release_has_its_part_of_the_changelog(clone: Clone, view: str, verb: str) -> None:
    """The release's text is that section alone. A second run writes the text again."""
    calls = clone.note("gh", view)
    done = clone.step(shell("release", "Publish the release"), GITHUB_REF_NAME="v1.2.4")
    assert done.returncode == 0, done.stderr
    words = ["release", verb, "v1.2.4", "--verify-tag", "--title", "v1.2.4", "--latest", "--notes-file", "-"]
    assert calls.read_text().splitlines() == [*words, "### Added", "", "- The newest.", ""]


def test_an_older_release_is_not_the_latest(clone: Clone) -> None:
    """GitHub's mark for the latest release stays at the newest version."""
    calls = clone.note("gh", "exit 1")
    assert clone.step(shell("release", "Publish the release"), GITHUB_REF_NAME="v1.2.3").returncode == 0
    assert "--latest=false" in calls.read_text().splitlines()
    assert "The older one." in calls.read_text()


def test_the_labels_are_those_of_the_commit(clone: Clone) -> None:
    """Version, commit, the commit's time in UTC and the repository's address: the same at each build of a commit."""
    script, source = shell("image", "Labels of the image"), RELEASE["jobs"]["image"]["env"]["IMAGE_SOURCE"]
    assert source == "${{ github.server_url }}/${{ github.repository }}"
    assert clone.step(script, IMAGE_SOURCE="https://github.com/owner/name").returncode == 0
    commit = clone.git("rev-parse", "HEAD")
    assert clone.given() == {
        "VERSION": "1.2.4",
        "REVISION": commit,
        "CREATED": "2026-11-30T01:04:05Z",
        "SOURCE": "https://github.com/owner/name",
    }


def test_a_changed_tree_is_called_dirty(clone: Clone) -> None:
    """The label tells an image of uncommitted files from one of a commit."""
    (clone.folder / "new.py").write_text("")
    assert clone.step("tools/image.sh labels >>$GITHUB_OUTPUT").returncode == 0
    assert clone.given()["REVISION"] == clone.git("rev-parse", "HEAD") + "-dirty"


def test_an_image_can_be_built_without_git(clone: Clone) -> None:
    """From an unpacked archive the commit is unknown, and the version is still right."""
    done = clone.step("tools/image.sh labels", GIT_DIR="/nowhere")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "VERSION=1.2.4\nREVISION=unknown\nCREATED=unknown\nSOURCE=unknown\n"


def test_make_image_builds_with_the_labels(clone: Clone) -> None:
    """`make image` gives them to the build, with the base image and the name that the variables say."""
    calls = clone.note("docker")
    (clone.folder / "Makefile").write_text((ROOT / "Makefile").read_text())
    needed("make")
    done = clone.step("make image", OLLAMA_IMAGE="base:1", GATEWAY_IMAGE="mine:2")
    assert done.returncode == 0, done.stderr
    words = calls.read_text().splitlines()
    assert words[:5] == ["build", "-f", "Containerfile", "-t", "mine:2"]
    given = [value for flag, value in itertools.pairwise(words) if flag == "--build-arg"]
    assert [value.split("=")[0] for value in given] == ["VERSION", "REVISION", "CREATED", "SOURCE", "OLLAMA_IMAGE"]
    assert given[0] == "VERSION=1.2.4"
    assert given[-1] == "OLLAMA_IMAGE=base:1"
