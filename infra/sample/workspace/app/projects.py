"""Projects: list mine, join one."""

from uuid import UUID

from .database import Connection, Row


async def list_mine(connection: Connection) -> list[Row]:
    """The projects that the person is a member of, by name."""
    cursor = await connection.execute("select id, name, client from public.projects order by name, id")
    return await cursor.fetchall()


async def join(connection: Connection, project_id: int, user_id: UUID) -> None:
    """Become a member. Raises psycopg.errors.InsufficientPrivilege if the project has no open invitation."""
    await connection.execute(
        "insert into public.members (project_id, user_id, role) values (%s, %s, 'member')",
        [project_id, user_id],
    )
