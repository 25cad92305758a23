"""Counts events in one row of numbers: requests by their end, their times and sizes, the store's replies.

Owns all labels (their values are closed sets) and the place of each number. Knows no Prometheus and no clock. Counting
is on the hot path: a few additions, no wait, no error. FAMILIES describes the row.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import Literal

from gateway.errors import GatewayError
from gateway.tasks.stages import FINAL_RANK, Stage, State
from gateway.tasks.task import Kept, Reason, Task

OTHER = "other"
PATHS = (OTHER, "chat_completions", "completions", "responses", "embeddings", "models", "messages")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", OTHER)
STATUSES = ("2xx", "3xx", "4xx", "5xx", "none")  # none: the client left before its answer had a status

# Refusals that are no GatewayError: malformed messages that never become a request.
_SERVER_CODES = {
    400: "bad_request",
    408: "request_timeout",
    431: "head_too_large",
    501: "not_implemented",
    505: "http_version_not_supported",
}
# In seconds. Loading a model and a long answer take minutes; the gateway's own part should take milliseconds.
LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)

NODE_STATES = ("up", "draining", "lost")  # nodes.node says what they mean

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: a set of series that differ by their labels. `series` has the label values of each."""

    kind: Kind
    name: str
    meaning: str
    labels: tuple[str, ...]
    series: tuple[tuple[str, ...], ...]
    buckets: tuple[float, ...]
    start: int  # the index of its first number in the row
    width: int  # numbers per series; a histogram has one per bucket, one above all buckets, and the sum

    @property
    def end(self) -> int:
        return self.start + self.width * len(self.series)


FAMILIES: list[Family] = []


def _add(
    kind: Kind,
    name: str,
    meaning: str,
    labels: tuple[str, ...] = (),
    series: tuple[tuple[str, ...], ...] = ((),),
    buckets: tuple[float, ...] = (),
) -> Family:
    start = FAMILIES[-1].end if FAMILIES else 0
    width = len(buckets) + 2 if kind == "histogram" else 1
    FAMILIES.append(Family(kind, name, meaning, labels, series, buckets, start, width))
    return FAMILIES[-1]


