"""The peers of the bench: programs by path, their configuration, and new processes in each round."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench import __main__ as command
from bench import configs
from bench.__main__ import _Bench, _options
from bench.clients import Target
from bench.load import Outcome, Scenario
from bench.peers import BINARIES, PEERS, Setup, Stand, Variant, standing
from bench.process import Process
from bench.scenarios import SCENARIOS
from bench.stores import FilledStores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# A program that takes the arguments of the `go` peer, and only listens.
LISTENER = f"""#!{sys.executable}
import socket, sys
address, upstream = sys.argv[1:]
assert upstream.startswith("http://127.0.0.1:")
host, port = address.split(":")
listener = socket.create_server((host, int(port)))
while True:
    listener.accept()[0].close()
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """An executable file."""
    path = tmp_path / "proxy"
    path.write_text(LISTENER)
    path.chmod(0o755)
    return path


# -- programs by path --


def test_a_program_by_path_is_a_peer(program: Path) -> None:
    """`--peer-binary` is repeatable, and each program that it names runs whatever `--peers` says."""
    options = _options(["--peers", "nginx", "--peer-binary", f"go={program}", "--peer-binary", f"olla={program}"])
    assert dict(options.peer_binary) == {"go": program, "olla": program}
    assert [name for name in _Bench(options)._wanted if name in (*PEERS, *BINARIES)] == ["nginx", "go", "olla"]


def test_a_peer_without_a_path_does_not_run() -> None:
    """No registry has these programs, so none of them is wanted by itself."""
    assert not set(_Bench(_options([]))._wanted) & set(BINARIES)


@pytest.mark.parametrize("text", ["caddy={}", "go", "go=", "go={}.missing", "{}"])
def test_a_wrong_program_is_one_error_that_says_what_is_allowed(
    text: str, program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown name, or a path with no program, ends the command before anything is measured."""
    with pytest.raises(SystemExit):
        _options(["--peer-binary", text.format(program)])
    assert "allowed is NAME=PATH of a program file, with a NAME of go, olla, llama-swap" in capsys.readouterr().err


def test_a_file_that_is_no_program_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It could not be started."""
    text = tmp_path / "notes.txt"
    text.touch(mode=0o644)
    with pytest.raises(SystemExit):
        _options(["--peer-binary", f"go={text}"])
    assert "allowed is" in capsys.readouterr().err


def test_the_reverse_proxy_gets_its_address_and_the_upstream(program: Path) -> None:
    """It is called as `PATH LISTEN_ADDRESS UPSTREAM_URL`, on loopback."""
    with ExitStack() as stack, standing(["go"], Setup(FilledStores(stack), binaries={"go": program})) as stand:
        assert [variant.name for variant in stand.variants] == ["go"], stand.left_out


def test_programs_by_path_run_where_small_requests_and_streams_are_relayed() -> None:
    """In each JSON and stream scenario; Olla's 50 connections do not suffice for 1,000 streams."""
    having = {name: {s.name for s in SCENARIOS if name in s.variants} for name in BINARIES}
    assert having["go"] == having["llama-swap"] == {"json-1", "json-32", "sse-1", "sse-100", "sse-1000"}
    assert having["olla"] == having["go"] - {"sse-1000"}


# -- configuration --


@pytest.mark.parametrize(
    "text",
    [
        configs.nginx_proxy("/run/x", 4001, 4002),
        configs.nginx_static("/run/x", 4001),
        configs.haproxy(4001, 4002),
        configs.olla(4001, 4002),
        configs.llama_swap(4002),
        configs.litellm(4002),
    ],
    ids=["nginx", "nginx-static", "haproxy", "olla", "llama-swap", "litellm"],
)
def test_a_configuration_names_loopback_only(text: str) -> None:
    """No port is open to others, and no address is outside."""
    addresses = [word for word in text.split() if ":400" in word or ("http://" in word and "127" in word)]
    assert addresses
    assert all("127.0.0.1:400" in address for address in addresses)
    assert "https://" not in text
    assert "0.0.0.0" not in text


def test_nginx_keeps_its_connections_to_the_upstream() -> None:
    """HTTP/1.1, no Connection field, and a pool that holds a connection for each of 1,000 streams."""
    text = configs.nginx_proxy("/run/x", 4001, 4002)
    assert "proxy_http_version 1.1;" in text
    assert 'proxy_set_header Connection "";' in text
    assert "keepalive 2048;" in text


# -- rounds --


class _Nothing(Scenario):
    """Measures nothing."""

    def run(self, variant: Variant) -> Outcome:
        return Outcome({}, [])


@pytest.mark.parametrize("is_fresh", [False, True])
def test_each_round_has_new_processes(is_fresh: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process keeps its layout of memory for life, so figures of one process are partly luck."""
    stood: list[str] = []

    @contextmanager
    def stand(names: Sequence[str], _: Setup) -> Iterator[Stand]:
        stood.append(" ".join(names))
        yield Stand([Variant(name, Target(1), None, Process(1, 1)) for name in names])

    scenario = _Nothing(name="nothing", title="Nothing", variants=("direct", "gateway"), is_fresh=is_fresh)
    monkeypatch.setattr(command, "standing", stand)
    monkeypatch.setattr(command, "SCENARIOS", (scenario,))
    bench = _Bench(_options(["--rounds", "2", "--json", str(tmp_path / "figures.json")]))
    assert bench.run() == 0
    assert stood == (["direct", "gateway", "gateway", "direct"] if is_fresh else ["direct gateway"] * 2)
