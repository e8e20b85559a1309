"""The one table of errors: message, code, HTTP status, exit code, and what each says about trying again."""

from __future__ import annotations

import inspect
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from bindings import errors
from bindings.domain.binding import Binding, Holder, Mode, Reason, State
from bindings.domain.phone import Phone

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
    (errors.NotFound, "not-found", 404, 4),
    (errors.ProviderRefused, "provider-refused", 502, 5),
    (errors.ProviderAccountRefused, "provider-account", 503, 5),
    (errors.NoMiddleNumber, "no-middle-number", 503, 7),
    (errors.ProviderUnreachable, "provider-unreachable", 503, 5),
    (errors.OutcomeUnknown, "outcome-unknown", 202, 6),
    (errors.Busy, "busy", 503, 1),
    (errors.SchemaOutOfDate, "schema-out-of-date", 503, 1),
]


def made(kind: type[errors.BindingsError]) -> errors.BindingsError:
    """One of each, with what it must be given."""
    if issubclass(kind, errors.InvalidRequest):
        return kind(
            [errors.FieldError("phone_a", "must be digits"), errors.FieldError("mode", "must be AXB or AXXB")]
        )
    if issubclass(kind, errors.PhoneInUse):
        return kind(holder=HOLDER)
    if issubclass(kind, errors.OutcomeUnknown):
        return kind(binding=failed("x", state=State.IN_DOUBT))
    return kind()


@pytest.mark.parametrize(("kind", "code", "http_status", "exit_code"), TABLE)
def test_each_error_has_its_place_in_the_table(
    kind: type[errors.BindingsError], code: str, http_status: int, exit_code: int
) -> None:
    assert (kind.code, kind.http_status, kind.exit_code) == (code, http_status, exit_code)


def test_the_table_is_whole() -> None:
    classes = {
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.BindingsError)
    }
    assert classes == {row[0] for row in TABLE} | {errors.BindingsError}


@pytest.mark.parametrize("kind", [row[0] for row in TABLE if row[0] is not errors.InvalidRequest])
def test_the_docstring_is_the_message(kind: type[errors.BindingsError]) -> None:
    first_line = (kind.__doc__ or "").partition("\n")[0].rstrip(".")
    assert str(made(kind)) == first_line
    assert len(first_line) > 10


@pytest.mark.parametrize("kind", [row[0] for row in TABLE])
def test_a_problem_has_the_shape_of_rfc_9457(kind: type[errors.BindingsError]) -> None:
    error = made(kind)
    problem = error.problem()
    assert problem["type"].endswith(kind.code)
    assert (problem["status"], problem["code"], problem["detail"]) == (kind.http_status, kind.code, str(error))
    assert isinstance(problem["title"], str)
    assert (problem["may_have_acted"], problem["safe_to_retry"]) == (kind.may_have_acted, kind.safe_to_retry)


def test_only_an_unknown_outcome_may_have_acted_and_it_is_not_safe_to_retry() -> None:
    assert [row[0] for row in TABLE if row[0].may_have_acted] == [errors.OutcomeUnknown]
    assert not errors.OutcomeUnknown.safe_to_retry


def test_an_invalid_request_lists_every_field() -> None:
    problem = made(errors.InvalidRequest).problem()
    assert problem["errors"] == [
        {"field": "phone_a", "message": "must be digits"},
        {"field": "mode", "message": "must be AXB or AXXB"},
    ]
    assert "phone_a must be digits; mode" in problem["detail"]


def test_a_phone_in_use_names_its_holder_and_when_to_come_back() -> None:
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


def test_a_refusal_carries_the_provider_s_status_and_words() -> None:
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
def test_a_failed_binding_means_the_same_error_to_everyone_who_asks(
    reason: str, kind: type[errors.BindingsError]
) -> None:
    error = errors.error_for(failed(reason, provider_status="-1"))
    assert type(error) is kind
    assert error.binding_id == ID
    assert error.problem()["binding_id"] == ID


@pytest.mark.parametrize(
    "reason", [Reason.IN_USE, Reason.NO_NUMBER, Reason.ACCOUNT, Reason.CLOCK, Reason.NEVER_SENT, Reason.ABSENT]
)
def test_every_409_and_503_of_a_failed_binding_says_when_to_try_again(reason: str) -> None:
    error = errors.error_for(failed(reason))
    assert error.http_status in (409, 503)
    assert (error.retry_after_s or 0) >= 1
    assert error.problem()["retry_after_s"] == error.retry_after_s


@pytest.mark.parametrize("state", [State.PENDING, State.IN_DOUBT, State.LAPSED])
def test_whatever_is_not_failed_is_unknown_and_carries_the_binding(state: State) -> None:
    doubt = replace(failed("x"), state=state)
    error = errors.error_for(doubt)
    assert isinstance(error, errors.OutcomeUnknown)
    assert error.binding is doubt
    assert "9188067701" not in str(error.problem()) + repr(error)
