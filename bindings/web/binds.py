"""Calls that make a binding, of the API and of the console: their share of the binds, and their metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec

from bindings import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.lifecycle.bind import BindResult
    from bindings.web.auth import Principal
    from bindings.web.state import AppState

Params = ParamSpec("Params")


async def run_bind(
    app_state: AppState,
    principal: Principal,
    function: Callable[Params, BindResult],
    *args: Params.args,
    **kwargs: Params.kwargs,
) -> BindResult:
    """Run a bind or a replace on the threads for provider calls, and count its outcome.

    Its error is raised without what the principal may not see.
    """
    try:
        result = await app_state.executors.run_bind(principal.actor, function, *args, **kwargs)
    except errors.BindingsError as error:
        app_state.metrics.record_bind_error(error)
        if isinstance(error, errors.PhoneInUse):
            error.holder = principal.redact_holder(error.holder)
            error.retry_after_s = error.holder.retry_after_s
        raise
    app_state.metrics.record_bind(replayed=result.replayed)
    return result
