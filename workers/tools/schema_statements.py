"""The closed list of statements that a migration of an agent may hold, and what each may say."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from workers.tools.function_body import check_body, check_query
from workers.tools.schema_names import (
    ChangeRefused,
    check_expressions,
    check_policy_name,
    check_roles,
    children,
    own_name,
    own_schema,
    own_table,
    strings,
)
from workers.tools.schema_tables import alter_reads_rows, check_alter_table, check_options
from workers.tools.sql_functions import Node, pg, postgast, words
from workers.tools.sql_text import short


@dataclass(frozen=True)
class Judged:
    """What a statement does, in words, and how it must be run."""

    tag: str
    reads_rows: bool = False
    is_single: bool = False


EXTENSIONS = words(
    """vector pg_trgm citext unaccent moddatetime btree_gin btree_gist ltree hstore fuzzystrmatch intarray
    uuid-ossp pgcrypto"""
)
_ACCESS_METHODS = words("btree hash gin gist brin spgist hnsw ivfflat")
_OBJECTS = words(
    """TABLE VIEW MATVIEW INDEX SEQUENCE COLUMN TABCONSTRAINT TRIGGER POLICY TYPE DOMAIN ATTRIBUTE FUNCTION PROCEDURE
    ROUTINE DOMCONSTRAINT SCHEMA"""
)
_OF_A_TABLE = words("COLUMN TRIGGER POLICY TABCONSTRAINT")
_GRANTED = words("TABLE SEQUENCE FUNCTION PROCEDURE ROUTINE SCHEMA TYPE DOMAIN")
_FUNCTION_OPTIONS = words("language as volatility strict security parallel cost rows set")
_FUNCTION_CHANGES = words("volatility strict security parallel cost rows set")


def judge(node: Node) -> Judged:
    """Let one statement pass. Raises ChangeRefused."""
    kind = type(node).__name__
    rule = _RULES.get(kind)
    if rule is None:
        raise ChangeRefused(_REFUSED.get(kind, f"{kind} is not for migrations of an agent: a person must run it."))
    return rule(node)


def _kind_of(objtype: int) -> str:
    return str(pg.ObjectType.Name(objtype)).removeprefix("OBJECT_")


def _no_cascade(behavior: int) -> None:
    if behavior == pg.DROP_CASCADE:
        raise ChangeRefused("CASCADE takes away what nobody named: drop each thing by its name.")


def _named(kind: str, node: Node) -> None:
    """The team's own object, as DROP, COMMENT and RENAME name it."""
    thing = postgast.unwrap_node(node)
    if kind not in _OBJECTS:
        raise ChangeRefused(f"{kind.replace('_', ' ')} is not for migrations of an agent: a person must do this.")
    match thing:
        case pg.ObjectWithArgs():
            own_name(strings(thing.objname), kind.lower())
        case pg.TypeName():
            own_name(strings(thing.names), kind.lower())
        case pg.String():
            own_schema(thing.sval)
        case pg.List():
            if kind == "DOMCONSTRAINT":
                _named("DOMAIN", thing.items[0])
            else:
                parts = strings(thing.items)
                if kind == "POLICY":
                    check_policy_name(parts[-1])
                own_name(parts[:-1] if kind in _OF_A_TABLE else parts, kind.lower())
        case _:
            raise ChangeRefused("The object is named in a way that is not known here: write schema.name.")


def _schema(node: Node) -> Judged:
    own_schema(node.schemaname)
    if node.HasField("authrole") or node.schema_elts:
        raise ChangeRefused("Create the schema alone: its owner is the project's, its objects follow by themselves.")
    return Judged("create schema")


def _table(node: Node) -> Judged:
    own_table(node.relation)
    if node.tablespacename or node.access_method:
        raise ChangeRefused("A tablespace or access method is the platform's choice: leave it out.")
    check_options(node.options)
    check_expressions(node, is_executed=True)
    return Judged("create table", reads_rows=node.HasField("partbound"))


