"""`/` and `/docs`: one page for people, and its files under `/dashboard/`.

The page contains no data. Its scripts ask the public API, as any client does, and show the answers. The page loads
nothing from other hosts, and its policy forbids that. The files are read once, at import.
"""

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request, Response

router = APIRouter(include_in_schema=False)

_MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"  # browsers then refuse to parse text as markup
)


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the page, as it is sent."""

    body: bytes
    fields: dict[str, str]


def _file(name: str, body: bytes) -> _File:
    fields = {
        "Content-Type": f"{_MEDIA_TYPES[name.rpartition('.')[2]]}; charset=utf-8",
        "ETag": f'"{sha256(body).hexdigest()[:24]}"',
        "Cache-Control": "no-cache",  # browsers revalidate it: the next version's files have the same names
        "Content-Security-Policy": _POLICY,
        "Referrer-Policy": "no-referrer",
    }
    return _File(body, fields)


_FILES = {
    found.name: _file(found.name, found.read_bytes())
    for found in files("gateway").joinpath("dashboard").iterdir()
    if found.name.rpartition(".")[2] in _MEDIA_TYPES
}

# These targets contain no data and need no API key: the page asks for one itself. /docs needs a key.
SHELL_TARGETS = frozenset({b"/", *(f"/dashboard/{name}".encode() for name in _FILES)})


def _answer(request: Request, name: str) -> Response:
    file = _FILES.get(name)
    if file is None:
        raise HTTPException(404)
    known = request.headers.get("if-none-match", "")
    if file.fields["ETag"] in known:
        return Response(status_code=304, headers=file.fields)
    return Response(file.body, headers=file.fields)


@router.api_route("/", methods=["GET", "OPTIONS"])
async def dashboard(request: Request) -> Response:
    """The dashboard. HAProxy's default health check is `OPTIONS /`, so that is answered, too."""
    if request.method == "OPTIONS":
        return Response(headers={"Allow": "GET, OPTIONS"})
    return _answer(request, "index.html")


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The same page, which shows the routes in /openapi.json."""
    return _answer(request, "index.html")


@router.get("/dashboard/{name}")
async def part(name: str, request: Request) -> Response:
    """A style sheet or script of the page."""
    return _answer(request, name)
