"""The stores that the contract holds for, and a folder of plugins with a host that runs them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from responder.agents.host import Host
from responder.store.base import Store
from tests.support.agents import Plugins
from tests.support.clock import ManualClock
from tests.support.stores import BACKENDS, Backend, backend_of


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    async with backend_of(request.param, tmp_path) as backend:
        yield backend


@pytest.fixture
def clock(backend: Backend) -> ManualClock:
    return backend.clock


@pytest.fixture
async def store(backend: Backend) -> Store:
    return await backend.another()


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    return Plugins(tmp_path)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host(4)
    yield host
    host.close()
