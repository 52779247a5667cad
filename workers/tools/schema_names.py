"""What a migration written by a model may name: the team's own schemas, and functions whose effect is known.

An expression is *executed* when the statement itself evaluates it (a default, a check, an index, rows), as the owner,
also in a dry run: only built-ins that read nothing but their arguments may stand there. It is *stored* when somebody
else's statement will (a policy, a view, a function's body): there the team's own functions may stand too, named with
their schema.
"""

import re
from collections.abc import Iterable, Iterator
from importlib import import_module

from workers.tools.sql_functions import CLOSED_SCHEMAS, FUNCTIONS, Node, excess, pg, postgast, words
from workers.tools.sql_text import short

_Message = import_module("google.protobuf.message").Message

ROLES = frozenset({"anon", "authenticated", "service_role"})
MIRROR = "pam: "
_PLATFORM = re.compile(r"(pgmq.*|pgtle|partman|repack|tiger.*|topology|timescaledb.*|dblink|http)\Z")
_PURE = FUNCTIONS | words("gen_random_uuid uuidv4 uuidv7 clock_timestamp nextval random hashtext hashtextextended")
_OF_AUTH = words("uid jwt role email")
_OF_EXTENSIONS = words(
    """gen_random_uuid uuid_generate_v4 digest hmac crypt gen_salt gen_random_bytes similarity word_similarity
    unaccent moddatetime cosine_distance l2_distance inner_product"""
)
_STORED = _PURE | words(
    """current_setting jsonb_populate_record json_populate_record pg_advisory_xact_lock pg_trigger_depth
    row_security_active array_fill"""
)
# `s.f` on a scalar is the call f(s): a name with an effect must not stand behind a dot.
_CALLED_BY_DOT = re.compile(
    r"(pg_|lo_|dblink|http|(query|table|cursor|schema|database)_to_|ts_stat|ts_rewrite)"
    r"|(current_setting|set_config|setval|nextval|inet_\w+)\Z"
)


class ChangeRefused(Exception):
    """The change may not even be tried; the sentence names the part and what to write instead."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


def is_closed(schema: str) -> bool:
    """Whether a schema belongs to the platform or to PAM."""
    return bool(CLOSED_SCHEMAS.match(schema.lower()) or _PLATFORM.match(schema.lower()))


def own_name(parts: Iterable[str], what: str = "object") -> tuple[str, str]:
    """(schema, name) of something of the team's; a name without a schema lies in public. Raises ChangeRefused."""
    names = list(parts)
    if not 1 <= len(names) <= 2:
        raise ChangeRefused(f"Name the {what} as schema.name: {short('.'.join(names))} is something else.")
    schema = names[0] if len(names) == 2 else "public"
    if is_closed(schema):
        raise ChangeRefused(
            f"The {what} {short('.'.join(names))} belongs to the platform or to PAM: "
            "a migration of an agent changes the team's own schemas only."
        )
    if len(names) == 1 and names[-1].lower().startswith("pg_"):
        raise ChangeRefused(f"{short(names[-1])} looks like a system catalog: write public.{short(names[-1])}.")
    return schema, names[-1]


def own_schema(name: str) -> str:
    """A schema of the team's. Raises ChangeRefused."""
    if is_closed(name):
        raise ChangeRefused(
            f"The schema {short(name)} belongs to the platform or to PAM: a migration of an agent leaves it alone."
        )
    return name


def own_table(table: Node, what: str = "table") -> tuple[str, str]:
    """(schema, name) of a table, view, index or sequence of the team's. Raises ChangeRefused."""
    if table.catalogname:
        raise ChangeRefused(f"Name the {what} as schema.name, without a database.")
    if table.relpersistence == "t":
        raise ChangeRefused("Temporary tables belong to a session, and a migration has none: use a CTE.")
    return own_name([part for part in (table.schemaname, table.relname) if part], what)


def strings(nodes: Iterable[Node]) -> list[str]:
    """The texts of a list of String nodes."""
    return [str(postgast.unwrap_node(node).sval) for node in nodes]