def _table_as(node: Node) -> Judged:
    own_table(node.into.rel)
    if node.into.table_space_name or node.into.access_method:
        raise ChangeRefused("A tablespace or access method is the platform's choice: leave it out.")
    check_options(node.into.options)
    _query(node.query, is_executed=True)
    what = "create materialized view" if _kind_of(node.objtype) == "MATVIEW" else "create table as"
    return Judged(what, reads_rows=True)


def _query(node: Node, *, is_executed: bool) -> None:
    query = postgast.unwrap_node(node)
    if not isinstance(query, pg.SelectStmt):
        raise ChangeRefused("Only a SELECT may stand after AS.")
    check_expressions(query, is_executed=is_executed)


def _alter_table(node: Node) -> Judged:
    own_table(node.relation)
    check_alter_table(node)
    return Judged("alter table", reads_rows=any(alter_reads_rows(c.alter_table_cmd) for c in node.cmds))


def _index(node: Node) -> Judged:
    own_table(node.relation)
    if node.table_space or (node.access_method or "btree") not in _ACCESS_METHODS:
        raise ChangeRefused(f"An index is one of {', '.join(sorted(_ACCESS_METHODS))}, in the usual tablespace.")
    if node.concurrent and not node.idxname:
        raise ChangeRefused("Give a concurrent index a name: if it fails it must be found and dropped.")
    check_options(node.options)
    check_expressions(node, is_executed=True)
    has_expression = any(p.index_elem.HasField("expr") for p in node.index_params)
    return Judged(
        "create index" + (" concurrently" if node.concurrent else ""),
        reads_rows=node.unique or has_expression or node.HasField("where_clause") or bool(node.exclude_op_names),
        is_single=node.concurrent,
    )


def _policy(node: Node) -> Judged:
    own_table(node.table)
    check_policy_name(node.policy_name)
    check_roles(node.roles, may_be_public=True)
    check_expressions(node, is_executed=False)
    return Judged("create policy" if isinstance(node, pg.CreatePolicyStmt) else "alter policy")


def _grant(node: Node) -> Judged:
    kind = _kind_of(node.objtype)
    if kind not in _GRANTED or node.targtype not in (pg.ACL_TARGET_OBJECT, pg.ACL_TARGET_ALL_IN_SCHEMA):
        raise ChangeRefused("Rights are given on tables, columns, sequences, functions, types and schemas only.")
    if node.HasField("grantor") or (node.is_grant and node.grant_option):
        raise ChangeRefused("Leave GRANTED BY and WITH GRANT OPTION out: only the owner gives rights on.")
    check_roles(node.grantees, may_be_public=not node.is_grant)
    _no_cascade(node.behavior)
    for item in node.objects:
        thing = postgast.unwrap_node(item)
        if isinstance(thing, pg.RangeVar):
            own_table(thing, kind.lower())
        else:
            _named(kind, item)
    return Judged("grant" if node.is_grant else "revoke")


def _default_privileges(node: Node) -> Judged:
    if node.action.is_grant:
        raise ChangeRefused(
            "A default privilege grants on what is not there yet: grant on each object when it is made."
        )
    for item in node.options:
        option = item.def_elem
        if option.defname != "schemas":
            raise ChangeRefused("Default privileges are changed for the owner, in a schema: leave FOR ROLE out.")
        for name in strings(option.arg.list.items):
            own_schema(name)
    check_roles(node.action.grantees, may_be_public=True)
    return Judged("alter default privileges")


def _comment(node: Node) -> Judged:
    _named(_kind_of(node.objtype), node.object)
    return Judged("comment")


def _drop(node: Node) -> Judged:
    _no_cascade(node.behavior)
    kind = _kind_of(node.remove_type)
    for item in node.objects:
        _named(kind, item)
    return Judged(f"drop {kind.lower()}" + (" concurrently" if node.concurrent else ""), is_single=node.concurrent)


def _rename(node: Node) -> Judged:
    kind = _kind_of(node.rename_type)
    _no_cascade(node.behavior)
    if kind == "SCHEMA" or node.newname.lower().startswith("pg_"):
        raise ChangeRefused("Schemas keep their names, and no name begins with pg_.")
    if kind == "POLICY":
        check_policy_name(node.subname)
        check_policy_name(node.newname)
    if node.HasField("relation"):
        if kind not in _OBJECTS:
            raise ChangeRefused(f"Renaming a {kind.lower()} is not for migrations of an agent: a person must do this.")
        own_table(node.relation)
    else:
        _named(kind, node.object)
    return Judged(f"rename {kind.lower()}", reads_rows=False)


