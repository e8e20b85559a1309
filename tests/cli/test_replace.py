"""replace: the successor, what is said of the takeover, and every exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bindings.lifecycle import replace
from tests.cli.conftest import A, B, C, D
from tests.service.harness import wait_for
from tests.web.seed_states import DiedError, dies_at

if TYPE_CHECKING:
    from bindings.provider.simulator import Simulator
    from tests.cli.conftest import Shell

KEY = ("--idempotency-key", "order-1/2")


def test_replace_prints_the_successor_and_what_changed(shell: Shell) -> None:
    old = shell.bind(A, B, "--reference", "order-1").json
    result = shell.run("replace", old["id"], "--phone-b", "-", *KEY, "--json", stdin=f"{C}\n")
    new = result.json
    assert (result.code, result.err) == (0, "")
    assert (new["replaces"], new["phone_b"], new["reference"]) == (old["id"], "91******02", "order-1")
    ended = shell.run("get", old["id"])
    assert f"replaced_by          {new['id']}" in ended.out
    assert "reason               replaced" in ended.out
    again = shell.run("replace", old["id"], "--phone-b", C, *KEY)
    assert (again.code, new["id"] in again.out, "91******02" in again.out) == (0, True, True)
    replay, replaced, gap, number = again.err.splitlines()
    assert replay == "An earlier call with this idempotency key made it: nothing was sent now."
    assert replaced == f"It replaces binding {old['id']}, which has ended."
    assert gap.startswith("From the confirmed end of that one to the success of this one: 0.")
    changed = new["middle_number_a"] != old["middle_number_a"]
    assert number.startswith("A middle number has changed" if changed else "No middle number has changed")
    history = shell.run("history", new["id"]).out
    for text in (f"replaces={old['id']}", "cleared", "gap_s=0.", "middle_number_changed="):
        assert text in history
    traced = shell.run("trace", new["middle_number_a"], "--at", new["answered_at"], "--party", A)
    assert f"{new['id']} replaces {old['id']}" in traced.out
    assert (
        f"{old['id']} has the successor {new['id']}"
        in shell.run("trace", old["middle_number_a"], "--at", old["answered_at"]).out
    )


def test_refused_replace_changes_nothing_and_says_so(shell: Shell, simulator: Simulator) -> None:
    old = shell.bind(A, B).json
    other = shell.bind(C, D).json
    held = shell.run("replace", old["id"], "--phone-b", C)
    assert (held.code, held.out) == (3, "")
    assert other["id"] in held.err
    assert "The binding to be replaced" not in held.err
    wrong = shell.run("replace", old["id"], "--phone-b", "x", "--expire-s", "1.5", "--mode", "AB", "--json")
    assert (wrong.code, sorted(wrong.fields)) == (2, ["expire_s", "mode", "phone_b"])
    assert shell.run("replace", "nope").code == 4
    assert simulator.counts.received == {"bind": 2}
    new = shell.run("replace", old["id"], "--json").json
    again = shell.run("replace", old["id"], "--json")
    assert (again.code, again.problem["code"], again.problem["replaced_by"]) == (3, "already-replaced", new["id"])
    assert f"nothing was changed. Replace the successor: {new['id']}." in shell.run("replace", old["id"]).err
    shell.run("unbind", new["id"])
    ended = shell.run("replace", new["id"])
    assert (ended.code, "error: " in ended.err) == (3, True)


def test_error_says_whether_the_old_binding_has_ended(
    shell: Shell, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, kept = shell.bind(A, B).json, shell.bind(C, D).json
    simulator.script("lost_reply", times=1, on="unbind")
    with monkeypatch.context() as patch:
        patch.setattr(replace, "STEPS_S", -9.9)
        unclear = shell.run("replace", old["id"])
    assert (unclear.code, old["id"] in unclear.out) == (6, True)
    assert "has not confirmed the end of the binding to be replaced" in unclear.err
    assert "Replace it again in 10 s, with the same key if there was one: that goes on." in unclear.err
    assert "Do not bind again" not in unclear.err
    simulator.script("refuse:-41", times=1, on="bind")
    empty = shell.run("replace", old["id"])
    assert (empty.code, empty.out) == (7, "")
    assert "has ended, and nothing has taken its place" in empty.err
    assert "Try again in 60 s" in empty.err
    early = shell.run("replace", kept["id"])
    assert (early.code, "nothing was replaced" in early.err) == (7, True)
    simulator.script("lost_reply", times=1, on="bind")
    doubt = shell.run("replace", old["id"], "--force", *KEY)
    assert (doubt.code, f"replaces             {old['id']}" in doubt.out) == (6, True)
    assert "The binding to be replaced has ended. Do not bind again" in doubt.err
    problem = shell.run("replace", old["id"], *KEY, "--json").problem
    assert (problem["code"], problem["predecessor_ended"]) == ("outcome-unknown", True)


def test_recover_counts_the_replaces_that_stopped_before_the_successor_was_sent(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = shell.bind(A, B).json
    monkeypatch.setattr(replace, "STEPS_S", -9.9)  # the successor waits for a tenth of a second
    with dies_at("replace.after_begin"), pytest.raises(DiedError):
        shell.run("replace", old["id"])
    waiting = shell.run("get", str(shell.run("get", old["id"], "--json").json["replaced_by"]), "--json").json
    assert (waiting["state"], waiting["waits_for"]) == ("pending", old["id"])
    wait_for(lambda: "never sent: 1" in shell.run("recover").out)
    assert "1 replace(s) had stopped before the new binding was sent" in shell.results[-1].err
    assert shell.run("get", waiting["id"], "--json").json["reason"] == "never_sent"
