"""A key to seal with, a service that has it, and a run of the job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bindings.jobs import seal as seal_job
from bindings.sealing.keys import SigningKey, create_key_file
from tests.service.harness import feed_has_caught_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bindings.service import BindingService
    from tests.service.harness import ServiceHarness


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    """Create a key in `seal.pem`."""
    return create_key_file(str(tmp_path / "seal.pem"), "BINDINGS_SEAL_KEY_FILE")


@pytest.fixture
def sealer(harness: ServiceHarness, key: SigningKey, tmp_path: Path) -> BindingService:
    """Provide a service that has the key."""
    return harness.open(seal_key_file=str(tmp_path / "seal.pem"))


@pytest.fixture
def seal(sealer: BindingService) -> Callable[..., seal_job.SealResult]:
    """Provide a function that seals everything."""

    def run(**options: Any) -> seal_job.SealResult:
        feed_has_caught_up(sealer)
        runtime = sealer.runtime
        return seal_job.seal_events(runtime.database, runtime.require_seal_key(), runtime.caller, **options)

    return run
