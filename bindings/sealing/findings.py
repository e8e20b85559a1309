"""What a verification reports: each contradiction, with the stretch of the history that it concerns."""

from __future__ import annotations

from dataclasses import dataclass

MAX_REPORTED = 1_000  # findings of one verification; the others are counted
# What reading a changed value raises.
UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A contradiction between what is recorded and what was sealed; `message` names no phone.

    `subject` is what it concerns: chain, seal, event, binding, hold, or another table. It lies between the seals
    `first_seal` and `last_seal` (None: after the last seal), and between the cursors `first` and `last` of the
    feed, as far as that is known. `id` is that of the binding, or of another row.
    """

    subject: str
    message: str
    first_seal: int | None = None
    last_seal: int | None = None
    first: str | None = None
    last: str | None = None
    id: str | None = None


class Findings:
    """The findings of one verification, in their order; `reported` are the first `MAX_REPORTED` of them."""

    def __init__(self) -> None:
        self.reported: list[Finding] = []
        self.count = 0

    def add(self, finding: Finding) -> None:
        """Add a finding."""
        self.count += 1
        if len(self.reported) < MAX_REPORTED:
            self.reported.append(finding)
