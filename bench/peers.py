"""The processes of a measured run: the upstream, the store, and the variants between load and upstream.

Owns the variants and their configuration. Measures nothing.
"""

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import tools
from bench.clients import Target, chat
from bench.filled import fill
from bench.process import Process, StartFailedError, answers, free_port, frozen, running
from bench.procstat import Meter, tree

GATEWAYS = (
    "gateway", "gateway-ids", "gateway-kept", "gateway-queue", "gateway-no-store", "gateway-frozen", "gateway-1k",
    "gateway-1m",
)  # fmt: skip
# The variants of another checkout, by the variant of this one that each is measured beside.
BEFORE = {"gateway": "before", "gateway-ids": "before-ids"}
PEERS = ("nginx", "nginx-tuned", "haproxy", "floor", "fastapi", "litellm", "portkey")
TITLES = {
    "direct": "direct",
    "nginx": "nginx",
    "nginx-tuned": "nginx, tuned",
    "haproxy": "HAProxy",
    "gateway": "gateway",
    "gateway-ids": "gateway, client ids",
    "gateway-kept": "gateway, answers kept",
    "gateway-queue": "gateway, MAX_RUNNING=64",
    "before": "before",
    "before-ids": "before, client ids",
    "gateway-no-store": "gateway, no store",
    "gateway-frozen": "gateway, store frozen",
    "gateway-1k": "gateway, 1,000 tasks",
    "gateway-1m": "gateway, 1,000,000 tasks",
    "floor": "floor: bytes and a SET",
    "fastapi": "FastAPI + httpx + Redis",
    "litellm": "LiteLLM",
    "portkey": "Portkey",
}
_SLOW_START_SECONDS = 120.0
_READY = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

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
  client_max_body_size 0;
  upstream ollama {{
    server 127.0.0.1:{upstream_port};
    {pool}
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://ollama;
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 600s;
      {tuning}
    }}
  }}
}}
"""

# What nginx needs to keep its connections to the upstream; without it, every request opens one.
_POOL = "keepalive 128; keepalive_requests 100000000;"
_TUNING = 'proxy_http_version 1.1; proxy_set_header Connection "";'

_HAPROXY_CONF = """
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
listen ollama
  bind 127.0.0.1:{port} backlog 4096
  server ollama 127.0.0.1:{upstream_port}
"""

_LITELLM_CONF = """
model_list:
  - model_name: smollm2:135m
    litellm_params:
      model: openai/smollm2:135m
      api_base: http://127.0.0.1:{upstream_port}/v1
      api_key: ollama
"""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to the upstream: how to call it, and the processes whose CPU counts."""

    name: str
    target: Target
    proxy: Process | None
    upstream: Process
    store: Process | None = None
    counts_tasks: bool = False  # every answered request has left a key in the store
    filled: int = 0  # ended tasks in the store before the first request
    patience: int = 1  # its windows are so many times longer: slow ones would have few answers in them

    @property
    def title(self) -> str:
        return TITLES[self.name]

    @property
    def meter(self) -> Meter:
        return Meter(*(tree(process.pid) if process else [] for process in (self.proxy, self.store, self.upstream)))


@dataclass(slots=True)
class Stand:
    """Everything that runs while `standing` is open, and what could not start, with the reason."""

    variants: list[Variant] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


