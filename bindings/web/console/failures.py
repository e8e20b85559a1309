"""The pages of failures and conflicts: which share of the binds failed, by cause, application and pool, and why.

The address describes the view. Its period is chosen by a form that is a POST and redirects, so that nothing typed
into a wrong field gets into an address.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from litestar import Request, get, post

from bindings.domain.binding import EventKind, State
from bindings.domain.roles import Permission
from bindings.domain.serialization import instant
from bindings.errors import FieldError, InvalidRequest, NotFound
from bindings.monitoring.bind_outcomes import ALL_BINDS, BindFilter, outcomes_by_app, outcomes_by_pool
from bindings.monitoring.chart_range import ChartRange, TimeRange, range_between
from bindings.monitoring.response_times import response_times
from bindings.monitoring.statistics import event_statistics
from bindings.provider.statuses import IN_USE
from bindings.store import statistics as stored
from bindings.validation import requests as validation
from bindings.web.console import failure_text
from bindings.web.console.charts import SeriesToDraw, charts
from bindings.web.console.page_context import PageContext, PageResponse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.monitoring.response_times import ResponseTimes
    from bindings.monitoring.statistics import EventStatistics
    from bindings.service import BindingService
    from bindings.store.statistics import BindCount

PATH = "/failures"
FIELDS = ("span", "from", "to", "app_id", "pool_number")
KINDS = (EventKind.FAILED, EventKind.IN_DOUBT, EventKind.REFUSED)
MAX_EXAMPLES = 20
LONGEST_NAME = 64  # of an application or a pool


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What the page shows: a range, and whose binds. `fields` are those of its address; `span` None: from, to."""

    fields: dict[str, str]
    span: TimeRange | None
    range: ChartRange
    bind_filter: BindFilter

    def address(self, changes: Mapping[str, str | None], path: str = PATH) -> str:
        """Return the address of this view with some fields changed; None removes a field."""
        changed = {**self.fields, **changes}
        if changes.get("span"):
            changed |= {"from": None, "to": None}
        values = {name: value for name in FIELDS if (value := changed.get(name))}
        return f"{path}?{urlencode(values)}" if values else path

    def code_address(self, kind: str, code: str) -> str:
        """Return the address of the page of a code."""
        return self.address({}, f"{PATH}/{kind}/{quote(code, safe='')}")

    def bindings_address(self, **filters: str | None) -> str:
        """Return the address of the list of the bindings of this view that were requested in its period."""
        period = self.range.period
        values: dict[str, str | None] = {
            **filters,
            "app_id": filters.get("app_id") or self.bind_filter.app_id,
            "pool_number": filters.get("pool_number") or self.bind_filter.pool_number,
            "from": instant(period.since),
            "to": None if self.span else instant(period.until),
        }
        return f"/bindings?{urlencode({name: value for name, value in values.items() if value})}"

    def list_address(self, kind: str, code: str) -> str | None:
        """Return the address of the list of the bindings of a code, or None if no filter selects them."""
        if kind == EventKind.IN_DOUBT:
            return "/bindings?state=in_doubt"  # those of now: what was in doubt may be resolved
        if kind != EventKind.FAILED or code == stored.OWN_IN_USE:
            return None
        return self.bindings_address(
            state=State.FAILED, **{"provider_status" if code.startswith("-") else "state_reason": code}
        )


