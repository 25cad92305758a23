"""The processes of a measured run: the upstream, the store, and the variants between load and upstream.

Owns the variants and how each is started; `configs` has the text of their configuration. Measures nothing.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import configs, tools
from bench.clients import Target, chat
from bench.process import Process, StartFailedError, answers, free_port, frozen, running
from bench.procstat import Meter, tree
from bench.stores import FilledStores, new_store, write_files

# The variants of another checkout, by the variant of this one that each is measured beside.
BEFORE = {"gateway": "before", "gateway-ids": "before-ids", "gateway-1k": "before-1k"}
# Peers that are in no package registry: each runs if `--peer-binary` gives its path.
BINARIES = ("go", "olla", "llama-swap")
PEERS = ("nginx", "nginx-static", "haproxy", "floor", "fastapi", "fastapi-reads", "litellm", "portkey")
TITLES = {
    "direct": "direct",
    "nginx": "nginx",
    "nginx-closing": "nginx, a connection each",  # only in older figures
    "nginx-static": "nginx, static files",
    "haproxy": "HAProxy",
    "go": "Go's ReverseProxy",
    "olla": "Olla",
    "llama-swap": "llama-swap",
    "gateway": "gateway",
    "gateway-ids": "gateway, client ids",
    "gateway-kept": "gateway, answers kept",
    "gateway-queue": "gateway, MAX_RUNNING=64",
    "gateway-other": "gateway, tasks at another",
    "before": "before",
    "before-ids": "before, client ids",
    "before-1k": "before, 1,000 tasks",
    "gateway-no-store": "gateway, no store",
    "gateway-frozen": "gateway, store frozen",
    "gateway-1k": "gateway, 1,000 tasks",
    "gateway-1m": "gateway, 1,000,000 tasks",
    "floor": "floor: bytes and a SET",
    "fastapi": "FastAPI + httpx + Redis",
    "fastapi-reads": "FastAPI + redis-py",
    "litellm": "LiteLLM",
    "portkey": "Portkey",
}
_FILLED_TASKS = 1_000
_SLOW_START_SECONDS = 120.0
_READY = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to the upstream: how to call it, and the processes whose CPU counts."""

    name: str
    target: Target
    proxy: Process | None
    upstream: Process
    store: Process | None = None
    counts_tasks: bool = False  # every answered request leaves a key in the store
    filled: int = 0  # ended tasks in the store before the first request
    holder: Target | None = None  # runs the tasks that `target` is asked about; None: `target` runs them
    patience: int = 1  # its windows are so many times longer, because a slow proxy gives few answers

    @property
    def title(self) -> str:
        return TITLES[self.name]

    @property
    def meter(self) -> Meter:
        return Meter(*(tree(process.pid) if process else [] for process in (self.proxy, self.store, self.upstream)))


@dataclass(slots=True)
class Stand:
    """Everything that runs while `standing` is open, and the variants that could not start, with the reasons."""

    variants: list[Variant] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setup:
    """What the variants of a run are built with.

    `beside` is the checkout whose gateway the variants *before* run. `binaries` are the paths that were given for the
    names of `BINARIES`. `filled` has the stores that outlive a round.
    """

    filled: FilledStores
    gateway_env: Mapping[str, str] = field(default_factory=dict)
    beside: Path = tools.ROOT
    binaries: Mapping[str, Path] = field(default_factory=dict)


