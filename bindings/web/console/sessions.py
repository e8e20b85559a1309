"""The page of console sessions: which keys are signed in, and ending a session."""

from __future__ import annotations

import re
from typing import Any

from litestar import Request, get, post

from bindings import errors
from bindings.access.sessions import LIMIT
from bindings.domain.roles import Permission
from bindings.web.console.page_context import PageContext, PageResponse

SESSION_ID = re.compile(r"[0-9a-f]{64}")


@get("/sessions", permissions=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the sessions in force, the last used first."""
    context = PageContext(request)
    sessions = await context.run_read(lambda service: service.sessions.list(limit=LIMIT + 1))
    own = [session.id for session in sessions if context.service.sessions.is_of_token(session, context.token)]
    return context.render(
        "sessions.html",
        sessions=sessions[:LIMIT],
        limit=LIMIT,
        total=len(sessions),
        own=own,
        by_proxy=context.app_state.service.settings.identity_header is not None,
    )


@post("/sessions/end", permissions=(Permission.MANAGE,), status_code=200)
async def end(request: Request[Any, Any, Any]) -> PageResponse:
    """End a session on every replica and return to the list. Safe to repeat."""
    context = PageContext(request)
    session_id = context.form.get("id", "")
    if not SESSION_ID.fullmatch(session_id):
        raise errors.NotFound("there is no such session")
    await context.run_read(lambda service: service.sessions.end_by_id(session_id))
    return context.redirect("/sessions")
