"""Health: whether the process lives, and whether it can work."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from functions.deps import HouseDep
from workers.kernel.errors import Refused, SignedOut, Unavailable

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """Good health; bad health is a problem document."""

    status: Literal["ok"] = "ok"


@router.get("/health", summary="Whether the process lives")
async def live() -> Health:
    """Asks nobody."""
    return Health()


@router.get("/ready", summary="Whether PostgREST answers for schema pam")
async def ready(house: HouseDep) -> Health:
    """Asks PostgREST as nobody in particular for what only people may do: being refused is health."""
    gateway = house.gateway(None)
    try:
        await gateway.rpc("create_thread", {"org_id": "00000000-0000-0000-0000-000000000000"})
    except (Refused, SignedOut):
        return Health()
    raise Unavailable("PostgREST let nobody in particular make a thread: check the grants of schema pam")
