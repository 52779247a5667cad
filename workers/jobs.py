"""The worker's composition root: builds what a turn needs, once a process, and the job that the queue names."""

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import UUID

import httpcore
import structlog

from workers.agent.heart import Heart
from workers.agent.shutdown import LeavingFlag
from workers.agent.slots import Slots
from workers.agent.turn import Turns
from workers.kernel import runqueue, sweeps
from workers.kernel.blobs import Blobs, FolderBlobs
from workers.kernel.envelope import Envelope
from workers.kernel.errors import FenceLost, PamError, SettingMissing, Unavailable
from workers.kernel.key_file import LocalKeyRing
from workers.kernel.kms import KmsKeyRing
from workers.kernel.runqueue import RunQueue, Tell
from workers.kernel.s3_blobs import S3Blobs
from workers.kernel.settings import WorkerSettings
from workers.kernel.vault import Vault
from workers.kernel.worker_gateway import WorkerGateway
from workers.kernel.workspace import Workspace
from workers.logs.cloudwatch import CloudWatchLogs, CloudWatchPlace
from workers.logs.local_store import LocalLogs
from workers.logs.query import LogStore
from workers.model.chain import ModelChain
from workers.model.openai_api import OpenAIApi
from workers.model.openai_wire import OpenAIModel
from workers.model.prices import cost_of
from workers.model.protocol import Usage
from workers.model.retry import Retries, RetryingModel
from workers.outbound.breaker import Breaker
from workers.outbound.client import Outbound
from workers.outbound.connections import Connections
from workers.outbound.limits import OutboundLimits
from workers.outbound.network import GuardedNetwork, public_trust, system_resolver
from workers.outbound.oauth import post_through, token_limits
from workers.sandbox.probe import ProbedSandbox, sandbox_home
from workers.tools import REGISTERED, TOOLS, openai_api_call
from workers.tools.bound_sql import BoundSql
from workers.tools.redis_space import RedisSpace
from workers.tools.tool import ToolServices

OPENAI_URL = "https://api.openai.com/v1"

log = structlog.get_logger()


