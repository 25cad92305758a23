"""Owns the conformance cases: raw HTTP/1.1, each with the section that rules it and the answers it has to get.

`/v1/own` is relayed and answered 200 by the scripted upstream. A row of docs/behaviour.md is made from each case.
The conformance test calls it.
"""

from __future__ import annotations

from dataclasses import dataclass

HOST = b"Host: a\r\n"
GET = b"GET /v1/own HTTP/1.1\r\n"
POST = b"POST /v1/own HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


@dataclass(frozen=True)
class Case:
    """What is sent, and the statuses of all that comes back; `-` as the last means that the connection is closed.

    `body` is what the upstream gets as the body of the first request, where the case is about that.
    """

    section: str
    rule: str
    raw: bytes
    answers: str
    body: bytes | None = None

    @property
    def row(self) -> str:
        """The case's line in the table."""
        shown = ["closed" if answer == "-" else answer.replace("|", " or ") for answer in self.answers.split(" ")]
        return f"| {self.section} | {self.rule} | {', '.join(shown)} |"


def get(*lines: bytes, line: bytes = GET) -> bytes:
    """A request without a body: the request line, Host, these lines."""
    return line + HOST + b"".join(part + b"\r\n" for part in lines) + b"\r\n"


def bare(*lines: bytes, line: bytes = GET) -> bytes:
    """The same without a Host of ours."""
    return line + b"".join(part + b"\r\n" for part in lines) + b"\r\n"


def post(*lines: bytes, body: bytes = b"hello") -> bytes:
    """A POST with these lines before its body."""
    return POST + b"".join(part + b"\r\n" for part in lines) + b"\r\n" + body


def target(raw: bytes, method: bytes = b"GET") -> bytes:
    """A request for this target."""
    return get(line=b"%b %b HTTP/1.1\r\n" % (method, raw))


