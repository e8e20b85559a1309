"""The baseline of P7: one route in the same web framework that runs the hand-written lookup query.

`python -m benchmarks.baseline_http URL prepared` prepares the query, as the product does; with `extended` the
server plans it each time.

The service is as thin as possible: no API key, no check of the body beyond its type, the driver's tuples as JSON.
It uses the same HTTP server, event loop and number of threads as the product.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import psycopg
import uvicorn
from litestar import Litestar, Request, Response, post

from benchmarks.lookup import POSTGRES
from bindings.aio import READ_THREADS
from bindings.web import server

PREPARED = sys.argv[2] == "prepared"


class _LookupRequest(msgspec.Struct):
    phone: str


_threads = ThreadPoolExecutor(READ_THREADS)
_thread_local = threading.local()
_decoder = msgspec.json.Decoder(_LookupRequest)


def _run_query(phone: str) -> bytes:
    if not hasattr(_thread_local, "connection"):
        _thread_local.connection = psycopg.connect(sys.argv[1], autocommit=True)
    rows = _thread_local.connection.execute(POSTGRES, {"phone": phone}, prepare=PREPARED).fetchall()
    return msgspec.json.encode({"data": rows})


@post("/v1/lookup", status_code=200)
async def lookup(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Run the query and return its rows."""
    body = _decoder.decode(await request.body())
    content = await asyncio.get_running_loop().run_in_executor(_threads, _run_query, body.phone)
    return Response(content, media_type="application/json")


def main() -> None:
    """Serve until SIGTERM on a free port, and print the address."""
    listening_socket = server.listen("127.0.0.1", 0)
    print(server.address(listening_socket), flush=True)
    app = Litestar(route_handlers=[lookup], openapi_config=None, logging_config=None)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", log_config=None, access_log=False, lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[listening_socket])


if __name__ == "__main__":
    main()
