"""Seeded bugs: each is put into a copy of the source tree, and the tests must detect it.

    python -m tests.faults.mutations            every bug, as a table
    python -m tests.faults.mutations --fast     those that are marked `fast`

A bug is one or more edits of a named function (see `ast_edits`), made in the copy's files, so that every process
that the tests start has it. A bug that does not fit the code any more is an `EditMisfitError`, never skipped. It
counts as detected only if a test of its file (for most tests/faults/test_properties.py) ran and failed that passes
on an unchanged copy made at the same time; a copy that cannot be imported, or that hangs, does not count.

Not in the list, because no test can tell it from the product: dropping only the state from the outer UPDATE of the
expiry job on PostgreSQL. Its FOR UPDATE reads each row again after locking it, and drops what is no longer active;
`expire_without_recheck` removes both.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.ast_edits import (
    add_keyword,
    assign_parameter,
    calls,
    compares,
    edit_source,
    insert_before,
    literal,
    move_before,
    reads,
    remove,
    rename_call,
    repeat_if,
    replace,
    replace_body,
    replace_by_argument,
    replace_by_receiver,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.ast_edits import Edit

ROOT = Path(__file__).parents[2]
COPIED = ("bindings", "migrations", "tests", "pyproject.toml", "alembic.ini")
TESTS = "tests/faults/test_properties.py"
RESTORE = "tests/faults/test_restore.py"
SCAN_END = "tests/service/test_scan_end.py"
ODD_ROWS = "tests/service/test_reconcile_odd_rows.py"
STOP = "tests/service/test_run_control.py"
CLOCK_JUMPS = "tests/faults/test_clock_jumps.py"
FORK = "tests/service/test_fork.py"
SQLITE_FILE = "tests/store/test_sqlite_file.py"
CONNECTIONS = "tests/faults/test_connection_limit.py"
ADMISSION = "tests/service/test_admission.py"
LANES = "tests/web/test_lanes.py"
BIND_IDS = "tests/service/test_bind_id_given_again.py"
EXTEND = "tests/service/test_extend.py"
RELEASE = "tests/service/test_release.py"
LOOK = "tests/service/test_look.py"
REPLACE = "tests/service/test_replace.py"
REPLACE_RACES = "tests/service/test_replace_races.py"
CONFLICTS = "tests/service/test_conflicts.py"
MARK_ABSENT = "tests/service/test_mark_absent.py"
RECONCILE = "tests/service/test_reconcile.py"
SCAN_EVIDENCE = "tests/unit/test_scan_evidence.py"
ERASURE = "tests/service/test_erasure.py"
PHONE_SEALING = "tests/service/test_phone_sealing.py"
SEAL_JOB = "tests/sealing/test_seal_job.py"
RETENTION = "tests/store/test_retention.py"
RESERVE = "tests/store/test_reserve.py"
COMMITS = "tests/faults/test_commit_in_doubt.py"
RUN_TIMEOUT_S = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Bug:
    """A seeded bug, and the tests (an expression of pytest's -k) that exist to detect it.

    `target` is what the `edits` change, as `package.module:name`.
    """

    name: str
    target: str
    edits: tuple[Edit, ...]
    detected_by: str
    fast: bool = False
    tests: str = TESTS

    @property
    def file(self) -> str:
        """Return the target's file, relative to the root of the tree."""
        return self.target.partition(":")[0].replace(".", "/") + ".py"

    def seeded(self, source: str) -> str:
        """Return the source of the target's module with the bug in it; raises `EditMisfitError`."""
        return edit_source(source, self.target, self.edits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The result of the tests on a bug; `test` is the one that detected it, or empty."""

    bug: Bug
    test: str
    seconds: float
    output: str


def bug(name: str, target: str, *edits: Edit, **options: Any) -> Bug:
    """Build a bug from its edits."""
    return Bug(name=name, target=target, edits=edits, **options)


BUGS: tuple[Bug, ...] = (
    bug(
        "no_compare_and_set",
        "bindings.store.bindings:build_change",
        assign_parameter("from_states", "tuple(State)"),
        detected_by="adopted_and_unbound_binding_changes_nothing and sqlite",
        fast=True,
    ),
    bug(
        "no_advisory_lock",
        "bindings.store.database:_locks",
        replace_by_argument("pg_advisory_xact_lock"),
        detected_by="replicas_reserving_simultaneously and postgresql",
        fast=True,
    ),
    bug(
        "locks_in_any_order",
        "bindings.store.database:Transaction.lock",
        replace_by_argument("sorted"),
        detected_by="locks_are_taken_in_one_order",
        fast=True,
    ),
    bug(
        "unknown_outcome_holds_nothing",
        "bindings.store.settle:settle_unknown",
        add_keyword(calls("transition"), "held_until", "NOW"),
        detected_by="unknown_outcome_frees_no_phone and sqlite",
        fast=True,
    ),
    bug(
        "begin_instead_of_begin_immediate",
        "bindings.store.engine:_begin_immediate",
        replace(literal("BEGIN IMMEDIATE"), "'BEGIN'"),
        detected_by="second_writer_begins",
        fast=True,
    ),
    bug(
        "child_uses_the_connections_of_its_parent",
        "bindings.store.process_connections:ProcessConnections.after_fork_in_child",
        replace_body("pass"),
        tests=FORK,
        detected_by="multiprocessing and postgresql",
    ),
    bug(
        "file_stays_open_during_a_fork",
        "bindings.store.fork_gate:ForkGate.before_fork",
        replace_body("self._forks += 1"),
        tests=FORK,
        detected_by="child_of_a_child and sqlite",
    ),
    bug(
        "replaced_file_is_not_noticed",
        "bindings.store.process_connections:ProcessConnections.require_file",
        replace_body("pass"),
        tests=SQLITE_FILE,
        detected_by="replaced_file_refuses",
    ),
    bug(
        "no_begin_at_all",
        "bindings.store.engine:_begin_immediate",
        replace_body("pass"),
        detected_by="interrupted_transaction and sqlite",
    ),
    bug(
        "sign_after_the_check",
        "bindings.provider.client:ProviderClient._post",
        move_before(compares("send_before"), calls("timestamp")),
        detected_by="signed_too_late and sqlite",
        fast=True,
    ),
    bug(
        "no_guard_after_the_end",
        "bindings.lifecycle.clocks:SendClock.success",
        assign_parameter("guard_s", "0.0"),
        detected_by="for_the_guard_time_after_the_end and sqlite",
    ),
    bug(
        "adopt_regardless_of_the_end",
        "bindings.jobs.scan_evidence:matches_intent",
        replace(compares("ends_at"), "True"),
        detected_by="ends_outside_the_window and sqlite",
    ),
    bug(
        "absence_after_one_scan",
        "bindings.jobs.reconcile:_reconcile_app",
        replace(calls("_scan_again"), "first"),
        detected_by="one_scan_of_the_list and sqlite",
    ),
    bug(
        "a_row_of_an_ended_binding_holds_nothing",
        "bindings.jobs.scan_evidence:is_revenant",
        replace_body("return False"),
        detected_by="living_binding_that_ended_here and sqlite",
        fast=True,
    ),
    bug(
        "unbind_of_an_ended_binding_makes_no_call",
        "bindings.lifecycle.unbind:_end_at_provider",
        replace_body("return binding"),
        detected_by="living_binding_that_ended_here and sqlite",
    ),
    bug(
        "every_listed_row_explains_a_refusal",
        "bindings.jobs.reconcile_orphans:_is_held_otherwise",
        replace_body("return True"),
        detected_by="outlasts_a_scan_that_holds_nothing_else and sqlite",
    ),
    bug(
        "a_binding_of_this_minute_is_a_ghost",
        "bindings.jobs.reconcile_absences:live_bindings_seen",
        replace(reads("LIST_LAG"), "(since - since)"),
        detected_by="late_list_does_not_show_yet and sqlite",
    ),
    bug(
        "swapped_numbers_stay_swapped",
        "bindings.jobs.reconcile_rows:_adopt",
        replace(compares("phone_b"), "False"),
        detected_by="swapped_parties and sqlite",
    ),
    bug(
        "now_instead_of_clock_timestamp",
        "bindings.store.database:_SERVER_NOW",
        rename_call("clock_timestamp", "now"),
        detected_by="clock_is_read_after_the_lock",
    ),
    bug(
        "failed_binding_holds_its_phones",
        "bindings.store.reserve:_holding",
        replace(calls("in_state"), "in_state(State.LAPSED)"),
        tests=CLOCK_JUMPS,
        detected_by="failed_binding_holds_nothing and postgresql",
    ),
    bug(
        "instant_of_a_jumped_clock_is_written",
        "bindings.store.bindings:build_change",
        replace(calls("clamp"), "dialect.now"),
        tests=CLOCK_JUMPS,
        detected_by="failure_recorded_after_a_jump and postgresql",
    ),
    bug(
        "bind_under_a_jumped_clock_is_recorded",
        "bindings.store.reserve:reserve",
        assign_parameter("verify_clock", "None"),
        tests=CLOCK_JUMPS,
        detected_by="meets_a_jump and postgresql",
    ),
    bug(
        "expire_under_a_clock_in_doubt",
        "bindings.jobs.batches:DueBatches.run",
        replace(calls("verify_clock"), "None"),
        tests=CLOCK_JUMPS,
        detected_by="nothing_ends_by_time and library and postgresql",
    ),
    bug(
        "unbind_trusts_a_clock_in_doubt",
        "bindings.store.settle:request_unbind",
        assign_parameter("in_doubt", "lambda _: False"),
        tests=CLOCK_JUMPS,
        detected_by="unbind_under_a_jumped_clock and postgresql",
    ),
    bug(
        "held_from_the_clock_of_the_process_alone",
        "bindings.store.settle:Success.recorded_at",
        replace_body("return self"),
        tests=CLOCK_JUMPS,
        detected_by="pause_that_no_clock_counted and sqlite",
    ),
    bug(
        "minus_24_frees_immediately",
        "bindings.store.settle:settle_unbound",
        assign_parameter("guard_s", "0.0"),
        detected_by="unbind_that_finds_no_binding and sqlite",
    ),
    bug(
        "expire_without_recheck",
        "bindings.store.expiry:_batch",
        replace_by_receiver("with_for_update"),
        replace(calls("case"), "true()"),
        detected_by="expire_during_an_unbind and postgresql",
    ),
    bug(
        "expire_in_any_state",
        "bindings.store.expiry:_expiry",
        remove(calls("in_state")),
        detected_by="expire_ends_active_bindings_only",
    ),
    bug(
        "a_refusal_uses_up_the_key",
        "bindings.store.reserve:reserve",
        insert_before(
            calls("Conflict"),
            "if request.idempotency_key is not None:\n"
            "    _insert(tx, new_intent(binding_id, request, limits, caller, now), caller, 'idempotency_key')",
        ),
        detected_by="refusal_uses_up_no_key and sqlite",
    ),
    bug(
        "a_proved_absence_frees_the_key",
        "bindings.store.settle:_fail",
        replace(compares("FREES_KEY"), "True"),
        tests="tests/service/test_idempotency.py",
        detected_by="uses_up_the_key and sqlite",
    ),
    bug(
        "key_of_what_was_to_be_unbound_is_freed",
        "bindings.store.settle:_fail",
        replace(literal("unbind_not_requested"), "None"),
        tests="tests/service/test_idempotency.py",
        detected_by="keeps_its_key_when_it_is_refused and sqlite",
    ),
    bug(
        "freed_key_is_taken_for_a_conflict",
        "bindings.store.reserve:_may_be_own_intent",
        replace_body("return False"),
        tests="tests/service/test_idempotency.py",
        detected_by="freed_before_it_is_read and postgresql",
    ),
    bug(
        "bind_is_sent_again",
        "bindings.provider.client:ProviderClient._call",
        repeat_if(calls("_post"), "isinstance({result}, Unknown)"),
        detected_by="request_is_sent_once and sqlite",
    ),
    bug(
        "redirects_are_followed",
        "bindings.http_transport:_exchange",
        insert_before(
            calls("Reply"),
            "if response.is_redirect:\n"
            "    requests.get(requests.compat.urljoin(url, response.headers['Location']), timeout=5)",
        ),
        detected_by="request_is_sent_once and sqlite",
    ),
    bug(
        "minus_18_is_a_refusal",
        "bindings.provider.statuses:STATUSES",
        add_keyword(calls("Status", code="ANOMALY"), "refusal", "Refusal.REQUEST"),
        detected_by="unknown_outcome_frees_no_phone and sqlite",
    ),
    bug(
        "a_lost_reply_was_never_sent",
        "bindings.http_transport:post",
        replace(compares("sent"), "True"),
        detected_by="unknown_outcome_frees_no_phone and sqlite",
    ),
    bug(
        "the_feed_does_not_wait",
        "bindings.store.events:final_events",
        assign_parameter("postgres", "False"),
        detected_by="feed_waits",
    ),
    bug(
        "strict_lets_an_axxb_pass_a_doubt",
        "bindings.domain.conflict:conflict_rule",
        replace(compares("policy"), "policy is Policy.STRICT and state not in (State.PENDING, State.IN_DOUBT)"),
        detected_by="under_strict and sqlite",
    ),
    bug(
        "a_rollback_is_not_detected",
        "bindings.store.rollback_detection:was_rolled_back",
        replace_body("return False"),
        tests=RESTORE,
        detected_by="detects_a_database_rollback and sqlite",
    ),
    bug(
        "a_rollback_is_detected_after_its_full_scan",
        "bindings.store.rollback_detection:was_rolled_back",
        replace(calls("full_scan_completed_since"), "False"),
        tests=RESTORE,
        detected_by="detects_a_database_rollback and sqlite",
    ),
    bug(
        "a_late_success_is_not_held",
        "bindings.store.holds:hold_late_success",
        replace_body("return None"),
        tests=RESTORE,
        detected_by="whose_intent_was_lost and sqlite",
    ),
    bug(
        "binds_do_not_wait_for_the_full_scan",
        "bindings.store.reserve:reserve",
        replace(compares("scan_owed_since"), "True"),
        tests=RESTORE,
        detected_by="binds_after_a_restore_wait and sqlite",
    ),
    bug(
        "an_incomplete_scan_is_trusted",
        "bindings.jobs.reconcile:ReconcileResult.trusted",
        replace(reads("incomplete"), "0"),
        tests=RESTORE,
        detected_by="binds_after_a_restore_wait and sqlite",
    ),
    bug(
        "the_full_scan_reads_open_applications_only",
        "bindings.store.queries:all_apps",
        replace_body("return open_apps(connection)"),
        tests=RESTORE,
        detected_by="every_application and sqlite",
    ),
    bug(
        "a_waiting_commit_is_cancelled",
        "bindings.store.deadline_connection:DeadlineConnection.commit",
        replace_body("super().commit()"),
        tests=CONNECTIONS,
        detected_by="waiting_commits_are_left_alone",
    ),
    bug(
        "a_waiting_statement_is_not_cancelled",
        "bindings.store.deadline_connection:DeadlineConnection._give_up",
        replace_body("self.close()"),
        tests=CONNECTIONS,
        detected_by="is_cancelled_at_the_server",
    ),
    bug(
        "a_dropped_connection_does_not_count",
        "bindings.store.connection_limit:ConnectionLimit._count_dropped",
        replace_body("return 0"),
        tests=CONNECTIONS,
        detected_by="waiting_commits_are_left_alone",
    ),
    bug(
        "a_refused_list_stops_binds",
        "bindings.provider.client:ProviderClient.page",
        replace(reads("page"), "self.circuits.bind"),
        tests=ADMISSION,
        detected_by="may_not_read_the_list and sqlite",
    ),
    bug(
        "an_undocumented_answer_stops_no_bind",
        "bindings.provider.circuit:_repeatable",
        replace_body("return None"),
        tests=ADMISSION,
        detected_by="same_unclear_answer and sqlite",
    ),
    bug(
        "a_slow_receiver_keeps_its_place",
        "bindings.webhooks.lanes:Pace.is_slow",
        replace_body("return False"),
        tests=LANES,
        detected_by="frees_its_place",
    ),
    bug(
        "earlier_use_of_a_bind_id_stays_open",
        "bindings.store.settle:_end_earlier_use",
        replace_body("return False"),
        detected_by="yes_with_the_id and sqlite",
        tests=BIND_IDS,
    ),
    bug(
        "ended_binding_explains_a_row_of_another_pair",
        "bindings.jobs.scan_evidence:binding_of",
        replace(calls("same_pair"), "True"),
        detected_by="foreign_row_with_the_id and sqlite",
        tests=BIND_IDS,
    ),
    bug(
        "a_list_shorter_than_its_total_proves_absence",
        "bindings.jobs.provider_scan:Scan.proves_absence",
        replace(reads("total_seen"), "True"),
        tests=SCAN_END,
        detected_by="too_large_leaves_absence_unproved and sqlite",
    ),
    bug(
        "repeated_pages_are_the_end_of_the_list",
        "bindings.jobs.provider_scan:_Reading.check_end",
        replace_body("return None"),
        tests=SCAN_END,
        detected_by="answers_every_page_with_the_first and sqlite",
    ),
    bug(
        "an_odd_row_does_not_count_for_absence",
        "bindings.jobs.provider_scan:Scan.proves_absence",
        replace(reads("odd_rows"), "()"),
        tests=ODD_ROWS,
        detected_by="leaves_ghosts_and_absences_unproved and sqlite",
    ),
    bug(
        "an_odd_row_holds_nothing",
        "bindings.jobs.reconcile_odd_rows:hold_odd_rows",
        replace_body("return None"),
        tests=ODD_ROWS,
        detected_by="I4_phones_of_an_odd_row and sqlite",
    ),
    bug(
        "one_row_stops_the_reconciliation",
        "bindings.jobs.reconcile_context:Findings.isolate",
        replace_body("yield"),
        tests=ODD_ROWS,
        detected_by="handling_fails_is_named and sqlite",
    ),
    bug(
        "a_scan_does_not_stop",
        "bindings.jobs.provider_scan:_Reading._fetch",
        replace(calls("is_stopping"), "False"),
        tests=STOP,
        detected_by="reads_no_further_page and sqlite",
    ),
    bug(
        "the_writing_of_orphans_does_not_stop",
        "bindings.jobs.run_control:RunControl.work_through",
        replace(calls("is_stopping"), "False"),
        tests=STOP,
        detected_by="leaves_the_others_to_the_next_run and sqlite",
    ),
    bug(
        "moved_end_loses_the_end_of_the_provider",
        "bindings.store.end_changes:_movement",
        insert_before(calls("update"), "values.pop('provider_expires_at')"),
        tests=EXTEND,
        detected_by="older_version_keeps_the_provider_end and sqlite",
    ),
    bug(
        "drift_narrows_only_the_promised_end",
        "bindings.store.end_changes:_narrowing",
        insert_before(calls("update"), "values.pop('provider_expires_at')"),
        tests=EXTEND,
        detected_by="drift_narrows_both_ends and sqlite",
    ),
    bug(
        "drift_narrows_only_the_end_of_the_provider",
        "bindings.store.end_changes:_narrowing",
        insert_before(calls("update"), "values.pop('expires_at')"),
        tests=EXTEND,
        detected_by="drift_narrows_both_ends and sqlite",
    ),
    bug(
        "drift_is_measured_from_the_promised_end",
        "bindings.jobs.scan_evidence:shorter_end",
        replace(compares("ends_at"), "row.ends_at < binding.expires_at"),
        tests=RELEASE,
        detected_by="lists_an_earlier_end and sqlite",
    ),
    bug(
        "release_stays_owed_after_its_confirmation",
        "bindings.store.settle:_confirm_unbind",
        replace(compares("provider_expires_at"), "False"),
        tests=EXTEND,
        detected_by="is_not_asked_for_again and sqlite",
    ),
    bug(
        "extend_past_the_end_of_the_provider",
        "bindings.store.end_changes:_movement",
        replace(compares("PROVIDER_END"), "new_end > expires_at"),
        detected_by="extended_no_further_than_the_provider and sqlite",
    ),
    bug(
        "extend_of_a_binding_past_its_end",
        "bindings.store.end_changes:_movement",
        replace(compares("now"), "in_state(State.ACTIVE)"),
        detected_by="past_its_promised_end_is_not_extended and sqlite",
    ),
    bug(
        "extend_of_a_binding_that_is_to_be_unbound",
        "bindings.store.end_changes:_movement",
        replace(reads("unbind_requested_at"), "bindings.c.ended_at"),
        detected_by="to_be_unbound_is_not_extended and sqlite",
    ),
    bug(
        "unbind_after_the_promised_end_releases_nothing",
        "bindings.lifecycle.unbind:_end_at_provider",
        replace(calls("is_release_owed"), "False"),
        tests=EXTEND,
        detected_by="unbind_at_or_after_the_promised_end and sqlite",
    ),
    bug(
        "recover_releases_nothing",
        "bindings.jobs.recover:_release_expired",
        replace_body("return 0"),
        detected_by="a_promised_end_is_released and sqlite",
    ),
    bug(
        "release_ends_the_binding_that_has_the_id_now",
        "bindings.lifecycle.unbind:release",
        replace(calls("read"), "False"),
        tests=RELEASE,
        detected_by="id_is_another_binding_s and sqlite",
    ),
    bug(
        "released_binding_of_a_late_list_is_held",
        "bindings.jobs.scan_evidence:_unbound_at",
        replace(compares("EXPIRED"), "False"),
        tests=RELEASE,
        detected_by="late_list_still_shows and sqlite",
    ),
    bug(
        "adopted_binding_loses_the_end_of_the_provider",
        "bindings.jobs.reconcile_rows:_adopt",
        replace(compares("max_expire_s"), "True"),
        tests=EXTEND,
        detected_by="adopted_binding_keeps_both_ends and sqlite",
    ),
    bug(
        "doubt_is_looked_for_with_the_promised_lifetime",
        "bindings.jobs.scan_evidence:matches_intent",
        replace(reads("provider_expire_s"), "intent.expire_s"),
        tests=EXTEND,
        detected_by="adopted_binding_keeps_both_ends and sqlite",
    ),
    bug(
        "look_adopts_an_axxb",
        "bindings.jobs.look:_adoptable",
        replace(compares("mode"), "True"),
        tests=LOOK,
        detected_by="adopts_nothing_else and sqlite",
    ),
    bug(
        "look_adopts_before_the_response_is_overdue",
        "bindings.jobs.look:_adoptable",
        replace(compares("settle_by"), "True"),
        tests=LOOK,
        detected_by="younger_doubt and sqlite",
    ),
    bug(
        "look_adopts_regardless_of_the_end",
        "bindings.jobs.scan_evidence:matches_intent",
        replace(compares("ends_at"), "True"),
        tests=LOOK,
        detected_by="adopts_nothing_else and sqlite",
    ),
    bug(
        "look_adopts_regardless_of_the_pair",
        "bindings.jobs.scan_evidence:same_pair",
        replace_body("return row.phone_a.key == binding.phone_a.key"),
        tests=LOOK,
        detected_by="adopts_nothing_else and sqlite",
    ),
    bug(
        "look_proves_absence",
        "bindings.jobs.provider_scan:Scan.complete",
        replace_body("return self.error is None"),
        tests=LOOK,
        detected_by="partial_scan",
        fast=True,
    ),
    bug(
        "processes_of_older_versions_are_not_looked_for",
        "bindings.lifecycle.older_versions:OlderVersions.require_none",
        replace_body("return None"),
        tests=EXTEND,
        detected_by="older_version_is_at_work and sqlite",
    ),
    bug(
        "waiting_successor_holds_nothing",
        "bindings.store.successors:begin",
        insert_before(calls("_record"), "successor = replace(successor, held_until=now)"),
        tests=REPLACE,
        detected_by="not_free_in_between and sqlite",
    ),
    bug(
        "replaced_binding_is_still_offered",
        "bindings.store.successors:_link",
        insert_before(calls("transition"), "values.pop('unbind_requested_at', None)"),
        tests=REPLACE,
        detected_by="not_free_in_between and sqlite",
    ),
    bug(
        "second_caller_with_the_key_sends_too",
        "bindings.store.successors:begin",
        insert_before(
            calls("_replay"),
            "earlier = reserve.replay(tx.connection, request, predecessor.actor)\n"
            "if earlier is not None and earlier.binding.waits_for is not None:\n"
            "    return Begun(successor=earlier.binding, predecessor=get(tx, predecessor.id))",
        ),
        tests=REPLACE,
        detected_by="two_callers_with_one_key",
    ),
    bug(
        "living_successor_allows_another_one",
        "bindings.store.successors:_why_not_replaceable",
        replace(compares("FAILED"), "False"),
        tests=REPLACE,
        detected_by="living_successor_refuses and sqlite",
    ),
    bug(
        "exhausted_pool_ends_the_predecessor",
        "bindings.store.successors:_why_not_now",
        replace(compares("now"), "False"),
        tests=REPLACE,
        detected_by="lost_pool_refuses and sqlite",
    ),
    bug(
        "overdue_successor_is_not_ended_by_recover",
        "bindings.jobs.recover:_end_overdue_successors",
        replace_body("return 0"),
        tests=REPLACE,
        detected_by="abandoned_successor_is_ended and sqlite",
    ),
    bug(
        "overdue_successor_is_not_ended_by_a_retry",
        "bindings.store.successors:_end_overdue",
        replace_body("return None"),
        tests=REPLACE,
        detected_by="retry_ends_an_abandoned and sqlite",
    ),
    bug(
        "successor_that_is_to_be_unbound_is_sent",
        "bindings.store.successors:clear",
        replace(literal("waiting_in_time"), "'waiting'"),
        tests=REPLACE,
        detected_by="to_be_unbound_is_never_sent and sqlite",
    ),
    bug(
        "successor_is_sent_past_its_time",
        "bindings.store.bindings:_condition",
        replace(compares("settle_by"), "bindings.c.waits_for.is_not(None)"),
        tests=REPLACE,
        detected_by="lasts_too_long_sends_nothing and sqlite",
    ),
    bug(
        "key_of_what_was_never_sent_is_kept",
        "bindings.store.settle:FREES_KEY",
        remove(reads("NEVER_SENT")),
        tests=REPLACE,
        detected_by="abandoned_successor_is_ended and sqlite",
    ),
    bug(
        "key_of_a_waiting_successor_that_was_to_be_unbound_is_freed",
        "bindings.store.settle:_fail",
        replace(literal("waiting_and_unbind_not_requested"), "'waiting'"),
        tests=REPLACE,
        detected_by="to_be_unbound_is_never_sent and sqlite",
    ),
    bug(
        "same_request_with_another_predecessor_is_a_repetition",
        "bindings.store.reserve:request_digest",
        replace(reads("replaces"), "None"),
        tests=REPLACE,
        detected_by="key_of_a_replace and sqlite",
    ),
    bug(
        "guard_of_the_predecessor_refuses_its_successor",
        "bindings.store.reserve:holders",
        replace(compares("replaces"), "True"),
        tests=REPLACE,
        detected_by="guard_of_the_predecessor and sqlite",
    ),
    bug(
        "guard_of_the_predecessor_counts_as_our_own_refusal",
        "bindings.store.settle:settle_in_use",
        replace(compares("replaces", ast.NotIn), "row.id not in (None, intent.id)"),
        tests=REPLACE,
        detected_by="guard_of_the_predecessor and sqlite",
    ),
    bug(
        "refusal_behind_the_own_unbind_holds_the_phones",
        "bindings.store.settle:settle_in_use",
        replace(compares("replaces", ast.Is), "True"),
        tests=REPLACE,
        detected_by="goes_on_after_a_refusal and sqlite",
    ),
    bug(
        "expired_predecessor_lives_on_at_the_provider",
        "bindings.lifecycle.replace:_known_end",
        replace(compares("EXPIRED"), "False"),
        tests=REPLACE,
        detected_by="release_that_is_owed and sqlite",
    ),
    bug(
        "end_of_the_predecessor_is_not_recorded",
        "bindings.lifecycle.replace:_record_end",
        replace(compares("reason"), "False"),
        tests=REPLACE,
        detected_by="release_that_is_owed and sqlite",
    ),
    bug(
        "replace_beside_processes_of_an_older_version",
        "bindings.lifecycle.replace:_replace",
        replace(calls("require_none"), "None"),
        tests=EXTEND,
        detected_by="replace_alone_is_refused and sqlite",
    ),
    bug(
        "predecessor_is_unbound_under_the_id_of_another_binding",
        "bindings.lifecycle.replace:_known_end",
        replace(reads("is_bind_id_used_again"), "lambda connection, ended: False"),
        tests=BIND_IDS,
        detected_by="replaced_without_an_unbind and sqlite",
    ),
    bug(
        "waiting_successor_is_marked_in_doubt",
        "bindings.store.expiry:_overdue",
        remove(calls("is_")),
        tests=REPLACE_RACES,
        detected_by="takes_a_waiting_successor and sqlite",
    ),
    bug(
        "waiting_successor_in_doubt_is_listed",
        "bindings.store.queries:_doubts",
        insert_before(calls("materialized"), "conditions = (in_state(State.IN_DOUBT), *conditions[1:])"),
        tests=REPLACE_RACES,
        detected_by="takes_a_waiting_successor and sqlite",
    ),
    bug(
        "overdue_successor_is_listed_as_unsettled",
        "bindings.store.queries:_doubts",
        insert_before(
            calls("materialized"),
            "conditions = (conditions[0], and_(in_state(State.PENDING), bindings.c.settle_by <= now))",
        ),
        tests=REPLACE_RACES,
        detected_by="takes_a_waiting_successor and sqlite",
    ),
    bug(
        "waiting_successor_explains_a_foreign_row",
        "bindings.store.queries:unsettled",
        remove(calls("is_")),
        tests=REPLACE_RACES,
        detected_by="takes_a_waiting_successor and sqlite",
    ),
    bug(
        "cleared_successor_is_ended_as_never_sent",
        "bindings.store.settle:end_waiting",
        replace(literal(True), "False"),
        tests=REPLACE_RACES,
        detected_by="cleared_successor_is_not_ended and sqlite",
    ),
    bug(
        "overdue_successor_is_left_out_of_a_bulk_release",
        "bindings.store.open_bindings:_branches",
        replace(compares("settle_by"), "bindings.c.settle_by.is_(None)"),
        tests=REPLACE_RACES,
        detected_by="not_brought_back and sqlite",
    ),
    bug(
        "second_transaction_locks_no_phones",
        "bindings.store.successors:clear",
        replace(calls("lock_phones"), "(tx.instant(), ())"),
        tests=REPLACE_RACES,
        detected_by="rival_waits_for_the_commit and postgresql",
    ),
    bug(
        "second_transaction_reads_the_clock_before_its_locks",
        "bindings.store.successors:clear",
        insert_before(calls("lock_phones"), "earlier = tx.instant()"),
        insert_before(calls("settle_predecessor"), "now = earlier"),
        tests=REPLACE_RACES,
        detected_by="read_after_its_locks and postgresql",
    ),
    bug(
        "extension_that_is_attempted_again_counts_from_then",
        "bindings.lifecycle.extend:extend",
        replace(compares("began_at"), "binding.expires_at is not None and now + lifetime <= binding.expires_at"),
        tests=EXTEND,
        detected_by="attempted_again and sqlite",
    ),
    bug(
        "refusal_names_the_holder_that_ends_first",
        "bindings.store.reserve:holders",
        replace(literal(True), "False"),
        tests=CONFLICTS,
        detected_by="two_holders and sqlite",
    ),
    bug(
        "hold_is_ended_twice",
        "bindings.store.holds:end_holds",
        remove(compares("held_until")),
        tests=RESERVE,
        detected_by="two_processes_end and sqlite",
    ),
    bug(
        "late_success_that_is_unknown_frees_immediately",
        "bindings.lifecycle.unbind:end_holds_of_unbound",
        replace(calls("guard_for"), "0.0"),
        tests=MARK_ABSENT,
        detected_by="provider_does_not_know and sqlite",
    ),
    bug(
        "late_success_is_an_orphan",
        "bindings.jobs.reconcile_rows:apply_rows",
        replace(compares("owed_bind_ids"), "True"),
        tests=MARK_ABSENT,
        detected_by="is_no_orphan and sqlite",
    ),
    bug(
        "pending_binding_is_adopted",
        "bindings.jobs.scan_evidence:adoptions",
        replace(compares("IN_DOUBT"), "True"),
        tests=SCAN_EVIDENCE,
        detected_by="alone_with_its_row",
    ),
    bug(
        "row_settles_one_of_two_doubts",
        "bindings.jobs.scan_evidence:adoptions",
        replace(calls("len"), "len(doubts[:1])"),
        tests=SCAN_EVIDENCE,
        detected_by="alone_with_its_row",
    ),
    bug(
        "more_ghosts_than_witnesses",
        "bindings.jobs.scan_evidence:ghosts",
        replace(calls("min"), "10**9"),
        tests=SCAN_EVIDENCE,
        detected_by="prove_ghosts",
    ),
    bug(
        "scans_that_disagree_prove_ghosts",
        "bindings.jobs.scan_evidence:ghosts",
        replace(compares("second_live", ast.NotEq), "False"),
        tests=SCAN_EVIDENCE,
        detected_by="prove_ghosts",
    ),
    bug(
        "absence_before_the_list_must_show_a_binding",
        "bindings.jobs.scan_evidence:absence_provable",
        replace(compares("listed_by"), "True"),
        tests=SCAN_EVIDENCE,
        detected_by="absence_is_proved",
    ),
    bug(
        "absence_after_the_end_of_a_binding",
        "bindings.jobs.scan_evidence:absence_provable",
        replace(compares("listed_until"), "True"),
        tests=SCAN_EVIDENCE,
        detected_by="absence_is_proved",
    ),
    bug(
        "ghost_under_a_jumped_clock",
        "bindings.jobs.reconcile_absences:_end_ghost",
        replace(calls("verify"), "None"),
        tests=CLOCK_JUMPS,
        detected_by="did_not_list and postgresql",
    ),
    bug(
        "absence_under_a_jumped_clock",
        "bindings.jobs.reconcile_absences:_fail_absent",
        replace(calls("verify"), "None"),
        tests=CLOCK_JUMPS,
        detected_by="did_not_list and postgresql",
    ),
    bug(
        "refusal_is_denied_twice",
        "bindings.jobs.reconcile_absences:_unlisted_holds",
        replace(compares("strikes"), "True"),
        tests=RECONCILE,
        detected_by="denied_before and sqlite",
    ),
    bug(
        "row_of_a_late_list_is_adopted",
        "bindings.jobs.reconcile_rows:adopt_listed",
        replace(compares("stale_ids"), "True"),
        tests=RECONCILE,
        detected_by="not_taken_for_the_doubt and sqlite",
    ),
    bug(
        "encrypted_phone_outlives_its_erasure",
        "bindings.store.erasure:_erasing",
        insert_before(calls("update"), "del values[f'phone_{side}_sealed']"),
        tests=ERASURE,
        detected_by="could_be_recognized and sqlite",
    ),
    bug(
        "salt_outlives_an_erasure",
        "bindings.store.erasure:_BLANK",
        remove(literal("facts_salt")),
        tests=ERASURE,
        detected_by="could_be_recognized and sqlite",
    ),
    bug(
        "freed_key_outlives_an_erasure",
        "bindings.store.erasure:_BLANK",
        remove(literal("freed_key")),
        tests=ERASURE,
        detected_by="could_be_recognized and sqlite",
    ),
    bug(
        "erasure_is_complete_with_its_texts",
        "bindings.store.erasure:is_complete",
        remove(calls("is_not")),
        tests=ERASURE,
        detected_by="not_complete_because and sqlite",
    ),
    bug(
        "erasure_beside_a_bind_that_was_not_there_before",
        "bindings.access.erasure:Erasure._erase_batch",
        replace(calls("open_holders"), "[]"),
        tests=ERASURE,
        detected_by="comes_before_the_first_batch and sqlite",
    ),
    bug(
        "erasure_ends_before_the_refused_binds",
        "bindings.access.erasure:Erasure._run",
        replace(calls("max"), "ended.bindings"),
        tests=ERASURE,
        detected_by="refused_binds_than_a_batch and sqlite",
    ),
    bug(
        "seal_goes_on_from_one_that_was_not_inserted",
        "bindings.jobs.seal:_seal",
        insert_before(calls("record_progress"), "previous = seal"),
        tests=SEAL_JOB,
        detected_by="overtakes and sqlite",
    ),
    bug(
        "late_commit_is_left_out_of_the_seals",
        "bindings.store.seals:unsealed",
        replace(calls("oldest_running"), "(1 << 62)"),
        tests=SEAL_JOB,
        detected_by="commits_late",
    ),
    bug(
        "mark_of_the_deleted_events_moves_back",
        "bindings.store.retention:mark_events",
        replace(calls("or_"), "account.c.id.is_not(None)"),
        tests=RETENTION,
        detected_by="slower_process and sqlite",
    ),
    bug(
        "conversion_overwrites_an_erasure",
        "bindings.store.phone_sealing:_write",
        replace(calls("is_not_distinct_from"), "table.c.id.is_not(None)"),
        tests=PHONE_SEALING,
        detected_by="erased_while",
    ),
    bug(
        "keys_change_beside_an_open_transaction",
        "bindings.store.phone_sealing:switch",
        replace(literal("LOCK TABLE account IN ACCESS EXCLUSIVE MODE"), "'SELECT 1'"),
        tests=PHONE_SEALING,
        detected_by="keys_change_only",
    ),
    bug(
        "conversion_is_complete_with_rows_left",
        "bindings.store.phone_sealing:finish",
        replace(calls("any"), "False"),
        tests=PHONE_SEALING,
        detected_by="complete_while_a_row and sqlite",
    ),
    bug(
        "slot_is_left_to_an_attempt_whose_commit_was_lost",
        "bindings.store.job_runs:claim_slot",
        replace(compares("attempt"), "False"),
        tests=COMMITS,
        detected_by="job_slot",
    ),
)


def copy(source: Path, folder: Path) -> None:
    """Copy what the tests need of a tree, with the compiled files, which are valid by the source's time."""
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name)
        else:
            shutil.copy2(source / name, folder / name)


def seed(bug: Bug, folder: Path) -> None:
    """Put the bug into a copy of the tree; raises `EditMisfitError`."""
    file = folder / bug.file
    file.write_text(bug.seeded(file.read_text(encoding="utf-8")), encoding="utf-8")


def run(folder: Path, tests: str, *, detected_by: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a copy, against the copy; raises `TimeoutExpired` if they hang."""
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BINDINGS_TEST_NO_SHRINK": "1",
    }
    command = [sys.executable, "-m", "pytest", tests, "-k", detected_by, "-m", "not soak", "-x", "-q"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", "--no-header", "--tb=short"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )


def judge(bug: Bug, source: Path) -> Verdict:
    """Seed the bug and run the tests: those that exist for it, then all others of the file."""
    started_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bindings-mutant-") as name:
        copy(source, Path(name))
        seed(bug, Path(name))
        output = ""
        for expression in (bug.detected_by, f"not ({bug.detected_by})"):
            try:
                result = run(Path(name), bug.tests, detected_by=expression)
            except subprocess.TimeoutExpired:
                output += f"the tests did not end within {RUN_TIMEOUT_S} s: {expression}"
                break
            output += result.stdout + result.stderr
            # Exit code 1 means that tests ran and failed; every other one gives no verdict.
            failed = re.search(r"^FAILED \S+::(\S+)", result.stdout, re.MULTILINE)
            if result.returncode == 1 and failed is not None:
                return Verdict(bug=bug, test=failed[1], seconds=time.monotonic() - started_at, output=output)
            if result.returncode != 0:
                break
    return Verdict(bug=bug, test="", seconds=time.monotonic() - started_at, output=output)


def judge_all(bugs: Sequence[Bug], *, parallel: int = 2) -> list[Verdict]:
    """Return the verdict on every bug, in order; raises AssertionError if the tests fail without any bug."""
    with (
        tempfile.TemporaryDirectory(prefix="bindings-unchanged-") as name,
        ThreadPoolExecutor(parallel) as threads,
    ):
        copy(ROOT, Path(name))
        for tests in dict.fromkeys(bug.tests for bug in bugs):
            expected = [f"({bug.detected_by})" for bug in bugs if bug.tests == tests]
            unchanged = run(Path(name), tests, detected_by=" or ".join(expected))
            if unchanged.returncode != 0:
                raise AssertionError(
                    f"the tests fail without any bug, too:\n{unchanged.stdout[-3_000:]}{unchanged.stderr}"
                )
        return list(threads.map(judge, bugs, [Path(name)] * len(bugs)))


def table(verdicts: Sequence[Verdict]) -> str:
    """Format the verdicts as a table."""
    lines = [f"{'bug':42} {'seconds':>7}  detected by"]
    lines += [f"{v.bug.name:42} {v.seconds:7.1f}  {v.test or 'NOT DETECTED'}" for v in verdicts]
    return "\n".join(lines)


def main() -> int:
    """Print the table; return 1 if a bug was not detected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="only the bugs that are marked fast")
    parser.add_argument("names", nargs="*", help="only these bugs")
    options = parser.parse_args()
    bugs = [b for b in BUGS if (b.fast or not options.fast) and (not options.names or b.name in options.names)]
    verdicts = judge_all(bugs)
    print(table(verdicts))  # noqa: T201 -- a script
    undetected = [verdict for verdict in verdicts if not verdict.test]
    for verdict in undetected:
        print(f"\n{verdict.bug.name}:\n{verdict.output[-3_000:]}")  # noqa: T201
    return 1 if undetected else 0


if __name__ == "__main__":
    sys.exit(main())
