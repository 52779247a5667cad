"""What a statement written by a model may name of PostgreSQL itself: functions, operators and types.

Every function here is immutable or stable in `pg_proc` of PostgreSQL 17 and 18, reads nothing but its
arguments and the clock, and runs no SQL of its own. Left out on purpose: `ts_stat`, `ts_rewrite`,
`query_to_xml` and family (they run text as SQL), `current_setting` and `set_config`, `pg_*`, `lo_*`,
`random` and other volatile functions, `array_fill` and `factorial` (small arguments, huge answers),
everything of XML, and functions that name roles. `generate_series`, `repeat`, `lpad`, `rpad` and `format`
are allowed as far as `excess` finds no fault.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

# By name: postgast's stubs are not valid Python (a field called `None`) and protobuf ships none, so a type
# checker that follows these imports stops. A node of the parse tree is therefore Any.
postgast: Any = import_module("postgast")
pg: Any = import_module("postgast.pg_query_pb2")
Node = Any

MAX_SERIES_ROWS = 100_000
MAX_REPEATS = 1_000
MAX_PAD_CHARACTERS = 10_000
MAX_PATTERN_CHARACTERS = 1_000


def words(text: str) -> frozenset[str]:
    """The words of a text as a set, so that a long list stays readable."""
    return frozenset(text.split())


FUNCTIONS = words(
    # aggregates and windows
    """any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp
    cume_dist dense_rank every first_value json_agg json_object_agg jsonb_agg jsonb_object_agg lag
    last_value lead max min mode nth_value ntile percent_rank percentile_cont percentile_disc range_agg
    range_intersect_agg rank regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx
    regr_sxy regr_syy row_number stddev stddev_pop stddev_samp string_agg sum var_pop var_samp variance """
    # text and bytes; the last line is what the grammar makes of LIKE … ESCAPE, SIMILAR TO, IS NORMALIZED
    """ascii bit_count bit_length btrim char_length character_length chr concat concat_ws decode encode format
    get_bit get_byte initcap left length lower lpad ltrim md5 normalize octet_length overlay parse_ident
    position quote_ident quote_literal quote_nullable regexp_count regexp_instr regexp_like regexp_match
    regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr repeat replace
    reverse right rpad rtrim sha224 sha256 sha384 sha512 split_part starts_with string_to_array
    string_to_table strpos substr substring to_hex translate trim_array unicode_assigned unistr upper
    like_escape similar_to_escape is_normalized """
    # numbers
    """abs acos asin atan atan2 cbrt ceil ceiling cos cot degrees div exp floor gcd lcm ln log log10 min_scale
    mod pi power radians round scale sign sin sqrt tan trim_scale trunc width_bucket num_nonnulls
    num_nulls """
    # time; timezone is AT TIME ZONE, overlaps is OVERLAPS
    """age date date_add date_bin date_part date_subtract date_trunc extract isfinite justify_days
    justify_hours justify_interval make_date make_interval make_time make_timestamp make_timestamptz now
    overlaps statement_timestamp timezone to_char to_date to_number to_timestamp transaction_timestamp
    uuid_extract_timestamp uuid_extract_version """
    # json
    """array_to_json json_array_elements json_array_elements_text json_array_length json_build_array
    json_build_object json_each json_each_text json_extract_path json_extract_path_text json_object
    json_object_keys json_strip_nulls json_to_record json_to_recordset json_typeof jsonb_array_elements
    jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each
    jsonb_each_text jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_keys
    jsonb_path_exists jsonb_path_exists_tz jsonb_path_match jsonb_path_match_tz jsonb_path_query
    jsonb_path_query_array jsonb_path_query_array_tz jsonb_path_query_first jsonb_path_query_first_tz
    jsonb_path_query_tz jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls jsonb_to_record
    jsonb_to_recordset jsonb_typeof row_to_json to_json to_jsonb """
    # arrays, ranges, series
    """array_append array_cat array_dims array_length array_lower array_ndims array_position array_positions
    array_prepend array_remove array_replace array_to_string array_upper cardinality daterange
    generate_series generate_subscripts int4range int8range isempty lower_inc lower_inf numrange range_merge
    tsrange tstzrange unnest upper_inc upper_inf """
    # full text, network
    """array_to_tsvector json_to_tsvector jsonb_to_tsvector numnode phraseto_tsquery plainto_tsquery querytree
    setweight strip to_tsquery to_tsvector ts_delete ts_filter ts_headline ts_rank ts_rank_cd tsquery_phrase
    tsvector_to_array websearch_to_tsquery abbrev broadcast family host hostmask masklen netmask network"""
)

OPERATORS = words(
    """!! !~ !~* !~~ !~~* # ## #- #> #>> % & && &< &<| &> * + - -> ->> -|- / < <-> << <<= <<| <= <> <@ <^ = >
    >= >> >>= >^ ? ?# ?& ?- ?-| ?| ?|| @ @-@ @> @? @@ @@@ ^ ^@ | |&> |/ |>> || ||/ ~ ~* ~<=~ ~<~ ~= ~>=~ ~>~
    ~~ ~~*
    <=> <#> <+> %> <% %>> <<% <->> <<-> <->>> <<<->"""  # this line: pgvector and pg_trgm
) | {"BETWEEN", "NOT BETWEEN", "BETWEEN SYMMETRIC", "NOT BETWEEN SYMMETRIC"}

