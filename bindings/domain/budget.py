"""The budgets of an API key: how many answers of a kind it gets in an hour. Pure."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

WINDOW = timedelta(hours=1)


class Budget(StrEnum):
    """The kinds of answers that are counted."""

    PHONE_SEARCHES = "phone_searches"  # questions of a reader with a full phone that matched nothing
    HELD_ANSWERS = "held_answers"  # checks that were answered with a phone that another caller holds
