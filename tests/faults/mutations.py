"""Bugs on purpose: each is seeded into a copy of the tree, and the tests must see it.

    python -m tests.faults.mutations            every bug, as a table
    python -m tests.faults.mutations --fast     those that targets.md (R10) names

A bug is a small textual change. Its old text must stand in its file exactly once, so that a bug which the code
has outgrown is reported and not forgotten. A bug counts as caught only where a test of its file (for most
tests/faults/test_properties.py) ran and failed that passes on an unchanged copy of the same moment; a copy that
cannot be imported, or that hangs, does not count.

Not in the list, because nothing can tell it from the product: dropping only the state from the outer UPDATE of
the sweep on PostgreSQL. Its FOR UPDATE reads each row again after locking it and drops what is no longer
active; `sweep_without_recheck` takes both away.
"""

from __future__ import annotations

import argparse
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

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
COPIED = ("bindings", "migrations", "tests", "pyproject.toml", "alembic.ini")
TESTS = "tests/faults/test_properties.py"
RESTORE = "tests/faults/test_restore.py"
LONGEST_S = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One replacement in one file."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bug:
    """A seeded bug and the tests (an expression of pytest's -k) that are there for it."""

    name: str
    changes: tuple[Change, ...]
    seen_by: str
    fast: bool = False
    tests: str = TESTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the tests made of a bug; `by` is empty where they let it pass."""

    bug: Bug
    by: str
    seconds: float
    output: str


class OutgrownError(AssertionError):
    """A bug's text does not stand in its file exactly once."""


def bug(name: str, file: str, old: str, new: str, **given: Any) -> Bug:
    return Bug(name=name, changes=(Change(file=file, old=old, new=new),), **given)


_SIGN = (
    "        headers = signing.headers("
    "api_key=self._api_key, api_secret=self._api_secret, timestamp=self._timestamp())\n"
)
_TOO_LATE = '        if self._monotonic() > send_before:\n            return NotSent(reason="too late to send")\n'
_POST = "        answer = self._post(wire.BIND_PATH, wire.bind_body(request), send_before=send_before)\n"
_CLAIM = "        if isinstance(answer, Unknown):\n    "
_RECHECK = ".where(bindings.c.id == ids, *due)"