@contextmanager
def standing(names: Sequence[str], setup: Setup) -> Iterator[Stand]:
    """Starts what the variants in `names` need, and stops all of it at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        folder.chmod(0o755)  # nginx's worker may be another user
        builder = _Builder(stack, folder, setup)
        stand = Stand()
        for name in names:
            try:
                stand.variants.append(builder.build(name))
            except (tools.MissingToolError, StartFailedError, TimeoutError) as error:
                stand.left_out[name] = str(error)
        yield stand


class _Builder:
    """Starts processes on `stack`. Variants share the upstream and the store, and some share a gateway."""

    def __init__(self, stack: ExitStack, folder: Path, setup: Setup) -> None:
        self._stack = stack
        self._folder = folder
        self._setup = setup
        self._upstream = self._run("upstream", [sys.executable, "-m", "bench.upstream"])
        self._shared: dict[str, Process] = {}

    def build(self, name: str) -> Variant:
        builders: dict[str, Callable[[], Variant]] = {
            "direct": lambda: Variant("direct", Target(self._upstream.port), None, self._upstream),
            "nginx": lambda: self._plain("nginx", self._nginx()),
            "nginx-static": self._nginx_static,
            "haproxy": lambda: self._plain("haproxy", self._haproxy()),
            "go": self._go,
            "olla": self._olla,
            "llama-swap": self._llama_swap,
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
            "gateway-other": self._other,
            "gateway-1k": lambda: self._filled("gateway-1k", _FILLED_TASKS),
            "before-1k": lambda: self._filled("before-1k", _FILLED_TASKS, self._setup.beside),
            "gateway-1m": lambda: self._filled("gateway-1m", 1_000_000),
            "floor": lambda: self._tracking("floor", self._own("floor")),
            "fastapi": lambda: self._tracking("fastapi", self._own("relay")),
            "fastapi-reads": self._fastapi_reads,
            "litellm": self._litellm,
            "portkey": self._portkey,
        }
        return builders[name]()

    def _run(self, name: str, argv: list[str], *more: str) -> Process:
        """Starts `argv` with a free port as its next argument."""
        port = free_port()
        return self._stack.enter_context(running(self._folder, name, [*argv, str(port), *more], port))

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
        return self._stack.enter_context(new_store(self._folder))

    # -- the gateway --

    def _common_gateway(self) -> Process:
        return self._gateway(self._store())

    def _before(self) -> Process:
        return self._gateway(self._old_store(), self._setup.beside)

    def _gateway(self, store: Process | None, checkout: Path = tools.ROOT, **settings: str) -> Process:
        port = free_port()
        env = {
            "UPSTREAM_BASE": f"http://127.0.0.1:{self._upstream.port}",
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "DRAIN_SEC": "1",
            "LOG_LEVEL": "warning",  # no access lines, as with nginx
            **({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(store.port)} if store else {}),
            **self._setup.gateway_env,
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

    def _other(self) -> Variant:
        """Two gateways on one store: the second has the tasks, the first is asked."""
        asked, holder = self._gateway(self._store()), self._gateway(self._store())
        return Variant(
            "gateway-other", Target(asked.port), asked, self._upstream, self._store(), holder=Target(holder.port)
        )

    def _filled(self, name: str, tasks: int, checkout: Path = tools.ROOT) -> Variant:
        store = self._setup.filled.of(tasks, checkout)
        proxy = self._gateway(store, checkout)
        return Variant(name, Target(proxy.port), proxy, self._upstream, store, filled=tasks)

    # -- peers --

    def _nginx(self) -> Process:
        port, folder = self._nginx_folder()
        return self._start_nginx(folder, port, configs.nginx_proxy(str(folder), port, self._upstream.port))

    def _nginx_static(self) -> Variant:
        """Serves the same documents as the gateway, from files."""
        port, folder = self._nginx_folder()
        write_files(self._setup.filled.of(_FILLED_TASKS), _FILLED_TASKS, folder)
        proxy = self._start_nginx(folder, port, configs.nginx_static(str(folder), port))
        return Variant("nginx-static", Target(port), proxy, self._upstream, filled=_FILLED_TASKS)

    def _nginx_folder(self) -> tuple[int, Path]:
        port = free_port()
        folder = self._folder / f"nginx-{port}"
        folder.mkdir(mode=0o755)
        return port, folder

    def _start_nginx(self, folder: Path, port: int, text: str) -> Process:
        (folder / "nginx.conf").write_text(text)
        argv = [tools.system("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
        return self._stack.enter_context(running(self._folder, "nginx", argv, port))

    def _haproxy(self) -> Process:
        port = free_port()
        file = self._write(f"haproxy-{port}.cfg", configs.haproxy(port, self._upstream.port))
        argv = [tools.system("haproxy"), "-db", "-f", file]
        return self._stack.enter_context(running(self._folder, "haproxy", argv, port))

    def _go(self) -> Variant:
        """A reverse proxy: `PROGRAM ADDRESS UPSTREAM_URL`."""
        port = free_port()
        argv = [self._binary("go"), f"127.0.0.1:{port}", f"http://127.0.0.1:{self._upstream.port}"]
        return self._plain("go", self._stack.enter_context(running(self._folder, "go", argv, port)))

    def _olla(self) -> Variant:
        port = free_port()
        argv = [self._binary("olla"), "-c", self._write("olla.yaml", configs.olla(port, self._upstream.port))]
        target = Target(port, prefix=configs.OLLA_PREFIX)
        how = running(self._folder, "olla", argv, port, configs.OLLA_ENV, cwd=self._folder, is_ready=_answers(target))
        return Variant("olla", target, self._stack.enter_context(how), self._upstream)

    def _llama_swap(self) -> Variant:
        port = free_port()
        file = self._write("llama-swap.yaml", configs.llama_swap(self._upstream.port))
        argv = [self._binary("llama-swap"), "-config", file, "-listen", f"127.0.0.1:{port}"]
        target = Target(port)
        how = running(self._folder, "llama-swap", argv, port, cwd=self._folder, is_ready=_answers(target))
        return Variant("llama-swap", target, self._stack.enter_context(how), self._upstream)

    def _binary(self, name: str) -> str:
        if name not in self._setup.binaries:
            raise tools.MissingToolError(f"--peer-binary {name}=PATH was not given")
        return str(self._setup.binaries[name])

    def _write(self, name: str, text: str) -> str:
        file = self._folder / name
        file.write_text(text)
        return str(file)

    def _fastapi_reads(self) -> Variant:
        store = self._setup.filled.of(_FILLED_TASKS)
        proxy = self._run("reads", [sys.executable, "-m", "bench.reads"], str(store.port))
        return Variant("fastapi-reads", Target(proxy.port), proxy, self._upstream, store, filled=_FILLED_TASKS)

    def _own(self, module: str) -> Process:
        ports = str(self._upstream.port), str(self._store().port)
        return self._run(module, [sys.executable, "-m", f"bench.{module}"], *ports)

    def _litellm(self) -> Variant:
        file = self._write("litellm.yaml", configs.litellm(self._upstream.port))
        argv = [tools.litellm(), "--config", file, "--host", "127.0.0.1", "--telemetry", "False", "--port"]
        env = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the network
            "LITELLM_LOG": "ERROR",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        port = free_port()
        target = Target(port, is_verbatim=False)
        # Its first request takes seconds, because it loads most of its modules then.
        how = running(
            self._folder, "litellm", [*argv, str(port)], port, env, is_ready=_answers(target),
            limit_seconds=_SLOW_START_SECONDS,
        )  # fmt: skip
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


def _answers(target: Target) -> Callable[[int], bool]:
    """Whether a peer answers a small request: it may listen before it knows the upstream's models."""
    return answers(chat(target)())
