"""The errors and the table of reasons: message, code, HTTP status, exit code, and whether to retry."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from bindings import errors
from bindings.domain.binding import Binding, Holder, Mode, Reason, State
from bindings.domain.phone import Phone
from bindings.provider.outcome import Refusal
from bindings.provider.statuses import STATUSES
from bindings.web.api.openapi import document_bytes, operations

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ID = "0190b5a0-0000-7000-8000-000000000001"
HOLDER = Holder(
    id=ID,
    actor="key:rides",
    reference="order-42",
    mode=Mode.AXB,
    state=State.ACTIVE,
    held_until=NOON,
    retry_after_s=7,
    why="binding",
)


def failed(reason: str, **changed: Any) -> Binding:
    values: dict[str, Any] = dict.fromkeys(Binding.__dataclass_fields__)
    values |= {
        "id": ID,
        "mode": Mode.AXB,
        "phone_a": Phone("9188067701"),
        "phone_b": Phone("9188067799"),
        "state": State.FAILED,
        "reason": reason,
        "held_until": NOON,
    }
    return Binding(**(values | changed))


# class, code, HTTP status, exit code: as in interfaces.md
TABLE: list[tuple[type[errors.BindingsError], str, int, int]] = [
    (errors.InvalidRequest, "invalid-request", 422, 2),
    (errors.PhoneInUse, "phone-in-use", 409, 3),
    (errors.PhoneInUseAtProvider, "phone-in-use-at-provider", 409, 3),
    (errors.IdempotencyMismatch, "idempotency-mismatch", 422, 3),
    (errors.NotActive, "not-active", 409, 3),
    (errors.AlreadyReplaced, "already-replaced", 409, 3),
    (errors.SelectionChanged, "selection-changed", 409, 3),
    (errors.NotFound, "not-found", 404, 4),
    (errors.ProviderRefused, "provider-refused", 502, 5),
    (errors.ProviderAccountRefused, "provider-account", 503, 5),
    (errors.NoMiddleNumber, "no-middle-number", 503, 7),
    (errors.ProviderUnreachable, "provider-unreachable", 503, 5),
    (errors.OutcomeUnknown, "outcome-unknown", 202, 6),
    (errors.Busy, "busy", 503, 1),
    (errors.ClockInDoubt, "busy", 503, 1),
    (errors.SchemaOutOfDate, "schema-out-of-date", 503, 1),
]


def example(kind: type[errors.BindingsError]) -> errors.BindingsError:
    """Return an instance with its required arguments."""
    if issubclass(kind, errors.InvalidRequest):
        return kind(
            [errors.FieldError("phone_a", "must be digits"), errors.FieldError("mode", "must be AXB or AXXB")]
        )
    if issubclass(kind, errors.PhoneInUse):
        return kind(holder=HOLDER)
    if issubclass(kind, errors.OutcomeUnknown):
        return kind(binding=failed("x", state=State.IN_DOUBT))
    if issubclass(kind, errors.AlreadyReplaced):
        return kind(binding_id=ID, successor_id=ID)
    return kind()


@pytest.mark.parametrize(("kind", "code", "http_status", "exit_code"), TABLE)
def test_error_has_its_code_and_statuses(
    kind: type[errors.BindingsError], code: str, http_status: int, exit_code: int
) -> None:
    assert (kind.code, kind.http_status, kind.exit_code) == (code, http_status, exit_code)


def test_table_has_every_error() -> None:
    classes = {
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.BindingsError)
    }
    assert classes == {row[0] for row in TABLE} | {errors.BindingsError}


@pytest.mark.parametrize("kind", [row[0] for row in TABLE if row[0] is not errors.InvalidRequest])
def test_default_message_is_the_docstring(kind: type[errors.BindingsError]) -> None:
    first_line = (kind.__doc__ or "").partition("\n")[0].rstrip(".")
    assert str(example(kind).args[0]).startswith(first_line)
    assert issubclass(kind, errors.PhoneInUse | errors.AlreadyReplaced) or str(example(kind)) == first_line
    assert len(first_line) > 10


@pytest.mark.parametrize("kind", [row[0] for row in TABLE])
def test_problem_has_the_fields_of_rfc_9457(kind: type[errors.BindingsError]) -> None:
    error = example(kind)
    problem = error.problem()
    assert problem["type"].endswith(kind.code)
    assert (problem["status"], problem["code"], problem["detail"]) == (kind.http_status, kind.code, str(error))
    assert isinstance(problem["title"], str)
    assert (problem["may_have_acted"], problem["safe_to_retry"]) == (kind.may_have_acted, kind.safe_to_retry)


@pytest.mark.parametrize("kind", [row[0] for row in TABLE])
def test_error_is_the_same_after_pickling_and_copying(kind: type[errors.BindingsError]) -> None:
    error = example(kind)
    error.replayed = True
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is kind
        assert (str(other), vars(other), other.problem()) == (str(error), vars(error), error.problem())


def test_only_outcome_unknown_may_have_acted_and_it_is_not_safe_to_retry() -> None:
    assert [row[0] for row in TABLE if row[0].may_have_acted] == [errors.OutcomeUnknown]
    assert not errors.OutcomeUnknown.safe_to_retry


def test_invalid_request_lists_every_field() -> None:
    problem = example(errors.InvalidRequest).problem()
    assert problem["errors"] == [
        {"field": "phone_a", "message": "must be digits"},
        {"field": "mode", "message": "must be AXB or AXXB"},
    ]
    assert "phone_a must be digits; mode" in problem["detail"]


def test_phone_in_use_has_its_holder_and_retry_time() -> None:
    error = errors.PhoneInUse(holder=HOLDER)
    assert error.retry_after_s == 7
    assert error.problem()["holder"] == {
        "id": ID,
        "actor": "key:rides",
        "reference": "order-42",
        "mode": "AXB",
        "state": "active",
        "held_until": NOON.isoformat().replace("+00:00", "Z"),
        "retry_after_s": 7,
        "why": "binding",
    }
    assert isinstance(errors.PhoneInUseAtProvider(holder=HOLDER), errors.PhoneInUse)


def test_refusal_has_the_providers_status_and_text() -> None:
    problem = errors.ProviderRefused(status="-22", reason="parameter error").problem()
    assert (problem["provider_status"], problem["provider_reason"]) == ("-22", "parameter error")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.IN_USE, errors.PhoneInUseAtProvider),
        (Reason.NO_NUMBER, errors.NoMiddleNumber),
        (Reason.ACCOUNT, errors.ProviderAccountRefused),
        (Reason.CLOCK, errors.ProviderAccountRefused),
        (Reason.NEVER_SENT, errors.ProviderUnreachable),
        (Reason.ABSENT, errors.ProviderUnreachable),
        (Reason.REQUEST, errors.ProviderRefused),
    ],
)
def test_failed_binding_maps_to_the_error_of_its_reason(reason: str, kind: type[errors.BindingsError]) -> None:
    error = errors.error_for(failed(reason, provider_status="-1"))
    assert type(error) is kind
    assert error.binding_id == ID
    assert error.problem()["binding_id"] == ID


@pytest.mark.parametrize(
    "reason", [Reason.IN_USE, Reason.NO_NUMBER, Reason.ACCOUNT, Reason.CLOCK, Reason.NEVER_SENT, Reason.ABSENT]
)
def test_error_409_or_503_of_a_failed_binding_has_a_retry_time(reason: str) -> None:
    error = errors.error_for(failed(reason))
    assert error.http_status in (409, 503)
    assert (error.retry_after_s or 0) >= 1
    assert error.problem()["retry_after_s"] == error.retry_after_s


@pytest.mark.parametrize("state", [State.PENDING, State.IN_DOUBT, State.LAPSED])
def test_binding_that_is_not_failed_maps_to_outcome_unknown(state: State) -> None:
    doubt = replace(failed("x"), state=state)
    error = errors.error_for(doubt)
    assert isinstance(error, errors.OutcomeUnknown)
    assert error.binding is doubt
    assert "9188067701" not in str(error.problem()) + repr(error)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_in_the_table_with_a_sentence(reason: Reason) -> None:
    info = errors.REASONS[reason]
    assert info.sentence
    if info.error is None:
        assert (info.message, info.retry_after_s, info.safe_to_retry) == (None, None, False)
    else:
        assert info.safe_to_retry == info.error.safe_to_retry


@pytest.mark.parametrize("refusal", list(Refusal))
def test_every_refusal_of_the_provider_is_a_reason_with_an_error(refusal: Refusal) -> None:
    # One entry in REASONS is enough for error_for, the history, the OpenAPI document and its sample.
    assert errors.REASONS[Reason(refusal)].error in errors.BIND_FAILURES
    assert any(status.refusal is refusal for status in STATUSES)


@pytest.mark.parametrize("kind", errors.BIND_FAILURES)
def test_every_failure_of_a_bind_is_in_the_openapi_document(kind: type[errors.BindingsError]) -> None:
    assert kind in operations()["post", "/v1/bindings"].problems
    assert kind.code in document_bytes().decode()


@pytest.mark.parametrize("reason", [reason for reason, info in errors.REASONS.items() if info.error is not None])
def test_failed_binding_with_a_key_says_that_the_key_is_used_up(reason: Reason) -> None:
    error = errors.error_for(failed(reason, idempotency_key="order-42/1"))
    assert str(error).endswith("The idempotency key of this bind is used up: try again with a new one")


def test_request_that_was_not_sent_says_why() -> None:
    error = errors.error_for(failed(Reason.NEVER_SENT), cause="connect: connection refused")
    assert str(error) == "the request was never sent (connect: connection refused) and the phones are free"


def test_unknown_reason_of_a_failed_binding_is_a_refusal() -> None:
    assert type(errors.error_for(failed("from-a-later-version"))) is errors.ProviderRefused


@pytest.mark.parametrize("kind", [row[0] for row in TABLE])
def test_next_step_has_the_time_and_the_holder_filled_in(kind: type[errors.BindingsError]) -> None:
    step = example(kind).next_step()
    assert "{" not in step
    assert bool(step) == bool(kind.remedy)
    if kind is errors.PhoneInUse:
        assert step == f"Try again in 7 s, or end that binding first: bindings unbind {ID}"


def test_deprecated_names_still_work_with_a_warning() -> None:
    invalid = errors.InvalidRequest([errors.FieldError("mode", "must be AXB or AXXB")])
    with pytest.warns(DeprecationWarning, match="field_errors"):
        assert invalid.faults == invalid.field_errors
    with pytest.warns(DeprecationWarning, match="FieldError"):
        assert errors.Fault is errors.FieldError  # type: ignore[attr-defined]  # hidden from the type checker
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        errors.Missing  # type: ignore[attr-defined]  # noqa: B018 -- the access is what is tested


def test_text_of_a_held_phone_is_one_sentence_with_the_holder_and_the_end() -> None:
    error = errors.PhoneInUse(holder=HOLDER)
    assert str(error) == (
        f"A phone is held by binding {ID} (reference order-42, AXB, active) until 2026-03-01 12:00:00Z;"
        " nothing was sent and no binding was created"
    )
    assert error.problem()["detail"] == str(error)
    revenant = errors.PhoneInUse(holder=replace(HOLDER, state=State.EXPIRED, why="orphan"))
    assert "expired), which has ended here and lives at the provider, until" in str(revenant)


def test_text_of_a_held_phone_says_no_more_than_its_holder() -> None:
    redacted = replace(HOLDER, id=None, actor=None, reference=None, mode=None, state=None)
    error = errors.PhoneInUse(holder=HOLDER)
    error.holder = redacted
    assert str(error).startswith("A phone is held by another application until 2026-03-01 12:00:00Z;")
    held = errors.PhoneInUseAtProvider(holder=replace(redacted, why="orphan"))
    start = "A phone is held at the provider for something that is not recorded here (orphan) until"
    assert str(held).startswith(start)


def test_text_of_a_phone_that_the_provider_refused_says_what_explains_it() -> None:
    error = errors.error_for(failed(Reason.IN_USE))
    assert str(error) == (
        "The provider reports that a phone is in use, and none of our bindings explains it; no binding was created"
    )
    error = errors.error_for(failed(Reason.IN_USE), holder=HOLDER)
    assert f"and it is held by binding {ID} (reference order-42, AXB, active) until" in str(error)
    assert "nothing was sent" not in str(error)
