"""Invoices of a project, for its owners."""

from .database import Connection, Row


async def list_of_project(connection: Connection, project_id: int) -> list[Row]:
    """The project's invoices, newest first, with what is still to be paid; empty for anybody but an owner."""
    cursor = await connection.execute(
        """
        select number, amount, currency, issued_on, due_on, paid_on,
          case when paid_on is null then amount else 0 end as outstanding
        from public.invoices
        where project_id = %s
        order by issued_on desc, number
        """,
        [project_id],
    )
    return await cursor.fetchall()
