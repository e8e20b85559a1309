"""The routes for operators: liveness, readiness, metrics, and the documentation of the API."""

from __future__ import annotations

import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from litestar import Request, Router, get
from litestar.static_files import create_static_files_router

from bindings.domain.roles import Permission
from bindings.errors import BindingsError
from bindings.monitoring import health
from bindings.monitoring.check import Check, Level
from bindings.web import metrics, problems
from bindings.web.api import samples, schemas
from bindings.web.api.api_request import authenticate
from bindings.web.api.operations import AUTH_PROBLEMS, COMMON_PROBLEMS, Operation, ResponseDoc
from bindings.web.api.serializers import json_response
from bindings.web.responses import ApiResponse

if TYPE_CHECKING:
    from bindings.web.state import AppState

DOCS = files("bindings.web") / "docs"
# The vendored page puts styles into attributes and images into data URLs; its script and style sheet are files.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
READINESS_CACHE_S = 1.0  # so that many probes cost no more than one


@get(
    "/livez",
    operation=Operation(
        name="livez",
        summary="Show that the process is alive.",
        responses={200: ResponseDoc("The process is alive.", schemas.Alive, {"status": "ok"})},
        problems=COMMON_PROBLEMS,
        open=True,
        tag="operations",
    ),
)
async def livez() -> ApiResponse:
    """Show that the process is alive."""
    return json_response({"status": "ok"})


@get(
    "/readyz",
    operation=Operation(
        name="readyz",
        summary="Show whether this replica should get traffic.",
        responses={
            200: ResponseDoc(
                "The replica is ready. Without a key of a role that reads, `checks` is empty.",
                schemas.Ready,
                {"status": "ok", "checks": [samples.CHECK]},
            )
        },
        problems=(*COMMON_PROBLEMS, problems.NotReady),
        open=True,
        tag="operations",
    ),
)
async def readyz(request: Request[Any, Any, Any]) -> ApiResponse:
    """Show whether this replica should get traffic; what was observed is shown to roles that read only."""
    checks = await readiness_checks(request.app.state.app_state)
    red = [check for check in checks if check.level is Level.RED]
    if await _may_read(request):
        visible_checks: list[Any] = list(checks)
        reasons = "; ".join(f"{check.name}: {check.seen}" for check in red)
    else:
        visible_checks = [{"name": check.name, "level": check.level} for check in red]
        reasons = ", ".join(check.name for check in red)
    if not red:
        return json_response({"status": "ok", "checks": visible_checks})
    error = problems.NotReady(f"not ready: {reasons}")
    body = error.problem() | {"request_id": request.scope["state"]["request_id"], "checks": visible_checks}
    return ApiResponse(
        content=json_response(body).content,
        status=error.http_status,
        headers=problems.headers(error),
        media_type=problems.MEDIA_TYPE,
    )


async def _may_read(request: Request[Any, Any, Any]) -> bool:
    """Return whether the request has a key of a role that reads. A probe with an invalid key is answered too."""
    app_state: AppState = request.app.state.app_state
    try:
        principal = await app_state.authenticator.authenticate(request)
    except BindingsError:
        return False
    return principal.has_permission(Permission.READ)


async def readiness_checks(app_state: AppState) -> tuple[Check, ...]:
    """Return the checks of readiness; those of the database are cached for a second."""
    checked_at, database_checks = app_state.readiness
    if time.monotonic() > checked_at + READINESS_CACHE_S:
        database_checks = await app_state.executors.run_probe(health.readiness_checks, app_state.service.runtime)
        app_state.readiness = (time.monotonic(), database_checks)
    return (*database_checks, *process_checks(app_state))


async def all_checks(app_state: AppState) -> tuple[Check, ...]:
    """Return the checks of readiness and those of the service, as this replica sees them."""
    service_checks = await app_state.executors.run_read(health.service_checks, app_state.service.runtime)
    return (*await readiness_checks(app_state), *service_checks)


