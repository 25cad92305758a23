"""The terminal's commands: they ask a gateway over HTTP and print its answer.

Owns the arguments and the exit codes, which tell scripts a task's state. Must not import the server's modules. The
server must not import this package: the HTTP client and the tables would cost it memory for nothing.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from gateway import __version__
from gateway.cli import output, show
from gateway.cli.client import Away, Client, Document, NotKept, UnknownTask, has_ended
from gateway.cli.fields import PRESUMED, TASK_COLUMNS
from gateway.cli.response import File, Reached, Reader, UnusableFile
from gateway.cli.watch import ended, follow
from gateway.logs import readable
from gateway.settings import terminal_peer
from gateway.tasks.document import is_presumed
from gateway.tasks.options import is_label
from gateway.tasks.stages import State
from gateway.tasks.task import is_valid_id

DONE = 0
FAILED = 1
USAGE = 2
NOT_ENDED = 3
UNKNOWN = 4
AWAY = 5
INTERRUPTED = 130  # as in shells: 128 plus SIGINT
BROKEN_PIPE = 141  # as in shells: 128 plus SIGPIPE
TERMINATED = show.TERMINATED

_END_SECONDS = 5.0
_KEY = re.compile(r"[!-~]+")
_GENERATION = re.compile(r"[0-9A-Za-z-]{1,64}")
_CODES = {"SUCCESS": DONE, "FAILED": FAILED, "PENDING": NOT_ENDED, "RUNNING": NOT_ENDED}
_EPILOG = """Exit codes: 0 SUCCESS (cancel: ended; cancel --label: asked), 1 FAILED, 2 wrong usage, 3 not ended, or only
presumed lost, 4 no such task, or no kept answer, 5 the gateway is away or refuses. Without a command the gateway itself
is started; with --check alone its settings are checked."""


def main(arguments: Sequence[str]) -> int:
    """Runs one command. Returns its exit code. Raises SystemExit(2) for wrong usage."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        with _client(parser, chosen) as client:
            code: int = chosen.run(client, chosen)
        sys.stdout.flush()
    except (UnknownTask, NotKept) as error:
        return _complain(str(error), UNKNOWN)
    except Away as error:
        return _complain(str(error), USAGE if error.code == "offset_not_satisfiable" else AWAY)
    except UnusableFile as error:
        return _complain(str(error), USAGE)
    except KeyboardInterrupt:
        return DONE if chosen.run is _tasks else INTERRUPTED  # Ctrl-C is how `tasks --watch` ends
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's last flush fails
        return BROKEN_PIPE
    return code


def _complain(text: str, code: int) -> int:
    print(f"ollama-gateway: {readable(text)}", file=sys.stderr)
    return code


def _tasks(client: Client, chosen: argparse.Namespace) -> int:
    only = {name: text for name, text in (("state", chosen.state), ("label", chosen.label)) if text}
    if chosen.columns and chosen.json:
        chosen.refuse("--columns cannot be used with --json, which has all columns")
    if chosen.watch and not chosen.json and not sys.stdout.isatty():
        return _complain("--watch needs a terminal; for scripts: --watch --json", USAGE)
    if chosen.watch:
        follow(client, chosen.limit, only, output.JsonLines() if chosen.json else show.watched(chosen.columns))
        return DONE
    page = client.page(chosen.limit, only)
    if chosen.json:
        output.print_json(page.content)
    else:
        show.print_table(page.tasks, page.left_out, chosen.columns)
    return DONE


def _status(client: Client, chosen: argparse.Namespace) -> int:
    with show.waiting(chosen.task_id, is_wanted=chosen.wait > 0 and not chosen.json) as tell:
        document = ended(client, chosen.task_id, chosen.wait, tell)
    _print(document, chosen, client)
    return _code(document)


def _nodes(client: Client, chosen: argparse.Namespace) -> int:
    found = client.nodes()
    if chosen.json:
        output.print_json(found.content)
    else:
        show.print_nodes(found.nodes)
    return DONE


