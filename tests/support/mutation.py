"""Owns broken messages: mutations of good ones, the same for the same seed, cut into pieces anywhere.

The fuzz tests call it. FUZZ_SEED and FUZZ_CASES in the environment look for what the default run does not find:

    FUZZ_SEED=7 FUZZ_CASES=100000 python -m pytest tests/unit/upstream/test_fuzz_wire.py
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence

# What parsers stumble over: line ends, lengths, codings, escapes, control bytes.
TOKENS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b",", b";", b"/", b"%2e%2e", b"..", b"\x00", b"\xff", b"0",
    b"1", b"0\r\n\r\n", b"ffffffffffffffff", b"-1", b"+1", b"0x5", b"chunked", b"Chunked", b"identity",
    b"gzip, chunked", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Host: x\r\n", b"HTTP/1.0", b"HTTP/1.1",
    b"HTTP/2.0", b"X: " + b"a" * 300 + b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"data: [DONE]\n\n",
    b"event: error\n",
]  # fmt: skip
SEED = int(os.environ.get("FUZZ_SEED", "1"))


def cases(corpus: Sequence[bytes], count: int) -> Iterator[tuple[bytes, list[bytes]]]:
    """`count` messages, each whole and in pieces; every one of the corpus comes first as it is."""
    chance = random.Random(SEED)
    wanted = int(os.environ.get("FUZZ_CASES", count))
    for number in range(wanted):
        message = corpus[number] if number < len(corpus) else mutated(chance, corpus)
        yield message, pieces(chance, message)


def mutated(chance: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One of the corpus after one change or a few."""
    message = chance.choice(corpus)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        message = _changed(chance, message, corpus)
    return message


def _changed(chance: random.Random, message: bytes, corpus: Sequence[bytes]) -> bytes:
    start = chance.randint(0, len(message))
    end = min(len(message), start + chance.choice([1, 1, 2, 8, 40]))
    match chance.randrange(6):
        case 0:  # leave out
            return message[:start] + message[end:]
        case 1:  # say twice
            return message[:end] + message[start:]
        case 2:  # break off
            return message[:start]
        case 3:  # go on as another one
            other = chance.choice(corpus)
            return message[:start] + other[chance.randint(0, len(other)) :]
        case 4:  # another byte
            return message[:start] + bytes([chance.randrange(256)]) + message[start + 1 :]
        case _:  # put in, or in place
            return message[:start] + chance.choice(TOKENS) + message[chance.choice([start, end]) :]


def pieces(chance: random.Random, message: bytes) -> list[bytes]:
    """The message in one piece, in a few, or byte by byte."""
    most = chance.choice([0, 1, 3, 12, len(message)])
    places = sorted(chance.randint(0, len(message)) for _ in range(most))
    if most == len(message):
        places = list(range(len(message)))
    return [part for a, b in zip([0, *places], [*places, len(message)], strict=True) if (part := message[a:b])]