START_LINE = [
    Case("9112 2.2", "an empty line before the request line is ignored", b"\r\n" + get(), "200"),
    Case("9112 2.2", "several empty lines are ignored", b"\r\n\r\n\r\n" + get(), "200"),
    Case("9112 2.2", "a bare CR in the request line", b"GET /v1/own\r HTTP/1.1\r\n" + HOST + b"\r\n", "400 -"),
    Case("9112 2.2", "a bare LF ends the request line", b"GET /v1/own HTTP/1.1\n" + HOST + b"\r\n", "400 -"),
    Case("9112 2.2", "a bare LF ends a field line", GET + b"Host: a\n\r\n", "400 -"),
    Case("9112 2.2", "a bare CR ends a field line", GET + b"Host: a\rX: b\r\n\r\n", "400 -"),
    Case("9112 2.2", "a bare LF ends the head", GET + HOST + b"\n", "400 -"),
    Case("9112 2.2", "white space before the first field line", GET + b" Host: a\r\n\r\n", "400 -"),
    Case("9112 2.2", "a tab before the first field line", GET + b"\tHost: a\r\n\r\n", "400 -"),
    Case("9112 2.2", "bytes that are no request", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400 -"),
    Case(
        "9112 2.3",
        "HTTP/1.0 is understood, and ends with the connection",
        get(line=b"GET /v1/own HTTP/1.0\r\n"),
        "200 -",
    ),
    Case("9112 2.3", "HTTP/2.0 in this form", get(line=b"GET /v1/own HTTP/2.0\r\n"), "505 -"),
    Case("9112 2.3", "HTTP/0.9 with a version", get(line=b"GET /v1/own HTTP/0.9\r\n"), "505 -"),
    Case("9112 2.3", "a version that does not exist", get(line=b"GET /v1/own HTTP/9.9\r\n"), "400 -"),
    Case("9112 2.3", "a minor version that does not exist", get(line=b"GET /v1/own HTTP/1.2\r\n"), "400 -"),
    Case("9112 2.3", "a version of too many digits", get(line=b"GET /v1/own HTTP/1.10\r\n"), "400 -"),
    Case("9112 2.3", "a version with a leading zero", get(line=b"GET /v1/own HTTP/01.1\r\n"), "400 -"),
    Case("9112 2.3", "a version without its dot", get(line=b"GET /v1/own HTTP/11\r\n"), "400 -"),
    Case("9112 2.3", "the protocol's name in lower case", get(line=b"GET /v1/own http/1.1\r\n"), "400 -"),
    Case("9112 2.3", "another protocol's name", get(line=b"GET /v1/own HTTPS/1.1\r\n"), "400 -"),
    Case("9112 2.3", "the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 -"),
    Case("9112 3", "no version at all", b"GET /v1/own\r\n\r\n", "505 -"),
    Case("9112 3", "no target", b"GET HTTP/1.1\r\n" + HOST + b"\r\n", "400 -"),
    Case("9112 3", "white space in the target", target(b"/v1/own /x"), "400 -"),
    Case("9112 3", "white space behind the version", get(line=b"GET /v1/own HTTP/1.1 \r\n"), "400 -"),
    Case("9112 3", "white space before the method", b" " + get(), "400 -"),
    Case("9112 3", "a tab behind the method", get(line=b"GET\t/v1/own HTTP/1.1\r\n"), "400 -"),
    Case("9112 3.1", "a method in lower case", get(line=b"get /v1/own HTTP/1.1\r\n"), "501 -"),
    Case("9112 3.1", "a method that does not exist", get(line=b"FETCH /v1/own HTTP/1.1\r\n"), "501 -"),
    Case("9112 3.1", "a method that begins like one that is known", get(line=b"LIST /v1/own HTTP/1.1\r\n"), "501 -"),
    Case("9112 3.1", "a method with odd signs", get(line=b"X-!~1 /v1/own HTTP/1.1\r\n"), "501 -"),
    Case("9112 3.1", "a method of another protocol", get(line=b"DESCRIBE /v1/own HTTP/1.1\r\n"), "501 -"),
    Case("9112 3.1", "a method with a separator", get(line=b"GE(T /v1/own HTTP/1.1\r\n"), "400 -"),
]

TARGET = [
    Case("9112 3.2.1", "an origin-form target", target(b"/v1/own?a=b&&c=%2F"), "200"),
    Case("9112 3.2.1", "a path that is not ours", target(b"/nothing"), "404"),
    Case("9112 3.2.1", "a path without its slash", target(b"v1/own"), "400 -"),
    Case("9112 3.2", "a fragment", target(b"/v1/own#x"), "400 -"),
    Case("9112 3.2", "a byte outside ASCII", target(b"/v1/\xc3\xa9"), "400 -"),
    Case("9112 3.2", "a control byte", target(b"/v1/o\x01wn"), "400 -"),
    Case("9112 3.2", "DEL", target(b"/v1/o\x7fwn"), "400 -"),
    Case("9112 3.2", "NUL", target(b"/v1/o\x00wn"), "400 -"),
    Case("9112 3.2", "a tab", target(b"/v1/o\twn"), "400 -"),
    Case("9112 3.2.2", "an absolute-form target means its path", target(b"http://a/v1/own"), "200"),
    Case("9112 3.2.2", "its authority wins over Host", target(b"http://b:81/v1/own"), "200"),
    Case("9112 3.2.2", "it still needs a Host", bare(line=b"GET http://a/v1/own HTTP/1.1\r\n"), "400 -"),
    Case("9112 3.2.2", "without a path it means /", target(b"http://a", b"HEAD"), "404|405|200"),
    Case("9112 3.2.2", "without an authority", target(b"http:///v1/own"), "400 -"),
    Case("9112 3.2.2", "with an invalid authority", target(b"http://a,b/v1/own"), "400 -"),
    Case("9110 4.2.4", "with user information", target(b"http://me@a/v1/own"), "400 -"),
    Case("9112 3.2.3", "CONNECT with its authority-form", target(b"a:443", b"CONNECT"), "501 -"),
    Case("9112 3.2.3", "CONNECT with a path", target(b"/v1/own", b"CONNECT"), "400|501 -"),
    Case("9112 3.2.3", "authority-form for another method", target(b"a:443"), "400 -"),
    Case("9112 3.2.4", "OPTIONS *", target(b"*", b"OPTIONS"), "404|204|200"),
    Case("9112 3.2.4", "* for another method", target(b"*"), "400 -"),
    Case("9110 9.3.8", "TRACE", target(b"/v1/own", b"TRACE"), "405"),
    Case("9110 9.3.2", "HEAD gets no body", get(line=b"HEAD /v1/own HTTP/1.1\r\n"), "200"),
    Case("9110 9.3.7", "OPTIONS is relayed", get(line=b"OPTIONS /v1/own HTTP/1.1\r\n"), "200"),
]

HOSTS = [
    Case("9112 3.2", "no Host", bare(), "400 -"),
    Case("9112 3.2", "no Host in HTTP/1.0", bare(line=b"GET /v1/own HTTP/1.0\r\n"), "200 -"),
    Case("9112 3.2", "two Hosts", get(b"Host: b"), "400 -"),
    Case("9112 3.2", "the same Host twice", get(b"Host: a"), "400 -"),
    Case("9112 3.2", "two Hosts in HTTP/1.0", get(b"Host: a", line=b"GET /v1/own HTTP/1.0\r\n"), "400 -"),
    Case("9112 3.2", "two Hosts in either case of letters", get(b"HOST: a"), "400 -"),
    Case("9112 3.2", "an empty Host", bare(b"Host:"), "400 -"),
    Case("9112 3.2", "a Host of white space", bare(b"Host: \t "), "400 -"),
    Case("9112 3.2", "a name and a port", bare(b"Host: localhost:11535"), "200"),
    Case("9112 3.2", "a name in capitals, white space around it", bare(b"Host: \t LocalHost \t"), "200"),
    Case("9112 3.2", "an IPv4 address", bare(b"Host: 127.0.0.1:1"), "200"),
    Case("9112 3.2", "an IPv6 address", bare(b"Host: [::1]:11535"), "200"),
    Case("9112 3.2", "an IPv6 address without brackets", bare(b"Host: ::1"), "400 -"),
    Case("9112 3.2", "a bracket that is not closed", bare(b"Host: [::1"), "400 -"),
    Case("9112 3.2", "brackets around no address", bare(b"Host: [a]"), "400 -"),
    Case("9112 3.2", "an empty port", bare(b"Host: a:"), "200"),
    Case("9112 3.2", "a port that is no number", bare(b"Host: a:b"), "400 -"),
    Case("9112 3.2", "no name before the port", bare(b"Host: :80"), "400 -"),
    Case("9112 3.2", "two names", bare(b"Host: a b"), "400 -"),
    Case("9112 3.2", "a list of names", bare(b"Host: a,b"), "400 -"),
    Case("9112 3.2", "a path", bare(b"Host: a/v1"), "400 -"),
    Case("9112 3.2", "user information", bare(b"Host: me@a"), "400 -"),
    Case("9112 3.2", "a Host with a byte outside ASCII", bare(b"Host: caf\xe9"), "400 -"),
]

FIELDS = [
    Case("9112 5", "no colon", get(b"X"), "400 -"),
    Case("9112 5", "no name", get(b": x"), "400 -"),
    Case("9112 5", "an empty value", get(b"X:"), "200"),
    Case("9112 5.1", "no white space around a value", get(b"X:y"), "200"),
    Case("9112 5.1", "white space around a value", get(b"X: \t y \t "), "200"),
    Case("9112 5.1", "white space before the colon", get(b"X : y"), "400 -"),
    Case("9112 5.1", "a tab before the colon", get(b"X\t: y"), "400 -"),
    Case("9112 5.2", "a folded line", get(b"X: y", b" z"), "400 -"),
    Case("9112 5.2", "a line folded with a tab", get(b"X: y", b"\tz"), "400 -"),
    Case("9112 5.2", "a line folded before its value", get(b"X:", b" y"), "400 -"),
    Case("9110 5.1", "white space in a name", get(b"X Y: z"), "400 -"),
    Case("9110 5.1", "every byte a name may have", get(b"!#$%&'*+-.^_`|~09azAZ: z"), "200"),
    Case("9110 5.1", "a separator in a name", get(b"X(Y): z"), "400 -"),
    Case("9110 5.1", "NUL in a name", get(b"X\x00: z"), "400 -"),
    Case("9110 5.1", "a byte outside ASCII in a name", get(b"X\xe9: z"), "400 -"),
    Case("9110 5.5", "NUL in a value", get(b"X: a\x00b"), "400 -"),
    Case("9110 5.5", "a control byte in a value", get(b"X: a\x01b"), "400 -"),
    Case("9110 5.5", "DEL in a value", get(b"X: a\x7fb"), "400 -"),
    Case("9110 5.5", "a vertical tab before a value", get(b"X:\x0by"), "400 -"),
    Case("9110 5.5", "a tab and bytes outside ASCII in a value", get(b"X: a\t\xc3\xa9\xff"), "200"),
    Case("9110 5.3", "the same field many times", get(*[b"X: y"] * 50), "200"),
    Case("6585 5", "a head of 100 KB", get(b"X: " + b"y" * 100_000), "431 -"),
    Case("6585 5", "a head of many fields", get(*[b"X: " + b"y" * 100] * 700), "431 -"),
    Case("6585 5", "a name of 100 KB", get(b"y" * 100_000 + b": x"), "431 -"),
    Case("6585 5", "a value of 200 KB of white space", get(b"X:" + b" " * 200_000), "431 -"),
    Case("9110 15.5.15", "a target of 100 KB", target(b"/v1/own?" + b"y" * 100_000), "414|431 -"),
    Case("6585 5", "a head of 60 KB is taken", get(b"X: " + b"y" * 60_000), "200"),
]

BODIES = [
    Case("9112 6", "a request without framing has no body", POST + b"\r\n" + get(), "200 200", b""),
    Case("9112 6.2", "a Content-Length", post(b"Content-Length: 5") + get(), "200 200", b"hello"),
    Case("9112 6.2", "a body with GET", get(b"Content-Length: 5") + b"hello" + get(), "200 200", b"hello"),
    Case("9112 6.2", "a Content-Length of 0", post(b"Content-Length: 0", body=b"") + get(), "200 200", b""),
    Case("9112 6.2", "a Content-Length with leading zeros", post(b"Content-Length: 005") + get(), "200 200", b"hello"),
    Case("9112 6.2", "an empty Content-Length", post(b"Content-Length:"), "400 -"),
    Case("9112 6.2", "a Content-Length with a sign", post(b"Content-Length: +5"), "400 -"),
    Case("9112 6.2", "a negative Content-Length", post(b"Content-Length: -5"), "400 -"),
    Case("9112 6.2", "a hexadecimal Content-Length", post(b"Content-Length: 0x5"), "400 -"),
    Case("9112 6.2", "a Content-Length beyond all numbers", post(b"Content-Length: " + b"9" * 30), "400 -"),
    Case("9112 6.3", "a list as Content-Length", post(b"Content-Length: 5, 5"), "400 -"),
    Case("9112 6.3", "the same Content-Length twice", post(b"Content-Length: 5", b"Content-Length: 5"), "400 -"),
    Case("9112 6.3", "two Content-Lengths", post(b"Content-Length: 5", b"Content-Length: 6"), "400 -"),
    Case(
        "9112 6.1",
        "Content-Length before Transfer-Encoding",
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=END),
        "400 -",
    ),
    Case(
        "9112 6.1",
        "Content-Length behind Transfer-Encoding",
        post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=END),
        "400 -",
    ),
    Case(
        "9112 6.1",
        "Transfer-Encoding in HTTP/1.0",
        b"POST /v1/own HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + END,
        "400 -",
    ),
    Case("9112 6.1", "an unknown coding", post(b"Transfer-Encoding: squash", body=END), "400 -"),
    Case("9112 6.1", "a coding beside chunked", post(b"Transfer-Encoding: gzip, chunked", body=END), "501 -"),
    Case("9112 6.1", "chunked is not the last coding", post(b"Transfer-Encoding: chunked, gzip", body=END), "400 -"),
    Case("9112 6.1", "chunked twice", post(b"Transfer-Encoding: chunked, chunked", body=END), "400 -"),
    Case("9112 6.1", "chunked in two fields", post(*[b"Transfer-Encoding: chunked"] * 2, body=END), "400 -"),
    Case("9112 6.1", "identity", post(b"Transfer-Encoding: identity"), "400 -"),
    Case("9112 6.1", "an empty Transfer-Encoding", post(b"Transfer-Encoding:", body=END), "400 -"),
    Case(
        "9112 7",
        "chunked in any case of letters",
        post(b"Transfer-Encoding: ChuNKed", body=b"5\r\nhello\r\n" + END) + get(),
        "200 200",
        b"hello",
    ),
    Case("9112 7.1", "several chunks", CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n" + END + get(), "200 200", b"hello"),
    Case(
        "9112 7.1",
        "a size in either case of hex digits",
        CHUNKED + b"a\r\n0123456789\r\nA\r\n0123456789\r\n" + END,
        "200",
        b"01234567890123456789",
    ),
    Case(
        "9112 7.1", "a size with leading zeros", CHUNKED + b"0005\r\nhello\r\n000\r\n\r\n" + get(), "200 200", b"hello"
    ),
    Case("9112 7.1", "no size", CHUNKED + b"\r\nhello\r\n" + END, "400 -"),
    Case("9112 7.1", "a size that is no number", CHUNKED + b"x\r\nhello\r\n" + END, "400 -"),
    Case("9112 7.1", "a size with 0x", CHUNKED + b"0x5\r\nhello\r\n" + END, "400 -"),
    Case("9112 7.1", "a negative size", CHUNKED + b"-5\r\nhello\r\n" + END, "400 -"),
    Case("9112 7.1", "a size beyond all numbers", CHUNKED + b"1" + b"0" * 16 + b"\r\nhello\r\n" + END, "400 -"),
    Case("9112 7.1", "white space before a size", CHUNKED + b" 5\r\nhello\r\n" + END, "400 -"),
    Case("9112 7.1", "white space behind a size", CHUNKED + b"5 \r\nhello\r\n" + END, "400 -"),
    Case("9112 7.1", "a bare LF behind a size", CHUNKED + b"5\nhello\r\n" + END, "400 -"),
    Case("9112 7.1", "a chunk longer than its size", CHUNKED + b"5\r\nhello!\r\n" + END, "400 -"),
    Case("9112 7.1", "a bare LF behind a chunk", CHUNKED + b"5\r\nhello\n" + END, "400 -"),
    Case(
        "9112 7.1.1",
        "chunk extensions are ignored",
        CHUNKED + b'5;a=b;c="d"\r\nhello\r\n' + END + get(),
        "200 200",
        b"hello",
    ),
    Case("9112 7.1.1", "a bare LF in a chunk extension", CHUNKED + b"5;a\nb\r\nhello\r\n" + END, "400 -"),
    Case(
        "9112 7.1.1", "a chunk extension of 200 KB", CHUNKED + b"5;" + b"a" * 200_000 + b"\r\nhello\r\n" + END, "431 -"
    ),
    Case(
        "9112 7.1.2", "trailers are ignored", CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n" + get(), "200 200", b"hello"
    ),
    Case("9112 7.1.2", "a trailer that is no field", CHUNKED + b"5\r\nhello\r\n0\r\nX\r\n\r\n", "400 -"),
    Case("9112 7.1.2", "Content-Length as a trailer", CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n", "400 -"),
    Case("9112 7.1.2", "trailers of 200 KB", CHUNKED + b"0\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", "431 -"),
]

CONNECTIONS = [
    Case("9112 9.3", "the connection goes on", get() + get(), "200 200"),
    Case("9112 9.3.2", "five pipelined requests are answered in order", get() * 5, "200 200 200 200 200"),
    Case(
        "9112 9.3.2",
        "pipelined uploads in either framing, and a download",
        CHUNKED + b"5\r\nhello\r\n" + END + post(b"Content-Length: 5") + get(),
        "200 200 200",
        b"hello",
    ),
    Case("9112 9.6", "Connection: close is obeyed", get(b"Connection: close"), "200 -"),
    Case("9112 9.6", "it may be one of several, in any case of letters", get(b"Connection: x, CLOSE"), "200 -"),
    Case("9112 9.6", "nothing behind it is answered", get(b"Connection: close") + get(), "200 -"),
    Case(
        "9112 9.3",
        "HTTP/1.0 is not kept alive",
        get(b"Connection: keep-alive", line=b"GET /v1/own HTTP/1.0\r\n"),
        "200 -",
    ),
    Case(
        "9110 7.6.1",
        "a nominated Content-Length stays",
        post(b"Content-Length: 5", b"Connection: Content-Length") + get(),
        "200 200",
        b"hello",
    ),
    Case(
        "9110 7.8",
        "an offered upgrade is ignored",
        get(b"Connection: Upgrade", b"Upgrade: websocket") + get(),
        "200 200",
    ),
    Case(
        "9110 7.8",
        "an upgrade offered with a body is ignored",
        post(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"Content-Length: 5") + get(),
        "200 200",
        b"hello",
    ),
    Case(
        "9110 10.1.1", "Expect: 100-continue", post(b"Expect: 100-continue", b"Content-Length: 5"), "100 200", b"hello"
    ),
    Case(
        "9110 10.1.1",
        "in any case of letters",
        post(b"Expect: 100-Continue", b"Content-Length: 5"),
        "100 200",
        b"hello",
    ),
    Case(
        "9110 10.1.1",
        "in HTTP/1.0 it is ignored",
        b"POST /v1/own HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
        "200 -",
        b"hello",
    ),
    Case(
        "9110 10.1.1",
        "another expectation is ignored",
        post(b"Expect: a miracle", b"Content-Length: 5"),
        "200",
        b"hello",
    ),
]

CASES = [*START_LINE, *TARGET, *HOSTS, *FIELDS, *BODIES, *CONNECTIONS]
