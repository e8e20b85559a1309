"""What is refused fast and without a trace, and what never leaks."""

from __future__ import annotations

import logging
import threading
import traceback

import pytest

from bindings import errors
from bindings.domain.binding import State
from bindings.service import BindingService
from bindings.store import reserve
from tests.service.world import APP, POOL, A, B, C, D, World, wait_for


@pytest.mark.parametrize("status", ["-1", "-2", "-29", "-30", "-31"])
def test_an_account_refusal_opens_a_circuit_for_every_bind(world: World, status: str) -> None:
    world.simulator.change(account_status=status)
    with pytest.raises(errors.ProviderAccountRefused) as first:
        world.bind(A, B)
    rows = len(world.service.search().data)
    with pytest.raises(errors.ProviderAccountRefused) as second:
        world.bind(C, D)
    assert (first.value.status, second.value.status) == (status, status)
    assert second.value.binding_id is None
    assert 28 <= (second.value.retry_after_s or 0) <= 30
    assert world.received("bind") == 1
    assert len(world.service.search().data) == rows


def test_the_circuit_closes_by_a_question_that_makes_nothing(world: World) -> None:
    world.simulator.change(account_status="-1")
    with pytest.raises(errors.ProviderAccountRefused):
        world.bind(A, B)
    client = world.service._client
    assert client is not None
    client.circuit._next_trial = 0.0  # half a minute later
    with pytest.raises(errors.ProviderAccountRefused):
        world.bind(A, B)
    assert (world.received("bind"), world.received("page")) == (1, 1)
    world.simulator.change(account_status=None)
    client.circuit._next_trial = 0.0
    assert world.bind(A, B).state is State.ACTIVE
    assert world.received("bind") == 2


def test_past_the_limit_of_calls_in_flight_a_bind_is_refused_fast(world: World) -> None:
    service = world.open(bind_limit=1)
    world.simulator.script("delay_before", times=1, seconds=2.0, on="bind")
    thread = threading.Thread(
        target=lambda: service.bind(phone_a=A, phone_b=B, pool_number=POOL, expire_s=60, mode="AXB"), daemon=True
    )
    thread.start()
    wait_for(lambda: world.received("bind") == 1)
    with pytest.raises(errors.Busy) as busy:
        service.bind(phone_a=C, phone_b=D, pool_number=POOL, expire_s=60, mode="AXB")
    assert thread.is_alive(), "it did not wait for the other one"
    assert busy.value.retry_after_s
    assert service.lookup(phone=C) == []
    thread.join(10)
    assert service.bind(phone_a=C, phone_b=D, pool_number=POOL, expire_s=60, mode="AXB").state is State.ACTIVE


@pytest.mark.parametrize("off_s", [120, -120])
def test_a_provider_clock_that_is_a_minute_off_stops_binds(world: World, off_s: int) -> None:
    world.simulator.change(clock_offset_s=off_s)
    world.bind(A, B)  # the first answer tells
    rows = len(world.service.search().data)
    with pytest.raises(errors.Busy, match="provider") as busy:
        world.bind(C, D)
    assert busy.value.retry_after_s
    assert (world.received("bind"), len(world.service.search().data)) == (1, rows)
    world.simulator.change(clock_offset_s=0)
    world.service._admission._asked = float("-inf")  # it asks again after a while
    assert world.bind(C, D).state is State.ACTIVE


def test_a_database_clock_that_is_a_minute_off_stops_binds_before_they_are_sent(world: World) -> None:
    world.service._admission._wall = lambda: world.clock.unix() + 90
    for _ in range(2):
        with pytest.raises(errors.BindingsError) as refused:
            world.bind(A, B)
        assert refused.value.http_status == 503
    assert world.received("bind") == 0


def test_a_skew_of_half_a_minute_warns(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.simulator.change(clock_offset_s=40)
    world.bind(A, B)
    world.bind(C, D)
    assert any("apart" in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)


def test_a_database_that_is_away_is_busy_and_nothing_is_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        kind = world.database._engine.dialect.dbapi.OperationalError  # type: ignore[union-attr]
        from sqlalchemy import exc

        raise exc.OperationalError("statement", {}, kind("connection lost"))

    monkeypatch.setattr(reserve, "reserve", away)
    with pytest.raises(errors.Busy) as busy:
        world.bind(A, B)
    assert busy.value.retry_after_s
    assert world.received("bind") == 0


def test_no_phone_key_or_secret_gets_into_a_log_an_error_or_a_repr(
    world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("sqlalchemy.engine").setLevel(logging.WARNING)
    said: list[str] = []
    for fault in (None, "lost_reply", "refuse:-22", "refuse:-35", "garbage", "cut_body", "anomaly_after"):
        if fault is not None:
            world.simulator.script(fault, times=1, on="bind")
        for again in range(2):
            try:
                said.append(repr(world.bind(f"918806{again}701", f"918806{again}799", idempotency_key=fault)))
            except errors.BindingsError as error:
                said.append("".join(traceback.format_exception(error)) + str(error.problem()) + repr(error))
        world.clock.advance(10_000)
        world.service.recover()
    for wrong in ({"phone_a": "9188060701x"}, {"expire_s": -1}):
        with pytest.raises(errors.InvalidRequest) as refused:
            world.bind(**({"phone_a": "9188060701", "phone_b": "9188060799"} | wrong))
        said.append(str(refused.value) + str(refused.value.problem()))
    world.service.reconcile()
    world.service.expire_due()
    shown = "\n".join(said) + caplog.text + "".join(capsys.readouterr())
    # The test's own call stands in the tracebacks as source, never with its values.
    for phone in ("9188060701", "9188060799", "9188061701", "9188061799"):
        assert phone not in shown
    for secret in ("7bz1lzh9", "Sign"):
        assert secret not in shown


def test_a_service_that_is_opened_checks_schema_and_scope(database_url: str, empty_database_url: str) -> None:
    if database_url.startswith("sqlite"):
        with pytest.raises(errors.SchemaOutOfDate, match="bindings db upgrade"):
            BindingService.open(database_url=empty_database_url)
    BindingService.open(database_url=database_url, scope="shop").close()
    with pytest.raises(errors.InvalidRequest, match="BINDINGS_SCOPE"):
        BindingService.open(database_url=database_url, scope="other")


def test_a_service_opens_from_the_environment_and_reports_every_fault(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINDINGS_DATABASE_URL", database_url)
    monkeypatch.setenv("BINDINGS_PROVIDER_APP_ID", APP)
    with BindingService.from_env() as service:
        assert service.lookup(phone=A) == []
    monkeypatch.setenv("BINDINGS_GARD_S", "hunter2")
    monkeypatch.setenv("BINDINGS_GUARD_S", "hunter2")
    with pytest.raises(errors.InvalidRequest) as refused:
        BindingService.from_env()
    assert {fault.field for fault in refused.value.field_errors} == {"BINDINGS_GARD_S", "BINDINGS_GUARD_S"}
    assert "hunter2" not in str(refused.value)
