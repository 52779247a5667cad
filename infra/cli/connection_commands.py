"""The commands `connections …`. A secret comes from a prompt or stdin, never from the command line."""

from typing import Annotated, Any

import typer

from infra.cli.console import Json, answer, consoles, execute

connections_app = typer.Typer(no_args_is_help=True, help="Credentials that agents use by name and never see.")

Name = Annotated[str, typer.Argument(help="The connection's name: small letters, digits, - and _.")]
Expires = Annotated[str | None, typer.Option("--expires", help="When it stops working, e.g. 2027-01-01.")]


@connections_app.command("add")
def connections_add(
    name: Name,
    kind: Annotated[
        str, typer.Option(help="api_key, basic, bearer, oauth2_client_credentials, oauth2_refresh or aws_access_key.")
    ],
    host: Annotated[
        list[str] | None, typer.Option(help="A host it is given to; more than once if wanted. Logs have their own.")
    ] = None,
    header: Annotated[str | None, typer.Option(help="api_key: the header it travels in.")] = None,
    query: Annotated[str | None, typer.Option(help="api_key: the query parameter it travels in.")] = None,
    prefix: Annotated[str | None, typer.Option(help="api_key: what stands before it, e.g. 'Token '.")] = None,
    username: Annotated[str | None, typer.Option(help="basic: the user's name.")] = None,
    token_url: Annotated[str | None, typer.Option(help="OAuth 2: where tokens are fetched.")] = None,
    client_id: Annotated[str | None, typer.Option(help="OAuth 2: the client's id.")] = None,
    client_auth: Annotated[str | None, typer.Option(help="OAuth 2: basic (a header, usual) or body.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="OAuth 2: a scope; more than once if wanted.")] = None,
    audience: Annotated[str | None, typer.Option(help="OAuth 2: whom the token is for, where that is asked.")] = None,
    project_ref: Annotated[
        str | None, typer.Option(help="bearer, for log_search: the Supabase project whose logs the token may read.")
    ] = None,
    access_key_id: Annotated[str | None, typer.Option(help="aws_access_key, for log_search: the key's id.")] = None,
    region: Annotated[str | None, typer.Option(help="aws_access_key: where the log group is.")] = None,
    log_group: Annotated[str | None, typer.Option(help="aws_access_key: the log group at CloudWatch.")] = None,
    with_client_secret: Annotated[
        bool, typer.Option("--with-client-secret", help="oauth2_refresh: a client secret follows the refresh token.")
    ] = False,
    expires: Expires = None,
    as_json: Json = False,
) -> None:
    """Add a connection; the secret is asked for, or read from stdin, and sealed before it leaves this machine."""
    from infra.cli.connections import add_connection, hosts_of, known_kind, read_secret
    from infra.cli.setting import environment

    given: dict[str, Any] = {
        "header": header, "query": query, "prefix": prefix, "username": username, "token_url": token_url,
        "client_id": client_id, "client_auth": client_auth, "scopes": scope, "audience": audience,
        "project_ref": project_ref, "access_key_id": access_key_id, "region": region, "log_group": log_group,
    }  # fmt: skip

    async def work() -> dict[str, Any]:
        known = known_kind(kind)
        settings = {word: value for word, value in given.items() if value}
        hosts = hosts_of(host, settings)
        secret = read_secret(known, with_client_secret=with_client_secret)
        return await add_connection(
            environment(), name, kind=known, hosts=hosts, settings=settings, secret=secret, expires_at=expires,
            console=consoles(as_json),
        )  # fmt: skip

    answer(as_json, execute(work()))


@connections_app.command("list")
def connections_list(as_json: Json = False) -> None:
    """List the connections of your organisation: kinds, hosts, last use. Secrets are read by nobody."""
    from infra.cli.connections import list_connections
    from infra.cli.setting import environment

    answer(as_json, execute(list_connections(environment(), console=consoles(as_json))))


@connections_app.command("rotate")
def connections_rotate(
    name: Name,
    with_client_secret: Annotated[
        bool, typer.Option("--with-client-secret", help="oauth2_refresh: a client secret follows the refresh token.")
    ] = False,
    expires: Expires = None,
    as_json: Json = False,
) -> None:
    """Give a connection its next secret, from a prompt or stdin; the last one is gone at once."""
    from infra.cli.connections import read_secret, rotate_connection
    from infra.cli.setting import environment

    async def work() -> dict[str, Any]:
        secret = read_secret(None, with_client_secret=with_client_secret)
        return await rotate_connection(
            environment(), name, secret=secret, expires_at=expires, console=consoles(as_json)
        )

    answer(as_json, execute(work()))


@connections_app.command("remove")
def connections_remove(name: Name, as_json: Json = False) -> None:
    """Take a connection and its secret away. Calls that name it are refused from then on."""
    from infra.cli.connections import remove_connection
    from infra.cli.setting import environment

    answer(as_json, execute(remove_connection(environment(), name, console=consoles(as_json))))


@connections_app.command("rekey")
def connections_rekey(as_json: Json = False) -> None:
    """Give the embedded stack a new key; its workers seal every secret anew under it."""
    from infra.cli.connections import rekey
    from infra.cli.setting import environment

    answer(as_json, execute(rekey(environment(), console=consoles(as_json))))
