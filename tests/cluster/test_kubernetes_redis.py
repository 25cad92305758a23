"""Owns the promises of Redis and Sentinel in deploy/kubernetes: their own scripts, with real servers on this machine.

Each server has an address of its own below 127.0.0.0/8 in place of a pod's name, and directories of the test's.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio
import yaml
from redis.exceptions import AuthenticationError, RedisError

from tests.cluster.manifests import environment, of_kind, pods
from tests.support.ports import free_port
from tests.support.process import ROOT, kill, spawn
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Launch

PASSWORD = "0123456789abcdef-secret"
DIRECTORIES = ("CONFIGURATION", "SECRETS", "RUN", "DATA")
SCRIPTS = "/etc/redis"


class Pod:
    """One container of a StatefulSet as a process: its command and variables, with our directories, names and ports."""

    def __init__(self, place: str, name: str, folder: Path, host: str, **variables: str) -> None:
        self.folder = folder
        self.host = host
        self.log = folder / "log"
        [container] = pods(place)[name]["spec"]["containers"]
        wanted = environment(place, name)
        for directory in DIRECTORIES:
            (folder / directory).mkdir(parents=True, exist_ok=True)
        self.variables = {key: str(folder / key) for key in wanted if key in DIRECTORIES} | variables
        assert wanted.keys() <= self.variables.keys() | {"POD"}
        for script, text in configuration(place).items():
            (folder / "CONFIGURATION" / script).write_text(text)
        self.write_password(PASSWORD)
        words = [*container["command"], *container.get("args", ())]
        self.command = [word.replace(SCRIPTS, str(folder / "CONFIGURATION")) for word in words] + ["--bind", host]
        self.process: subprocess.Popen[bytes] | None = None

    def write_password(self, password: str) -> None:
        """Write the file of the Secret."""
        (self.folder / "SECRETS" / "password").write_text(password)

    def start(self, *arguments: str) -> None:
        """Run the container's command."""
        self.process = spawn([*self.command, *arguments], self.log, self.variables, self.folder / "DATA")

    async def kill(self) -> None:
        """SIGKILL, as when a node dies."""
        assert self.process is not None
        await kill(self.process)

    async def stop(self) -> None:
        """SIGTERM, as the kubelet does; again while Redis refuses it, as it does until its first file is written."""
        process = self.process
        if process is None or process.poll() is not None:
            return

        async def has_ended() -> bool:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, 2)
            except subprocess.TimeoutExpired:
                return False
            return True

        await until(has_ended, what=f"{self.host} ends")
        assert process.returncode == 0, self.log.read_text()

    async def ask(self, port: int, *words: str, password: str = PASSWORD) -> Any:
        """An answer of the server; None if there is none yet."""
        client = redis.asyncio.Redis(host=self.host, port=port, password=password, decode_responses=True)
        try:
            return await client.execute_command(*words)
        except AuthenticationError:
            raise
        except (RedisError, OSError):
            return None
        finally:
            await client.aclose()


def configuration(place: str) -> dict[str, str]:
    """The files of Redis's ConfigMap."""
    [name] = [row["configMap"]["name"] for row in pods(place)["redis"]["spec"]["volumes"] if "configMap" in row]
    return dict(of_kind(place, "ConfigMap")[name]["data"])


@pytest.fixture(autouse=True)
def _programs() -> None:
    """The server is there; without it tests are skipped at home and fail in CI."""
    if shutil.which("redis-server") is None and not os.environ.get("CI"):
        pytest.skip("redis-server is not installed")
    assert shutil.which("redis-server")


@pytest.mark.parametrize(
    "password", ["", "short", "with a space in the middle", 'quote"quote"quote"', "new\nline-and-more-text"]
)
async def test_redis_refuses_a_weak_password(tmp_path: Path, password: str) -> None:
    """Without a password, or with one that a line of configuration cannot hold, Redis does not start and says why."""
    pod = Pod("base", "redis", tmp_path, "127.0.0.1")
    pod.write_password(password)
    pod.start("--port", str(free_port()))
    assert pod.process is not None
    await until(lambda: pod.process is not None and pod.process.poll() is not None, what="it ends")
    assert pod.process.returncode == 1
    assert re.fullmatch(r"start\.sh: the password in the Secret .*\n", pod.log.read_text())