def _code(document: Document) -> int:
    """The exit code that tells a task's state."""
    return NOT_ENDED if is_presumed(document) else _CODES[document["state"]]


def _cancel(client: Client, chosen: argparse.Namespace) -> int:
    if chosen.label:
        answer = client.cancel_label(chosen.label)
        if chosen.json:
            output.print_json(answer)
        else:
            output.print_cancelled(answer["cancelled"])
        return DONE
    document = client.cancel(chosen.task_id)
    _print(document, chosen, client)
    return DONE if has_ended(document) else NOT_ENDED


def _response(client: Client, chosen: argparse.Namespace) -> int:
    if chosen.is_deleting:
        if chosen.output or chosen.generation or chosen.offset is not None:
            chosen.refuse("--delete goes with no other option")
        client.delete_response(chosen.task_id)
        print(f"deleted the answer of {chosen.task_id}")
        return DONE
    if chosen.output is None:
        return _read(client, chosen, output.bytes_to_stdout())
    with File(chosen.output, chosen.offset) as file:
        return _read(client, chosen, file.write)


def _read(client: Client, chosen: argparse.Namespace, write: Callable[[bytes], None]) -> int:
    """Reads a kept answer. Tells people on standard error if that is not all of it."""
    is_wanted = sys.stderr.isatty() and not (chosen.output is None and sys.stdout.isatty())
    with output.Progress(is_wanted=is_wanted) as progress:

        def take(piece: bytes) -> None:
            write(piece)
            progress.count(len(piece))

        offset = chosen.offset or 0
        reader = Reader(client, chosen.task_id, take, progress.say, offset=offset, generation=chosen.generation or "")
        reached = reader.read(to_end=chosen.follow)
    # The end of the answer can come a moment before the task's.
    document = ended(client, chosen.task_id, 0 if reached is Reached.PRESENT else _END_SECONDS, lambda _: None)
    state = f"{document['state']} {document['extensions'].get('reason') or document['stage']}"
    if reached is Reached.PRESENT:
        more = f" --generation {reader.generation}" if reader.generation else ""
        what = PRESUMED if is_presumed(document) else f"the task goes on ({state})"
        return _complain(
            f"{what}; this is its answer up to byte {reader.offset}; --follow reads to its end, "
            f"--from {reader.offset}{more} reads on",
            NOT_ENDED,
        )
    if reached is Reached.BROKEN_END:
        return _complain(f"the answer was broken off after {reader.offset} bytes ({state})", _code(document))
    if is_presumed(document):
        return _complain(f"this is the whole answer, but there is {PRESUMED}", NOT_ENDED)
    return _code(document)


def _print(document: Document, chosen: argparse.Namespace, client: Client) -> None:
    if chosen.json:
        output.print_json(document)
    else:
        show.print_document(document, client.page_of(document["task_id"]))


# -- arguments --