@get(PATH, permissions=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> PageResponse:
    """Show every code of a range, the most frequent first, and the shares by application and pool."""
    context = PageContext(request)
    try:
        view = await _view(context, context.address_fields)
    except InvalidRequest as error:
        return _form_page(context, error)
    return await _page(context, view)


@post(PATH, permissions=(Permission.READ,), status_code=200)
async def choose_period(request: Request[Any, Any, Any]) -> PageResponse:
    """Check the period of the form and redirect to the address of its view. Safe to repeat."""
    context = PageContext(request)
    form = context.form
    typed = {name: form.get(name, "") for name in ("from", "to")}
    selection = {name: value for name in ("app_id", "pool_number") if (value := form.get(name))}
    try:
        since, until = _typed_period(context, typed)
        fields = selection | {"from": instant(since)} | ({} if until is None else {"to": instant(until)})
        view = await _view(context, fields)
    except InvalidRequest as error:
        return _form_page(context, error)
    return context.redirect(view.address({}))


async def _page(context: PageContext, view: View) -> PageResponse:
    def read(
        service: BindingService,
    ) -> tuple[list[BindCount], datetime | None, EventStatistics, ResponseTimes]:
        database = service.runtime.database
        return (
            database.read(stored.count_binds, view.range.period),
            database.read(stored.binds_counted_since),
            event_statistics(database, view.range, (EventKind.REQUESTED, *KINDS), bind_filter=view.bind_filter),
            response_times(database, view.range.period, bind_filter=view.bind_filter),
        )

    counts, counted_since, statistics, times = await context.run_read(read)
    refused_counts = statistics.counts_of(EventKind.REFUSED)
    unexpected_counts = statistics.counts_of(EventKind.FAILED, code=IN_USE)
    by_app, by_pool = outcomes_by_app(counts, view.bind_filter), outcomes_by_pool(counts, view.bind_filter)
    binds = statistics.total_of(EventKind.REQUESTED, EventKind.REFUSED)
    return context.render(
        "failures.html",
        **_form_values(view),
        statistics=statistics,
        codes=[series for series in statistics.series if series.kind in KINDS],
        explain=failure_text.explain,
        charts=charts(
            statistics,
            context.zone,
            [
                SeriesToDraw("Failed", "bad", statistics.counts_of(EventKind.FAILED)),
                SeriesToDraw("In doubt", "warn", statistics.counts_of(EventKind.IN_DOUBT)),
                SeriesToDraw("Refused here", "calm", refused_counts),
                SeriesToDraw(f"Unexpected {IN_USE}", "bad", unexpected_counts),
            ],
        ),
        binds=binds,
        failed=statistics.total_of(EventKind.FAILED),
        in_doubt=statistics.total_of(EventKind.IN_DOUBT),
        refused=sum(refused_counts),
        unexpected=sum(unexpected_counts),
        groups=[("Application", "app_id", by_app), ("Pool", "pool_number", by_pool)],
        not_grouped=max(0, binds - sum(outcomes.binds for outcomes in by_app)),
        counted_since=counted_since,
        times=times,
    )


@get(f"{PATH}/{{kind:str}}/{{code:str}}", permissions=(Permission.READ,))
async def failure(request: Request[Any, Any, Any]) -> PageResponse:
    """Show one code: what it means, how often it occurred, and the newest examples."""
    context = PageContext(request)
    code = request.path_params["code"]
    kind = next((kind for kind in KINDS if kind == request.path_params["kind"]), None)
    if kind is None:
        raise NotFound("there is no such kind of failure")
    view = await _view(context, context.address_fields)

    def read(service: BindingService) -> tuple[EventStatistics, list[dict[str, Any]]]:
        database = service.runtime.database
        statistics = event_statistics(
            database, view.range, (EventKind.REQUESTED, *KINDS), bind_filter=view.bind_filter
        )
        if view.bind_filter != ALL_BINDS:
            return statistics, []  # examples are kept without application and pool: the list has them
        examples = database.read(
            stored.newest_examples, view.range.period, kind=kind, code=code, limit=MAX_EXAMPLES
        )
        return statistics, examples

    statistics, examples = await context.run_read(read)
    ids = [str(example["binding_id"]) for example in examples if example["binding_id"] is not None]
    bindings: dict[str, Binding] = await context.run_read(lambda service: service.get_many(ids))
    refusal_ids = [example["refusal_id"] for example in examples if example.get("refusal_id") is not None]
    references = await context.run_read(lambda service: service.investigation.references_of_refusals(refusal_ids))
    counts = statistics.counts_of(kind, code=code)
    tone = "calm" if kind is EventKind.REFUSED else "bad"
    return context.render(
        "failure.html",
        **_form_values(view),
        kind=kind,
        code=code,
        explanation=failure_text.explain(kind, code),
        statistics=statistics,
        charts=charts(statistics, context.zone, [SeriesToDraw(code, tone, counts)]),
        number=sum(counts),
        binds=statistics.total_of(EventKind.REQUESTED, EventKind.REFUSED),
        list_address=view.list_address(kind, code),
        examples=[
            (example, bindings.get(str(example["binding_id"])), _reference(example, references))
            for example in examples
        ],
    )


def _reference(example: dict[str, Any], references: dict[str, str | None]) -> str | None:
    """Return the reference of a refused bind; that of an earlier version is in the example itself."""
    earlier: str | None = example.get("reference")
    return references.get(str(example.get("refusal_id")), earlier)


async def _view(context: PageContext, fields: Mapping[str, str]) -> View:
    """Return the view that the fields of an address describe. Raise `InvalidRequest` with all field errors."""
    now: datetime = await context.run_read(lambda service: service.runtime.database.clock())
    errors = [FieldError(name, "is not a field of this page") for name in fields if name not in FIELDS]
    errors += [
        FieldError(name, f"must have at most {LONGEST_NAME} characters")
        for name in ("app_id", "pool_number")
        if len(fields.get(name, "")) > LONGEST_NAME
    ]
    span = fields.get("span") or (None if fields.get("from") else TimeRange.DAY)
    if span is not None and span not in set(TimeRange):
        errors.append(FieldError("span", f"must be one of {', '.join(TimeRange)}"))
    if errors:
        raise InvalidRequest(errors)
    bind_filter = BindFilter(app_id=fields.get("app_id") or None, pool_number=fields.get("pool_number") or None)
    present_fields = {name: value for name in FIELDS if (value := fields.get(name))}
    if span is not None:
        time_range = TimeRange(span)
        present_fields = {name: value for name, value in present_fields.items() if name not in ("from", "to")}
        return View(
            fields=present_fields, span=time_range, range=time_range.chart_range(now), bind_filter=bind_filter
        )
    since, until = _typed_period(context, fields)
    return View(fields=present_fields, span=None, range=range_between(since, until, now), bind_filter=bind_filter)


def _typed_period(context: PageContext, fields: Mapping[str, str]) -> tuple[datetime, datetime | None]:
    """Return the start and the end of the period that was typed. Raise `InvalidRequest` with all field errors."""
    errors: list[FieldError] = []
    since, until = (context.parse_time(fields, name, errors) for name in ("from", "to"))
    if since is None and not errors:
        errors.append(FieldError("from", "is required"))
    if errors or since is None:
        raise InvalidRequest(errors)
    validation.period(since=since, until=until)
    return since, until


def _form_page(context: PageContext, error: InvalidRequest) -> PageResponse:
    """Return the form with what was entered, so that it can be corrected, and no figures."""
    return context.render(
        "failures.html",
        status=422,
        view=None,
        time_ranges=TimeRange,
        form_values=context.form,
        field_errors=error.field_errors,
    )


def _form_values(view: View) -> dict[str, Any]:
    return {"view": view, "time_ranges": TimeRange, "form_values": {}, "field_errors": ()}
