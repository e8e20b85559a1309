"""The pages of API keys: list, create, rotate and revoke.

The secret of a new key is in the response to the form that created it, and stored nowhere. The form contains the
id that the key gets, so a form that is sent again creates no second key and shows no secret.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from litestar import Request, get, post
from uuid_utils import uuid7

from bindings import errors
from bindings.domain.roles import Permission, Role
from bindings.validation.requests import FieldErrors
from bindings.web import problems
from bindings.web.console.page_context import PageContext, PageResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bindings.access.sessions import Session
    from bindings.service import BindingService
    from bindings.store.keys import Key

MAX_DAYS = 3_650
FIELDS = ("name", "role", "rate_limit", "days")


@get("/keys", permissions=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> PageResponse:
    """Show every key ever created, without the secrets."""
    context = PageContext(request)
    now, keys = await context.run_read(_read_keys)
    return context.render("keys.html", keys=keys, now=now, may_change=await may_change(context))


@get("/keys/create", permissions=(Permission.MANAGE,))
async def create_form(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the form of a new key; with `like`, filled in for the successor of a key."""
    context = await changing_context(request)
    predecessor = await _predecessor(context, request.query_params.get("like", ""))
    entered = {} if predecessor is None else {"name": predecessor.name, "role": predecessor.role}
    if predecessor is not None and predecessor.rate_limit is not None:
        entered["rate_limit"] = str(predecessor.rate_limit)
    return await _form_page(context, predecessor, entered, key_id=str(uuid7()))


@post("/keys/create", permissions=(Permission.MANAGE,), status_code=200)
async def create(request: Request[Any, Any, Any]) -> PageResponse:
    """Create a key and show it once. Safe to repeat: the form creates at most one key."""
    context = await changing_context(request)
    form = context.form
    predecessor = await _predecessor(context, form.get("like", ""))
    try:
        values = _key_fields(form)
        created = await context.run_read(
            lambda service: service.api_keys.create_once(form.get("id", ""), **values)
        )
    except errors.BindingsError as error:
        entered = {name: form.get(name, "") for name in FIELDS}
        return await _form_page(context, predecessor, entered, key_id=form.get("id", ""), error=error)
    if created is None:
        return context.render("key_sent_before.html", status=409)
    return context.render("key_created.html", created=created, predecessor=predecessor)


@get("/keys/{key_id:str}/revoke", permissions=(Permission.MANAGE,))
async def revoke_form(request: Request[Any, Any, Any]) -> PageResponse:
    """Show what stops working if the key is revoked, and ask for a confirmation."""
    return await _revoke_page(await changing_context(request))


@post("/keys/{key_id:str}/revoke", permissions=(Permission.MANAGE,), status_code=200)
async def revoke(request: Request[Any, Any, Any]) -> PageResponse:
    """Revoke the key and return to the list. Safe to repeat."""
    context = await changing_context(request)
    try:
        await context.run_read(lambda service: service.api_keys.revoke(request.path_params["key_id"]))
    except errors.NotFound:
        raise
    except errors.BindingsError as error:
        return await _revoke_page(context, error=error)
    return context.redirect("/keys")


async def may_change(context: PageContext) -> bool:
    """Return whether the principal may change keys and webhooks, and this process's user of the database too."""
    if not context.has_permission(Permission.MANAGE):
        return False
    return await context.run_read(lambda service: service.api_keys.may_write())


async def changing_context(request: Request[Any, Any, Any]) -> PageContext:
    """Return the context of a page that changes keys or webhooks; `Forbidden` if the database refuses that."""
    context = PageContext(request)
    if not await may_change(context):
        raise problems.Forbidden(
            "the service's user of the database may not write keys and webhooks; nothing was done; use the command"
            " line with the user that owns the tables: `bindings keys` and `bindings webhooks`"
        )
    return context


def _read_keys(service: BindingService) -> tuple[datetime, list[Key]]:
    return service.runtime.database.clock(), service.api_keys.list()


async def _predecessor(context: PageContext, key_id: str) -> Key | None:
    """Return the key that a new one is to replace, or None if the page or the form names none."""
    return await context.run_read(lambda service: service.api_keys.get(key_id)) if key_id else None


def _key_fields(form: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of a new key; raise `InvalidRequest` if the days are not valid."""
    field_errors = FieldErrors()
    days = field_errors.check("days", _days, form.get("days", ""))
    field_errors.raise_if_any()
    rate_limit = form.get("rate_limit", "")
    return {
        "name": form.get("name", ""),
        "role": form.get("role", ""),
        "rate_limit": _whole_number(rate_limit) if rate_limit else None,
        "expires_at": datetime.now(UTC) + timedelta(days=days) if days else None,
    }


def _days(text: str) -> int:
    number = _whole_number(text or "0")
    if not isinstance(number, int) or number > MAX_DAYS or (text and number < 1):
        raise ValueError(f"must be empty, or a whole number of days from 1 to {MAX_DAYS}")
    return number


def _whole_number(text: str) -> int | str:
    """Return the number, or the text itself, which a later check refuses."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(10**9)) else text


async def _form_page(
    context: PageContext,
    predecessor: Key | None,
    entered: Mapping[str, str],
    *,
    key_id: str,
    error: errors.BindingsError | None = None,
) -> PageResponse:
    any_exist = await context.run_read(lambda service: service.api_keys.any_exist())
    return context.render_form(
        "key_form.html",
        error,
        predecessor=predecessor,
        entered=entered,
        key_id=key_id,
        roles=tuple(Role),
        is_first=not any_exist,
        default_rate_limit=context.app_state.service.settings.rate_limit,
    )


async def _revoke_page(context: PageContext, *, error: errors.BindingsError | None = None) -> PageResponse:
    key_id = context.request.path_params["key_id"]

    def read(service: BindingService) -> tuple[datetime, Key, list[Key], list[Session]]:
        key = service.api_keys.get(key_id)
        now, keys = _read_keys(service)
        return now, key, keys, service.sessions.list()

    now, key, keys, sessions = await context.run_read(read)
    other_keys = [other for other in keys if other.id != key.id and is_valid(other, now)]
    return context.render_form(
        "key_revoke.html",
        error,
        key=key,
        is_valid=is_valid(key, now),
        same_name=[other for other in other_keys if other.name == key.name],
        is_last_admin=key.role == Role.ADMIN and not any(other.role == Role.ADMIN for other in other_keys),
        session_count=sum(session.key.id == key.id for session in sessions),
        is_own=context.require_principal.key_id == key.id,
    )


def is_valid(key: Key, now: datetime) -> bool:
    """Return whether the key works at the instant `now` of the database's clock."""
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)
