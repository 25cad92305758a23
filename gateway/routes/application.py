"""The ASGI application: /openapi.json, and the requests about tasks that no plain route answers.

Loaded on demand (on_demand.py). It also describes the routes that do not go through it.
"""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from gateway import __version__
from gateway.errors import GatewayError
from gateway.metrics.counts import Counts
from gateway.routes import description, tasks
from gateway.routes.response import with_response_route
from gateway.tracking.tracker import Tracker


def build(tracker: Tracker, counts: Counts) -> FastAPI:
    """The application. Its routes read and cancel the tasks of `tracker`."""
    application = FastAPI(
        title="Ollama Gateway",
        version=__version__,
        summary="The status of relayed requests. Ollama's own API is relayed under /v1/ and not described here.",
        docs_url=None,  # FastAPI's pages load their assets from other hosts
        redoc_url=None,
        redirect_slashes=False,
        # Only tasks have spans, and `tracing` makes them. FastAPI's own would be sent by the same OTEL_* variables.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    describe = application.openapi
    application.openapi = lambda: with_response_route(describe())  # type: ignore[method-assign]
    application.state.tracker = tracker
    application.include_router(tasks.router)
    application.include_router(description.router)
    application.add_exception_handler(GatewayError, _refusal(counts))
    return application


def _refusal(counts: Counts) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Answers a route's GatewayError, and counts it."""

    async def answer(_: Request, error: Exception) -> Response:
        assert isinstance(error, GatewayError), error
        counts.refused(error.code)
        return Response(error.body(has_detail=True), error.status, media_type="application/json")

    return answer
