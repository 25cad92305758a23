"""Decides which browser pages may use the gateway, under which host names; makes the CORS fields that say so.

Pure. The gateway does all of CORS: it rewrites Host, and that disables Ollama's own check. Clients other than browsers
can use any host name. docs/decisions/0004-browsers.md says why.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping

from gateway.errors import OriginNotAllowed

Fields = list[tuple[bytes, bytes]]

ANY = "*"

# Ollama's own defaults (its envconfig, AllowedOrigins; its routes, allowedHost).
_LOCAL_ORIGINS = frozenset({"localhost", "127.0.0.1", "0.0.0.0"})  # noqa: S104
_APP_SCHEMES = frozenset({"app", "file", "tauri", "vscode-webview", "vscode-file"})
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")

_ORIGIN = re.compile(r"([a-z][a-z0-9+.\-]*)://([a-z0-9._\-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_ORIGIN_PATTERN = re.compile(r"[a-z][a-z0-9+.\-]*://[a-z0-9._\-\[\]:*]+")
_HOST_PATTERN = re.compile(r"(\*\.)?[a-z0-9_\-]+(\.[a-z0-9_\-]+)*")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]*)(:[0-9]*)?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
# What a preflight asks for is echoed if it consists of tokens (RFC 9110 section 5.6.2).
_TOKENS = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, \-]{1,4096}")

_EXPOSED = b"X-Task-Id, X-Task-Joined, ETag, Location, Retry-After, Content-Range, Preference-Applied"
# Links on other sites may lead to these targets: our own routes that only show something.
_LINKABLE = frozenset(
    {b"/", b"/docs", b"/openapi.json", b"/livez", b"/readyz", b"/metrics", b"/models/loaded", b"/tasks/status"}
)
_LINKABLE_PREFIX = b"/tasks/status/"
# For a browser that shows an answer of Ollama as a page under our host name. Text of a model, or of a server in
# Ollama's place, must not have the rights of our own pages.
DOCUMENT_LINES = b"content-security-policy: sandbox\r\n"
_OWN_SITES = (b"same-origin", b"none")  # none: an address that was typed, a bookmark
_PREFLIGHT_SECONDS = b"7200"  # browsers keep a preflight no longer


def origin_patterns(text: str) -> tuple[str, ...]:
    """The comma list of CORS_ALLOW_ORIGINS: origins, each with at most one `*`, or `*`. Raises ValueError."""
    patterns = tuple(entry.strip().lower() for entry in text.split(",") if entry.strip())
    if not patterns or not all(pattern == ANY or _is_origin_pattern(pattern) for pattern in patterns):
        raise ValueError("not a list of origins")
    return patterns


def _is_origin_pattern(pattern: str) -> bool:
    if pattern.count("*") > 1 or not _ORIGIN_PATTERN.fullmatch(pattern):
        return False
    # With its `*` replaced it has to be an origin. Otherwise no page could ever match it.
    return any(_ORIGIN.fullmatch(pattern.replace("*", filler)) for filler in ("1", ""))


def host_patterns(text: str) -> tuple[str, ...]:
    """The comma list of ALLOWED_HOSTS: names without ports, `*.name`, or `*`. Raises ValueError."""
    patterns = tuple(entry.strip().lower() for entry in text.split(",") if entry.strip())
    if not patterns or not all(p == ANY or _HOST_PATTERN.fullmatch(p) or _is_address(p) for p in patterns):
        raise ValueError("not a list of host names")
    return patterns


class OriginPolicy:
    """Decides which browser pages may call. `origins` and `hosts` are patterns; `machine` is this machine's name."""

    def __init__(self, origins: Iterable[str] = (), hosts: Iterable[str] = (), machine: str = "") -> None:
        wild = [pattern for pattern in origins if "*" in pattern]
        # `:*` also matches the default port, which browsers leave out
        self._exact = {_without_default_port(pattern.removesuffix(":*")) for pattern in origins}
        self._affixes = [(before, after) for before, _, after in (pattern.partition("*") for pattern in wild)]
        self._allows_all = ANY in wild
        self._trusts_all = ANY in hosts
        self._hosts = {"", "localhost", machine.lower(), *hosts}
        self._suffixes = (*_LOCAL_SUFFIXES, *(host[1:] for host in hosts if host.startswith("*.")))

    def check(self, method: str, target: bytes, fields: Mapping[bytes, bytes]) -> None:
        """Raises OriginNotAllowed if a browser page sent the request and may not call.

        `target` is in origin form (RFC 9112 section 3.2.1), `fields` have lower-case names.
        """
        origin = fields.get(b"origin")
        if origin is None:
            site = fields.get(b"sec-fetch-site")
            if site is not None and site not in _OWN_SITES and not _is_link(method, target, fields):
                raise OriginNotAllowed("pages of other sites may only link to the gateway's own pages")
            if _is_browser(fields) and not self.trusts(_host_in(fields)):
                raise OriginNotAllowed("browsers may not use this host name; ALLOWED_HOSTS adds names")
            return
        text, host = origin.decode("latin-1").lower(), _host_in(fields)
        if not self.allows(text) and not (_is_same_origin(text, host) and self.trusts(host)):
            raise OriginNotAllowed("this origin is not allowed; CORS_ALLOW_ORIGINS adds origins")

    def allows(self, origin: str) -> bool:
        """Whether a page of `origin` (lower case) may call the gateway under any host name."""
        scheme, mark, _ = origin.partition("://")
        if self._allows_all or (mark and scheme in _APP_SCHEMES):
            return True
        match = _ORIGIN.fullmatch(origin)
        if match is None:
            return False
        if scheme in _DEFAULT_PORTS and match[2] in _LOCAL_ORIGINS:
            return True
        origin = _without_default_port(origin)
        return origin in self._exact or any(
            origin.startswith(before) and origin.endswith(after) and len(origin) >= len(before) + len(after)
            for before, after in self._affixes
        )

    def trusts(self, host: str) -> bool:
        """Whether a page under `host` (a Host field, lower case) is this gateway's own, and not one of a rebound name.

        DNS rebinding cannot use an address or one of the names that Ollama trusts. If the pages of a name may call
        anyway, that name is trusted, too.
        """
        name = _host_name(host)
        if self._trusts_all or name is None:
            return self._trusts_all
        if name in self._hosts or name.endswith(self._suffixes) or _is_address(name):
            return True
        return any(self.allows(f"{scheme}://{host}") for scheme in _DEFAULT_PORTS)


