"""A process that sends the pending deliveries once: `python -m tests.web.sender LEASE_S`."""

from __future__ import annotations

import sys

from bindings.service import BindingService
from bindings.webhooks.sender import deliver_pending

if __name__ == "__main__":
    with BindingService.from_env() as service:
        deliver_pending(service.runtime, lease_s=float(sys.argv[1]))
