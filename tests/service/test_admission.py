"""Admission of binds: refusals before a call or a row, clock skew, settings, and secrets that never leak."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.clock import HostClock
from bindings.domain.binding import State
from bindings.jobs.registry import RECONCILE
from bindings.jobs.runner import JobRunner
from bindings.provider.simulator import Simulator
from bindings.service import BindingService
from bindings.store import reserve
from bindings.store.reserve_call import ReserveCall
from tests.service.harness import (
    APP,
    POOL,
    A,
    B,
    C,
    D,
    E,
    F,
    G,
    H,
    ServiceHarness,
    account_settings,
    hold_answers,
    wait_for,
)

if TYPE_CHECKING:
    from bindings.provider.circuit import Circuits


@pytest.mark.parametrize("status", ["-1", "-2", "-13", "-29", "-30", "-31"])
def test_account_refusal_opens_the_circuit_for_every_bind(harness: ServiceHarness, status: str) -> None:
    harness.simulator.change(account_status=status)
    with pytest.raises(errors.ProviderAccountRefused) as first:
        harness.bind(A, B)
    rows = len(harness.service.search().data)
    with pytest.raises(errors.ProviderAccountRefused) as second:
        harness.bind(C, D)
    assert (first.value.status, second.value.status) == (status, status)
    assert second.value.binding_id is None
    assert 0 < (second.value.retry_after_s or 0) <= 30
    assert harness.received("bind") == 1
    assert len(harness.service.search().data) == rows


def circuits(service: BindingService) -> Circuits:
    assert service.runtime.client is not None
    return service.runtime.client.circuits


def test_open_circuit_is_tried_again_by_a_bind_and_never_by_the_list(harness: ServiceHarness) -> None:
    harness.simulator.change(account_status="-1")
    with pytest.raises(errors.ProviderAccountRefused):
        harness.bind(A, B)
    harness.simulator.change(account_status=None)
    assert harness.service.reconcile().trusted
    with pytest.raises(errors.ProviderAccountRefused):
        harness.bind(A, B)
    assert harness.received("bind") == 1
    circuits(harness.service).bind._next_trial = 0.0  # as if half a minute had passed
    pages = harness.received("page")
    assert harness.bind(A, B).state is State.ACTIVE
    assert harness.bind(C, D).state is State.ACTIVE
    assert (harness.received("bind"), harness.received("page")) == (3, pages)


def test_refused_trial_bind_leaves_the_circuit_open_and_the_phones_free(harness: ServiceHarness) -> None:
    harness.simulator.change(account_status="-31")
    with pytest.raises(errors.ProviderAccountRefused):
        harness.bind(A, B)
    circuits(harness.service).bind._next_trial = 0.0
    with pytest.raises(errors.ProviderAccountRefused) as trial:
        harness.bind(A, B)
    assert trial.value.binding_id is not None
    with pytest.raises(errors.ProviderAccountRefused) as rejected:
        harness.bind(A, B)
    assert rejected.value.binding_id is None
    assert harness.received("bind") == 2
    assert harness.service.doubts() == []


def test_trial_bind_that_is_refused_here_leaves_the_trial_to_the_next_bind(harness: ServiceHarness) -> None:
    harness.bind(A, B)
    harness.simulator.script("refuse:-30", times=1, on="bind")
    with pytest.raises(errors.ProviderAccountRefused):
        harness.bind(C, D)
    circuits(harness.service).bind._next_trial = 0.0
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, E)
    assert harness.bind(C, D).state is State.ACTIVE


def test_each_process_tries_again_by_itself(harness: ServiceHarness) -> None:
    refused, other = harness.open(), harness.open()
    harness.simulator.script("refuse:-30", times=1, on="bind")
    with pytest.raises(errors.ProviderAccountRefused):
        refused.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB")
    assert other.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB").state is State.ACTIVE
    assert circuits(refused).open_calls() == {"bind"}
    assert circuits(other).open_calls() == frozenset()


@pytest.mark.parametrize("status", ["-1", "-2", "-13", "-29", "-30", "-31"])
def test_account_that_may_not_read_the_list_binds_and_unbinds(harness: ServiceHarness, status: str) -> None:
    harness.simulator.script(f"refuse:{status}", rate=1.0, on="page")
    for first, second in ((A, B), (C, D), (E, F)):
        assert not harness.service.reconcile().trusted
        binding = harness.bind(first, second)
        assert harness.service.unbind(binding.id).state is State.UNBOUND
    assert circuits(harness.service).open_calls() == {"page"}


PHONES = [(A, B), (C, D), (E, F), (G, H), ("9188067708", "9188067709")]


def kinds_of_failure(service: BindingService) -> list[type[BaseException] | None]:
    """Bind five pairs of phones and return how each bind failed."""
    outcomes: list[type[BaseException] | None] = []
    for phone_a, phone_b in PHONES:
        try:
            service.bind(phone_a=phone_a, phone_b=phone_b, pool_number=POOL, expire_s=259_200, mode="AXB")
            outcomes.append(None)
        except errors.BindingsError as error:
            outcomes.append(type(error))
    return outcomes


@pytest.mark.parametrize("fault", ["refuse:-99", "redirect", "garbage", "truncated", "rate_limit"])
def test_same_unclear_answer_to_two_binds_stops_the_next_before_they_hold_phones(
    harness: ServiceHarness, fault: str
) -> None:
    harness.simulator.script(fault, rate=1.0, on="bind")
    assert kinds_of_failure(harness.service) == [errors.OutcomeUnknown] * 2 + [errors.Busy] * 3
    assert (harness.received("bind"), len(harness.service.doubts())) == (2, 2)
    harness.simulator.clear_faults()
    circuits(harness.service).bind._next_trial = 0.0  # as if half a minute had passed
    assert harness.bind("919000000001", "919000000002").state is State.ACTIVE
    assert harness.bind("919000000003", "919000000004").state is State.ACTIVE


def test_address_without_the_api_makes_two_doubts_and_no_more(harness: ServiceHarness) -> None:
    service = harness.open(provider_url=harness.simulator.url + "/elsewhere")
    assert kinds_of_failure(service) == [errors.OutcomeUnknown] * 2 + [errors.Busy] * 3
    assert len(service.doubts()) == 2


def test_account_of_another_brand_without_a_path_prefix(harness: ServiceHarness) -> None:
    with Simulator(path_prefix="", clock=harness.clock.unix) as other_brand:
        service = harness.open(provider_url=other_brand.url + "/api", provider_path_prefix="")
        assert kinds_of_failure(service)[0] is errors.OutcomeUnknown, "no call of the API is below /api"
        service = harness.open(provider_url=other_brand.url, provider_path_prefix="")
        binding = service.bind(
            phone_a="919000000001", phone_b="919000000002", pool_number=POOL, expire_s=60, mode="AXB"
        )
        assert service.unbind(binding.id).state is State.UNBOUND
        service.reconcile()
        assert {"bind", "unbind", "page"} <= other_brand.counts.received.keys()
        assert {request.path for request in other_brand.requests if request.call == "bind"} == {"/number/pns/bind"}


@pytest.mark.parametrize("fault", ["anomaly_before", "bad_gateway", "lost_reply"])
def test_unclear_answers_that_pass_by_themselves_stop_no_bind(harness: ServiceHarness, fault: str) -> None:
    harness.simulator.script(fault, rate=1.0, on="bind")
    assert kinds_of_failure(harness.service) == [errors.OutcomeUnknown] * 5


@pytest.mark.parametrize("fault", ["refuse:-99", "redirect", "refuse:-1"])
def test_answers_of_the_list_never_stop_a_bind(harness: ServiceHarness, fault: str) -> None:
    harness.simulator.script(fault, rate=1.0, on="page")
    harness.simulator.script("refuse:-99", times=1, on="bind")
    for _ in range(3):
        harness.service.reconcile()
    assert kinds_of_failure(harness.service) == [errors.OutcomeUnknown, None, None, None, None]


def test_refused_unbind_stops_no_bind(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    harness.simulator.script("refuse:-31", times=1, on="unbind")
    with pytest.raises(errors.ProviderAccountRefused) as refused:
        harness.service.unbind(binding.id)
    assert refused.value.binding_id == binding.id
    assert harness.bind(C, D).state is State.ACTIVE
    assert harness.service.recover().unbound == 1, "an unbind is safe to repeat: each one is sent"
    assert circuits(harness.service).open_calls() == frozenset()


def test_timer_pauses_reconcile_while_the_list_is_refused_and_a_call_of_the_operator_does_not(
    harness: ServiceHarness,
) -> None:
    harness.simulator.script("refuse:-1", rate=1.0, on="page")
    runner = JobRunner(harness.service.runtime)
    for _ in range(3):
        runner.run_once_per_period(RECONCILE, 300.0)
        harness.clock.advance(300)
    assert harness.received("page") == 1
    harness.service.reconcile()
    assert harness.received("page") == 2
    circuits(harness.service).page._next_trial = 0.0  # as if ten minutes had passed
    runner.run_once_per_period(RECONCILE, 300.0)
    assert harness.received("page") == 3


def test_bind_above_the_limit_is_refused_without_waiting(harness: ServiceHarness) -> None:
    service = harness.open(bind_limit=1)
    answer = hold_answers(harness.simulator)
    thread = threading.Thread(
        target=lambda: service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB"), daemon=True
    )
    thread.start()
    wait_for(lambda: harness.received("bind") == 1)
    with pytest.raises(errors.Busy) as busy:
        service.bind(phone_a=C, phone_b=D, pool_number=POOL, expire_s=60, mode="AXB")
    assert thread.is_alive(), "the refused bind did not wait for the other one"
    assert busy.value.retry_after_s
    assert service.lookup(phone=C) == []
    assert service.search_refusals().data == ()
    answer.set()
    thread.join(300)
    assert service.bind(phone_a=C, phone_b=D, pool_number=POOL, expire_s=60, mode="AXB").state is State.ACTIVE


@pytest.mark.parametrize("off_s", [120, -120])
def test_provider_clock_that_accepts_the_timestamps_does_not_stop_binds(
    harness: ServiceHarness, off_s: int
) -> None:
    harness.simulator.change(clock_offset_s=off_s)
    for phone_a, phone_b in ((A, B), (C, D)):
        assert harness.bind(phone_a, phone_b).state is State.ACTIVE


@pytest.mark.parametrize("off_s", [400, -400])
def test_provider_clock_that_refuses_the_timestamps_stops_binds_until_it_is_right(
    harness: ServiceHarness, off_s: int
) -> None:
    harness.simulator.change(clock_offset_s=off_s)
    with pytest.raises(errors.ProviderAccountRefused, match="timestamp"):
        harness.bind(A, B)
    rows = len(harness.service.search().data)
    with pytest.raises(errors.Busy, match="provider") as busy:
        harness.bind(C, D)
    assert busy.value.retry_after_s
    assert (harness.received("bind"), len(harness.service.search().data)) == (1, rows)
    harness.simulator.change(clock_offset_s=0)
    harness.service.runtime.clocks._rechecked_at = float("-inf")  # the offset is measured again after a while
    assert harness.bind(C, D).state is State.ACTIVE


def test_refused_timestamp_alone_stops_no_bind_if_the_date_is_ignored(harness: ServiceHarness) -> None:
    service = harness.open(ignore_provider_date=True)
    harness.simulator.change(clock_offset_s=400)
    with pytest.raises(errors.ProviderAccountRefused):
        service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB")
    harness.simulator.change(clock_offset_s=0)
    assert service.bind(phone_a=C, phone_b=D, pool_number=POOL, expire_s=60, mode="AXB").state is State.ACTIVE


def test_database_clock_more_than_a_minute_off_stops_binds_before_they_are_sent(harness: ServiceHarness) -> None:
    service = harness.open(host_clock=HostClock(wall=lambda: harness.clock.unix() + 90), accept_jumps=False)
    for _ in range(2):
        with pytest.raises(errors.BindingsError) as excinfo:
            service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB")
        assert excinfo.value.http_status == 503
    assert harness.received("bind") == 0


def test_clock_skew_of_forty_seconds_logs_a_warning(
    harness: ServiceHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.simulator.change(clock_offset_s=40)
    harness.bind(A, B)
    harness.bind(C, D)
    assert any("apart" in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)


def test_unreachable_database_raises_busy_and_sends_nothing(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        kind = harness.database._engine.dialect.dbapi.OperationalError  # type: ignore[union-attr]
        from sqlalchemy import exc

        raise exc.OperationalError("statement", {}, kind("connection lost"))

    monkeypatch.setattr(reserve, "reserve", fail)
    monkeypatch.setattr(ReserveCall, "reserve", fail)
    with pytest.raises(errors.Busy) as busy:
        harness.bind(A, B)
    assert busy.value.retry_after_s
    assert harness.received("bind") == 0


def test_logs_errors_and_reprs_contain_no_phone_key_or_secret(
    harness: ServiceHarness, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("sqlalchemy.engine").setLevel(logging.WARNING)
    texts: list[str] = []
    for fault in (None, "lost_reply", "refuse:-22", "refuse:-35", "garbage", "cut_body", "anomaly_after"):
        if fault is not None:
            harness.simulator.script(fault, times=1, on="bind")
        for attempt in range(2):
            try:
                texts.append(
                    repr(harness.bind(f"918806{attempt}701", f"918806{attempt}799", idempotency_key=fault))
                )
            except errors.BindingsError as error:
                texts.append("".join(traceback.format_exception(error)) + str(error.problem()) + repr(error))
        harness.clock.advance(10_000)
        harness.service.recover()
    for invalid in ({"phone_a": "9188060701x"}, {"expire_s": -1}):
        with pytest.raises(errors.InvalidRequest) as excinfo:
            harness.bind(**({"phone_a": "9188060701", "phone_b": "9188060799"} | invalid))
        texts.append(str(excinfo.value) + str(excinfo.value.problem()))
    harness.service.reconcile()
    harness.service.expire_due()
    output = "\n".join(texts) + caplog.text + "".join(capsys.readouterr())
    # The tracebacks contain the source line of this test's call, but not its values.
    for phone in ("9188060701", "9188060799", "9188061701", "9188061799"):
        assert phone not in output
    for secret in ("7bz1lzh9", "Sign"):
        assert secret not in output


def test_open_checks_schema_and_scope(database_url: str, empty_database_url: str) -> None:
    if database_url.startswith("sqlite"):
        with pytest.raises(errors.SchemaOutOfDate, match="bindings db upgrade"):
            BindingService.open(database_url=empty_database_url)
    BindingService.open(database_url=database_url, scope="shop").close()
    with pytest.raises(errors.InvalidRequest, match="BINDINGS_SCOPE"):
        BindingService.open(database_url=database_url, scope="other")


def test_service_opened_without_connecting_checks_before_a_bind_is_sent(
    database_url: str, empty_database_url: str, simulator: Simulator
) -> None:
    BindingService.open(database_url=database_url, scope="shop").close()
    ahead = HostClock(wall=lambda: time.time() + 90)
    cases: list[tuple[type[errors.BindingsError], str, str, HostClock]] = [
        (errors.InvalidRequest, database_url, "other", HostClock()),
        (errors.SchemaOutOfDate, empty_database_url, "shop", HostClock()),
    ]
    if database_url.startswith("postgresql"):  # SQLite has no clock of its own
        cases.append((errors.Busy, database_url, "shop", ahead))
    for error, url, scope, clock in cases:
        with (
            BindingService.open(
                database_url=url,
                **account_settings(simulator.url),
                scope=scope,
                clock=clock,
                connect=False,
            ) as service,
            pytest.raises(error),
        ):
            service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB")
    assert "bind" not in simulator.counts.received
    with BindingService.open(database_url=database_url, scope="shop") as service:
        assert service.search().data == ()


def test_from_env_reads_the_environment_and_reports_every_invalid_setting(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINDINGS_DATABASE_URL", database_url)
    monkeypatch.setenv("BINDINGS_PROVIDER_APP_ID", APP)
    with BindingService.from_env() as service:
        assert service.lookup(phone=A) == []
    monkeypatch.setenv("BINDINGS_GARD_S", "hunter2")
    monkeypatch.setenv("BINDINGS_GUARD_S", "hunter2")
    with pytest.raises(errors.InvalidRequest) as excinfo:
        BindingService.from_env()
    assert {fault.field for fault in excinfo.value.field_errors} == {"BINDINGS_GARD_S", "BINDINGS_GUARD_S"}
    assert "hunter2" not in str(excinfo.value)
