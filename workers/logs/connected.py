"""The store that a connection's settings lead to: a log group at CloudWatch, or a project's logs at Supabase."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from workers.logs.cloudwatch import CloudWatchLogs, CloudWatchPlace
from workers.logs.query import LogsRefused, LogStore
from workers.logs.supabase_logs import SOURCES, Fetch, SupabaseLogs


class _Settings(BaseModel):
    # No address: a connection leads to the provider's own, and nowhere else.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class CloudWatchSettings(_Settings):
    """A log group, and keys that may run `logs:StartQuery`, `GetQueryResults` and `StopQuery` on it."""

    kind: Literal["cloudwatch"]
    log_group: str
    region: str
    access_key_id: str = Field(min_length=16, max_length=128)
    secret_access_key: str = Field(min_length=1, max_length=200, repr=False)
    session_token: str | None = Field(default=None, max_length=4000, repr=False)


class SupabaseSettings(_Settings):
    """A project; its token is put in by the client that fetches."""

    kind: Literal["supabase"]
    project_ref: str


_SETTINGS: TypeAdapter[CloudWatchSettings | SupabaseSettings] = TypeAdapter(
    Annotated[CloudWatchSettings | SupabaseSettings, Field(discriminator="kind")]
)


def store_of(settings: Mapping[str, Any], *, source: str | None, fetch: Fetch) -> LogStore:
    """The store. `fetch` gets a URL with the connection's credential put in. Raises LogsRefused."""
    try:
        told = _SETTINGS.validate_python(dict(settings))
    except ValidationError:
        raise LogsRefused("This connection leads to no logs: its kind is cloudwatch or supabase.") from None
    match told:
        case CloudWatchSettings():
            if source is not None:
                raise LogsRefused("source belongs to a connection to Supabase; this one leads to CloudWatch.")
            return CloudWatchLogs(place=CloudWatchPlace(**told.model_dump(exclude={"kind"})))
        case SupabaseSettings():
            if source is None:
                raise LogsRefused(f"Name the source: one of {', '.join(SOURCES)}.")
            return SupabaseLogs(project_ref=told.project_ref, source=source, fetch=fetch)
