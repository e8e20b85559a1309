"""The environment for tests of applications: time, faults by name, the ledger, webhooks, the feed, HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn
from unittest.mock import Mock

import pytest
import requests

from bindings import errors
from bindings.domain.binding import EventKind, State
from bindings.testing import ManualClock, open_environment
from bindings.testing.http_service import serve
from bindings.testing.manual_clock import LONGEST_WAIT_S
from bindings.web.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings import BindingService
    from bindings.domain.binding import Binding
    from bindings.settings import SettingsValues
    from bindings.testing import Environment, HttpService, Simulator, WebhookReceiver

A, B, C, D = "9188067701", "9188067799", "9188067702", "9188067703"
DAY_S = 86_400
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def bind(
    service: BindingService, phone_a: str = A, phone_b: str = B, *, expire_s: int = DAY_S, **fields: Any
) -> Binding:
    values = {"mode": "AXB", "pool_number": "918806"} | fields
    return service.bind(phone_a=phone_a, phone_b=phone_b, expire_s=expire_s, **values)


def bind_in_doubt(environment: Environment, fault: str = "lost_reply", *, mode: str = "AXB") -> str:
    """Make a binding whose response is lost, and return its id."""
    environment.simulator.script(fault, times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        bind(environment.service, mode=mode)
    assert unknown.value.binding_id is not None
    return unknown.value.binding_id


# Time.


def test_day_passes_with_every_event_at_its_instant(database_url: str) -> None:
    with open_environment(database_url=database_url, start=START) as environment:
        service = environment.service
        binding = bind(service, warn_s=600)
        assert binding.expires_at == START + timedelta(days=1)
        environment.pass_time(DAY_S - 1)
        assert service.lookup(phone=A) == [service.get(binding.id)]
        environment.pass_time(1)
        assert environment.clock.now() == START + timedelta(days=1)
        assert service.lookup(phone=A) == []
        passed_s = [(event.kind, (event.at - START).total_seconds()) for event in service.history(binding.id)]
        assert passed_s[2:] == [(EventKind.EXPIRES_SOON, DAY_S - 600), (EventKind.EXPIRED, DAY_S)]
        with pytest.raises(errors.PhoneInUse) as in_use:  # by the guard
            bind(service)
        environment.pass_time(in_use.value.retry_after_s or 0)
        assert bind(service).state is State.ACTIVE
        assert environment.clock.now() == binding.held_until, "the scans have not moved the clock"
        environment.assert_agreement()


def test_clock_that_is_moved_alone_runs_no_job(bindings_environment: Environment) -> None:
    service, clock = bindings_environment.service, bindings_environment.clock
    binding = bind(service, expire_s=60)
    clock.advance(DAY_S)
    assert service.get(binding.id).state is State.ACTIVE
    assert service.lookup(phone=A) == []
    assert bind(service).requested_at == clock.now(), "no clock of the service has jumped"
    [expire] = [run for run in bindings_environment.pass_time(0) if run.job == "expire"]
    assert (expire.at, getattr(expire.counts, "expired", None)) == (clock.now(), 1)


def test_jobs_run_in_order_at_their_intervals_while_something_is_open(bindings_environment: Environment) -> None:
    start = bindings_environment.clock.now()
    bind_in_doubt(bindings_environment, mode="AXXB")
    with bindings_environment.provider_unreachable():
        runs = bindings_environment.pass_time(900)
    assert [run.at for run in runs] == sorted(run.at for run in runs)
    reconciled_s = [round((run.at - start).total_seconds()) for run in runs if run.job == "reconcile"]
    assert reconciled_s == [0, 300, 600, 900]


def test_job_runs_by_name(bindings_environment: Environment) -> None:
    binding_id = bind_in_doubt(bindings_environment)
    bindings_environment.clock.advance(30)
    run = bindings_environment.run_job("reconcile")
    assert (run.job, getattr(run.counts, "adopted", None)) == ("reconcile", 1)
    assert bindings_environment.service.get(binding_id).state is State.ACTIVE
    assert bindings_environment.run_job("deliver").counts is None, "there is no webhook"
    with pytest.raises(ValueError, match=r"the jobs are expire, warn, .*, deliver$"):
        bindings_environment.run_job("sweep")


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_time_does_not_go_back(bindings_environment: Environment, seconds: float) -> None:
    for move in (bindings_environment.pass_time, bindings_environment.clock.advance):
        with pytest.raises(ValueError, match="only moves forward"):
            move(seconds)


def test_clock_needs_instants_with_a_time_zone() -> None:
    clock = ManualClock(START)
    assert clock.move_to(START + timedelta(hours=1)) == clock.now() == START + timedelta(hours=1)
    with pytest.raises(ValueError, match="only moves forward"):
        clock.move_to(START)
    for call in (ManualClock, clock.move_to):
        with pytest.raises(ValueError, match="time zone"):
            call(datetime(2026, 3, 1))  # noqa: DTZ001
        with pytest.raises(ValueError, match="time zone"):
            call(Mock(spec=datetime, tzinfo=UTC, utcoffset=lambda: None))  # its zone knows no offset


def test_long_wait_moves_the_clock_and_takes_little_time_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    clock = ManualClock(START)
    clock.sleep(4.0)  # as between two attempts to read the list
    assert clock.now() == START + timedelta(seconds=4)
    assert sum(waits) <= LONGEST_WAIT_S


def test_clock_starts_now_in_whole_seconds() -> None:
    before, now = datetime.now(UTC), ManualClock().now()
    assert before - timedelta(seconds=1) < now <= datetime.now(UTC)
    assert now.microsecond == 0


def test_closed_environment_refuses_every_call(database_url: str) -> None:
    with open_environment(database_url=database_url) as environment:
        environment.close()
    calls: list[Callable[[], object]] = [
        environment.open,
        environment.receive_webhooks,
        environment.serve,
        environment.provider_unreachable().__enter__,
        environment.new_events,
        environment.assert_agreement,
        lambda: environment.pass_time(1),
        lambda: environment.run_job("expire"),
        lambda: environment.service.lookup(phone=A),
    ]
    for call in calls:
        with pytest.raises(errors.Busy, match="is closed; nothing was done"):
            call()


# Faults, by the names of the simulator.


@pytest.mark.parametrize("fault", ["lost_reply", "cut_body"])
def test_doubt_is_adopted_as_time_passes(bindings_environment: Environment, fault: str) -> None:
    binding_id = bind_in_doubt(bindings_environment, fault)
    bindings_environment.assert_agreement()
    bindings_environment.pass_time(60)
    assert bindings_environment.service.get(binding_id).state is State.ACTIVE
    assert bindings_environment.calls("bind") == 1
    bindings_environment.assert_agreement()


def test_doubt_that_stays_open_lapses_when_its_time_is_over(bindings_environment: Environment) -> None:
    binding_id = bind_in_doubt(bindings_environment)
    [doubt] = bindings_environment.service.doubts()
    with bindings_environment.provider_unreachable():
        bindings_environment.clock.move_to(doubt.held_until)
        bindings_environment.pass_time(0)
    lapsed = bindings_environment.service.get(binding_id)
    assert (lapsed.state, lapsed.ended_at) == (State.LAPSED, doubt.held_until)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("refuse:-35", errors.PhoneInUseAtProvider),
        ("refuse:-31", errors.ProviderAccountRefused),
    ],
)
def test_refusal_passes_with_time(
    bindings_service: BindingService,
    bindings_simulator: Simulator,
    bindings_environment: Environment,
    fault: str,
    error: type[errors.ProviderRefused],
) -> None:
    bindings_simulator.script(fault, times=1, on="bind")
    for _ in range(2):  # by the provider, then by the hold or the circuit breaker that remembers it
        with pytest.raises((error, errors.PhoneInUse)) as refused:
            bind(bindings_service)
    bindings_environment.pass_time(refused.value.retry_after_s or 0)
    assert bind(bindings_service).state is State.ACTIVE


def test_unreachable_provider_leaves_nothing_behind(bindings_environment: Environment) -> None:
    with bindings_environment.provider_unreachable(), pytest.raises(errors.ProviderUnreachable):
        bind(bindings_environment.service)
    assert bindings_environment.live_at_provider() == ()
    assert bind(bindings_environment.service).state is State.ACTIVE
    [entry] = bindings_environment.live_at_provider()
    assert {entry.phone_a, entry.phone_b} == {A, B}


def test_response_byte_by_byte_ends_at_the_time_limit_although_the_clock_stands_still(sqlite_url: str) -> None:
    with open_environment(database_url=sqlite_url, provider_timeout_s=0.2) as environment:
        environment.simulator.script("drip_body:0.05", times=1, on="bind")
        with pytest.raises(errors.OutcomeUnknown):
            bind(environment.service)


# The ledger.


def test_difference_between_service_and_provider_is_listed(bindings_environment: Environment) -> None:
    service, simulator = bindings_environment.service, bindings_environment.simulator
    removed, restored = bind(service), bind(service, C, D)
    bindings_environment.assert_agreement()
    service.unbind(restored.id)
    simulator.restore_binding(str(restored.bind_id))
    simulator.remove_binding(str(removed.bind_id))
    with pytest.raises(AssertionError) as difference:
        bindings_environment.assert_agreement()
    assert str(difference.value).split("; ") == [
        f"{restored.bind_id} lives at the provider and is not active here",
        f"{removed.id} is active here and does not live at the provider",
    ]


def test_overlap_at_the_provider_is_listed(bindings_environment: Environment) -> None:
    bind(bindings_environment.service)
    bindings_environment.simulator.add_foreign_binding(phone_a=A, phone_b=C, app_id="another")
    with pytest.raises(AssertionError, match=r"the provider had \d+ and \d+ at the same time"):
        bindings_environment.assert_agreement()


# Webhooks and the feed.


def test_webhook_is_verified_and_retried_as_time_passes(
    bindings_environment: Environment, bindings_webhooks: WebhookReceiver
) -> None:
    bindings_webhooks.status = 503
    binding = bind(bindings_environment.service)
    bindings_environment.pass_time(0)
    attempts = len(bindings_webhooks.messages)
    bindings_webhooks.status = 204
    bindings_environment.pass_time(30)
    accepted = bindings_webhooks.messages[attempts:]
    assert {message.type for message in accepted} == {"binding.requested", "binding.activated"}
    assert {message.data["binding_id"] for message in accepted} == {binding.id}
    assert {message.id for message in bindings_webhooks.messages} == {message.id for message in accepted}
    assert bindings_webhooks.refused == 0


def test_message_that_another_secret_signed_is_refused(bindings_environment: Environment) -> None:
    receiver = bindings_environment.receive_webhooks("activated")
    receiver.secret = bindings_environment.receive_webhooks().secret
    bind(bindings_environment.service)
    bindings_environment.run_job("deliver")
    assert (receiver.refused, receiver.messages) == (1, [])
    assert requests.post(receiver.url, json={}, timeout=60).status_code == 400


def test_each_event_of_the_feed_is_returned_once(bindings_environment: Environment) -> None:
    bind(bindings_environment.service)
    assert [event.kind for event in bindings_environment.new_events()] == ["requested", "activated"]
    bindings_environment.pass_time(DAY_S)
    assert [event.kind for event in bindings_environment.new_events()] == ["expires_soon", "expired"]
    assert bindings_environment.new_events() == []


# Services.


@pytest.fixture
def bindings_settings() -> SettingsValues:
    return {"warn_s": 120}


def test_settings_of_the_fixture_apply_to_each_service(bindings_environment: Environment) -> None:
    replica = bindings_environment.open(actor="other", conflict_policy="strict")
    assert bind(replica).warn_s == 120
    assert (replica.settings.conflict_policy, replica.settings.provider_app_id) == ("strict", "test-app")
    assert bindings_environment.service.settings.conflict_policy == "literal"


def test_no_variable_of_the_process_is_read(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BINDINGS_GUARD_S", "not a number")
    with open_environment(database_url=sqlite_url) as environment:
        assert environment.service.settings.guard_s is None


def test_http_service_follows_the_clock(bindings_environment: Environment, bindings_http: HttpService) -> None:
    body = {"phone_a": A, "phone_b": B, "pool_number": "918806", "expire_s": 60, "mode": "AXB"}
    assert requests.post(f"{bindings_http.url}/v1/bindings", json=body, timeout=60).status_code == 401
    headers = bindings_http.headers()
    bound = requests.post(f"{bindings_http.url}/v1/bindings", json=body, headers=headers, timeout=60)
    assert bound.status_code == 201
    question = {"phone": A}
    for expected in ([bound.json()["id"]], []):
        found = requests.post(f"{bindings_http.url}/v1/lookup", json=question, headers=headers, timeout=60).json()
        assert [binding["id"] for binding in found["data"]] == expected
        bindings_environment.pass_time(60)
    assert requests.get(f"{bindings_http.url}/readyz", timeout=60).status_code == 200


def test_failure_of_the_http_service_at_its_start_is_raised_with_its_cause(
    bindings_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> NoReturn:
        raise OSError("no event loop")

    monkeypatch.setattr(Server, "startup", fail)
    with pytest.raises(RuntimeError, match="HTTP service ended") as raised, serve(bindings_environment.service):
        pytest.fail("the block was entered")
    assert str(raised.value.__cause__) == "no event loop"


def test_failure_of_the_http_service_at_its_end_is_raised_with_its_cause(
    bindings_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_to_the_end = Server.serve

    async def fail(server: Server, **arguments: Any) -> NoReturn:
        await serve_to_the_end(server, **arguments)
        raise OSError("loop broken")

    monkeypatch.setattr(Server, "serve", fail)
    with pytest.raises(RuntimeError, match="HTTP service ended") as raised, serve(bindings_environment.service):
        pass
    assert str(raised.value.__cause__) == "loop broken"
