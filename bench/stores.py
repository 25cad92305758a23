"""The stores of a bench: empty ones, and ones with ended tasks. Each is ours alone, on loopback, and writes no disk.

Owns how they are started, and what a file server needs to serve the same documents. `filled` makes the tasks.
"""

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from bench import tools
from bench.filled import fill, task_id
from bench.process import Process, free_port, running
from gateway.store.layout import DOCUMENT_PREFIX

LIST_LIMIT = 50
_FILL_SECONDS = 600
_FILL = "import sys; from bench.filled import fill; fill(int(sys.argv[1]), int(sys.argv[2]))"


@contextmanager
def new_store(folder: Path) -> Iterator[Process]:
    """An empty store."""
    port = free_port()
    argv = [tools.store(), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no", "--port"]
    with running(folder, "store", [*argv, str(port)], port) as store:
        yield store


def store_command(store: Process, command: str) -> str:
    """Sends one inline command to our own store and returns the first line of its answer."""
    with socket.create_connection(("127.0.0.1", store.port), timeout=30) as connection:
        connection.sendall(command.encode() + b"\r\n")
        with connection.makefile("r", newline="\r\n") as answer:
            return answer.readline().rstrip("\r\n")


class FilledStores:
    """Stores with ended tasks. Each is filled once, and runs until the block ends: filling one can take minutes."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-stores-")))
        self._stores: dict[tuple[int, Path], Process] = {}

    def of(self, tasks: int, checkout: Path = tools.ROOT) -> Process:
        """The store with `tasks` tasks, as the gateway of `checkout` leaves them."""
        key = tasks, checkout
        if key not in self._stores:
            store = self._stack.enter_context(new_store(self._folder))
            _fill(store, tasks, checkout)
            self._stores[key] = store
        return self._stores[key]


def _fill(store: Process, tasks: int, checkout: Path) -> None:
    """Raises MissingToolError if the other checkout cannot fill a store."""
    if checkout == tools.ROOT:
        fill(store.port, tasks)
        return
    argv = [sys.executable, "-c", _FILL, str(store.port), str(tasks)]
    if subprocess.run(argv, cwd=checkout, stdout=sys.stderr, timeout=_FILL_SECONDS, check=False).returncode:
        raise tools.MissingToolError("the other checkout's bench.filled fills no store")


def write_files(store: Process, tasks: int, folder: Path) -> None:
    """Writes the documents of a filled store as files: tasks/<id>, and list.json with the newest ones."""
    ids = [task_id(number) for number in range(tasks)]
    with redis.Redis(port=store.port) as client:
        documents: list[bytes] = client.mget([f"{DOCUMENT_PREFIX}{id_}" for id_ in ids])
    (folder / "tasks").mkdir(mode=0o755)
    for id_, document in zip(ids, documents, strict=True):
        (folder / "tasks" / id_).write_bytes(document)
    newest = [json.loads(document) for document in reversed(documents[-LIST_LIMIT:])]
    page = {"items": newest, "count": len(newest), "next_cursor": None}
    (folder / "list.json").write_text(json.dumps(page, separators=(",", ":")))