BUGS: tuple[Bug, ...] = (
    bug(
        "no_compare_and_set",
        "bindings/store/bindings.py",
        'bindings.c.id == bindparam("of_id", type_=BindingId), or_(*(in_state(state) for state in leaves))',
        'bindings.c.id == bindparam("of_id", type_=BindingId)',
        seen_by="adopted_and_unbound_changes_nothing and sqlite",
        fast=True,
    ),
    bug(
        "no_advisory_lock",
        "bindings/store/database.py",
        "locks = (func.pg_advisory_xact_lock(key) for key in keys)",
        "locks = tuple(keys)",
        seen_by="reserve_at_the_same_moment and postgresql",
        fast=True,
    ),
    bug(
        "locks_in_any_order",
        "bindings/store/database.py",
        "for index, key in enumerate(sorted(keys))",
        "for index, key in enumerate(keys)",
        seen_by="locks_are_taken_in_one_order",
        fast=True,
    ),
    bug(
        "a_doubt_holds_nothing",
        "bindings/store/settle.py",
        "        state=State.IN_DOUBT,\n        provider_status=status,\n        reason=reason,\n",
        "        state=State.IN_DOUBT,\n        provider_status=status,\n        reason=reason,\n"
        "        held_until=NOW,\n",
        seen_by="unclear_answer_frees_nothing and sqlite",
        fast=True,
    ),
    bug(
        "begin_instead_of_begin_immediate",
        "bindings/store/engine.py",
        'exec_driver_sql("BEGIN IMMEDIATE")',
        'exec_driver_sql("BEGIN")',
        seen_by="second_writer_begins",
        fast=True,
    ),
    bug(
        "no_begin_at_all",
        "bindings/store/engine.py",
        'connection.exec_driver_sql("BEGIN IMMEDIATE")',
        "pass",
        seen_by="transaction_that_is_cut_off and sqlite",
    ),
    bug(
        "sign_after_the_check",
        "bindings/provider/client.py",
        _SIGN,
        _TOO_LATE + _SIGN + "        send_before = math.inf\n",
        seen_by="signed_late_does_not_leave and sqlite",
        fast=True,
    ),
    bug(
        "no_guard_after_the_end",
        "bindings/lifecycle/clocks.py",
        "held_until=answered_at + life + timedelta(seconds=guard_s),",
        "held_until=answered_at + life,",
        seen_by="for_the_guard_after_the_end and sqlite",
    ),
    bug(
        "adopt_whatever_its_end",
        "bindings/jobs/scan_evidence.py",
        "same_pair(row, intent) and intent.mode is mode and earliest <= row.ends_at <= latest",
        "same_pair(row, intent) and intent.mode is mode and bool(earliest) and bool(latest)",
        seen_by="ends_in_the_window_is_adopted and sqlite",
    ),
    bug(
        "absence_after_one_scan",
        "bindings/jobs/reconcile.py",
        "second = self._scan(app_id, pace, found, size=BACKWARD_SIZE, backwards=True)",
        "second = first",
        seen_by="one_reading_of_the_list and sqlite",
    ),
    bug(
        "swapped_numbers_stay_swapped",
        "bindings/jobs/reconcile.py",
        "numbers = numbers[::-1]",
        "pass",
        seen_by="the_other_way_round and sqlite",
    ),
    bug(
        "now_instead_of_clock_timestamp",
        "bindings/store/database.py",
        "_SERVER_NOW: ColumnElement[datetime] = func.clock_timestamp(type_=Instant)",
        "_SERVER_NOW: ColumnElement[datetime] = func.now(type_=Instant)",
        seen_by="clock_is_read_when_the_lock_is_had",
    ),
    bug(
        "minus_24_frees_at_once",
        "bindings/jobs/recover.py",
        "reason, held_s = Reason.NOT_FOUND, guard_s",
        "reason, held_s = Reason.NOT_FOUND, 0.0",
        seen_by="unbind_that_finds_nothing and sqlite",
    ),
    Bug(
        name="sweep_without_recheck",
        changes=(
            Change(
                file="bindings/store/expiry.py",
                old='found.with_for_update(skip_locked=True).cte("due")',
                new='found.cte("due")',
            ),
            Change(
                file="bindings/store/expiry.py",
                old=_RECHECK,
                new=".where(bindings.c.id == ids)",
            ),
        ),
        seen_by="sweep_that_meets_a_running_unbind and postgresql",
    ),
    bug(
        "sweep_whatever_the_state",
        "bindings/store/expiry.py",
        "due = in_state(State.ACTIVE), bindings.c.expires_at <= dialect.now_once",
        "due = (bindings.c.expires_at <= dialect.now_once,)",
        seen_by="sweep_ends_only_what_is_active",
    ),
    bug(
        "a_refusal_uses_up_the_key",
        "bindings/store/reserve.py",
        "    return Held(holder=held[0])",
        "    if request.idempotency_key is not None:\n"
        "        _insert(tx, _new(binding_id, request, terms, caller, now), caller)\n"
        "    return Held(holder=held[0])",
        seen_by="refusal_uses_up_no_key and sqlite",
    ),
    bug(
        "bind_is_tried_again",
        "bindings/provider/client.py",
        _POST,
        _POST + _CLAIM + _POST,
        seen_by="a_request_is_sent_once and sqlite",
    ),
    bug(
        "redirects_are_followed",
        "bindings/http_transport.py",
        "            content = _content(response, enough)\n",
        "            content = _content(response, enough)\n"
        "            if response.is_redirect:\n"
        '                requests.get(requests.compat.urljoin(url, response.headers["Location"]), timeout=5)\n',
        seen_by="a_request_is_sent_once and sqlite",
    ),
    bug(
        "minus_18_is_a_refusal",
        "bindings/provider/statuses.py",
        '        effect="unknown: a binding may have come into being",\n',
        '        effect="unknown: a binding may have come into being",\n        refusal=Refusal.REQUEST,\n',
        seen_by="unclear_answer_frees_nothing and sqlite",
    ),
    bug(
        "a_lost_reply_was_never_sent",
        "bindings/http_transport.py",
        "return NotSent(reason=reason) if attempt.sent is None else Unknown(reason=reason, sent=attempt.sent)",
        "return NotSent(reason=reason)",
        seen_by="unclear_answer_frees_nothing and sqlite",
    ),
    bug(
        "the_feed_does_not_wait",
        "bindings/store/events.py",
        "return written().where(events.c.tx < cast(oldest_running, BigInteger))",
        "return written() if bool(oldest_running is not None) else written()",
        seen_by="feed_waits",
    ),
    bug(
        "strict_lets_an_axxb_pass_a_doubt",
        "bindings/domain/conflict.py",
        "same_pair or policy is Policy.STRICT:",
        "same_pair or (policy is Policy.STRICT and state not in (State.PENDING, State.IN_DOUBT)):",
        seen_by="under_strict and sqlite",
    ),
    bug(
        "an_older_database_is_not_noticed",
        "bindings/store/rollback_detection.py",
        "return not reports.made_good(tx.connection, since=known.at)",
        "return False",
        tests=RESTORE,
        seen_by="notices_an_older_database and sqlite",
    ),
    bug(
        "a_loss_that_was_made_good_is_noticed_again",
        "bindings/store/rollback_detection.py",
        "return not reports.made_good(tx.connection, since=known.at)",
        "return True",
        tests=RESTORE,
        seen_by="notices_an_older_database and sqlite",
    ),
    bug(
        "a_yes_for_a_lost_intent_is_dropped",
        "bindings/service.py",
        "            if isinstance(outcome, Made):\n                holds.put_late",
        "            if not isinstance(outcome, Made):\n                holds.put_late",
        tests=RESTORE,
        seen_by="whose_intent_was_lost and sqlite",
    ),
    bug(
        "binds_do_not_wait_for_the_scan",
        "bindings/store/reserve.py",
        "    if not held and scan_owed_since is None:\n",
        "    if not held:\n",
        tests=RESTORE,
        seen_by="binds_wait_until and sqlite",
    ),
    bug(
        "a_broken_scan_is_enough",
        "bindings/jobs/reconcile.py",
        "not (self.incomplete or self.zone_misfit_s or self.dry_run)",
        "not (self.zone_misfit_s or self.dry_run)",
        tests=RESTORE,
        seen_by="binds_wait_until and sqlite",
    ),
    bug(
        "the_scan_owed_reads_what_is_open_only",
        "bindings/jobs/maintenance.py",
        "queries.all_apps if owed else queries.open_apps",
        "queries.open_apps",
        tests=RESTORE,
        seen_by="every_application and sqlite",
    ),
)


