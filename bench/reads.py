"""A typical reader of statuses: FastAPI in front, redis-py behind; documents are passed on as they are stored.

It is a peer, not a part of the product: `python -m bench.reads PORT STORE_PORT`. It uses the libraries as their manuals
say, without tricks. Its store was filled by `bench.filled`; the list has the newest tasks of one state.
"""

import sys
from typing import cast

import redis.asyncio
import uvicorn
from fastapi import FastAPI, HTTPException, Response

from gateway.store.layout import DOCUMENT_PREFIX, LIST_PREFIX

PORT, STORE_PORT = map(int, sys.argv[1:3])
NEWEST = f"{LIST_PREFIX}SUCCESS"  # members "<created_ms>:<task id>" in order of creation

app = FastAPI()
store = redis.asyncio.Redis(port=STORE_PORT)


@app.get("/tasks/status/{task_id}")
async def status(task_id: str) -> Response:
    """One document."""
    document = await store.get(f"{DOCUMENT_PREFIX}{task_id}")
    if document is None:
        raise HTTPException(404)
    return Response(document, media_type="application/json")


@app.get("/tasks/status")
async def newest(limit: int = 50) -> Response:
    """The newest documents."""
    members = cast("list[bytes]", await store.zrevrange(NEWEST, 0, limit - 1))
    documents = await store.mget([f"{DOCUMENT_PREFIX}{member.decode().partition(':')[2]}" for member in members])
    items = cast("list[bytes]", [document for document in documents if document is not None])
    body = b'{"items":[%b],"count":%d,"next_cursor":null}' % (b",".join(items), len(items))
    return Response(body, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning", access_log=False, backlog=2048)
