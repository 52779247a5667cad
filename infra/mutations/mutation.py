"""What a mutation is: one guard taken away, in a database or in a copy of the tree, and the tests that must notice."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class TargetVanished(Exception):
    """What a mutation would change is not there exactly once: the mutation must be written anew."""


@dataclass(frozen=True)
class SqlChange:
    """Statements for a database where PAM is installed, run as its superuser. They raise when their target is gone."""

    sql: str


@dataclass(frozen=True)
class Edit:
    """A text of one file that stands there exactly once, and what takes its place."""

    file: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        """Change the file below root. Raises TargetVanished."""
        path = root / self.file
        text = path.read_text() if path.exists() else ""
        if text.count(self.old) != 1:
            raise TargetVanished(f"{self.file} holds this {text.count(self.old)} times, not once: {self.old!r}")
        path.write_text(text.replace(self.old, self.new))


@dataclass(frozen=True)
class Mutation:
    """One guard taken away. tests: pytest's own words, paths and `-k`."""

    name: str
    change: SqlChange | Edit
    tests: tuple[str, ...]


def without(function: str, old: str, new: str, *, times: int = 1) -> SqlChange:
    """A SQL function with a text of it, which stands there so many times, replaced. function: schema.name."""
    schema, _, name = function.partition(".")
    return SqlChange(f"""
do $mutation$
declare
  found oid[] := array(select p.oid from pg_catalog.pg_proc p
                        where p.proname = '{name}' and p.pronamespace = '{schema}'::regnamespace);
  told text;
begin
  if cardinality(found) <> 1 then raise exception '{function} is there % times, not once', cardinality(found); end if;
  told := pg_catalog.pg_get_functiondef(found[1]);
  if (length(told) - length(replace(told, $old${old}$old$, ''))) / length($old${old}$old$) <> {times} then
    raise exception '{function} does not hold this {times} times: %', $old${old}$old$;
  end if;
  execute replace(told, $old${old}$old$, $new${new}$new$);
end $mutation$""")  # noqa: S608 - texts of this package


@dataclass(frozen=True)
class Target:
    """A text of a SQL function that a mutation replaces. function: schema.name."""

    title: str
    function: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]
    times: int = 1

    def mutation(self) -> Mutation:
        """The record that is run."""
        name = f"{self.title} {self.function}: {self.what}"
        return Mutation(name, without(self.function, self.old, self.new, times=self.times), self.tests)


Tests = str | tuple[str, ...]
Row = tuple[str, str, str, str] | tuple[str, str, str, str, Tests]


def edits(title: str, rows: Iterable[Row], tests: Tests = ()) -> tuple[Mutation, ...]:
    """Mutations of source: what is taken away, its file, its text, what takes its place, and who notices if not all."""
    return tuple(Mutation(f"{title}: {row[0]}", Edit(*row[1:4]), _noticing(row, tests)) for row in rows)


def edits_of(title: str, file: str, rows: Iterable[tuple[str, str, str]], *tests: str) -> tuple[Mutation, ...]:
    """Mutations of one file's source: what is taken away, its text, what takes its place."""
    return edits(title, [(what, file, old, new) for what, old, new in rows], tests)


def targets(title: str, rows: Iterable[Row], tests: Tests = ()) -> tuple[Target, ...]:
    """Texts of SQL functions: the function, what is taken away, its text, what takes its place, and who notices."""
    return tuple(Target(title, *row[:4], tests=_noticing(row, tests)) for row in rows)


def _noticing(row: Row, tests: Tests) -> tuple[str, ...]:
    found = row[4] if len(row) == 5 else tests
    return (found,) if isinstance(found, str) else found
