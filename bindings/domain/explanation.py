"""How a failure is explained to an operator: its effect, its cause, the remedy and who can apply it. Pure.

The explanations themselves are next to what they explain: provider statuses in `provider.statuses`, reasons of our
own in `errors.REASONS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ResponsibleParty(StrEnum):
    """Who can apply a remedy; the values are shown as they are."""

    NONE = "none: no action is needed"
    ACCOUNT = "the account holder, who has the contract with the provider"
    HOST = "the operator of this host"
    CLIENT = "the client that requested the bind"
    PROVIDER = "the provider"
    OTHER_SYSTEM = "another system that uses the same account, or the conflict policy"
    PRODUCT = "this product"


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """What a failure means: `title` in a few words, then one clause each without a full stop."""

    title: str
    effect: str
    cause: str
    remedy: str
    responsible: ResponsibleParty
