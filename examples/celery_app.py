"""Celery with its prefork pool: lend a number to a trip in the background, and retry while that makes sense."""

import os
import sqlite3
from typing import Any

from celery import Celery

from bindings import BindingsError, BindingService
from bindings.errors import Busy, OutcomeUnknown

app = Celery("rides", broker=os.environ["RIDES_BROKER"])
service = BindingService.open(actor="rides")


@app.task(bind=True, acks_late=True, max_retries=20)
def lend_number(task: Any, trip_id: str) -> None:
    """Lend a number to a trip. With a key for each trip, a repeated run of the task makes no second binding."""
    rider, driver = read_phones(trip_id)
    try:
        service.bind(
            phone_a=rider,
            phone_b=driver,
            pool_number="918806",
            expire_s=3_600,
            mode="AXB",
            reference=trip_id,
            idempotency_key=f"{trip_id}/1",
        )
    except OutcomeUnknown as error:  # without `retry_after_s` if no scheduler has run recently
        raise task.retry(countdown=error.retry_after_s or 60, exc=error) from error
    except BindingsError as error:
        if error.retry_after_s is None:
            raise
        raise task.retry(countdown=error.retry_after_s, exc=error) from error


@app.task(autoretry_for=(Busy,), retry_backoff=True, acks_late=True, max_retries=None)
def end_trip(trip_id: str) -> None:
    """End what a trip has. Calls of the provider that fail are repeated by the scheduler of bindings."""
    service.unbind_all(reference=trip_id, reason="trip ended")


def read_phones(trip_id: str) -> tuple[str, str]:
    """Return the phones from the application's own table: arguments of a task stay in the broker and in logs."""
    with sqlite3.connect(os.environ["RIDES_DATABASE"]) as connection:
        row: tuple[str, str] = connection.execute(
            "SELECT rider, driver FROM trips WHERE id = ?", [trip_id]
        ).fetchone()
    return row
