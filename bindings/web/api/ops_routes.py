"""The routes for whoever runs the service: is it alive, is it ready, what does it count, what can be called."""

from __future__ import annotations

import time
from dataclasses import asdict
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from litestar import MediaType, Request, Response, Router, get
from litestar.static_files import create_static_files_router

from bindings.domain.roles import Permission
from bindings.monitoring import health
from bindings.monitoring.health import Check, Level
from bindings.web import metrics, problems
from bindings.web.api import openapi
from bindings.web.api.routes import authenticate
from bindings.web.api.serializers import json_response

if TYPE_CHECKING:
    from bindings.web.state import AppState

Answer = Response[bytes]

DOCS = files("bindings.web") / "docs"
# The page's own script and style, and what the vendored one puts into style attributes and images.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
READY_FOR_S = 1.0  # an answer is good for so long: many who ask cost no more than one


@get("/livez")
async def livez() -> Answer:
    """Say that the process answers."""
    return json_response({"status": "ok"})


@get("/readyz")
async def readyz(request: Request[Any, Any, Any]) -> Answer:
    """Say whether this replica should get traffic, and if not, why."""
    app_state: AppState = request.app.state.app_state
    found = await checks(app_state)
    red = [check for check in found if check.level is Level.RED]
    shown = [asdict(check) for check in found]
    if not red:
        return json_response({"status": "ok", "checks": shown})
    reasons = "; ".join(f"{check.name}: {check.seen}" for check in red)
    error = problems.NotReady(f"not ready: {reasons}")
    body = error.problem() | {"request_id": request.scope["state"]["request_id"], "checks": shown}
    return Response(
        json_response(body).content,
        status_code=error.http_status,
        headers=problems.headers(error),
        media_type=problems.MEDIA_TYPE,
    )


async def checks(app_state: AppState) -> tuple[Check, ...]:
    """Everything that readiness looks at, good for a second."""
    at, found = app_state.ready
    if time.monotonic() > at + READY_FOR_S:
        found = await app_state.run_read(health.readiness_checks)
        app_state.ready = (time.monotonic(), found)
    return (*found, *_of_this_process(app_state))


def _of_this_process(app_state: AppState) -> list[Check]:
    found = []
    if app_state.notifier.stopping:
        found.append(Check(name="process", level=Level.RED, seen="is stopping"))
    if app_state.scheduler is not None:
        stalled = app_state.scheduler.stalled()
        level = Level.RED if stalled else Level.OK
        seen = f"stalled: {', '.join(stalled)}" if stalled else "every pass finishes in time"
        found.append(Check(name="scheduler", level=level, seen=seen))
    return found


@get("/metrics", before_request=authenticate, for_=(Permission.READ,))
async def metrics_endpoint(request: Request[Any, Any, Any]) -> Answer:
    """Show the metrics in Prometheus' text format."""
    app_state: AppState = request.app.state.app_state
    if app_state.metrics.needs_refresh():
        await app_state.run_read(app_state.metrics.refresh_from_database)
    app_state.metrics.refresh_from_process(app_state.executors, app_state.scheduler)
    return Response(app_state.metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})


@get("/openapi.json")
async def document() -> Answer:
    """Show the OpenAPI document."""
    return Response(openapi.document_bytes(), media_type="application/json")


@get("/docs")
async def docs() -> Answer:
    """Show the document as a page to try calls from; it needs nothing from the network."""
    page = (DOCS / "index.html").read_bytes()
    return Response(page, media_type=MediaType.HTML, headers={"Content-Security-Policy": DOCS_POLICY})


def router() -> Router:
    """Everything that is not under /v1."""
    static = create_static_files_router(
        "/docs/static", directories=[str(DOCS / "static")], include_in_schema=False
    )
    return Router(
        "/", route_handlers=[livez, readyz, metrics_endpoint, document, docs, static], include_in_schema=False
    )
