"""Tables and functions of the team that are open to agents, as a model is shown them."""

from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from workers.kernel.ledger.hold import Hold


class TablePolicy(BaseModel):
    """One of the table's own policies."""

    model_config = ConfigDict(frozen=True)

    name: str
    command: str = Field(alias="for")
    using: str | None
    check: str | None


class OpenWrites(BaseModel):
    """What may be written to a table: how many rows at once, and whose code runs with it."""

    model_config = ConfigDict(frozen=True)

    commands: tuple[str, ...]
    max_rows: int
    own_code: str | None
    cascades: bool
    is_drifted: bool


class OpenTable(BaseModel):
    """A table with what a backend engineer looks at first. `person`: whom the run works for, auth.uid() in policies."""

    model_config = ConfigDict(frozen=True)

    table: str
    comment: str | None
    person: UUID
    is_drifted: bool
    writes: OpenWrites | None
    estimated_rows: int
    size: str
    columns: tuple[str, ...]
    indexes: tuple[str, ...]
    foreign_keys: tuple[str, ...]
    checks: tuple[str, ...]
    policies: tuple[TablePolicy, ...]


class OpenFunction(BaseModel):
    """A reading function of the team's own. name: schema.name; `is_open` while nobody has changed it since."""

    model_config = ConfigDict(frozen=True)

    name: str
    arguments: str
    returns: str
    comment: str | None
    is_open: bool


async def describe(hold: Hold) -> list[OpenTable]:
    """Every table that is open to agents."""
    return [OpenTable.model_validate(row) for row in await hold.call("describe_tables")]


async def describe_functions(hold: Hold) -> list[OpenFunction]:
    """Every function that was opened to agents."""
    return [OpenFunction.model_validate(row) for row in await hold.call("describe_functions")]


async def find_row_functions(hold: Hold, names: tuple[str, ...]) -> list[str]:
    """Which of these names behind a dot would call somebody's function on a row instead of reading a column."""
    return [str(name) for name in await hold.call("find_row_functions", names=names)]
