"""urllib3: lend a number over HTTP, with retries that the idempotency key makes safe."""

from typing import Any

import urllib3

RETRIES = urllib3.Retry(
    total=8,
    allowed_methods={"POST"},  # every attempt has the same key
    status_forcelist={202, 429, 503},  # 202: the outcome is not known yet
    backoff_factor=0.5,  # if a response has no Retry-After, or none arrives
    raise_on_status=False,
)
http = urllib3.PoolManager(retries=RETRIES, timeout=urllib3.Timeout(connect=2, read=30))


def lend_number(url: str, api_key: str, trip_id: str, rider: str, driver: str) -> dict[str, Any]:
    """Return the binding: check its state. Raises `LookupError` with the code of the problem."""
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