async def test_redis_is_set_up_as_by_compose(tmp_path: Path) -> None:
    """The same memory, eviction and file as in compose.yaml; a password, which is not in the arguments of a process."""
    pod, port = Pod("base", "redis", tmp_path, "127.0.0.1"), free_port()
    pod.start("--port", str(port))
    try:
        await until(lambda: pod.ask(port, "PING"), what="Redis answers")
        words = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["redis"]["command"]
        flags = dict(zip(words[1::2], words[2::2], strict=True))
        for name in ("save", "appendonly", "maxmemory-policy"):
            assert await pod.ask(port, "CONFIG", "GET", name) == {name: flags[f"--{name}"]}
        assert flags["--maxmemory"] == "${REDIS_MAXMEMORY:-256mb}"
        memory = (await pod.ask(port, "CONFIG", "GET", "maxmemory"))["maxmemory"]
        assert int(memory) == 256 * 2**20
        [container] = pods("base")["redis"]["spec"]["containers"]
        assert int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20 > 2 * int(memory)
        with pytest.raises(AuthenticationError):
            await pod.ask(port, "PING", password="wrong")
        assert pod.process is not None
        assert PASSWORD not in arguments_of(pod.process.pid)
        assert (tmp_path / "RUN" / "redis.conf").stat().st_mode & 0o777 == 0o600
        assert probe(container["livenessProbe"], port) == 0
    finally:
        await pod.stop()
    assert probe(container["livenessProbe"], port) != 0
    assert (tmp_path / "DATA" / "appendonlydir").is_dir()


def arguments_of(pid: int) -> str:
    """What every user of the machine sees of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def probe(check: dict[str, Any], port: int, host: str = "127.0.0.1", secrets: str = "") -> int:
    """The exit code of an exec probe, at our address and with our Secret."""
    words = [
        word.replace("redis-cli", f"redis-cli -h {host} -p {port}")
        .replace("/etc/redis-secret", secrets)
        .replace(" -p 26379", "")
        for word in check["exec"]["command"]
    ]
    return subprocess.run(words, capture_output=True, timeout=50, check=False).returncode


class Ring:
    """Three Redis servers and three Sentinels."""

    def __init__(self, folder: Path) -> None:
        self.port, self.sentinel_port = free_port(), free_port()
        servers = [f"127.0.81.{number}" for number in (1, 2, 3)]
        watchers = [f"127.0.82.{number}" for number in (1, 2, 3)]
        shared = {"FIRST": servers[0], "PORT": str(self.port), "SENTINEL_PORT": str(self.sentinel_port)}
        self.redis = [
            Pod("overlays/ha", "redis", folder / host, host, NAME=host, SENTINELS=" ".join(watchers), **shared)
            for host in servers
        ]
        self.sentinels = [Pod("overlays/ha", "sentinel", folder / host, host, NAME=host, **shared) for host in watchers]

    async def primary(self, sentinel: Pod) -> str | None:
        """Whom a Sentinel calls the primary."""
        found = await sentinel.ask(self.sentinel_port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "ollama")
        return str(found[0]) if found else None

    async def agreed(self) -> str | None:
        """The primary that all running Sentinels name; None if they differ."""
        found = {await self.primary(pod) for pod in self.sentinels}
        return found.pop() if len(found) == 1 else None

    async def replicas(self, host: str) -> int:
        """How many replicas follow a primary."""
        [pod] = [pod for pod in self.redis if pod.host == host]
        told = await pod.ask(self.port, "INFO", "replication") or {}
        return len([key for key, row in told.items() if re.fullmatch(r"slave\d+", key) and row["state"] == "online"])

    async def known(self, sentinel: Pod) -> tuple[int, int]:
        """How many replicas and other Sentinels a Sentinel knows."""
        told = await sentinel.ask(self.sentinel_port, "SENTINEL", "MASTER", "ollama") or {}
        return int(told.get("num-slaves", 0)), int(told.get("num-other-sentinels", 0))


@pytest.fixture
async def ring(tmp_path: Path) -> AsyncIterator[Ring]:
    """All six, started at once as Kubernetes does."""
    found = Ring(tmp_path)
    every = [*found.redis, *found.sentinels]
    for pod in every:
        pod.start()
    yield found
    for pod in every:
        await pod.kill()


async def is_written(ring: Ring, host: str, key: str) -> bool:
    """Whether a primary takes a write."""
    [pod] = [pod for pod in ring.redis if pod.host == host]
    return bool(await pod.ask(ring.port, "SET", key, "1"))


async def test_sentinel_replaces_a_dead_primary(ring: Ring) -> None:
    """Another server takes over with the data; the dead one comes back as a replica, and a Sentinel remembers."""
    first = ring.redis[0]

    async def is_complete() -> bool:
        return await ring.replicas(first.host) == 2 and {await ring.known(pod) for pod in ring.sentinels} == {(2, 2)}

    await until(is_complete, 60, "two replicas follow, and all Sentinels know each other")
    [container] = pods("overlays/ha")["redis"]["spec"]["containers"]
    for pod in ring.redis:
        assert probe(container["readinessProbe"], ring.port, pod.host, pod.variables["SECRETS"]) == 0
    await until(lambda: is_written(ring, first.host, "before"), what="the first primary takes writes")
    assert await first.ask(ring.port, "WAIT", "2", "10000") is not None

    await first.kill()

    async def is_replaced() -> str | None:
        found = await ring.agreed()
        return found if found not in (None, first.host) else None

    second = await until(is_replaced, 60, "all Sentinels name another primary")
    await until(lambda: is_written(ring, second, "after"), 60, "the new primary takes writes")

    first.start()
    await until(lambda: is_two(ring, second), 60, "the old primary follows the new one")
    assert await first.ask(ring.port, "EXISTS", "before", "after") == 2
    assert f"the primary is {second}" in first.log.read_text()

    sentinel = ring.sentinels[0]
    await sentinel.stop()
    sentinel.start()
    assert await until(lambda: ring.primary(sentinel), what="the Sentinel answers") == second
    with pytest.raises(AuthenticationError):
        await sentinel.ask(ring.sentinel_port, "PING", password="wrong")


async def is_two(ring: Ring, host: str) -> bool:
    """Whether two replicas follow a primary."""
    return await ring.replicas(host) == 2


async def test_the_gateway_finds_the_primary(ring: Ring, launch: Launch) -> None:
    """With the overlay's settings, at our addresses, the gateway asks the Sentinels and has its store."""
    settings = environment("overlays/ha", "ollama-gateway")
    await until(lambda: is_two(ring, ring.redis[0].host), 60, "two replicas follow")
    url = settings["REDIS_URL"].replace("26379", str(ring.sentinel_port))
    for number, pod in enumerate(ring.sentinels):
        url = url.replace(f"sentinel-{number}.sentinel", pod.host)
    secret = f"{ring.redis[0].variables['SECRETS']}/password"
    gateway = await launch(REDIS_URL=url, REDIS_PASSWORD_FILE=secret, REDIS_SENTINEL_PASSWORD_FILE=secret)

    async def is_stored() -> bool:
        return bool((await gateway.http.get("/readyz")).json()["store"] == "up")

    await until(is_stored, 60, "the gateway has its store")