# Not here: reg* (a cast looks names up in the catalog), xml, and names of users' own types.
TYPES = words(
    """bit bool bpchar bytea char cidr date daterange datemultirange float4 float8 halfvec inet int2 int4
    int4range int4multirange int8 int8range int8multirange interval json jsonb jsonpath macaddr money name
    numeric nummultirange numrange oid point sparsevec text time timestamp timestamptz timetz tsmultirange
    tsquery tsrange tstzmultirange tstzrange tsvector uuid varbit varchar vector citext"""
)

EXTENSION_TYPES = frozenset({"vector", "halfvec", "sparsevec", "citext"})

# CURRENT_DATE and its like; CURRENT_USER and its like name roles.
CLOCK_VALUES = words(
    """SVFOP_CURRENT_DATE SVFOP_CURRENT_TIME SVFOP_CURRENT_TIME_N SVFOP_CURRENT_TIMESTAMP
    SVFOP_CURRENT_TIMESTAMP_N SVFOP_LOCALTIME SVFOP_LOCALTIME_N SVFOP_LOCALTIMESTAMP SVFOP_LOCALTIMESTAMP_N"""
)

# Columns that built-in functions name themselves, none of them the name of a built-in function.
OUTPUT_COLUMNS = frozenset({"key", "value", "ordinality", "lexeme", "positions", "weights"})

CLOSED_SCHEMAS = re.compile(
    r"(pg_.*|_.*|information_schema|auth|storage|vault|realtime|net|extensions|supabase_.*|graphql.*|cron|pgsodium.*"
    r"|pgbouncer|pam|pam_worker|pam_private)\Z",
    re.DOTALL,
)

