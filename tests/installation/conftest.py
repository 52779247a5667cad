"""A project as it is before PAM comes: the platform, and nothing else."""

import pytest

from infra.local.facts import StackFacts
from tests.support.database import Template


@pytest.fixture(scope="session")
async def template(stack: StackFacts) -> Template:
    """The platform alone."""
    return await Template.make(stack, name="pam_platform", with_pam=False, with_sample=False)
