"""Failures and conflicts: how often which status, since when, why, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get

from bindings.domain.binding import EventKind
from bindings.domain.roles import Permission
from bindings.errors import FieldError, InvalidRequest, NotFound
from bindings.monitoring.statistics import TimeRange, event_statistics
from bindings.provider.statuses import IN_USE
from bindings.web.console import charts, failure_text
from bindings.web.console.page_context import PageContext, Reply

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from bindings.monitoring.statistics import EventStatistics

KINDS = (EventKind.FAILED, EventKind.IN_DOUBT, EventKind.REFUSED)


@get("/failures", for_=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> Reply:
    """Show every code of a span, the most frequent first."""
    visit = PageContext(request)
    span = _span(request)
    figures = await visit.run_read(lambda service: event_statistics(service.runtime.database, span, KINDS))
    surprises = figures.counts_of(EventKind.FAILED, code=IN_USE)
    return visit.page(
        "failures.html",
        span=span,
        spans=TimeRange,
        figures=figures,
        causes=failure_text,
        charts=[
            charts.chart("Failed", "bad", figures, figures.counts_of(EventKind.FAILED)),
            charts.chart("In doubt", "warn", figures, figures.counts_of(EventKind.IN_DOUBT)),
            charts.chart("Stopped here", "calm", figures, figures.counts_of(EventKind.REFUSED)),
            charts.chart(f"{IN_USE} that surprised us", "bad", figures, surprises),
        ],
        stopped=sum(figures.counts_of(EventKind.REFUSED)),
        surprised=sum(surprises),
    )


@get("/failures/{kind:str}/{code:str}", for_=(Permission.READ,))
async def failure(request: Request[Any, Any, Any]) -> Reply:
    """Show one code: what it means, when it came, and the newest examples."""
    visit = PageContext(request)
    span, code = _span(request), request.path_params["code"]
    kind = next((each for each in KINDS if each == request.path_params["kind"]), None)
    if kind is None:
        raise NotFound("there is no such kind of failure")
    figures = await visit.run_read(lambda service: event_statistics(service.runtime.database, span, (kind,)))
    series = next((each for each in figures.series if each.code == code), None)
    examples = () if series is None else series.examples
    ids = [str(each["binding_id"]) for each in examples if each["binding_id"] is not None]
    found: dict[str, Binding] = await visit.run_read(lambda service: service.get_many(ids))
    return visit.page(
        "failure.html",
        span=span,
        spans=TimeRange,
        kind=kind,
        code=code,
        cause=failure_text.explain(kind, code),
        series=series,
        figures=figures,
        chart=_chart(figures, kind, code),
        examples=[(each, found.get(str(each["binding_id"]))) for each in examples],
    )


def _chart(figures: EventStatistics, kind: EventKind, code: str) -> charts.Chart:
    return charts.chart(
        code, "calm" if kind is EventKind.REFUSED else "bad", figures, figures.counts_of(kind, code=code)
    )


def _span(request: Request[Any, Any, Any]) -> TimeRange:
    try:
        return TimeRange(request.query_params.get("span", TimeRange.DAY))
    except ValueError:
        raise InvalidRequest([FieldError("span", f"must be one of {', '.join(TimeRange)}")]) from None
