"""The tracker's HTTP routes; run with `uvicorn --factory app.main:create_app`."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from psycopg import AsyncConnection, errors
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel, Field

from . import invoices, projects, tasks
from .database import Pool, Row, acting_as
from .settings import Settings
from .tokens import TokenRefused, read_user_id


class NewTask(BaseModel):
    """What a person sends to add a task."""

    project_id: int
    title: str = Field(min_length=1, max_length=200)
    priority: int = Field(default=2, ge=1, le=3)


def person(request: Request, authorization: Annotated[str, Header()] = "") -> UUID:
    """The id of the person whose token came with the request."""
    settings: Settings = request.app.state.settings
    try:
        return read_user_id(authorization, secret=settings.jwt_secret)
    except TokenRefused as refusal:
        raise HTTPException(401, str(refusal)) from refusal


def pool(request: Request) -> Pool:
    """The connections that the application opened at its start."""
    opened: Pool = request.app.state.pool
    return opened


Person = Annotated[UUID, Depends(person)]
Database = Annotated[Pool, Depends(pool)]


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the service; without settings it reads the environment."""
    chosen = settings or Settings.read(os.environ)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncConnectionPool(
            chosen.database_url,
            connection_class=AsyncConnection[Row],
            kwargs={"row_factory": dict_row},
            min_size=1,
            max_size=8,
        ) as opened:
            app.state.pool = opened
            yield

    app = FastAPI(title="Tracker", lifespan=lifespan)
    app.state.settings = chosen

    @app.get("/tasks")
    async def list_tasks(me: Person, database: Database) -> list[Row]:
        async with acting_as(database, me) as connection:
            return await tasks.list_open(connection)

    @app.post("/tasks", status_code=201)
    async def add_task(me: Person, database: Database, task: NewTask) -> Row | None:
        async with acting_as(database, me) as connection:
            return await tasks.add(connection, **task.model_dump())

    @app.post("/tasks/{task_id}/done")
    async def finish_task(me: Person, database: Database, task_id: int) -> Row:
        async with acting_as(database, me) as connection:
            done = await tasks.finish(connection, task_id)
        if done is None:
            raise HTTPException(404, "You have no such task.")
        return done

    @app.get("/projects")
    async def list_projects(me: Person, database: Database) -> list[Row]:
        async with acting_as(database, me) as connection:
            return await projects.list_mine(connection)

    @app.post("/projects/{project_id}/join", status_code=204)
    async def join_project(me: Person, database: Database, project_id: int) -> None:
        async with acting_as(database, me) as connection:
            await projects.join(connection, project_id, me)

    @app.get("/projects/{project_id}/invoices")
    async def list_invoices(me: Person, database: Database, project_id: int) -> list[Row]:
        async with acting_as(database, me) as connection:
            return await invoices.list_of_project(connection, project_id)

    @app.exception_handler(errors.InsufficientPrivilege)
    async def refused(_request: Request, _refusal: Exception) -> JSONResponse:
        return JSONResponse({"detail": "You may not do that in this project."}, status_code=403)

    return app
