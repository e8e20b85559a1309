"""The pages of failures and conflicts: how often each code occurred, when, why, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from litestar import Request, get

from bindings.domain.binding import EventKind, State
from bindings.domain.roles import Permission
from bindings.domain.serialization import instant
from bindings.errors import FieldError, InvalidRequest, NotFound
from bindings.monitoring.statistics import TimeRange, event_statistics
from bindings.provider.statuses import IN_USE
from bindings.store.statistics import OWN_IN_USE
from bindings.web.console import charts, failure_text
from bindings.web.console.page_context import PageContext, PageResponse

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from bindings.monitoring.statistics import EventStatistics

KINDS = (EventKind.FAILED, EventKind.IN_DOUBT, EventKind.REFUSED)


@get("/failures", permissions=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> PageResponse:
    """Show every code of a time range, the most frequent first."""
    context = PageContext(request)
    time_range = _time_range(request)
    statistics = await context.run_read(
        lambda service: event_statistics(service.runtime.database, time_range, KINDS)
    )
    refused_counts = statistics.counts_of(EventKind.REFUSED)
    unexpected_counts = statistics.counts_of(EventKind.FAILED, code=IN_USE)
    return context.render(
        "failures.html",
        time_range=time_range,
        time_ranges=TimeRange,
        statistics=statistics,
        explain=failure_text.explain,
        list_address=lambda series: _list_address(series.kind, series.code, statistics),
        charts=[
            charts.chart("Failed", "bad", statistics, statistics.counts_of(EventKind.FAILED)),
            charts.chart("In doubt", "warn", statistics, statistics.counts_of(EventKind.IN_DOUBT)),
            charts.chart("Refused here", "calm", statistics, refused_counts),
            charts.chart(f"Unexpected {IN_USE}", "bad", statistics, unexpected_counts),
        ],
        refused=sum(refused_counts),
        unexpected=sum(unexpected_counts),
    )


@get("/failures/{kind:str}/{code:str}", permissions=(Permission.READ,))
async def failure(request: Request[Any, Any, Any]) -> PageResponse:
    """Show one code: what it means, how often it occurred, and the newest examples."""
    context = PageContext(request)
    time_range, code = _time_range(request), request.path_params["code"]
    kind = next((kind for kind in KINDS if kind == request.path_params["kind"]), None)
    if kind is None:
        raise NotFound("there is no such kind of failure")
    statistics = await context.run_read(
        lambda service: event_statistics(service.runtime.database, time_range, (kind,))
    )
    series = next((series for series in statistics.series if series.code == code), None)
    examples = () if series is None else series.examples
    ids = [str(example["binding_id"]) for example in examples if example["binding_id"] is not None]
    bindings: dict[str, Binding] = await context.run_read(lambda service: service.get_many(ids))
    refusal_ids = [example["refusal_id"] for example in examples if example.get("refusal_id") is not None]
    references = await context.run_read(lambda service: service.investigation.references_of_refusals(refusal_ids))
    return context.render(
        "failure.html",
        time_range=time_range,
        time_ranges=TimeRange,
        kind=kind,
        code=code,
        explanation=failure_text.explain(kind, code),
        statistics=statistics,
        chart=_chart(statistics, kind, code),
        list_address=_list_address(kind, code, statistics),
        examples=[
            (example, bindings.get(str(example["binding_id"])), _reference(example, references))
            for example in examples
        ],
    )


def _reference(example: dict[str, Any], references: dict[str, str | None]) -> str | None:
    """Return the reference of a refused bind; that of an earlier version is in the example itself."""
    earlier: str | None = example.get("reference")
    return references.get(str(example.get("refusal_id")), earlier)


def _list_address(kind: str, code: str, statistics: EventStatistics) -> str | None:
    """Return the address of the list of the bindings of a code, or None if no filter selects them."""
    if kind == EventKind.IN_DOUBT:
        return "/bindings?state=in_doubt"  # those of now: what was in doubt may be resolved
    if kind != EventKind.FAILED or code == OWN_IN_USE:
        return None
    filters = {"state": State.FAILED, "provider_status" if code.startswith("-") else "state_reason": code}
    return f"/bindings?{urlencode(filters | {'from': instant(statistics.steps[0])})}"


def _chart(statistics: EventStatistics, kind: EventKind, code: str) -> charts.Chart:
    tone = "calm" if kind is EventKind.REFUSED else "bad"
    return charts.chart(code, tone, statistics, statistics.counts_of(kind, code=code))


def _time_range(request: Request[Any, Any, Any]) -> TimeRange:
    try:
        return TimeRange(request.query_params.get("span", TimeRange.DAY))
    except ValueError:
        raise InvalidRequest([FieldError("span", f"must be one of {', '.join(TimeRange)}")]) from None