def _parser() -> argparse.ArgumentParser:
    peer = argparse.ArgumentParser(add_help=False)
    peer.add_argument("--url", help="the gateway (OLLAMA_GATEWAY_URL; else this machine's, at GATEWAY_PORT or 11535)")
    peer.add_argument("--key-file", type=Path, metavar="FILE", help="holds the API key (else OLLAMA_GATEWAY_KEY)")
    common = argparse.ArgumentParser(add_help=False, parents=[peer])
    common.add_argument("--json", action="store_true", help="what the gateway answers, on one line")
    parser = argparse.ArgumentParser("ollama-gateway", description="Shows and ends tasks.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"ollama-gateway {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    tasks = commands.add_parser("tasks", parents=[common], help="the newest tasks")
    tasks.add_argument("--watch", action="store_true", help="keep showing them, until Ctrl-C; with --json each change")
    only = tasks.add_mutually_exclusive_group()
    only.add_argument("--state", type=str.upper, choices=[str(state) for state in State])
    only.add_argument("--label", type=_label, help="only tasks with this X-Task-Label")
    tasks.add_argument("--limit", type=_limit, default=20, metavar="N", help="at most so many, 1 to 1000 (20)")
    what = f"which, and in which order, with commas: {', '.join(TASK_COLUMNS)}"
    tasks.add_argument("--columns", type=_columns, default=(), metavar="NAMES", help=what)
    tasks.set_defaults(run=_tasks, refuse=tasks.error)

    status = commands.add_parser("status", parents=[common], help="one task")
    status.add_argument("task_id", type=_task_id, metavar="ID")
    wait = "wait until it has ended, or so many seconds"
    status.add_argument(
        "--wait", type=_seconds, nargs="?", const=float("inf"), default=0.0, metavar="SECONDS", help=wait
    )
    status.set_defaults(run=_status)

    nodes = commands.add_parser("nodes", parents=[common], help="the gateways that share the store")
    nodes.set_defaults(run=_nodes)

    response = commands.add_parser("response", parents=[peer], help="the kept answer of a task, as it came from Ollama")
    _add_response_arguments(response)

    cancel = commands.add_parser("cancel", parents=[common], help="end a task that is in flight, or all of a label")
    which = cancel.add_mutually_exclusive_group(required=True)
    which.add_argument("task_id", type=_task_id, nargs="?", metavar="ID")
    which.add_argument("--label", type=_label, help="all tasks in flight with this X-Task-Label")
    cancel.set_defaults(run=_cancel)
    return parser


def _add_response_arguments(response: argparse.ArgumentParser) -> None:
    response.add_argument("task_id", type=_task_id, metavar="ID")
    what = response.add_mutually_exclusive_group()
    what.add_argument("--follow", action="store_true", help="read on to the end of a task that still runs")
    response.add_argument("--from", type=_offset, dest="offset", metavar="N", help="leave out the first N bytes")
    response.add_argument("--generation", type=_generation, metavar="G", help="only this one (its ETag)")
    file = "write to FILE, anew; with --from N behind the N bytes that FILE must have"
    response.add_argument("-o", "--output", type=Path, metavar="FILE", help=file)
    what.add_argument("--delete", action="store_true", dest="is_deleting", help="delete the answer instead")
    response.set_defaults(run=_response, refuse=response.error)


def _limit(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 1000):
        raise argparse.ArgumentTypeError("1 to 1000")
    return int(text)


def _columns(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.lower().split(",")]
    for name in names:
        if name not in TASK_COLUMNS:
            raise argparse.ArgumentTypeError(f"no column {name!r}; allowed: {', '.join(TASK_COLUMNS)}")
    return tuple(dict.fromkeys(names))


def _offset(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 16):
        raise argparse.ArgumentTypeError("a whole number of bytes, 0 or more")
    return int(text)


def _generation(text: str) -> str:
    if not _GENERATION.fullmatch(text.strip('"')):
        raise argparse.ArgumentTypeError(f"not the generation of an answer: {text!r}")
    return text.strip('"')


def _seconds(text: str) -> float:
    number = float(text)
    if not number >= 0:  # nan, too
        raise argparse.ArgumentTypeError("0 or more seconds")
    return number


def _task_id(text: str) -> str:
    if not is_valid_id(text):
        raise argparse.ArgumentTypeError(f"not a task id: {text!r}")
    return text


def _label(text: str) -> str:
    if not is_label(text):
        raise argparse.ArgumentTypeError(f"not a label: {text!r}")
    return text


def _client(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> Client:
    """The client for the gateway's URL and key, which come from the arguments or the environment."""
    url, key = terminal_peer()
    try:
        if chosen.key_file:
            key = chosen.key_file.read_text(encoding="utf-8-sig").strip()
        if key and not _KEY.fullmatch(key):
            parser.error("the API key holds what no key does")
        return Client(chosen.url or url, key)
    except (OSError, UnicodeError) as error:
        parser.error(f"--key-file {chosen.key_file}: {getattr(error, 'strerror', None) or error}")
    except (ValueError, httpx.InvalidURL) as error:
        parser.error(f"not the URL of a gateway: {error}")
