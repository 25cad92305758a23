"""What the log says of a failure of the store, and which failures count as the same."""

from __future__ import annotations

import socket
import ssl

import pytest
from hiredis import ReplyError
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.store.reasons import Unreachable, is_wrong_type, kind_of, public_reason_of, reason_of

OLD = "ERR Error running script (call to f_" + "0" * 40 + "): @user_script:1: "  # how Redis 6.2 begins
NEW = " script: " + "0" * 40 + ", on @user_script:23."  # how Redis 7 ends


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [(f"{OLD}@user_script: 1: -OOM no memory", "OOM", "ReplyError: OOM no memory"),
     (f"READONLY a replica.{NEW}", "READONLY", "ReplyError: READONLY a replica."),
     ("ERR user_script:7: NOPERM the account may not run SET in scripts" + NEW, "NOPERM",
      "ReplyError: NOPERM the account may not run SET in scripts"),
     (f"ERR The user executing the script can't run this command or subcommand{NEW}", "NOPERM",
      "NOPERM: the account may not run a command that the gateway's scripts need (docs/redis.md names them)"),
     ("ERR ACL failure in script: User me has no permissions to run the 'zadd' command script: on @user_script:1.",
      "NOPERM", "ReplyError: ERR ACL failure in script: User me has no permissions to run the 'zadd' command"),
     ("NOPERM this user has no permissions to run the 'script|load' command", "NOPERM",
      "the server refuses Lua scripts, which the gateway needs: NOPERM this user has no permissions to run the "
      "'script|load' co…"),
     ("ERR unknown command 'EVALSHA', with args", "ERR",
      "the server refuses Lua scripts, which the gateway needs: ERR unknown command 'EVALSHA', with args")],
)  # fmt: skip
def test_a_refusal_in_a_script_is_the_refusal(text: str, kind: str, reason: str) -> None:
    """The words that servers put around the error of a script do not count, on either kind of connection."""
    assert (kind_of(ReplyError(text)), reason_of(ReplyError(text))) == (kind, reason)
    assert kind_of(BaseParser.parse_error(text)) == kind


@pytest.mark.parametrize("text", [f"{OLD}WRONGTYPE Operation against a key", f"WRONGTYPE Operation against a key{NEW}"])
def test_a_wrong_type_is_known(text: str) -> None:
    """In front of the word older servers have words of their own."""
    assert is_wrong_type(ReplyError(text))
    assert is_wrong_type(BaseParser.parse_error(text))


@pytest.mark.parametrize("reply", [ReplyError("ERR no WRONGTYPE"), "WRONGTYPE", None])
def test_nothing_else_is_a_wrong_type(reply: object) -> None:
    """Neither a text nor an error that has the word somewhere."""
    assert not is_wrong_type(reply)


def behind(error: OSError) -> RedisConnectionError:
    """An error as redis-py makes it of one of TLS or of the operating system, with the address."""
    try:
        try:
            raise error
        except OSError as cause:
            raise RedisConnectionError(f"Error {cause.errno} connecting to 192.0.2.1:6379. {cause}.")  # noqa: B904
    except RedisConnectionError as made:
        return made


@pytest.mark.parametrize(
    ("reason", "text"),
    [("TLSV13_ALERT_CERTIFICATE_REQUIRED", "it demands a client certificate (REDIS_CERT_FILE, REDIS_KEY_FILE)"),
     ("TLSV1_ALERT_UNKNOWN_CA", "it does not accept the client certificate in REDIS_CERT_FILE: unknown ca"),
     ("SSLV3_ALERT_CERTIFICATE_EXPIRED",
      "it does not accept the client certificate in REDIS_CERT_FILE: certificate expired"),
     ("WRONG_VERSION_NUMBER", "it does not speak TLS at this port"), ("NO_CIPHERS", "TLS fails: NO_CIPHERS")],
)  # fmt: skip
def test_what_tls_says_is_said_in_words(reason: str, text: str) -> None:
    """The error of TLS is found behind that of redis-py; all of them are one kind of failure."""
    error = ssl.SSLError(1, f"[SSL: {reason}] some words")
    error.reason = reason
    assert (reason_of(behind(error)), kind_of(behind(error))) == (text, "CERTIFICATE")


TWO = (
    "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 111] Connect call failed ('192.0.2.1', 1)"
)


@pytest.mark.parametrize(
    ("error", "text"),
    [(behind(ConnectionRefusedError(111, "Connect call failed ('192.0.2.1', 6379)")), "connection refused"),
     (behind(OSError(113, "Connect call failed ('192.0.2.1', 6379)")), "no route to host"),
     (behind(OSError(TWO)), "connection refused"),
     (behind(socket.gaierror(-2, "192.0.2.1 not known")), "its name cannot be resolved"),
     (behind(TimeoutError("192.0.2.1")), "no answer in time"),
     (RedisTimeoutError("Timeout reading from 192.0.2.1:6379"), "no answer in time"),
     (RedisConnectionError("Connection closed by 192.0.2.1"), "no connection"),
     (RuntimeError("192.0.2.1"), "no connection"), (ConnectionResetError(104, "192.0.2.1"), "connection reset by peer"),
     (Unreachable("no Sentinel can be asked: Error 111 connecting to 192.0.2.1:26379", "SENTINEL"),
      "Sentinel names no primary"),
     (Unreachable("the files cannot be used: 192.0.2.1", "CERTIFICATE"), "TLS fails"),
     (behind(ssl.SSLError(1, "192.0.2.1")), "TLS fails"),
     (ReplyError("MOVED 1 192.0.2.1:6379"), "it is a Redis Cluster"),
     (ReplyError("NOPERM User 192.0.2.1 has no permissions"), "it answers NOPERM")],
)  # fmt: skip
def test_clients_learn_the_kind_and_no_address(error: Exception, text: str) -> None:
    """The text for the log has the address; the one for clients says in words what has failed."""
    assert "192.0.2.1" in str(error)
    assert public_reason_of(error) == text


def test_our_own_words_stand_alone() -> None:
    """A reason that the gateway gives itself has no name of a Python class in front of it."""
    error = Unreachable("no Sentinel can be asked", "SENTINEL")
    assert (reason_of(error), kind_of(error), kind_of(Unreachable("x"))) == ("no Sentinel can be asked", "SENTINEL", "")
