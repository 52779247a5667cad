"""Organisations: the tenants, as their members see them."""

from typing import TYPE_CHECKING
from uuid import UUID

from workers.kernel.errors import Refused

if TYPE_CHECKING:
    from workers.kernel.caller_gateway import CallerGateway


async def require(gateway: "CallerGateway", org_id: UUID) -> None:
    """Raises Refused(not_found), alike for an absent organisation and one the caller does not belong to."""
    if not await gateway.select("organizations", "id", equal={"id": org_id}):
        raise Refused("not_found", "There is no such organisation, or you do not belong to it.")