def children(message: Node) -> Iterator[Node]:
    """The nodes below a node, unwrapped."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if isinstance(value, _Message) else value:
                child = postgast.unwrap_node(item)
                if not isinstance(child, pg.Node):
                    yield child


def check_expressions(node: Node, *, is_executed: bool) -> None:
    """Let an expression, a query or a table's definition pass if it names only what it may. Raises ChangeRefused."""
    match node:
        case pg.RangeVar():
            own_table(node)
        case pg.FuncCall():
            _function(node, is_executed=is_executed)
        case pg.TypeName():
            _type(node)
        case pg.ColumnRef():
            check_after_a_dot([f.string.sval for f in node.fields if f.HasField("string")][1:])
        case pg.A_Indirection():
            check_after_a_dot([i.string.sval for i in node.indirection if i.HasField("string")])
        case pg.IntoClause():
            raise ChangeRefused("SELECT INTO makes a table: write create table … as.")
        case pg.MergeStmt():
            raise ChangeRefused("MERGE is not for migrations of an agent: write insert … on conflict, or update.")
        case pg.Constraint() if node.HasField("pktable") and _is_the_users_table(node.pktable):
            for child in children(node):
                if not isinstance(child, pg.RangeVar):
                    check_expressions(child, is_executed=is_executed)
            return
    for child in children(node):
        check_expressions(child, is_executed=is_executed)


def _is_the_users_table(table: Node) -> bool:
    """A foreign key to auth.users is how every project names its people."""
    return (table.schemaname, table.relname, table.catalogname) == ("auth", "users", "")


def _function(call: Node, *, is_executed: bool) -> None:
    names = strings(call.funcname)
    check_call(names, is_executed=is_executed)
    if is_executed and (fault := excess(names[-1], call.args)):
        raise ChangeRefused(f"{fault}.")


def check_call(names: list[str], *, is_executed: bool) -> None:
    """Let a call by these name parts pass. Raises ChangeRefused."""
    name, schema = names[-1], names[0] if len(names) == 2 else None
    shown = short(".".join(names))
    if len(names) > 2:
        raise ChangeRefused(f"Call functions as schema.name: {shown} is something else.")
    if schema in (None, "pg_catalog"):
        if name in (_PURE if is_executed else _STORED):
            return
        if is_executed:
            raise ChangeRefused(
                f"The function {shown} would run with the owner's rights while the change is tried: defaults, checks, "
                "indexes and rows may call only built-ins that read nothing but their arguments."
            )
        raise ChangeRefused(
            f"The function {shown} is not on the list of built-ins for policies, views and functions: "
            "if it is the team's own, name it with its schema."
        )
    if (schema == "auth" and name in _OF_AUTH) or (schema == "extensions" and name in _OF_EXTENSIONS):
        return
    if not is_executed and (schema, name) == ("realtime", "topic"):
        return
    if schema is not None and is_closed(schema):
        raise ChangeRefused(
            f"The function {shown} belongs to the platform or to PAM, and a migration of an agent does not call it."
        )
    if is_executed:
        raise ChangeRefused(
            f"The function {shown} is the team's own, and would run with the owner's rights while the change is tried: "
            "defaults, checks, indexes and rows may call only built-ins."
        )


def _type(name: Node) -> None:
    parts = strings(name.names)
    if len(parts) > 1 and parts[0] not in ("pg_catalog", "extensions") and not name.pct_type:
        own_name(parts[-2:] if len(parts) > 2 else parts, "type")


def check_after_a_dot(names: list[str]) -> None:
    """Let field names pass that cannot be the call of a function with an effect. Raises ChangeRefused."""
    for name in names:
        if _CALLED_BY_DOT.match(name.lower()):
            raise ChangeRefused(f".{short(name)} may call a function by that name: choose another column name.")


def check_roles(specs: Iterable[Node], *, may_be_public: bool) -> None:
    """Let anon, authenticated and service_role pass, and public where that takes away. Raises ChangeRefused."""
    for spec in specs:
        role = postgast.unwrap_node(spec)
        if role.roletype == pg.ROLESPEC_PUBLIC:
            if not may_be_public:
                raise ChangeRefused("A grant to public reaches every role there is: name authenticated, or anon.")
        elif role.roletype != pg.ROLESPEC_CSTRING or role.rolename not in ROLES:
            shown = short(role.rolename or "the session's role")
            raise ChangeRefused(
                f"The role {shown} is not for migrations of an agent: name anon, authenticated or service_role."
            )


def check_policy_name(name: str) -> None:
    """PAM's mirrors are named `pam: …`, and made and taken away by open_to_agent alone. Raises ChangeRefused."""
    if name.lower().startswith(MIRROR.strip()):
        raise ChangeRefused(
            f"The policy {short(name)} has a name of PAM's own mirrors: they are made by pam.open_to_agent alone."
        )
