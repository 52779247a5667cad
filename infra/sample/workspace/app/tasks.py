"""Tasks: list the open ones, add one, mark one as done."""

from .database import Connection, Row

# No filter by person: the policies of public.tasks and public.projects show a member their own projects only.
NEWEST_OPEN = """
select t.id, t.title, t.priority, t.due_on, t.created_at, p.name as project
from public.tasks t
join public.projects p on p.id = t.project_id
where t.status = 'open'
order by t.created_at desc, t.id desc
limit 50
"""


async def list_open(connection: Connection) -> list[Row]:
    """The newest 50 open tasks of the member's projects."""
    return await (await connection.execute(NEWEST_OPEN)).fetchall()


async def add(connection: Connection, *, project_id: int, title: str, priority: int) -> Row | None:
    """Add a task. Raises psycopg.errors.InsufficientPrivilege if the person is no member of the project."""
    cursor = await connection.execute(
        "insert into public.tasks (project_id, title, priority) values (%s, %s, %s) returning id, title, status",
        [project_id, title, priority],
    )
    return await cursor.fetchone()


async def finish(connection: Connection, task_id: int) -> Row | None:
    """Mark a task as done; None if the person sees no such task."""
    cursor = await connection.execute(
        "update public.tasks set status = 'done' where id = %s returning id, title, status", [task_id]
    )
    return await cursor.fetchone()
