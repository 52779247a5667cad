"""The logs that a connection of the organisation leads to: a log group at CloudWatch, or a project's at Supabase."""

from workers.kernel.errors import Unavailable
from workers.kernel.ledger.connections import ConnectionKind, ConnectionTerms
from workers.logs.cloudwatch import CloudWatchLogs, CloudWatchPlace
from workers.logs.query import LogsRefused, LogStore
from workers.logs.supabase_logs import API, SOURCES, Fetch, HttpAnswer, SupabaseLogs
from workers.outbound.credentials import Injection
from workers.outbound.failures import OutboundFailed
from workers.outbound.request import Request
from workers.outbound.target import parsed
from workers.tools.failures import ToolRefused
from workers.tools.tool import ToolContext


async def connected_logs(context: ToolContext, name: str, source: str | None) -> LogStore:
    """The store behind a connection. Raises LogsRefused, Refused, or ToolRefused where PAM keeps no connections."""
    credentials = context.services.credentials
    if credentials is None:
        raise ToolRefused("This installation has no connections yet.")
    terms, secret = await credentials.opened_for_logs(context.hold, context.call_id, name)
    told = terms.settings
    if terms.kind is ConnectionKind.AWS_ACCESS_KEY:
        if source is not None:
            raise LogsRefused("source belongs to a connection to Supabase; this one leads to CloudWatch.")
        return CloudWatchLogs(
            place=CloudWatchPlace(
                log_group=told["log_group"],
                region=told["region"],
                access_key_id=told["access_key_id"],
                secret_access_key=secret,
            )
        )
    if source is None:
        raise LogsRefused(f"Name the source: one of {', '.join(SOURCES)}.")
    return SupabaseLogs(project_ref=told["project_ref"], source=source, fetch=_fetching(context, terms, secret))


def _fetching(context: ToolContext, terms: ConnectionTerms, secret: str) -> Fetch:
    """GET with the token, to the API's host alone; the organisation's list of hosts is api_call's, not asked here."""
    home = parsed(API)

    async def admits(host: str, port: int) -> bool:
        return (host, port) == (home.host, home.port)

    async def inject(host: str) -> Injection:
        return Injection({"authorization": f"Bearer {secret}"} if host in terms.hosts else {}, secrets=(secret,))

    async def fetch(url: str) -> HttpAnswer:
        request = Request("GET", url, {"accept": "application/json"})
        try:
            answer = await context.services.outbound.send(request, org_id=context.org_id, admits=admits, inject=inject)
        except OutboundFailed as error:
            raise Unavailable(str(error).rstrip(".")) from None
        return HttpAnswer(answer.status, answer.body)

    return fetch
