"""A typical relay: FastAPI in front, httpx behind, and one SET in Redis for each status of a request.

It is a peer, not a part of the product: `python -m bench.relay PORT UPSTREAM_PORT STORE_PORT`. It uses the libraries
as their manuals say, without tricks. It keeps connections and does not limit their number.
"""

import json
import sys
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import redis.asyncio
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

PORT, UPSTREAM_PORT, STORE_PORT = map(int, sys.argv[1:4])
NOT_PASSED_ON = {"host", "connection", "transfer-encoding", "x-task-id"}

app = FastAPI()
store = redis.asyncio.Redis(port=STORE_PORT)
client = httpx.AsyncClient(
    base_url=f"http://127.0.0.1:{UPSTREAM_PORT}",
    timeout=None,
    limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
)


async def tell(task_id: str, state: str) -> None:
    """Sets the status of a task."""
    status = {"task_id": task_id, "state": state, "timestamp": time.time()}
    await store.set(f"ts:relay:{task_id}", json.dumps(status), ex=3600)


@app.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
async def relay(request: Request) -> StreamingResponse:
    """Passes a request on and its answer back."""
    task_id = request.headers.get("x-task-id") or str(uuid4())
    await tell(task_id, "PENDING")
    fields = [(name, value) for name, value in request.headers.raw if name.decode() not in NOT_PASSED_ON]
    url = httpx.URL(path=request.url.path, query=request.url.query.encode())
    forwarded = client.build_request(request.method, url, headers=fields, content=request.stream())
    await tell(task_id, "RUNNING")
    answer = await client.send(forwarded, stream=True)

    async def pieces() -> AsyncIterator[bytes]:
        state = "FAILED"
        try:
            async for piece in answer.aiter_raw():
                yield piece
            state = "SUCCESS"
        finally:
            await answer.aclose()
            await tell(task_id, state)

    passed = {name: value for name, value in answer.headers.items() if name not in NOT_PASSED_ON}
    return StreamingResponse(pieces(), answer.status_code, {**passed, "x-task-id": task_id})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning", access_log=False, backlog=2048)