async def refresh_metrics(app_state: AppState) -> None:
    """Set the gauges of the process, and those of the database and the checks unless they are fresh."""
    if app_state.metrics.needs_refresh():
        await app_state.executors.run_probe(app_state.metrics.refresh_from_database, app_state.service)
        app_state.metrics.set_checks(await all_checks(app_state))
    app_state.metrics.refresh_from_process(app_state.executors, app_state.scheduler)


def _health_check(check: Check) -> dict[str, str | None]:
    return {"name": check.name, "level": check.level, "message": check.seen, "action": check.todo}


@get(
    "/v1/health",
    before_request=authenticate,
    permissions=(Permission.READ,),
    operation=Operation(
        name="health",
        summary="Show all checks: of this replica, of the account's circuits, and of what happened lately.",
        responses={
            200: ResponseDoc(
                "The checks, and the level of the service.",
                schemas.Health,
                {"level": "ok", "checks": [_health_check(samples.CHECK)]},
            )
        },
        problems=AUTH_PROBLEMS,
        tag="operations",
    ),
)
async def health_endpoint(request: Request[Any, Any, Any]) -> ApiResponse:
    """Show all checks; the status is 200 even if some are red."""
    checks = await all_checks(request.app.state.app_state)
    named = [_health_check(check) for check in checks]
    return json_response({"level": health.service_level(checks), "checks": named})


def process_checks(app_state: AppState) -> list[Check]:
    """Return the checks of this process itself."""
    process_checks = []
    if app_state.notifier.stopping:
        process_checks.append(Check(name="process", level=Level.RED, seen="is stopping"))
    if app_state.scheduler is not None:
        stalled = app_state.scheduler.stalled()
        level = Level.RED if stalled else Level.OK
        text = f"stalled: {', '.join(stalled)}" if stalled else "no job is stalled"
        todo = (
            "the log names the cause if a run has failed; the watchdog starts the job again" if stalled else None
        )
        process_checks.append(Check(name="scheduler", level=level, seen=text, todo=todo))
    return process_checks


@get(
    "/metrics",
    before_request=authenticate,
    permissions=(Permission.READ,),
    operation=Operation(
        name="metrics",
        summary="Show the metrics in Prometheus' text format.",
        responses={
            200: ResponseDoc("All metrics.", example="bindings_doubts_open 0.0\n", media_type="text/plain")
        },
        problems=AUTH_PROBLEMS,
        tag="operations",
    ),
)
async def metrics_endpoint(request: Request[Any, Any, Any]) -> ApiResponse:
    """Show the metrics in Prometheus' text format."""
    app_state: AppState = request.app.state.app_state
    await refresh_metrics(app_state)
    return ApiResponse(content=app_state.metrics.text(), media_type=metrics.CONTENT_TYPE)


@get(
    "/openapi.json",
    operation=Operation(
        name="document",
        summary="Show this document.",
        responses={200: ResponseDoc("This document.", example={"openapi": "3.1.0"})},
        problems=COMMON_PROBLEMS,
        open=True,
        tag="operations",
    ),
)
async def document(request: Request[Any, Any, Any]) -> ApiResponse:
    """Show the OpenAPI document. `application` provides it: it describes the routes of this module too."""
    return ApiResponse(content=request.app.state.openapi_document())


@get(
    "/docs",
    operation=Operation(
        name="docs",
        summary="Show this document as a page from which calls can be tried.",
        responses={200: ResponseDoc("The page.", example="<!doctype html>", media_type="text/html")},
        problems=COMMON_PROBLEMS,
        open=True,
        tag="operations",
    ),
)
async def docs() -> ApiResponse:
    """Show the document as a page from which calls can be tried; it loads nothing from other hosts."""
    page = (DOCS / "index.html").read_bytes()
    return ApiResponse(
        content=page,
        media_type="text/html; charset=utf-8",
        headers={"Content-Security-Policy": DOCS_POLICY},
    )


def router() -> Router:
    """Return the router of the calls that are not under /v1."""
    static = create_static_files_router(
        "/docs/static", directories=[str(DOCS / "static")], include_in_schema=False
    )
    return Router(
        "/",
        route_handlers=[livez, readyz, health_endpoint, metrics_endpoint, document, docs, static],
        include_in_schema=False,
    )