def is_preflight(method: str, fields: Mapping[bytes, bytes]) -> bool:
    """Whether a request with an Origin only asks for permission (Fetch standard, CORS-preflight request)."""
    return method == "OPTIONS" and b"access-control-request-method" in fields


def preflight_fields(fields: Mapping[bytes, bytes]) -> Fields:
    """The header fields of the answer to a preflight of an allowed origin. They allow all that it asks for."""
    answer = [
        (b"access-control-allow-origin", fields[b"origin"]),
        (b"access-control-max-age", _PREFLIGHT_SECONDS),
        (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]
    for what in (b"methods", b"headers"):
        asked = fields.get(b"access-control-request-" + what.replace(b"methods", b"method"), b"")
        if _TOKENS.fullmatch(asked):
            answer.append((b"access-control-allow-" + what, asked))
    if fields.get(b"access-control-request-private-network") == b"true":
        answer.append((b"access-control-allow-private-network", b"true"))
    return answer


def response_fields(origin: bytes) -> Fields:
    """The CORS fields of every other answer to an allowed origin. They never allow credentials."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"Origin"),
    ]


def _is_link(method: str, target: bytes, fields: Mapping[bytes, bytes]) -> bool:
    """Whether a link on another site opens one of our own pages as a whole page: not in a frame, image or script.

    Such a request has no Origin, and the other site's page cannot read the answer.
    """
    path = target.partition(b"?")[0]
    return (
        method == "GET"
        and fields.get(b"sec-fetch-mode") == b"navigate"
        and fields.get(b"sec-fetch-dest") == b"document"
        and (path in _LINKABLE or path.startswith(_LINKABLE_PREFIX))
    )


def _host_in(fields: Mapping[bytes, bytes]) -> str:
    return fields.get(b"host", b"").decode("latin-1").lower()


def _is_browser(fields: Mapping[bytes, bytes]) -> bool:
    """Whether a browser may have sent the request, judged by fields that a page cannot change.

    Under a foreign name and plain http, browsers send no Sec-Fetch field. A page can then set User-Agent, but cannot
    remove Accept-Language. Node's fetch also sends Accept-Language, but with a Sec-Fetch-Mode, which no such page can
    add.
    """
    return (
        fields.get(b"user-agent", b"").startswith(b"Mozilla/")
        or b"sec-fetch-site" in fields
        or (b"accept-language" in fields and b"sec-fetch-mode" not in fields)
    )


def _is_same_origin(origin: str, host: str) -> bool:
    scheme, _, authority = origin.partition("://")
    default = _DEFAULT_PORTS.get(scheme)
    return default is not None and authority.removesuffix(default) == host.removesuffix(default)


def _without_default_port(origin: str) -> str:
    """`origin` as a browser writes it: without the port that its scheme implies."""
    scheme, _, _ = origin.partition("://")
    return origin.removesuffix(_DEFAULT_PORTS.get(scheme, ""))


def _host_name(host: str) -> str | None:
    """The name or address in a Host field, without port and brackets; None if the field is malformed."""
    match = _HOST.fullmatch(host)
    return match[1].strip("[]") if match else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
