"""R2: a greedy rival, in a process of its own, gets no phone of a binding that is replaced again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.test_kill import DATABASES, report

if TYPE_CHECKING:
    from tests.faults.harness import FaultHarness

pytestmark = pytest.mark.processes


def run_rival(fault_harness: FaultHarness, kind: str, *, replacements: int) -> None:
    """Replace a binding by another party, again and again, while the rival binds both phones all the time."""
    with fault_harness.experiment(kind, simulated={"pool_size": 500}) as experiment:
        shared, target = "918067700001", experiment.folder / "target"
        rival = experiment.start("compete", shared=shared, target=str(target))
        chain = experiment.start("replace_again", shared=shared, target=str(target), replacements=replacements)
        assert experiment.wait(chain) == 0
        assert experiment.wait(rival) == 0
        (replaced,) = (line for line in experiment.records() if line["kind"] == "replaced")
        (competed,) = (line for line in experiment.records() if line["kind"] == "competed")
        report(run="rival", kind=kind, replaced=replaced["counts"], rival=competed["counts"])
        assert replaced["counts"] == {"replaced": replacements}
        assert competed["counts"].get("bound shared", 0) == 0
        assert competed["counts"]["refused shared"] > replacements
        assert competed["counts"]["refused new"] > replacements
        assert "-35" not in experiment.simulator.counts.decided["bind"]
        experiment.assert_sound()


@pytest.mark.parametrize("kind", DATABASES)
def test_R2_rival_gets_no_phone_of_sixty_replacements(fault_harness: FaultHarness, kind: str) -> None:
    run_rival(fault_harness, kind, replacements=60)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("kind", DATABASES)
def test_R2_rival_gets_no_phone_of_a_thousand_replacements(fault_harness: FaultHarness, kind: str) -> None:
    run_rival(fault_harness, kind, replacements=1_000)