def copy(source: Path, folder: Path) -> None:
    """What the tests need of a tree; with the compiled files, which go by the source's time."""
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name)
        else:
            shutil.copy2(source / name, folder / name)


def seed(found: Bug, folder: Path) -> None:
    """Put the bug into a copy of the tree; raises `OutgrownError`."""
    for change in found.changes:
        file = folder / change.file
        text = file.read_text(encoding="utf-8")
        if text.count(change.old) != 1:
            raise OutgrownError(
                f"{found.name}: found {text.count(change.old)} times in {change.file}: {change.old}"
            )
        file.write_text(text.replace(change.old, change.new), encoding="utf-8")


def run(folder: Path, tests: str, *, seen_by: str) -> subprocess.CompletedProcess[str]:
    """The tests of a copy, against the copy."""
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BINDINGS_TEST_NO_SHRINK": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # what is not needed takes longer to import than a bug to be seen
    }
    command = [sys.executable, "-m", "pytest", tests, "-k", seen_by, "-m", "not soak", "-x", "-q"]
    return subprocess.run(
        [*command, "-p", "pytest_timeout", "-p", "no:cacheprovider", "--no-header", "--tb=short"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )


def judge(found: Bug, source: Path) -> Verdict:
    """Seed the bug and let the tests look for it: those that are there for it, and then all the others."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bindings-mutant-") as name:
        copy(source, Path(name))
        seed(found, Path(name))
        output = ""
        for expression in (found.seen_by, f"not ({found.seen_by})"):
            done = run(Path(name), found.tests, seen_by=expression)
            output += done.stdout + done.stderr
            # Exit code 1 means that tests ran and failed; every other one is no verdict.
            failed = re.search(r"^FAILED \S+::(\S+)", done.stdout, re.MULTILINE)
            if done.returncode == 1 and failed is not None:
                return Verdict(bug=found, by=failed[1], seconds=time.monotonic() - began, output=output)
            if done.returncode != 0:
                break
    return Verdict(bug=found, by="", seconds=time.monotonic() - began, output=output)


def judge_all(bugs: Sequence[Bug], *, at_once: int = 2) -> list[Verdict]:
    """Every bug's verdict, in order; raises AssertionError where the tests fail without any bug."""
    with tempfile.TemporaryDirectory(prefix="bindings-unchanged-") as name, ThreadPoolExecutor(at_once) as threads:
        copy(ROOT, Path(name))
        for tests in dict.fromkeys(found.tests for found in bugs):
            expected = [f"({found.seen_by})" for found in bugs if found.tests == tests]
            sound = run(Path(name), tests, seen_by=" or ".join(expected))
            if sound.returncode != 0:
                raise AssertionError(f"without a bug, too, the tests fail:\n{sound.stdout[-3_000:]}{sound.stderr}")
        return list(threads.map(judge, bugs, [Path(name)] * len(bugs)))


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts to read."""
    lines = [f"{'bug':34} {'seconds':>7}  caught by"]
    lines += [f"{v.bug.name:34} {v.seconds:7.1f}  {v.by or 'NOT CAUGHT'}" for v in verdicts]
    return "\n".join(lines)


def main() -> int:
    """Print the table; 1 where a bug was let pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="only the bugs that targets.md names")
    parser.add_argument("names", nargs="*", help="only these bugs")
    given = parser.parse_args()
    bugs = [b for b in BUGS if (b.fast or not given.fast) and (not given.names or b.name in given.names)]
    verdicts = judge_all(bugs)
    print(table(verdicts))  # noqa: T201 -- a script
    passed = [verdict for verdict in verdicts if not verdict.by]
    for verdict in passed:
        print(f"\n{verdict.bug.name}:\n{verdict.output[-3_000:]}")  # noqa: T201
    return 1 if passed else 0


if __name__ == "__main__":
    sys.exit(main())