def _move(node: Node) -> Judged:
    own_schema(node.newschema)
    if node.HasField("relation"):
        own_table(node.relation)
    else:
        _named(_kind_of(node.object_type), node.object)
    return Judged("set schema")


def _function(node: Node) -> Judged:
    own_name(strings(node.funcname), "function")
    options = {}
    for item in node.options:
        _function_option(item.def_elem, _FUNCTION_OPTIONS)
        options[item.def_elem.defname] = item.def_elem.arg
    language = options["language"].string.sval.lower() if "language" in options else "sql"
    if language not in ("sql", "plpgsql"):
        raise ChangeRefused(f"A function is written in sql or plpgsql, not in {short(language)}.")
    for parameter in node.parameters:
        check_expressions(parameter, is_executed=False)
    if node.HasField("return_type"):
        check_expressions(node.return_type, is_executed=False)
    if node.HasField("sql_body"):
        for statement in _statements_of(node.sql_body):
            check_query(statement)
    if "as" in options:
        bodies = strings(options["as"].list.items)
        if len(bodies) != 1:
            raise ChangeRefused("A function has one body: write as $$ … $$.")
        check_body(language, bodies[0])
    return Judged("create procedure" if node.is_procedure else "create function")


def _statements_of(body: Node) -> Iterator[Node]:
    thing = postgast.unwrap_node(body)
    if isinstance(thing, pg.List):
        for item in thing.items:
            yield from _statements_of(item)
    else:
        yield thing


def _function_option(option: Node, known: frozenset[str]) -> None:
    if option.defname not in known:
        raise ChangeRefused(f"The option {short(option.defname)} of a function is not for migrations of an agent.")
    if option.defname == "set":
        setting = option.arg.variable_set_stmt
        if setting.name != "search_path" or setting.kind != pg.VAR_SET_VALUE:
            raise ChangeRefused("A function may set its search_path, to a value, and nothing else.")


def _alter_function(node: Node) -> Judged:
    own_name(strings(node.func.objname), "function")
    for item in node.actions:
        _function_option(item.def_elem, _FUNCTION_CHANGES)
    return Judged("alter function")


def _trigger(node: Node) -> Judged:
    own_table(node.relation)
    names = strings(node.funcname)
    if names != ["extensions", "moddatetime"]:
        own_name(names, "function")
    if node.HasField("constrrel"):
        own_table(node.constrrel)
    if node.HasField("when_clause"):
        check_expressions(node.when_clause, is_executed=False)
    return Judged("create trigger")


def _view(node: Node) -> Judged:
    own_table(node.view, "view")
    check_options(node.options)
    _query(node.query, is_executed=False)
    return Judged("create view")


def _extension(node: Node) -> Judged:
    if node.extname not in EXTENSIONS:
        raise ChangeRefused(
            f"The extension {short(node.extname)} is not on the list "
            f"({', '.join(sorted(EXTENSIONS))}): a person installs it."
        )
    options = {item.def_elem.defname: item.def_elem.arg.string.sval for item in node.options}
    if options != {"schema": "extensions"}:
        raise ChangeRefused("Write create extension … with schema extensions, and no other option.")
    return Judged("create extension")


def _type(node: Node) -> Judged:
    match node:
        case pg.CompositeTypeStmt():
            own_table(node.typevar, "type")
        case pg.CreateEnumStmt() | pg.AlterEnumStmt():
            own_name(strings(node.type_name), "type")
        case pg.CreateDomainStmt():
            own_name(strings(node.domainname), "domain")
        case pg.AlterDomainStmt():
            own_name(strings(node.type_name), "domain")
            _no_cascade(node.behavior)
    for child in children(node):
        if not isinstance(child, pg.String | pg.RangeVar):
            check_expressions(child, is_executed=True)
    is_domain = isinstance(node, pg.AlterDomainStmt)
    return Judged("alter domain" if is_domain else "create or alter type", reads_rows=is_domain)


