"""Sends each request to the relay or to a route.

First it refuses pages that may not call (access.origins) and, if API keys are on, requests without a valid key
(access.keys).
"""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from gateway.access import origins
from gateway.access.keyring import Keyring
from gateway.access.keys import identify
from gateway.access.origins import OriginPolicy
from gateway.errors import GatewayError, NotFound, Unauthorized
from gateway.http.asgi import AsgiCall, serve_lifespan
from gateway.http.head import RELAYED_PREFIX, Target, parse_target
from gateway.http.request import Request, lines
from gateway.metrics.counts import Counts
from gateway.net.vanished import PeerWatch
from gateway.relay.proxy import Proxy
from gateway.routes import dashboard
from gateway.routes.on_demand import RoutesOnDemand
from gateway.routes.plain import PlainRoutes
from gateway.routes.response import ResponseRoute, task_id_in
from gateway.routes.status import StatusRoute
from gateway.stopping import Drain
from gateway.tracking.answers import Answers

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

log = logging.getLogger("gateway")

# These targets need no key: the machines that start, stop or choose this gateway have none.
_OPEN_TARGETS = frozenset({b"/livez", b"/readyz"}) | dashboard.SHELL_TARGETS


class Gateway:
    """Sends requests under `/v1/` to the relay and all others to the routes. Refuses requests that are not allowed.

    As an ASGI application it serves the lifespan only. The server calls `open` for each request.
    """

    def __init__(
        self,
        proxy: Proxy,
        plain: PlainRoutes,
        routes: RoutesOnDemand,
        responses: ResponseRoute,
        answers: Answers,
        policy: OriginPolicy,
        keyring: Keyring,
        counts: Counts,
        drain: Drain,
        lifespan: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self.routes = routes
        self.keyring = keyring
        self.counts = counts
        self.drain = drain
        self.peers = PeerWatch()  # the clients
        self._proxy = proxy
        self._plain = plain
        self._responses = responses
        self._changes = answers.changes
        self._statuses = StatusRoute(answers)
        self._policy = policy
        self._lifespan = lifespan
        self._is_leaving = False
        drain.on_begin(self._leave)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Runs the lifespan, and gives this object to the server by the lifespan's state."""
        scope.setdefault("state", {})["gateway"] = self
        await serve_lifespan(self._lifespan(), receive, send)

    def _leave(self) -> None:
        """Keeps no more connections: a client that reconnects can reach a gateway that stays."""
        self._is_leaving = True

    def open(self, request: Request) -> None:
        """Answers a request, or hands it to the relay or to a route. Never raises."""
        if self._is_leaving:
            request.is_keep_alive = False
        try:
            self._policy.check(request.method, request.target, request.by_name)
            if b"origin" in request.by_name:
                if origins.is_preflight(request.method, request.by_name):
                    request.answer(204, origins.preflight_fields(request.by_name))
                    return
                request.own_lines = lines(origins.response_fields(request.by_name[b"origin"]))
            target = self._admit(request)
            task_id = None if target.is_relayed else task_id_in(target.path)
            if (target.is_relayed or task_id is not None) and request.by_name.get(b"sec-fetch-dest") == b"document":
                request.own_lines += origins.DOCUMENT_LINES
            if target.is_relayed:
                self._proxy.open(request, target)
            elif task_id is not None:
                self._responses.open(request, task_id, target)
            elif not (self._statuses.open(request, target) or self._plain.open(request, target)):
                AsgiCall(self.routes, request).begin()
        except GatewayError as error:
            self.counts.refused(error.code)
            request.refuse(error, has_detail=_has_detail(request.target))
        except Exception:
            log.exception("a request failed inside the gateway")
            if request.is_started:
                request.break_off()
            else:
                request.refuse(GatewayError("internal error in the gateway"))

    def let_wait(self, most: int) -> None:
        """Lets so many pollers wait; more are answered at once."""
        self._changes.most_waiting = most

    def _admit(self, request: Request) -> Target:
        """Parses the target. Checks the key first, so that a client without one learns nothing. Raises GatewayError."""
        if self.keyring.is_on and request.target.partition(b"?")[0] not in _OPEN_TARGETS:
            self._identify(request)
        target = parse_target(request.target)
        if not target.is_relayed and _looks_relayed(target):
            raise NotFound("relayed paths begin with the bytes '/v1/'")
        return target

    def _identify(self, request: Request) -> None:
        """Sets the request's owner, from its API key. Raises Unauthorized."""
        caller = identify(self.keyring.current(), request.fields)
        if caller is None:
            raise Unauthorized("a valid API key is needed, as 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
        request.owner, request.sees_all, request.withheld = caller.name, caller.sees_all, caller.carriers


def _has_detail(target: bytes) -> bool:
    """Whether errors have `detail`, as those of FastAPI's routes have."""
    return not target.startswith(RELAYED_PREFIX) and task_id_in(target.partition(b"?")[0]) is None


def _looks_relayed(target: Target) -> bool:
    return target.path == b"/v1" or unquote_to_bytes(target.path).startswith(RELAYED_PREFIX)
