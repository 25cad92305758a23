"""Known holes stay closed: no version below the one that mended it, in what is installed, locked or built upon."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import httptools
import httptools.parser.parser
import pytest
from packaging.version import Version

from tests.support.locks import pins
from tests.support.process import ROOT
from tools.ollama_floor import FLOOR, is_too_old

if TYPE_CHECKING:
    from pathlib import Path

# The oldest version without the hole that stands beside it.
FLOORS = {
    "certifi": ("2024.7.4", "CVE-2024-39689: a root that is no longer trusted"),
    "fastapi": ("0.109.1", "CVE-2024-24762: a Content-Type that stops the process"),
    "h11": ("0.16.0", "CVE-2025-43859: chunks read more leniently than by others, smuggling"),
    "hiredis": ("2.1.0", "CVE-2021-32765: an overflow in the reply parser"),
    "httpx": ("0.23.0", "CVE-2021-41945: a URL taken for another host's"),
    "idna": ("3.7", "CVE-2024-3651: a host name that takes minutes"),
    "lxml": ("4.9.1", "CVE-2022-2309: a document that crashes the parser"),
    "orjson": ("3.9.15", "CVE-2024-27454: nested documents without a limit"),
    "protobuf": ("6.31.1", "CVE-2025-4565: nested messages without a limit"),
    "pydantic": ("2.4.0", "CVE-2024-3772: a text that takes minutes"),
    "pygments": ("2.15.1", "CVE-2022-40896: a text that takes minutes"),
    "redis": ("4.5.5", "CVE-2023-28858 and 28859: a cancelled command's reply reaches the next caller"),
    "requests": ("2.32.4", "CVE-2024-47081: credentials sent to another host"),
    "starlette": ("0.49.1", "CVE-2025-62727: a Range that takes minutes; older ones: multipart without a limit"),
    "supervisor": ("3.3.3", "CVE-2017-11610: commands through its own server"),
    "urllib3": ("2.6.0", "CVE-2025-66418 and 66471: a compressed answer without a limit"),
    "uvicorn": ("0.11.7", "CVE-2020-7694 and 7695: fields split by what a client sends"),
    "werkzeug": ("3.0.6", "CVE-2024-49767: a form without a limit"),
}
PINNED = [
    (lock, pin.name, pin.version)
    for lock in ("gateway.txt", "tracing.txt", "dev.txt", "embedded.txt")
    for pin in pins(lock)
]


def test_every_floor_is_a_package_of_ours() -> None:
    """A floor for what no one installs any more would look like protection; and the locks were read."""
    assert FLOORS.keys() <= {package for _, package, _ in PINNED}
    assert len(PINNED) > 80


@pytest.mark.parametrize(
    ("lock", "package", "version"), [pin for pin in PINNED if pin[1] in FLOORS], ids=lambda text: str(text)
)
def test_no_lock_is_below_a_floor(lock: str, package: str, version: str) -> None:
    """What CI and the image install is at or above each floor."""
    assert Version(version) >= Version(FLOORS[package][0]), f"{lock}: {FLOORS[package][1]}"


@pytest.mark.parametrize("package", FLOORS)
def test_nothing_installed_is_below_a_floor(package: str) -> None:
    """What runs here is, too; a package that this machine lacks has no hole."""
    installed = [d.version for d in importlib.metadata.distributions() if d.name.lower() == package]
    assert all(Version(version) >= Version(FLOORS[package][0]) for version in installed), FLOORS[package][1]


# -- llhttp, which httptools carries inside --


def test_httptools_carries_llhttp_9() -> None:
    """The parser has the switches that llhttp 9.1 and 9.2 brought; it tells its version nowhere."""
    library = ctypes.CDLL(httptools.parser.parser.__file__)
    for symbol in ("llhttp_set_lenient_optional_cr_before_lf", "llhttp_set_lenient_spaces_after_chunk_size"):
        assert hasattr(library, symbol), f"{symbol} is missing: llhttp is older than 9.2"


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
SMUGGLING = {
    "a field ended by CR alone (CVE-2023-30589)": b"GET / HTTP/1.1\r\nX: a\rContent-Length: 5\r\n\r\n",
    "a space before the first field (CVE-2024-27982)": b"POST / HTTP/1.1\r\n Content-Length: 2\r\n\r\n",
    "a space behind a field's name (CVE-2021-22959)": b"POST / HTTP/1.1\r\nContent-Length : 2\r\n\r\n",
    "a space behind a chunk's size": CHUNKED + b"2 \r\nab\r\n0\r\n\r\n",
    "a chunk's size ended by LF alone": CHUNKED + b"2\nab\r\n0\r\n\r\n",
    "an extension of a chunk with LF in it (CVE-2021-22960)": CHUNKED + b"2;a\nb\r\nab\r\n0\r\n\r\n",
    "a chunk without its CRLF": CHUNKED + b"2\r\nab0\r\n\r\n",
    "both lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked that is not the last coding": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, x\r\n\r\n",
    "more behind a request that closes": b"GET / HTTP/1.1\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("message", SMUGGLING.values(), ids=SMUGGLING)
def test_the_parser_is_strict_where_older_ones_were_not(message: bytes) -> None:
    """Each spelling that let a second request through in llhttp before 9 is an error, and its neighbour is none."""
    httptools.HttpRequestParser(object()).feed_data(CHUNKED + b"2\r\nab\r\n0\r\n\r\n")
    with pytest.raises(httptools.HttpParserError):
        httptools.HttpRequestParser(object()).feed_data(message)


# -- Ollama --


@pytest.mark.parametrize("file", ["Containerfile", "compose.yaml", "compose.cluster.yaml"])
def test_the_ollama_that_is_built_upon_is_new_enough(file: str) -> None:
    """The base image is pinned to a version, perhaps with a digest, the same in all files, at or above the floor."""
    images = re.findall(rf"ollama/ollama:[\w.-]+(?:{DIGEST})?", (ROOT / file).read_text())
    [(default, version)] = re.findall(
        rf"^ARG OLLAMA_IMAGE=(ollama/ollama:(\d+\.\d+\.\d+)(?:{DIGEST})?)$", CONTAINERFILE, re.MULTILINE
    )
    assert set(images) == {default}
    assert tuple(map(int, version.split("."))) >= FLOOR >= (0, 17, 1)


DIGEST = "@sha256:[0-9a-f]{64}"
CONTAINERFILE = (ROOT / "Containerfile").read_text()
OLD = ["ollama version is 0.17.0", "ollama version is 0.9.6", "Warning: client version is 0.16.99-rc1"]
TAKEN = [
    "ollama version is 0.17.1", "ollama version is 0.32.15\nWarning: client version is 0.17.1", "", "no such command",
    "Warning: could not connect to a running Ollama instance\nWarning: client version is 1.0.0",
    "Warning: client version is 0.0.0",
]  # fmt: skip


@pytest.mark.parametrize("said", OLD)
def test_an_old_ollama_is_known_by_what_it_says(said: str) -> None:
    """Any version below the floor that it names, its client's or its server's, is enough to refuse it."""
    assert is_too_old(said)


@pytest.mark.parametrize("said", TAKEN)
def test_another_ollama_is_taken(said: str) -> None:
    """New ones, and a build of one's own, which may name no version."""
    assert not is_too_old(said)


@pytest.mark.parametrize(("version", "code"), [("0.12.3", 1), ("0.32.15", 0)])
def test_the_build_step_asks_the_ollama_on_the_path(tmp_path: Path, version: str, code: int) -> None:
    """The step ends the build when that one is too old, and names the way out."""
    program = tmp_path / "ollama"
    program.write_text(f"#!/bin/sh\necho Warning: client version is {version}\n")
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    step = [sys.executable, "tools/ollama_floor.py"]
    done = subprocess.run(step, cwd=ROOT, env={"PATH": path}, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert ("OLLAMA_IMAGE" in done.stderr) == (code == 1)