def _codes() -> list[str]:
    """The codes of all refusals."""
    kinds = [GatewayError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return sorted({kind.code for kind in kinds} | set(_SERVER_CODES.values()))


_BY_PATH = tuple((path,) for path in PATHS)
_CODES = _codes()
_PREFIX = "ollama_gateway_"

REQUESTS = _add(
    "counter",
    _PREFIX + "requests",
    "Relayed requests that have ended, by the status that the client got.",
    ("path", "method", "status"),
    tuple(product(PATHS, METHODS, STATUSES)),
)
TASKS = _add(
    "counter",
    _PREFIX + "tasks",
    "Tasks that have ended, by final state and reason (empty: SUCCESS).",
    ("state", "reason"),
    ((State.SUCCESS, ""), *((State.FAILED, reason) for reason in Reason)),
)
DURATION = _add(
    "histogram",
    _PREFIX + "request_duration_seconds",
    "From a request's acceptance to its end.",
    ("path",),
    _BY_PATH,
    LONG,
)
FIRST_BYTE = _add(
    "histogram",
    _PREFIX + "first_byte_seconds",
    "From a request's acceptance to the head of Ollama's answer, without its time in the queue.",
    ("path",),
    _BY_PATH,
    LONG,
)
HANDOVER = _add(
    "histogram",
    _PREFIX + "handover_seconds",
    "From a request's acceptance until Ollama has its first part: claiming a chosen id, the client's first bytes of "
    "body, connecting. Without its time in the queue.",
    buckets=SHORT,
)
QUEUE_WAIT = _add(
    "histogram",
    _PREFIX + "queue_wait_seconds",
    "With MAX_RUNNING: how long a request waited in the queue until it had its place.",
    buckets=LONG,
)
REQUEST_BYTES = _add("counter", _PREFIX + "request_body_bytes", "Body bytes of ended requests.", ("path",), _BY_PATH)
RESPONSE_BYTES = _add("counter", _PREFIX + "response_body_bytes", "Body bytes of their answers.", ("path",), _BY_PATH)
REFUSED = _add(
    "counter",
    _PREFIX + "refused",
    "Requests that the gateway refused and that are no tasks, by code.",
    ("code",),
    tuple((code,) for code in _CODES),
)
KEPT = _add(
    "counter",
    _PREFIX + "kept_answers",
    "Answers that clients asked to keep, by what became of them.",
    ("response",),
    tuple((response,) for response in Kept),
)
JOINED = _add("counter", _PREFIX + "joined_requests", "Requests that were given the kept answer of an earlier one.")
KEPT_BYTES = _add("gauge", _PREFIX + "kept_bytes", "Bytes of kept answers and respond-async requests in memory.")
DETACHED = _add("gauge", _PREFIX + "detached_tasks", "Tasks that run without their client.")
IN_FLIGHT = _add(
    "gauge",
    _PREFIX + "tasks_in_flight",
    "Tasks that have not ended, by stage.",
    ("stage",),
    tuple((stage,) for stage in Stage if stage.rank < FINAL_RANK),
)
RUNNING = _add("gauge", _PREFIX + "running_requests", "Requests that are with Ollama, without GET, HEAD and OPTIONS.")
WAITING = _add("gauge", _PREFIX + "waiting_requests", "Requests that wait for a place with Ollama (MAX_RUNNING).")
NODES = _add(
    "gauge",
    _PREFIX + "nodes",
    "Gateways that share the store, this one included, by state, when this gateway last asked.",
    ("state",),
    tuple((state,) for state in NODE_STATES),
)
STORE_UP = _add("gauge", _PREFIX + "store_up", "Whether the store takes statuses.")
STORE_WRITE = _add(
    "histogram", _PREFIX + "store_write_seconds", "How long the store took for a batch of statuses.", buckets=SHORT
)
STORE_FAILED = _add("counter", _PREFIX + "store_write_failures", "Batches that the store did not take.")
STORE_WAIT = _add(
    "histogram",
    _PREFIX + "store_wait_seconds",
    "How long a request was held until the store had its status; one request may wait more than once.",
    buckets=SHORT,
)
STORE_UNSAVED = _add("gauge", _PREFIX + "store_unsaved", "Statuses that wait to be written.")
STORE_DROPPED = _add("counter", _PREFIX + "store_dropped", "Ended tasks whose status was forgotten unwritten.")
GPU_UP = _add("gauge", _PREFIX + "gpu_up", "Whether the GPU works, as far as the gateway can see.")
GPU_DEVICES = _add("gauge", _PREFIX + "gpu_devices", "GPU devices that were there when the gateway started.")
GPU_MISSING = _add("gauge", _PREFIX + "gpu_devices_missing", "Those that are gone or cannot be opened now.")
GPU_MODELS_ON_CPU = _add("gauge", _PREFIX + "gpu_models_on_cpu", "Loaded models that have nothing in GPU memory.")
LOOP_LAG = _add(
    "histogram",
    _PREFIX + "loop_lag_seconds",
    "How late a timer of each second came: what else the event loop had to do.",
    buckets=SHORT,
)
CPU = _add("counter", "process_cpu_seconds", "CPU time of the gateway.")
MEMORY = _add("gauge", "process_resident_memory_bytes", "Resident memory of the gateway.")
OPEN_FILES = _add("gauge", "process_open_fds", "File descriptors that the gateway has open.")
MAX_FILES = _add("gauge", "process_max_fds", "File descriptors that it may have open.")
STARTED = _add("gauge", "process_start_time_seconds", "When the gateway started, in Unix seconds.")

SIZE = FAMILIES[-1].end

_PATH_OF = {"/v1/" + name.replace("_", "/"): at for at, name in enumerate(PATHS) if at}
_METHOD_OF = {method: at for at, method in enumerate(METHODS[:-1])}
_OTHER_METHOD = METHODS.index(OTHER)
_STATUS_OF = (4, 4, 0, 1, 2, 3, 4, 4, 4, 4)  # by the first digit
_REASON_OF: dict[Reason | None, int] = {None: 0, **{reason: at for at, reason in enumerate(Reason, 1)}}
_KEPT = tuple(Kept)
_STAGES = tuple(stage for stage in Stage if stage.rank < FINAL_RANK)
_CODE_OF = {code: at for at, code in enumerate(_CODES)}
# Copies for the hot path: reading an attribute of Family takes as long as the addition.
_REQUESTS, _METHODS, _STATUSES, _TASKS = REQUESTS.start, len(METHODS), len(STATUSES), TASKS.start
_REQUEST_BYTES, _RESPONSE_BYTES = REQUEST_BYTES.start, RESPONSE_BYTES.start


class Counts:
    """The row of numbers of this process."""

    def __init__(self) -> None:
        self.row = [0.0] * SIZE

    # -- events, counted when they happen --

    def ended(self, task: Task) -> None:
        """Counts an ended task. The times to the hand-over and to the first byte are without the time in the queue."""
        row = self.row
        path = _PATH_OF.get(task.path) or _rare_path(task.path)
        method = _METHOD_OF.get(task.method, _OTHER_METHOD)
        status = _STATUS_OF[(task.status_code or 0) // 100]
        row[_REQUESTS + (path * _METHODS + method) * _STATUSES + status] += 1
        row[_TASKS + _REASON_OF[task.reason]] += 1
        row[_REQUEST_BYTES + path] += task.request_bytes
        row[_RESPONSE_BYTES + path] += task.response_bytes
        created_ms, queued_ms = task.created_ms, task.queued_ms or 0
        self.observe(DURATION, ((task.finished_ms or 0) - created_ms) / 1000, path)
        if task.queued_ms is not None:
            self.observe(QUEUE_WAIT, queued_ms / 1000)
        if task.first_byte_ms is not None:
            self.observe(FIRST_BYTE, (task.first_byte_ms - created_ms - queued_ms) / 1000, path)
        if task.started_ms is not None:
            self.observe(HANDOVER, (task.started_ms - created_ms - queued_ms) / 1000)

    def refused(self, code: str) -> None:
        """Counts a refused request, which is no task. `code` is a GatewayError's."""
        self.row[REFUSED.start + _CODE_OF[code]] += 1

    def refused_by_server(self, status: int) -> None:
        """Counts a malformed message. `status` is the HTTP status of its answer."""
        self.refused(_SERVER_CODES.get(status, _SERVER_CODES[400]))

    def observe(self, histogram: Family, seconds: float, series: int = 0) -> None:
        """Adds a value to a histogram. Negative seconds count as 0: the clock may have been set back."""
        if seconds < 0:
            seconds = 0.0
        at = histogram.start + series * histogram.width
        self.row[at + bisect_left(histogram.buckets, seconds)] += 1
        self.row[at + histogram.width - 1] += seconds

    def add(self, counter: Family) -> None:
        self.row[counter.start] += 1

    def kept(self, response: Kept) -> None:
        """Counts an answer that was to be kept, once it is known what became of it."""
        self.row[KEPT.start + _KEPT.index(response)] += 1

    # -- present values, set when metrics are read --

    def show(self, family: Family, value: float, series: int = 0) -> None:
        """Sets a gauge, or a counter that is kept elsewhere."""
        self.row[family.start + series] = value

    def show_stages(self, tasks: Counter[Stage]) -> None:
        """Sets the numbers of tasks in flight, by stage."""
        for series, stage in enumerate(_STAGES):
            self.show(IN_FLIGHT, tasks[stage], series)

    def show_nodes(self, nodes: Counter[str]) -> None:
        """Sets the numbers of gateways, by state."""
        for series, state in enumerate(NODE_STATES):
            self.show(NODES, nodes[state], series)

    def show_lost(self, value: int) -> None:
        """Sets how many tasks this gateway made lost. The gateways that ran them could not count their end."""
        self.show(TASKS, value, _REASON_OF[Reason.LOST])


def _rare_path(path: str) -> int:
    """The series of a path that is not in _PATH_OF: that of `models` for one model, else that of OTHER, which is 0."""
    return PATHS.index("models") if path.startswith("/v1/models/") else 0
