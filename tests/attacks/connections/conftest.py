"""A strongroom for attackers: an organisation with a vault, keys in a file and in KMS."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from infra.local.facts import StackFacts
from tests.kernel.keys import KeyService, key_service
from tests.support.database import Template
from tests.support.strongroom import Strongroom
from workers.kernel.envelope import Envelope
from workers.kernel.key_file import LocalKeyRing


@pytest.fixture(scope="session")
def kms() -> Iterator[KeyService]:
    """A key management service."""
    with key_service() as service:
        yield service


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A file of keys."""
    file = tmp_path / "keys.json"
    LocalKeyRing.make_file(file)
    return file


@pytest.fixture(params=["file", "KMS"])
def envelope(request: pytest.FixtureRequest, key_file: Path, kms: KeyService) -> Envelope:
    """An envelope over either ring."""
    return Envelope(ring=LocalKeyRing(file=key_file) if request.param == "file" else kms.ring(kms.new_key()))


@pytest.fixture(scope="module")
async def first_room(
    template: Template, stack: StackFacts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Strongroom]:
    """A database of the module's own with a vault over it."""
    async with Strongroom.in_a_database(template, stack, tmp_path_factory.mktemp("keys")) as room:
        yield room


@pytest.fixture
async def room(first_room: Strongroom) -> Strongroom:
    """A new organisation whose run is in its worker's hands."""
    first_room.endpoint.reset()
    return await first_room.elsewhere()
