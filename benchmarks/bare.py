"""The other side of P7: one route of the same framework that runs the raw query.

`python -m benchmarks.bare URL prepared` has the query prepared, as the product does; with `extended` it is planned
each time.

As thin as such a service can be: no key, no check of the body beyond its type, tuples of the driver as JSON. The
same server, loop and threads as the product's.
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
from bindings.web import server
from bindings.web.executors import READ_THREADS

PREPARED = sys.argv[2] == "prepared"


class _Asked(msgspec.Struct):
    phone: str


_threads = ThreadPoolExecutor(READ_THREADS)
_mine = threading.local()
_decoder = msgspec.json.Decoder(_Asked)


def _found(phone: str) -> bytes:
    if not hasattr(_mine, "connection"):
        _mine.connection = psycopg.connect(sys.argv[1], autocommit=True)
    rows = _mine.connection.execute(POSTGRES, {"phone": phone}, prepare=PREPARED).fetchall()
    return msgspec.json.encode({"data": rows})


@post("/v1/lookup", status_code=200)
async def lookup(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Run the query and show its rows."""
    asked = _decoder.decode(await request.body())
    found = await asyncio.get_running_loop().run_in_executor(_threads, _found, asked.phone)
    return Response(found, media_type="application/json")


def main() -> None:
    """Serve until SIGTERM, on a port that is printed."""
    opened = server.listen("127.0.0.1", 0)
    print(server.address(opened), flush=True)
    app = Litestar(route_handlers=[lookup], openapi_config=None, logging_config=None)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", log_config=None, access_log=False, lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[opened])


if __name__ == "__main__":
    main()
