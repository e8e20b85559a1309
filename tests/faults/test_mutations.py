"""The tests themselves are tested: a bug that is seeded on purpose must be detected (R10)."""

from __future__ import annotations

import pytest

from tests.faults import mutations

pytestmark = pytest.mark.postgres


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_every_seeded_bug_is_detected() -> None:
    verdicts = mutations.judge_all(mutations.BUGS)
    undetected = [verdict for verdict in verdicts if not verdict.test]
    assert not undetected, mutations.table(verdicts) + "\n".join(v.output[-2_000:] for v in undetected)
