"""A bind whose database fails: `Busy` before the call, and after it `OutcomeUnknown` with the binding's id."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from bindings import failpoints
from bindings.domain.binding import State
from bindings.errors import Busy, OutcomeUnknown
from tests.service.harness import POOL, A, B, C, D
from tests.store.failing import failing
from tests.web.conftest import alone

if TYPE_CHECKING:
    from bindings.provider.simulator import Simulator
    from bindings.service import BindingService

pytestmark = pytest.mark.postgres

RECORD_OF_SUCCESS = "UPDATE ON bindings"
BIND: dict[str, Any] = {"pool_number": POOL, "expire_s": 600, "mode": "AXB"}


@pytest.fixture
def database_url(postgres_url: str) -> str:
    return postgres_url


@pytest.mark.parametrize("state", ["42501", "XX001", "P0001", "53100"])
def test_failure_before_the_call_is_busy_and_sends_nothing(
    service: BindingService, simulator: Simulator, database_url: str, state: str
) -> None:
    with failing(database_url, state), pytest.raises(Busy) as busy:
        service.bind(phone_a=A, phone_b=B, **BIND)
    assert busy.value.binding_id is None
    assert busy.value.problem()["may_have_acted"] is False
    assert simulator.counts.received.get("bind", 0) == 0
    assert service.bind(phone_a=A, phone_b=B, **BIND).state is State.ACTIVE


@pytest.mark.parametrize("state", ["42501", "XX001", "P0001", "54000"])
def test_failure_after_the_call_is_an_unknown_outcome_that_names_the_binding(
    service: BindingService, simulator: Simulator, database_url: str, state: str
) -> None:
    with failing(database_url, state, when=RECORD_OF_SUCCESS), pytest.raises(OutcomeUnknown) as unknown:
        service.bind(phone_a=A, phone_b=B, **BIND)
    assert simulator.counts.received["bind"] == 1
    assert service.get(unknown.value.binding.id).state is State.PENDING
    assert unknown.value.problem()["may_have_acted"] is True


def test_success_is_recorded_after_failures_that_pass(
    service: BindingService, simulator: Simulator, database_url: str
) -> None:
    with failing(database_url, "53100", times=3, when=RECORD_OF_SUCCESS):
        assert service.bind(phone_a=A, phone_b=B, **BIND).state is State.ACTIVE
    assert simulator.counts.received["bind"] == 1


def test_replay_of_a_call_under_way_whose_database_fails_is_an_unknown_outcome(
    service: BindingService, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call may have been sent: that nothing was sent would be false."""
    answered, go_on = threading.Event(), threading.Event()

    def hook(name: str) -> None:
        if name == "bind.after_answer":
            answered.set()
            assert go_on.wait(30)

    failpoints.install(hook)
    key = {"idempotency_key": "k"} | BIND
    first = threading.Thread(target=lambda: service.bind(phone_a=A, phone_b=B, **key), daemon=True)
    first.start()
    assert answered.wait(30)
    monkeypatch.setattr(service.runtime.database, "clock", _fail)
    with pytest.raises(OutcomeUnknown) as unknown:
        service.bind(phone_a=A, phone_b=B, **key)
    assert service.get(unknown.value.binding.id).state is State.PENDING
    go_on.set()
    first.join(30)


def _fail() -> None:
    raise Busy


def test_http_names_the_cause_and_whether_the_provider_may_have_acted(database_url: str) -> None:
    with alone(database_url) as running:
        key = running.key("app")
        with failing(database_url, "42501"):
            before = running.bind(key)
        with failing(database_url, "42501", when=RECORD_OF_SUCCESS):
            after = running.bind(key, phone_a=C, phone_b=D)
    assert (before.status_code, before.json()["code"], before.json()["may_have_acted"]) == (503, "busy", False)
    assert "the database refuses the user of BINDINGS_DATABASE_URL" in before.json()["detail"]
    assert before.headers["Retry-After"] == "30"
    assert (after.status_code, after.json()["state"]) == (202, "pending")
    assert after.json()["id"]
