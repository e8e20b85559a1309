"""The tests themselves are tested: a bug that is put in on purpose must be seen (targets: R10)."""

from __future__ import annotations

import pytest

from tests.faults import mutations

pytestmark = pytest.mark.postgres
FAST = [bug for bug in mutations.BUGS if bug.fast]


def test_a_bug_that_the_code_has_outgrown_is_reported() -> None:
    gone = mutations.bug("gone", "bindings/conflict.py", "no such text", "", seen_by="x")
    with pytest.raises(mutations.OutgrownError):
        mutations.seed(gone, mutations.ROOT)  # before anything is written


@pytest.mark.timeout(400)
def test_the_bugs_that_the_targets_name_are_each_seen() -> None:
    verdicts = mutations.judge_all(FAST)
    assert [verdict.bug.name for verdict in verdicts if not verdict.by] == [], mutations.table(verdicts)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_every_seeded_bug_is_seen() -> None:
    verdicts = mutations.judge_all(mutations.BUGS)
    missed = [verdict for verdict in verdicts if not verdict.by]
    assert not missed, mutations.table(verdicts) + "\n".join(verdict.output[-2_000:] for verdict in missed)