class Workshop:
    """Everything one worker process holds, on an event loop in a thread of its own.

    RQ's own loop is blocking and lives in the main thread; the work is async and lives here.
    """

    def __init__(self, *, settings: WorkerSettings) -> None:
        self._settings = settings
        self.leaving = LeavingFlag()
        self._loop = asyncio.new_event_loop()
        self._chores: list[Future[None]] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="workshop", daemon=True)
        self._gateway = WorkerGateway(dsn=settings.database_url)
        self._sql = BoundSql(dsn=settings.agent_database_url)
        self._redis = RedisSpace(url=settings.upstash_url, token=settings.upstash_token)
        self._breaker = Breaker(url=settings.upstash_url, token=settings.upstash_token)
        network = GuardedNetwork(
            resolver=system_resolver,
            connector=httpcore.AnyIOBackend(),
            trust=public_trust(),
            may_reach_loopback=settings.may_reach_loopback,
        )
        outbound = Outbound(network=network, breaker=self._breaker, limits=OutboundLimits())
        tokens = Outbound(network=network, breaker=self._breaker, limits=token_limits())
        envelope = envelope_of(settings)
        self._vault = Vault(gateway=self._gateway, envelope=envelope) if envelope else None
        self._connections = Connections(vault=self._vault, post=post_through(tokens))
        self._workspace = Workspace(blobs=blobs_of(settings, envelope))
        self._sandbox = ProbedSandbox(home=sandbox_home(settings.pam_home))
        self._queue = RunQueue(redis=runqueue.connect(settings.redis_url))
        models = [
            OpenAIModel(name=name, api_key=settings.model_key, base_url=settings.model_url or OPENAI_URL)
            for name in dict.fromkeys((settings.model, *settings.fallback_models))
        ]
        # Its own client: a long transcription holds up no step of a run.
        self._model_api = OpenAIApi(
            wire=OpenAIModel(
                name=settings.model, api_key=settings.model_key, base_url=settings.model_url or OPENAI_URL
            ),
            base_url=settings.model_url or OPENAI_URL,
            models=tuple(dict.fromkeys((settings.model, *settings.tool_models))),
            retries=Retries(max_attempts=3, total_seconds=100),
        )
        self._heart = Heart(
            gateway=self._gateway,
            leaving=self.leaving,
            lease_seconds=settings.lease_seconds,
            pulse_seconds=settings.pulse_seconds,
        )
        self._turns = Turns(
            gateway=self._gateway,
            model=ModelChain(
                models=[RetryingModel(model=model, retries=Retries()) for model in models], breaker=self._breaker
            ),
            tools=openai_api_call.priced(TOOLS, model=settings.model),
            services=ToolServices(
                sql=self._sql,
                redis=self._redis,
                workspace=self._workspace,
                outbound=outbound,
                credentials=self._connections,
                own_logs=own_logs(settings),
                sandbox=self._sandbox,
                model_api=self._model_api,
                breaker=self._breaker,
                known=REGISTERED,
            ),
            slots=Slots(),
            leaving=self.leaving,
            heart=self._heart,
            worker=f"{socket.gethostname()}:{os.getpid()}",
        )

    def open(self) -> None:
        """Connect, and begin to sweep. Raises Unavailable when the database does not answer."""
        self._thread.start()
        self.do(self._gateway.open())
        self.do(self._sql.open())
        # Tried beside the first runs: a program that comes meanwhile waits for the answer.
        for chore in (self._probe(), self._heart.beat()):
            self._chores.append(asyncio.run_coroutine_threadsafe(chore, self._loop))
        cost_of(
            Usage(input_tokens=1, output_tokens=1), model=self._settings.model
        )  # reads the price list now, not in a run
        for name, work in (("sweep", self._sweep), ("seal", self._seal), ("store", self._store)):
            self._chores.append(asyncio.run_coroutine_threadsafe(self._repeat(name, work), self._loop))

    def close(self) -> None:
        """Stop sweeping and return every connection."""
        for chore in self._chores:
            chore.cancel()
        self.do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the workshop's loop and wait for it, from the main thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def begin(self, tell: Tell) -> "Future[None]":
        """Work on one run after another while there are any; what comes back is done then, and never raises."""
        return asyncio.run_coroutine_threadsafe(self._work(tell), self._loop)

    def stop(self, run_id: UUID | None) -> None:
        """Stop a run of this worker, or all of them."""
        self._loop.call_soon_threadsafe(self._heart.stop, run_id)

    async def _work(self, tell: Tell) -> None:
        try:
            while claim := await self._turns.next():
                tell(claim.run.id, claim.run.turn, True)
                try:
                    await self._turns.advance(claim)
                finally:
                    tell(claim.run.id, claim.run.turn, False)
        except (Unavailable, FenceLost) as error:
            # Nothing is lost: the lease ends, and the sweeper brings the run back.
            log.error("turn broken off", reason=str(error))
        except Exception as error:
            log.error("turn broke", error=type(error).__name__)

    async def _repeat(self, chore: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do a chore again and again. One that dies silently strands everybody, so it goes on after any error."""
        while True:
            try:
                await work()
            except PamError as error:
                log.warning("chore missed", chore=chore, reason=str(error))
            except Exception as error:
                log.error("chore broke", chore=chore, error=type(error).__name__)
            await asyncio.sleep(self._settings.sweep_seconds)

    async def _probe(self) -> None:
        """Find out what code may run in here; a trial that breaks is made again when the first program comes."""
        try:
            await self._sandbox.open()
        except Exception as error:
            log.error("sandbox not tried", error=type(error).__name__)

    async def _sweep(self) -> None:
        """Every worker looks for stranded, due and expired work; the database lets one of them at a time."""
        for due in await sweeps.sweep(self._gateway.call):
            await self._queue.ring(UUID(due["run_id"]), due["turn"])
            log.info("run swept up", run_id=due["run_id"], turn=due["turn"])

    async def _seal(self) -> None:
        """Every worker that holds keys seals anew what browsers deposited, and what lies under an older key."""
        if self._vault is not None:
            await self._vault.sweep()

    async def _store(self) -> None:
        """Every worker takes what was written to object storage; the database hands each version to one of them."""
        while await self._workspace.store(self._gateway):
            pass

    async def _close(self) -> None:
        await self._connections.close()
        await self._sandbox.close()
        await self._sql.close()
        await self._gateway.close()
        await self._redis.close()
        await self._model_api.aclose()
        await self._breaker.close()


def envelope_of(settings: WorkerSettings) -> Envelope | None:
    """What seals credentials and files: keys of AWS KMS, a key file, or nothing; connections are refused then."""
    if settings.kms_key_ids:
        return Envelope(ring=KmsKeyRing(key_ids=settings.kms_key_ids))
    return Envelope(ring=LocalKeyRing(file=settings.key_file)) if settings.key_file else None


def blobs_of(settings: WorkerSettings, envelope: Envelope | None) -> Blobs:
    """Where files are kept: the bucket, or a folder. Raises SettingMissing when the folder would lie open."""
    if settings.files_bucket:
        return S3Blobs(bucket=settings.files_bucket, kms_key_id=next(iter(settings.kms_key_ids), None))
    if settings.files_folder is None:
        raise SettingMissing("PAM_FILES_BUCKET is not set: the bucket where files are kept")
    if envelope is None:
        raise SettingMissing("PAM_KEY_FILE is not set: the key file that seals PAM_FILES_FOLDER")
    return FolderBlobs(folder=settings.files_folder, envelope=envelope)


def own_logs(settings: WorkerSettings) -> LogStore | None:
    """Where PAM's own processes log: files of this machine, a group at CloudWatch, or nowhere that is known."""
    if settings.log_folder:
        return LocalLogs(folder=Path(settings.log_folder))
    if settings.log_group:
        place = CloudWatchPlace(log_group=settings.log_group, region=settings.log_region or "us-east-1")
        return CloudWatchLogs(place=place)
    return None


def advance_run(run_id: str, turn: int) -> None:
    """The job in the queue by its name: a run's id and turn. PAM's workers read it; no other can carry it out."""
    raise Unavailable(f"turn {turn} of run {run_id} needs a PAM worker: start one with `python -m workers.main`")