@contextmanager
def standing(names: Sequence[str], gateway_env: Mapping[str, str], beside: Path = tools.ROOT) -> Iterator[Stand]:
    """Start what the variants in `names` need, and stop all of it at the end.

    `beside`: the checkout whose gateway the variants *before* run.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        folder.chmod(0o755)  # nginx's worker may be another user
        builder = _Builder(stack, folder, gateway_env, beside)
        stand = Stand()
        for name in names:
            try:
                stand.variants.append(builder.build(name))
            except (tools.MissingToolError, StartFailedError, TimeoutError) as error:
                stand.left_out[name] = str(error)
        yield stand


class _Builder:
    """Starts processes on `stack`. Variants share the upstream and the store, and some share a gateway."""

    def __init__(self, stack: ExitStack, folder: Path, gateway_env: Mapping[str, str], beside: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._gateway_env = gateway_env
        self._beside = beside
        self._upstream = self._run("upstream", [sys.executable, "-m", "bench.upstream"])
        self._shared: dict[str, Process] = {}

    def build(self, name: str) -> Variant:
        builders: dict[str, Callable[[], Variant]] = {
            "direct": lambda: Variant("direct", Target(self._upstream.port), None, self._upstream),
            "nginx": lambda: self._plain("nginx", self._nginx(is_tuned=False)),
            "nginx-tuned": lambda: self._plain("nginx-tuned", self._nginx(is_tuned=True)),
            "haproxy": lambda: self._plain("haproxy", self._haproxy()),
            "gateway": lambda: self._tracking("gateway", self._once("gateway", self._common_gateway)),
            "gateway-ids": lambda: self._tracking(
                "gateway-ids", self._once("gateway", self._common_gateway), sends_task_ids=True
            ),
            "gateway-kept": lambda: self._tracking(
                "gateway-kept", self._once("gateway", self._common_gateway), fields=b"X-Task-Keep: true\r\n"
            ),
            "gateway-queue": lambda: self._tracking("gateway-queue", self._gateway(self._store(), MAX_RUNNING="64")),
            "before": lambda: self._tracking("before", self._once("before", self._before)),
            "before-ids": lambda: self._tracking("before-ids", self._once("before", self._before), sends_task_ids=True),
            "gateway-no-store": lambda: self._plain("gateway-no-store", self._gateway(None)),
            "gateway-frozen": self._frozen,
            "gateway-1k": lambda: self._filled("gateway-1k", 1_000),
            "gateway-1m": lambda: self._filled("gateway-1m", 1_000_000),
            "floor": lambda: self._tracking("floor", self._own("floor")),
            "fastapi": lambda: self._tracking("fastapi", self._own("relay")),
            "litellm": self._litellm,
            "portkey": self._portkey,
        }
        return builders[name]()

    def _run(
        self, name: str, argv: list[str], *more: str, env: Mapping[str, str] | None = None, **how: object
    ) -> Process:
        """Starts `argv` with a free port as its next argument."""
        port = free_port()
        command = [*argv, str(port), *more]
        return self._stack.enter_context(running(self._folder, name, command, port, env, **how))  # type: ignore[arg-type]

    def _once(self, name: str, start: Callable[[], Process]) -> Process:
        if name not in self._shared:
            self._shared[name] = start()
        return self._shared[name]

    def _plain(self, name: str, proxy: Process) -> Variant:
        return Variant(name, Target(proxy.port), proxy, self._upstream)

    def _tracking(self, name: str, proxy: Process, *, sends_task_ids: bool = False, fields: bytes = b"") -> Variant:
        store = self._old_store() if name in BEFORE.values() else self._store()
        return Variant(name, Target(proxy.port, sends_task_ids, fields), proxy, self._upstream, store, True)

    def _store(self) -> Process:
        return self._once("store", self._new_store)

    def _old_store(self) -> Process:
        """The store of the other checkout: what it keeps there may have another layout."""
        return self._once("old-store", self._new_store)

    def _new_store(self) -> Process:
        argv = [tools.store(), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", "", "--appendonly", "no"]
        return self._run("store", [*argv, "--port"])

    # -- the gateway --

    def _common_gateway(self) -> Process:
        return self._gateway(self._store())

    def _before(self) -> Process:
        return self._gateway(self._old_store(), self._beside)

    def _gateway(self, store: Process | None, checkout: Path = tools.ROOT, **settings: str) -> Process:
        port = free_port()
        env = {
            "UPSTREAM_BASE": f"http://127.0.0.1:{self._upstream.port}",
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "DRAIN_SEC": "1",
            "LOG_LEVEL": "warning",  # no access lines, as with nginx
            **({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(store.port)} if store else {}),
            **self._gateway_env,
            **settings,
        }
        argv = [sys.executable, "-m", "gateway"]
        how = running(self._folder, "gateway", argv, port, env, cwd=checkout, is_ready=answers(_READY))
        return self._stack.enter_context(how)

    def _frozen(self) -> Variant:
        store = self._new_store()
        proxy = self._gateway(store)
        self._stack.enter_context(frozen(store))
        return self._plain("gateway-frozen", proxy)

    def _filled(self, name: str, tasks: int) -> Variant:
        store = self._new_store()
        fill(store.port, tasks)
        proxy = self._gateway(store)
        return Variant(name, Target(proxy.port), proxy, self._upstream, store, filled=tasks)

    # -- peers --

    def _nginx(self, *, is_tuned: bool) -> Process:
        port = free_port()
        folder = self._folder / f"nginx-{port}"
        folder.mkdir(mode=0o755)
        text = _NGINX_CONF.format(
            user="user root;" if os.geteuid() == 0 else "",  # as root the worker would become `www-data`
            folder=folder,
            port=port,
            upstream_port=self._upstream.port,
            pool=_POOL if is_tuned else "",
            tuning=_TUNING if is_tuned else "",
        )
        (folder / "nginx.conf").write_text(text)
        argv = [tools.system("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
        return self._stack.enter_context(running(self._folder, "nginx", argv, port))

    def _haproxy(self) -> Process:
        port = free_port()
        file = self._folder / f"haproxy-{port}.cfg"
        file.write_text(_HAPROXY_CONF.format(port=port, upstream_port=self._upstream.port))
        argv = [tools.system("haproxy"), "-db", "-f", str(file)]
        return self._stack.enter_context(running(self._folder, "haproxy", argv, port))

    def _own(self, module: str) -> Process:
        ports = str(self._upstream.port), str(self._store().port)
        return self._run(module, [sys.executable, "-m", f"bench.{module}"], *ports)

    def _litellm(self) -> Variant:
        file = self._folder / "litellm.yaml"
        file.write_text(_LITELLM_CONF.format(upstream_port=self._upstream.port))
        argv = [tools.litellm(), "--config", str(file), "--host", "127.0.0.1", "--telemetry", "False", "--port"]
        env = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the network
            "LITELLM_LOG": "ERROR",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        port = free_port()
        target = Target(port, is_verbatim=False)
        # Its first request takes seconds, for it loads most of itself then.
        is_ready = answers(chat(target)())
        how = running(
            self._folder, "litellm", [*argv, str(port)], port, env, is_ready=is_ready, limit_seconds=_SLOW_START_SECONDS
        )
        return Variant("litellm", target, self._stack.enter_context(how), self._upstream, patience=2)

    def _portkey(self) -> Variant:
        port = free_port()
        argv = [*tools.portkey(), "--headless", f"--port={port}"]
        proxy = self._stack.enter_context(
            running(self._folder, "portkey", argv, port, limit_seconds=_SLOW_START_SECONDS)
        )
        host = f"http://127.0.0.1:{self._upstream.port}/v1"
        fields = f"x-portkey-provider: openai\r\nx-portkey-custom-host: {host}\r\n".encode()
        return Variant("portkey", Target(port, False, fields, is_verbatim=False), proxy, self._upstream)


def store_command(store: Process, command: str) -> str:
    """Send one inline command to our own store and return the first line of its answer."""
    with socket.create_connection(("127.0.0.1", store.port), timeout=30) as connection:
        connection.sendall(command.encode() + b"\r\n")
        with connection.makefile("r", newline="\r\n") as answer:
            return answer.readline().rstrip("\r\n")
