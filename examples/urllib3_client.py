"""urllib3: lend a number over HTTP, with retries that the idempotency key makes safe."""

from typing import Any

import urllib3


class RetryAfter(urllib3.Retry):
    """Repeats what failed without a response, and a response of these statuses that has a Retry-After."""

    RETRY_AFTER_STATUS_CODES = frozenset({202, 429, 503})  # 202: the outcome is not known yet


RETRIES = RetryAfter(
    total=8,
    allowed_methods={"POST"},  # every attempt has the same key
    backoff_factor=0.5,  # only if no response arrives
    raise_on_status=False,
)
http = urllib3.PoolManager(retries=RETRIES, timeout=urllib3.Timeout(connect=2, read=30))


def lend_number(url: str, api_key: str, trip_id: str, rider: str, driver: str) -> dict[str, Any]:
    """Return the binding: check its state. Raises `LookupError` with the code of the problem.

    After `outcome-unknown` call it again later, or wait for a webhook: do not bind with another key.
    """
    response = http.request(
        "POST",
        f"{url}/v1/bindings",
        headers={"Authorization": f"Bearer {api_key}", "Idempotency-Key": f"{trip_id}/1"},
        json={
            "phone_a": rider,
            "phone_b": driver,
            "pool_number": "918806",
            "expire_s": 3_600,
            "mode": "AXB",
            "reference": trip_id,
        },
    )
    body: dict[str, Any] = response.json()
    if response.status not in {200, 201}:
        raise LookupError(body.get("code", "outcome-unknown"))
    return body