async def test_a_primary_alone_takes_no_writes(ring: Ring) -> None:
    """A primary that no replica follows refuses writes, so one that is cut off has no truth of its own."""
    first = ring.redis[0]
    await until(lambda: is_two(ring, first.host), 60, "two replicas follow")
    for pod in [*ring.sentinels, *ring.redis[1:]]:
        await pod.stop()

    async def is_refused() -> bool:
        return not await is_written(ring, first.host, "alone")

    await until(is_refused, what="the primary refuses writes")
    assert await first.ask(ring.port, "PING")


async def test_servers_with_data_wait_for_a_sentinel(ring: Ring) -> None:
    """If all start again at once, a server asks until a Sentinel answers; it does not take the first one as primary."""
    first = ring.redis[0]
    await until(lambda: is_two(ring, first.host), 60, "two replicas follow")
    await first.stop()
    for pod in ring.sentinels:
        await pod.stop()
    first.log.write_text("")
    first.start()
    await until(lambda: "sleep" in children_of(first.process), 60, "it waits")
    assert first.log.read_text() == ""
    for pod in ring.sentinels:
        pod.start()
    await until(lambda: f"the primary is {first.host}" in first.log.read_text(), 60, "a Sentinel has answered")


def children_of(process: subprocess.Popen[bytes] | None) -> set[str]:
    """The names of a process's children."""
    assert process is not None
    assert process.poll() is None
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    files = [Path(f"/proc/{pid}/comm") for pid in pids]
    return {file.read_text().strip() for file in files if file.exists()}
