"""Temporal: an activity that lends a number to a trip, and tells Temporal when another attempt makes sense."""

import os
import sqlite3
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from bindings import BindingsError, BindingService
from bindings.errors import OutcomeUnknown

service = BindingService.open(actor="rides", connect=False)


@activity.defn
def lend_number(trip_id: str) -> str:
    """Return the id of the binding. The key makes every attempt, also of another worker, one bind."""
    rider, driver = read_phones(trip_id)
    try:
        binding = service.bind(
            phone_a=rider,
            phone_b=driver,
            pool_number="918806",
            expire_s=3_600,
            mode="AXB",
            reference=trip_id,
            idempotency_key=f"{trip_id}/1",
        )
    except BindingsError as error:
        wait_s = error.retry_after_s
        if wait_s is None and isinstance(error, OutcomeUnknown):
            wait_s = 60  # no scheduler has run recently
        raise ApplicationError(
            str(error),
            type=error.code,
            non_retryable=wait_s is None,
            next_retry_delay=None if wait_s is None else timedelta(seconds=wait_s),
        ) from error
    return binding.id


def read_phones(trip_id: str) -> tuple[str, str]:
    """Return the phones from the application's own table: arguments and results stay in Temporal's history."""
    with sqlite3.connect(os.environ["RIDES_DATABASE"]) as connection:
        row: tuple[str, str] = connection.execute(
            "SELECT rider, driver FROM trips WHERE id = ?", [trip_id]
        ).fetchone()
    return row
