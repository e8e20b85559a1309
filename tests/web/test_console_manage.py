"""The pages of keys, sessions, webhooks and holds: what they show, what they change, and to whom."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from bindings.domain.phone import mask
from bindings.errors import BindingsError
from bindings.store import webhook_health
from bindings.webhooks.sender import deliver_pending
from tests.service.harness import APP, A, B, feed_has_caught_up
from tests.web.browser import Browser
from tests.web.pages import Form, Page
from tests.web.receivers import Receiver, Reply

if TYPE_CHECKING:
    import requests

    from bindings.domain.binding import Binding
    from bindings.provider.simulator import Simulator
    from bindings.store.keys import Key
    from bindings.store.webhooks import Webhook
    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")

SECRET = re.compile(r'class="secret" value="([^"]+)"')
PAGES = ("/keys", "/sessions", "/webhooks", "/holds")
DEAD = "UPDATE deliveries SET state = 'dead', finished_at = next_at WHERE webhook_id = :id"
URL = "https://receiver.example/hooks/s3cret?token=1"


def form_of(page: requests.Response, action: str) -> Form:
    """Return the form of a page that is sent to `action`."""
    (form,) = (form for form in Page(page.text).forms if form.action == action)
    return form


def secret_of(page: requests.Response) -> str:
    match = SECRET.search(page.text)
    assert match, page.text
    return match[1].replace("&#43;", "+")


def keys_named(running: Running, name: str) -> list[Key]:
    return [key for key in running.service.api_keys.list() if key.name == name]


def execute(running: Running, statement: str, row_id: str) -> None:
    """Run a statement for the row with this id, which no call of the service does."""
    running.service.runtime.database.write(lambda tx: tx.connection.execute(text(statement), {"id": row_id}))


def created(browser: Browser, **fields: str) -> requests.Response:
    form = form_of(browser.get("/keys/create"), "/keys/create")
    return browser.post("/keys/create", form.fields | {"role": "auditor", "name": "dispatch"} | fields)


def bind(running: Running, phone_a: str = A, phone_b: str = B) -> Binding:
    return running.service.bind(
        phone_a=phone_a, phone_b=phone_b, pool_number="918806", expire_s=3_600, mode="AXB", app_id=APP
    )


def test_new_key_is_shown_once_and_a_form_that_is_sent_twice_creates_one(running: Running) -> None:
    browser = Browser(running).sign_in("admin", "ops")
    form = form_of(browser.get("/keys/create"), "/keys/create").fields
    form |= {"name": "dispatch", "role": "app", "rate_limit": "20", "days": "30"}
    page = browser.post("/keys/create", form)
    key = secret_of(page)
    assert running.get("/v1/bindings", {"Authorization": f"Bearer {key}"}).status_code == 200
    assert page.headers["Cache-Control"] == "no-store"
    (record,) = keys_named(running, "dispatch")
    assert (record.role, record.rate_limit, record.created_by) == ("app", 20, "key:ops")
    assert record.expires_at is not None
    assert 29 <= (record.expires_at - record.created_at).days <= 30
    again = browser.post("/keys/create", form)
    assert (again.status_code, "This form was sent before" in again.text, SECRET.search(again.text)) == (
        409,
        True,
        None,
    )
    assert keys_named(running, "dispatch") == [record]
    for path in ("/keys", "/keys/create"):
        assert key not in browser.get(path).text
    assert not [address for address in browser.addresses if key in address]


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"name": ""}, "Name"),
        ({"role": "owner"}, "Role"),
        ({"role": ""}, "Role"),
        ({"days": "0"}, "Days until it expires"),
        ({"days": "3651"}, "Days until it expires"),
        ({"days": "soon"}, "Days until it expires"),
        ({"rate_limit": "-1"}, "Requests per second"),
        ({"rate_limit": "9" * 30}, "Requests per second"),
    ],
)
def test_wrong_field_of_a_new_key_is_named_and_the_input_is_kept(
    running: Running, fields: dict[str, str], label: str
) -> None:
    browser = Browser(running).sign_in("admin")
    page = created(browser, **fields)
    assert (page.status_code, f"<strong>{label}</strong>" in page.text) == (422, True)
    kept = form_of(page, "/keys/create").fields
    assert kept["name"] == fields.get("name", "dispatch")
    assert keys_named(running, "dispatch") == []
    assert browser.post("/keys/create", kept | {"name": "x", "role": "app", "days": "", "rate_limit": ""}).ok


def test_rotation_makes_a_second_key_and_leads_to_revoking_the_first(running: Running) -> None:
    browser = Browser(running).sign_in("admin", "ops")
    old_key = secret_of(created(browser, rate_limit="7"))
    (old,) = keys_named(running, "dispatch")
    form = form_of(browser.get(f"/keys/create?like={old.id}"), "/keys/create").fields
    page = browser.post("/keys/create", form)
    new_key = secret_of(page)
    new, _ = keys_named(running, "dispatch")
    assert (new.role, new.rate_limit, new.id != old.id) == (old.role, 7, True)
    headers = [{"Authorization": f"Bearer {key}"} for key in (old_key, new_key)]
    assert [running.get("/v1/bindings", header).status_code for header in headers] == [200, 200]
    path = f"/keys/{old.id}/revoke"
    assert path in Page(page.text).links
    asked = browser.get(path).text
    assert f"<code>{new.prefix}…</code> (auditor)" in asked
    assert "goes on" in asked
    assert browser.post(path).headers["Location"] == "/keys"
    assert browser.post(path).headers["Location"] == "/keys", "safe to repeat"
    running.app_state.authenticator._cache.clear()
    assert [running.get("/v1/bindings", header).status_code for header in headers] == [401, 200]
    (revoked,) = (key for key in keys_named(running, "dispatch") if key.revoked_at)
    assert revoked.revoked_by == "key:ops"
    assert "was revoked at" in browser.get(path).text


def test_revocation_says_what_stops_working(running: Running) -> None:
    browser = Browser(running).sign_in("admin", "ops")
    (own,) = keys_named(running, "ops")
    page = browser.get(f"/keys/{own.id}/revoke").text
    assert "you are signed out" in page
    assert "It is the last valid key with the role admin" in page
    assert "1 console session of this key ends immediately" in page
    assert "No other valid key has the name ops" in page
    created(browser, role="admin")
    (other,) = keys_named(running, "dispatch")
    page = browser.get(f"/keys/{other.id}/revoke").text
    assert "No console session of this key is listed" in page
    assert "It was never used." in page
    assert "last valid key" not in page
    assert "signed out" not in page
    assert browser.post(f"/keys/{own.id}/revoke").status_code == 303
    assert browser.get("/keys").headers["Location"].startswith("/sign-in")


def test_expired_key_is_shown_as_expired_and_revoking_it_stops_nothing(running: Running) -> None:
    browser = Browser(running).sign_in("admin", "ops")
    created(browser, days="1")
    (key,) = keys_named(running, "dispatch")
    past = "UPDATE keys SET expires_at = created_at WHERE id = :id"
    execute(running, past, key.id)
    assert '<span class="state">expired</span>' in browser.get("/keys").text
    assert "Nothing: the key has expired" in browser.get(f"/keys/{key.id}/revoke").text


def test_first_key_ends_the_access_without_a_key(running: Running) -> None:
    browser = Browser(running)
    assert "No key exists yet" in browser.get("/keys").text
    assert "This is the first key" in browser.get("/keys/create").text
    key = secret_of(created(browser, role="admin"))
    assert browser.get("/keys").headers["Location"] == "/sign-in?next=/keys"
    assert browser.post("/sign-in", {"key": key}).status_code == 303


def test_sessions_are_listed_and_end_on_request(running: Running) -> None:
    admin, eve = Browser(running).sign_in("admin", "ops"), Browser(running).sign_in("auditor", "eve")
    page = admin.get("/sessions")
    assert re.findall(r"signed in|\(this session\)", page.text).count("(this session)") == 1
    forms = {form.fields["id"] for form in Page(page.text).forms if form.action == "/sessions/end"}
    assert len(forms) == 2
    (of_eve,) = (session.id for session in running.service.sessions.list() if session.key.name == "eve")
    assert eve.get("/sessions").status_code == 200
    assert not [form for form in Page(eve.get("/sessions").text).forms if form.action == "/sessions/end"]
    for _ in range(2):
        assert admin.post("/sessions/end", {"id": of_eve}).headers["Location"] == "/sessions"
    assert eve.get("/").status_code == 303
    assert [session.key.name for session in running.service.sessions.list()] == ["ops"]
    assert admin.post("/sessions/end", {"id": "x"}).status_code == 404
    (own,) = (session.id for session in running.service.sessions.list())
    assert admin.submit("/sessions/end", {"id": own}).url.endswith("/sign-in?next=/sessions")


def added(browser: Browser, **fields: str) -> requests.Response:
    form = form_of(browser.get("/webhooks/add"), "/webhooks/add")
    return browser.post("/webhooks/add", form.fields | {"url": URL} | fields)


def only_webhook(running: Running) -> Webhook:
    (webhook,) = running.service.webhooks.list()
    return webhook


def test_new_webhook_shows_its_secret_once_and_a_form_that_is_sent_twice_adds_one(running: Running) -> None:
    browser = Browser(running).sign_in("admin", "ops")
    form = form_of(browser.get("/webhooks/add"), "/webhooks/add").fields | {"url": URL}
    page = browser.post("/webhooks/add", form | {"kind.expired": "1", "kind.unbound": "1"})
    secret = secret_of(page)
    webhook = only_webhook(running)
    assert (webhook.url, webhook.kinds, webhook.created_by) == (URL, ("expired", "unbound"), "key:ops")
    again = browser.post("/webhooks/add", form)
    assert (again.status_code, "This form was sent before" in again.text) == (409, True)
    assert only_webhook(running) == webhook
    for path in ("/webhooks", f"/webhooks/{webhook.id}", f"/webhooks/{webhook.id}/rotate"):
        assert secret not in browser.get(path).text
    wrong = added(browser, url="ftp://x", **{"kind.activated": "1"})
    assert (wrong.status_code, "<strong>URL</strong>" in wrong.text, 'value="ftp://x"' in wrong.text) == (
        422,
        True,
        True,
    )
    assert form_of(wrong, "/webhooks/add").fields["kind.activated"] == "1"


def test_rotation_form_that_is_sent_twice_changes_the_secret_once(running: Running) -> None:
    browser = Browser(running).sign_in("admin")
    first = secret_of(added(browser))
    path = f"/webhooks/{only_webhook(running).id}/rotate"
    form = form_of(browser.get(path), path).fields
    second = secret_of(browser.post(path, form))
    assert first != second
    again = browser.post(path, form)
    assert (again.status_code, SECRET.search(again.text)) == (409, None)
    page = browser.get(path)
    assert "The secret was rotated less than 24 hours ago" in page.text
    third = secret_of(browser.post(path, form_of(page, path).fields))
    assert third not in (first, second)
    assert browser.post(path, {"after": "2026-01-01"}).status_code == 400
    assert browser.post(path, {"after": "x"}).status_code == 400


def test_webhook_page_shows_health_and_sends_dead_deliveries_again(running: Running) -> None:
    service, browser = running.service, Browser(running).sign_in("admin", "ops")
    with Receiver(lambda _: Reply(status=500)) as receiver:
        webhook = service.webhooks.add(url=receiver.url, kinds=["activated"]).webhook
        feed_has_caught_up(service)
        binding = bind(running)
        feed_has_caught_up(service)
        deliver_pending(service.runtime)
        page = browser.get("/webhooks").text
        assert "0 of 1 delivered" in page
        assert "the receiver answered 500" in page
        execute(running, DEAD, webhook.id)
        path = f"/webhooks/{webhook.id}"
        assert f"{path}?state=dead" in Page(browser.get("/webhooks").text).links
        shown = browser.get(f"{path}?state=dead")
        assert f"/bindings/{binding.id}" in Page(shown.text).links
        assert A not in shown.text
        assert "No delivery is pending." in browser.get(f"{path}?state=pending").text
        assert browser.get(f"{path}?state=no").status_code == 422
        one, all_dead = (
            [form.fields for form in Page(shown.text).forms if form.action == f"{path}/redeliver"][index]
            for index in (1, 0)
        )
        receiver.answers = lambda _: Reply()
        for form in (one, one, all_dead):
            assert browser.post(f"{path}/redeliver", form).headers["Location"] == path
        deliver_pending(service.runtime)
        page = browser.get("/webhooks").text
        assert "1 of 1 delivered" in page
        execute(running, DEAD, webhook.id)
        browser.post(f"{path}/redeliver", all_dead)
        assert [delivery.state for delivery in service.webhooks.deliveries(webhook.id).data] == ["pending"]


def test_webhook_is_disabled_enabled_and_removed_with_what_is_lost(running: Running) -> None:
    service, browser = running.service, Browser(running).sign_in("admin", "ops")
    added(browser)
    path = f"/webhooks/{only_webhook(running).id}"
    for _ in range(2):
        assert browser.post(f"{path}/disable").headers["Location"] == path
    page = browser.get(path).text
    assert "by key:ops" in page
    assert "Nothing is sent. Events since then wait" in page
    browser.post(f"{path}/enable")
    assert only_webhook(running).disabled_at is None
    assert "0 pending and 0 dead deliveries are deleted" in browser.get(f"{path}/remove").text
    assert browser.post(f"{path}/remove").headers["Location"] == "/webhooks"
    assert browser.post(f"{path}/remove").status_code == 404
    assert service.webhooks.list() == []
    assert "No webhook yet" in browser.get("/webhooks").text


@pytest.mark.parametrize("role", ["auditor", "investigator"])
def test_reader_sees_no_path_of_a_webhook_and_no_form(running: Running, role: str) -> None:
    added(Browser(running).sign_in("admin", "ops"))
    browser = Browser(running).sign_in(role)
    for path in (*PAGES, f"/webhooks/{only_webhook(running).id}"):
        page = browser.get(path)
        assert page.status_code == 200
        assert "s3cret" not in page.text
        assert {form.action for form in Page(page.text).forms} <= {"/zone", "/sign-out"}
        assert not [link for link in Page(page.text).links if link.endswith(("/create", "/add", "/revoke"))]
    assert "https://receiver.example/…" in browser.get("/webhooks").text


def test_only_an_admin_may_change_and_an_app_sees_no_page(running: Running) -> None:
    admin = Browser(running).sign_in("admin", "ops")
    added(admin)
    webhook, (key,) = only_webhook(running), keys_named(running, "ops")
    session_id = running.service.sessions.list()[0].id
    forms = {
        "/keys/create": {"id": webhook.id, "name": "x", "role": "admin"},
        f"/keys/{key.id}/revoke": {},
        "/sessions/end": {"id": session_id},
        "/webhooks/add": {"id": key.id, "url": URL},
        **{f"/webhooks/{webhook.id}/{act}": {} for act in ("enable", "disable", "redeliver", "rotate", "remove")},
    }
    before = running.service.api_keys.list(), running.service.webhooks.list()
    for role in ("app", "auditor", "investigator"):
        browser = Browser(running).sign_in(role)
        assert [browser.post(path, form).status_code for path, form in forms.items()] == [403] * len(forms)
    for path in PAGES:
        assert Browser(running).sign_in("app", "other").get(path).status_code == 403
    assert len(running.service.api_keys.list()) == len(before[0]) + 7
    assert running.service.webhooks.list() == before[1]
    assert admin.get("/keys").status_code == 200


def test_holds_are_listed_masked_with_their_cause_and_end(running: Running, simulator: Simulator) -> None:
    browser = Browser(running).sign_in("auditor")
    assert "No phone is held without a binding" in browser.get("/holds").text
    simulator.script("refuse:-35", times=1, on="bind")
    with suppress(BindingsError):
        bind(running)
    orphan = simulator.add_foreign_binding(phone_a="919860000001", phone_b="919860000002", app_id=APP)
    running.service.reconcile()
    page = browser.get("/holds").text
    assert page.count('class="state in_doubt"') == 4
    assert "1 refusal in a row" in page
    assert f"bindId {orphan.bind_id}" in page
    assert mask("919860000001") in page
    assert not [phone for phone in (A, B, "919860000001", "919860000002") if phone in page]
    assert browser.get("/holds?after=x").status_code == 422


def test_holds_are_paged_without_a_gap(running: Running, simulator: Simulator) -> None:
    for number in range(3):
        simulator.add_foreign_binding(phone_a=f"91986000{number}01", phone_b=f"91986000{number}02", app_id=APP)
    running.service.reconcile()
    investigation, ids, cursor = running.service.investigation, [], None
    while True:
        page = investigation.holds_in_force(cursor=cursor, limit=4)
        ids += [row.id for row in page.data]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(ids) == len(set(ids)) == 6


def test_health_counts_to_its_limits(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    service = running.service
    webhooks = [service.webhooks.add(url=URL, kinds=["requested", "activated"]).webhook for _ in range(3)]
    feed_has_caught_up(service)
    bind(running)
    feed_has_caught_up(service)
    service.webhooks.disable(webhooks[2].id)
    with suppress(BindingsError):
        deliver_pending(service.runtime)
    assert [(entry.pending, entry.dead, entry.recent) for entry in service.webhooks.health()] == [
        (2, 0, 2),
        (2, 0, 2),
        (0, 0, 0),
    ]
    monkeypatch.setattr(webhook_health, "MAX_PENDING", 1)
    monkeypatch.setattr(webhook_health, "RECENT", 1)
    health = service.webhooks.health()
    assert [(entry.pending, entry.recent) for entry in health] == [(1, 1), (1, 1), (0, 0)]
    assert health[0].pending_is_at_least


def test_each_act_is_in_the_history_with_the_key_that_acted(running: Running) -> None:
    browser = Browser(running).sign_in("admin", "ops")
    (own,) = keys_named(running, "ops")
    created(browser, role="auditor")
    (key,) = keys_named(running, "dispatch")
    browser.post(f"/keys/{key.id}/revoke")
    added(browser)
    path = f"/webhooks/{only_webhook(running).id}"
    browser.post(f"{path}/disable")
    browser.post(f"{path}/enable")
    browser.post(f"{path}/rotate", form_of(browser.get(f"{path}/rotate"), f"{path}/rotate").fields)
    browser.post(f"{path}/remove")
    Browser(running).sign_in("auditor", "eve")
    (of_eve,) = (session.id for session in running.service.sessions.list() if session.key.name == "eve")
    browser.post("/sessions/end", {"id": of_eve})
    feed_has_caught_up(running.service)
    events = [
        event
        for event in running.service.events(limit=200).data
        if event.kind == "administered" and event.actor == "key:ops"
    ]
    assert [event.detail["act"] for event in events] == [
        "session.began",
        "key.created",
        "key.revoked",
        "webhook.added",
        "webhook.disabled",
        "webhook.enabled",
        "webhook.secret_rotated",
        "webhook.removed",
        "session.ended",
    ]
    assert {event.key_id for event in events} == {own.id}
    log = browser.get("/access").text
    assert "API key created" in log
    assert "s3cret" not in log
