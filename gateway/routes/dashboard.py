"""`/` and `/docs`: one page for people, and its files under `/dashboard/`.

The page contains no data. Its scripts ask the public API, as any client does, and show the answers. The page loads
nothing from other hosts, and its policy forbids that. The files are read once, at import.
"""

from functools import partial
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files

from gateway.http.request import Request
from gateway.routes.plain import Answer, Route

_MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"  # browsers then refuse to parse text as markup
)


def _file(name: str, body: bytes) -> Answer:
    """One file of the page, as it is sent."""
    media_type = _MEDIA_TYPES[name.rpartition(".")[2]]
    fields = [
        (b"content-type", f"{media_type}; charset=utf-8".encode()),
        (b"etag", f'"{sha256(body).hexdigest()[:24]}"'.encode()),
        (b"cache-control", b"no-cache"),  # browsers revalidate it: the next version's files have the same names
        (b"content-security-policy", _POLICY.encode()),
        (b"referrer-policy", b"no-referrer"),
    ]
    return Answer(HTTPStatus.OK, fields, body)


_FILES = {
    found.name: _file(found.name, found.read_bytes())
    for found in files("gateway").joinpath("dashboard").iterdir()
    if found.name.rpartition(".")[2] in _MEDIA_TYPES
}

# These targets contain no data and need no API key: the page asks for one itself. /docs needs a key.
SHELL_TARGETS = frozenset({b"/", *(f"/dashboard/{name}".encode() for name in _FILES)})


async def _part(name: str, request: Request) -> Answer:
    """One file of the page; 304 if the client has it."""
    file = _FILES[name]
    if dict(file.fields)[b"etag"] in request.by_name.get(b"if-none-match", b""):
        return Answer(HTTPStatus.NOT_MODIFIED, file.fields)
    return file


async def _page(request: Request) -> Answer:
    """The dashboard. HAProxy's default health check is `OPTIONS /`, so that is answered, too."""
    if request.method == "OPTIONS":
        return Answer(HTTPStatus.OK, [(b"allow", b"GET, OPTIONS")])
    return await _part("index.html", request)


ROUTES = {
    b"/": Route(_page, ("GET", "OPTIONS")),
    b"/docs": Route(partial(_part, "index.html")),  # the same page, which shows the routes in /openapi.json
    **{f"/dashboard/{name}".encode(): Route(partial(_part, name)) for name in _FILES},
}