_CLOCKS = {"now", "transaction_timestamp", "statement_timestamp"}
_SECONDS = {"second": 1, "sec": 1, "minute": 60, "min": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_SECONDS |= {"month": 2_592_000, "mon": 2_592_000, "year": 31_536_000}
_INTERVAL = re.compile(r"\s*([+-]?\d{1,9}(?:\.\d{1,9})?)\s*([a-z]+?)s?(?=$|[\s+\-\d])", re.IGNORECASE)


def excess(name: str, arguments: Sequence[Node]) -> str | None:
    """Say what makes this call of an allowed function a bomb; None if its size is known and small."""
    args = [postgast.unwrap_node(argument) for argument in arguments]
    match name:
        case "generate_series":
            rows = _series_rows(args)
            if rows is None or rows > MAX_SERIES_ROWS:
                return (
                    f"generate_series must give at most {MAX_SERIES_ROWS:,} rows, by its text: write "
                    "constants only (1, '2026-01-01'::date, now() - interval '30 days', '1 day')"
                )
        case "repeat":
            if not 0 <= _whole(args, 1) <= MAX_REPEATS:
                return f"repeat needs a constant count of at most {MAX_REPEATS:,}"
        case "lpad" | "rpad":
            if not 0 <= _whole(args, 1) <= MAX_PAD_CHARACTERS:
                return f"{name} needs a constant length of at most {MAX_PAD_CHARACTERS:,}"
        case "format":
            pattern = _text(args[0]) if args else None
            if pattern is None or re.search(r"%[^%A-Za-z]*(\*|\d{4})", pattern):
                return "format needs a constant pattern without * and without widths above 999; or join with ||"
        case _ if name.startswith("regexp_") and len(args) > 1:
            if len(_text(args[1]) or "") > MAX_PATTERN_CHARACTERS:
                return f"A regular expression may have at most {MAX_PATTERN_CHARACTERS:,} characters"
    return None


def _series_rows(args: list[Node]) -> int | None:
    if len(args) not in (2, 3):
        return None
    first, last = _whole_number(args[0]), _whole_number(args[1])
    if first is not None and last is not None:
        step = _whole_number(args[2]) if len(args) == 3 else 1
        return None if not step else max(0, (last - first) // step) + 1
    if len(args) != 3:
        return None
    try:
        start, stop, every = _moment(args[0]), _moment(args[1]), _span(args[2])
        return None if not (start and stop and every) else max(0, (stop - start) // every) + 1
    except OverflowError:
        return None


def _moment(node: Node) -> datetime | None:
    """A date or time that the text alone tells, to about a day: literals, the clock, steps away from them."""
    match node:
        case pg.TypeCast():
            inner = postgast.unwrap_node(node.arg)
            literal = _text(inner)
            if literal is None:
                return _moment(inner)
            try:
                return datetime.strptime(literal[:10], "%Y-%m-%d").replace(tzinfo=UTC)
            except ValueError:
                return None
        case pg.SQLValueFunction():
            return datetime.now(UTC)
        case pg.FuncCall():
            name, args = last_name(node.funcname), [postgast.unwrap_node(argument) for argument in node.args]
            if name in _CLOCKS:
                return datetime.now(UTC)
            return _moment(args[1]) if name in {"date_trunc", "timezone"} and len(args) > 1 else None
        case pg.A_Expr() if last_name(node.name) in {"+", "-"} and node.HasField("lexpr"):
            start, right = _moment(postgast.unwrap_node(node.lexpr)), postgast.unwrap_node(node.rexpr)
            days = _whole_number(right)
            span = _span(right) if days is None else timedelta(days=days)
            if start is None or span is None:
                return None
            return start + span if last_name(node.name) == "+" else start - span
    return None


def _span(node: Node) -> timedelta | None:
    if isinstance(node, pg.TypeCast) and last_name(node.type_name.names) == "interval":
        node = postgast.unwrap_node(node.arg)
    literal, seconds, at = _text(node), 0.0, 0
    if not literal:
        return None
    while at < len(literal.rstrip()):
        part = _INTERVAL.match(literal, at)
        if part is None or part[2].lower() not in _SECONDS:
            return None
        seconds += float(part[1]) * _SECONDS[part[2].lower()]
        at = part.end()
    return timedelta(seconds=seconds)


def _whole(args: list[Node], position: int) -> int:
    value = _whole_number(args[position]) if len(args) > position else None
    return -1 if value is None else value


def _whole_number(node: Node) -> int | None:
    if isinstance(node, pg.TypeCast) and last_name(node.type_name.names) in {"int2", "int4", "int8"}:
        node = postgast.unwrap_node(node.arg)
    return int(node.ival.ival) if isinstance(node, pg.A_Const) and node.HasField("ival") else None


def _text(node: Node) -> str | None:
    return str(node.sval.sval) if isinstance(node, pg.A_Const) and node.HasField("sval") else None


def last_name(names: Sequence[Node]) -> str:
    """The unqualified end of a dotted name in the tree, as PostgreSQL folded it; empty if there is none."""
    return str(names[-1].string.sval) if names else ""
