"""What a failure of the store means: its text for the log, and its kind, which says whether it is another failure.

Clients get a text of their own: they need not learn the store's address, account or files.
"""

import os
import re
import socket
import ssl
from typing import TypeVar

from hiredis import HiredisError, ReplyError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

_REASON_CHARACTERS = 120
_KIND_CHARACTERS = 20
_MAX_CAUSES = 8
CERTIFICATE = "CERTIFICATE"
# For clients, in the place of the kinds that the gateway gives itself.
_PUBLIC = {
    CERTIFICATE: "TLS fails",
    "CLUSTER": "it is a Redis Cluster",
    "SENTINEL": "Sentinel names no primary",
}
# RuntimeError: uvloop raises it for a write to a connection that was reset.
LIBRARY_ERRORS = (RedisError, HiredisError, OSError, RuntimeError)

# Parts of a cluster's errors for scripts whose keys are in two slots, or on another node.
_OF_CLUSTERS = ("CROSSSLOT", "MOVED ", "CLUSTERDOWN", "same slot", "non local key", "undeclared key")
_OF_SCRIPTS = re.compile(
    r"(unknown command|no permissions).{0,40}['`](eval|evalsha|script(\|load)?)['`]", re.IGNORECASE
)
# Older servers put words of their own in front of an error in a script: Redis 6.2, and others for Lua's `error`.
_IN_SCRIPT = re.compile(r"user_script: ?\d+: -?(?P<text>(?:[A-Z]{2,}|The user) .*)", re.DOTALL)
_PLACE_IN_SCRIPT = re.compile(r" script: (?:[0-9a-f]{40}, )?on @user_script:\d+\.?$")
_NUMBER = re.compile(r"\[Errno (\d+)\]")  # in the text, because an error for several addresses has no errno
_UNNAMED_RIGHT = "can't run this command"
_NO_RIGHT_IN_SCRIPT = re.compile(
    r"can't run this command|ACL failure in script|can't access (at least )?one of the keys"
)

E = TypeVar("E", bound=BaseException)


class Unreachable(RedisConnectionError):
    """No connection, for a reason that this package knows. `status_code` is its kind, as in redis-py's own errors."""

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.status_code = kind


def reason_of(error: BaseException) -> str:
    """The text of an error, cut to fit a log line: some of Redis's errors are a paragraph of advice."""
    if _is_of_cluster(error):
        return "this is a Redis Cluster, which the gateway cannot use; give it one primary"
    tls_error = _tls_error(error)
    if isinstance(error, Unreachable):
        text = str(error)
    elif tls_error is not None:
        text = _tls_reason(tls_error)
    else:
        words = _PLACE_IN_SCRIPT.sub("", _text_in_script(str(error)))
        text = f"{type(error).__name__}: {words}" if words else type(error).__name__
    if _UNNAMED_RIGHT in text:
        text = "NOPERM: the account may not run a command that the gateway's scripts need (docs/redis.md names them)"
    if _is_refusal(error) and _OF_SCRIPTS.search(text):
        text = f"the server refuses Lua scripts, which the gateway needs: {error}"
    return text if len(text) <= _REASON_CHARACTERS else text[:_REASON_CHARACTERS] + "…"


def kind_of(error: BaseException) -> str:
    """The first word of a server's refusal; "" if there is none. redis-py moves some words to `status_code`."""
    if _is_of_cluster(error):
        return "CLUSTER"
    if not isinstance(error, Unreachable) and _tls_error(error) is not None:
        return CERTIFICATE
    code = getattr(error, "status_code", None)
    if code in (None, "ERR") and _is_refusal(error):
        text = _text_in_script(str(error))
        if _NO_RIGHT_IN_SCRIPT.search(text):
            code = "NOPERM"
        elif code is None or text != str(error):
            code = text.partition(" ")[0]
    return str(code or "")[:_KIND_CHARACTERS]


def public_reason_of(error: BaseException) -> str:
    """The text of an error for clients: what has failed, in words that name no address."""
    kind = kind_of(error)
    if kind in _PUBLIC:
        return _PUBLIC[kind]
    if kind:
        return f"it answers {kind}"
    if isinstance(error, RedisTimeoutError) or _cause(error, TimeoutError) is not None:
        return "no answer in time"
    if _cause(error, socket.gaierror) is not None:
        return "its name cannot be resolved"
    number = _NUMBER.search(str(_cause(error, OSError) or ""))
    return os.strerror(int(number[1])).lower() if number else "no connection"


def is_wrong_type(error: object) -> bool:
    """Whether a command, or one in a script, has found a key of another type."""
    return isinstance(error, Exception) and _text_in_script(str(error)).startswith("WRONGTYPE")


def _text_in_script(text: str) -> str:
    """The error of the command, if a script was stopped by one."""
    found = _IN_SCRIPT.search(text)
    return found["text"] if found else text


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, ReplyError | ResponseError)


def _is_of_cluster(error: BaseException) -> bool:
    return _is_refusal(error) and any(word in str(error) for word in _OF_CLUSTERS)


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The error of TLS behind an error of redis-py."""
    return _cause(error, ssl.SSLError)


def _cause(error: BaseException, wanted: type[E]) -> E | None:
    """The error of that type which is, or is behind, an error of redis-py."""
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None or isinstance(cause, wanted):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _tls_reason(error: ssl.SSLError) -> str:
    reason = error.reason or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if reason.endswith(("CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE")):
        return "it demands a client certificate (REDIS_CERT_FILE, REDIS_KEY_FILE)"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        words = reason.partition("ALERT_")[2].replace("_", " ").lower()
        return f"it does not accept the client certificate in REDIS_CERT_FILE: {words}"
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return "it does not speak TLS at this port"
    return f"TLS fails: {reason}"