def _sequence(node: Node) -> Judged:
    own_table(node.sequence, "sequence")
    for item in node.options:
        if item.def_elem.defname == "owned_by":
            parts = strings(item.def_elem.arg.list.items)
            if parts != ["none"]:
                own_name(parts[:-1], "table")
    check_expressions(node, is_executed=True)
    return Judged("create or alter sequence")


def _publication(node: Node) -> Judged:
    if node.pubname != "supabase_realtime" or node.options or node.for_all_tables or node.action == pg.AP_SetObjects:
        raise ChangeRefused("Of publications only supabase_realtime may be changed: add table, or drop table.")
    for item in node.pubobjects:
        thing = item.publication_obj_spec
        if thing.pubobjtype != pg.PUBLICATIONOBJ_TABLE:
            raise ChangeRefused("Add tables to supabase_realtime one by one, not whole schemas.")
        own_table(thing.pubtable.relation)
        check_expressions(thing, is_executed=False)
    return Judged("alter publication")


def _rows(node: Node) -> Judged:
    own_table(node.relation)
    check_expressions(node, is_executed=True)
    return Judged(type(node).__name__.removesuffix("Stmt").lower(), reads_rows=True)


_RULES: dict[str, Callable[[Node], Judged]] = {
    "CreateSchemaStmt": _schema,
    "CreateStmt": _table,
    "CreateTableAsStmt": _table_as,
    "AlterTableStmt": _alter_table,
    "IndexStmt": _index,
    "CreatePolicyStmt": _policy,
    "AlterPolicyStmt": _policy,
    "GrantStmt": _grant,
    "AlterDefaultPrivilegesStmt": _default_privileges,
    "CommentStmt": _comment,
    "DropStmt": _drop,
    "RenameStmt": _rename,
    "AlterObjectSchemaStmt": _move,
    "CreateFunctionStmt": _function,
    "AlterFunctionStmt": _alter_function,
    "CreateTrigStmt": _trigger,
    "ViewStmt": _view,
    "CreateExtensionStmt": _extension,
    "CompositeTypeStmt": _type,
    "CreateEnumStmt": _type,
    "AlterEnumStmt": _type,
    "CreateDomainStmt": _type,
    "AlterDomainStmt": _type,
    "CreateSeqStmt": _sequence,
    "AlterSeqStmt": _sequence,
    "AlterPublicationStmt": _publication,
    "InsertStmt": _rows,
    "UpdateStmt": _rows,
    "DeleteStmt": _rows,
}
_REFUSED = {
    "TransactionStmt": "The operator opens and closes the transaction: leave BEGIN, COMMIT and ROLLBACK out.",
    "DoStmt": "A DO block does what nobody can review before: write its statements out.",
    "CopyStmt": "COPY moves rows in and out of files and programs: insert the rows, or write to the workspace.",
    "VariableSetStmt": "Settings are the operator's: leave SET and RESET out.",
    "PrepareStmt": "Prepared statements hide what runs: write the statement out.",
    "ExecuteStmt": "Prepared statements hide what runs: write the statement out.",
    "SelectStmt": "A migration does not select: a function that has an effect is for a person to call.",
    "CallStmt": "A migration does not call procedures: write its statements out.",
    "GrantRoleStmt": "Who is a member of which role is the platform's: a migration of an agent leaves it alone.",
    "CreateRoleStmt": "Roles are the platform's: a migration of an agent makes none.",
    "AlterRoleStmt": "Roles are the platform's: a migration of an agent leaves them alone.",
    "AlterOwnerStmt": "Everything belongs to the project's owner: leave OWNER TO out.",
    "CreateEventTrigStmt": "An event trigger runs at everybody's statements: a person must make it.",
    "TruncateStmt": "TRUNCATE cannot be taken back and skips row-level security: a person must run it.",
    "MergeStmt": "MERGE is not for migrations of an agent: write insert … on conflict, or update.",
    "RuleStmt": "A rule rewrites everybody's statements: write a trigger or a view.",
}
