"""The hook: a signed webhook of the database becomes a ring on the queue. A small app without FastAPI."""

import importlib
import json
import os
from dataclasses import dataclass
from uuid import UUID

from mangum import Mangum
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from functions import problems
from functions.envelope import BodyLimit, Envelope
from functions.settings import HookSettings
from functions.signature import SignatureCheck
from workers.kernel import runqueue, telemetry
from workers.kernel.errors import Refused
from workers.kernel.runqueue import RunQueue

MAX_BYTES = 4 * 1024


@dataclass(frozen=True)
class Ring:
    """What the database announces: a run became queued for a turn."""

    run_id: UUID
    turn: int

    @classmethod
    def parse(cls, body: bytes) -> "Ring":
        """Read a body strictly. Raises Refused(invalid)."""
        try:
            match json.loads(body):
                case {"run_id": str(run_id), "turn": int(turn), **rest} if not rest and type(turn) is int and turn > 0:
                    return cls(UUID(run_id), turn)
        except (ValueError, RecursionError):  # of the JSON, its encoding, or the UUID
            pass
        raise Refused("invalid", 'The body is {"run_id": a UUID, "turn": a number from 1}, and nothing else.')


def create_hooks(*, signature: SignatureCheck, queue: RunQueue) -> Starlette:
    """Compose the hook."""

    async def run_queued(request: Request) -> Response:
        """Hand a queued run to the workers. Safe to repeat: the queue drops a turn it has."""
        body = await request.body()
        signature.verify(request.headers, body)
        ring = Ring.parse(body)
        return JSONResponse({"queued": await queue.ring(ring.run_id, ring.turn)}, 202)

    return Starlette(
        routes=[Route("/hooks/run-queued", run_queued, methods=["POST"])],
        middleware=[Middleware(Envelope), Middleware(BodyLimit, max_bytes=MAX_BYTES)],
        exception_handlers=problems.HANDLERS,
    )


def create_hooks_from(settings: HookSettings) -> Starlette:
    """Compose the hook from its settings; Redis is not asked before the first ring."""
    queue = RunQueue(redis=runqueue.connect(settings.redis_url))
    return create_hooks(signature=SignatureCheck(secret=settings.webhook_secret), queue=queue)


def __getattr__(name: str) -> Mangum:
    """`handler`, made when Lambda asks for it (PEP 562), so that an import needs no settings."""
    if name != "handler":
        raise AttributeError(name)
    telemetry.configure("hooks")
    importlib.import_module("rq")  # half a second: better while Lambda initialises than in the first ring
    app = create_hooks_from(HookSettings.read(os.environ))
    handler = Mangum(app, lifespan="off", text_mime_types=problems.TEXT_MEDIA_TYPES)
    globals()["handler"] = handler
    return handler
