"""Reading rows as plain values, and inserting rows whose id may be chosen by the caller."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import peewee as pw

from gproxy.errors import BadRequest
from gproxy.store import models as m

# A table that is chosen at run time, and a query of it: peewee declares the columns in the class of each table only.
AnyTable: TypeAlias = Any
AnyQuery: TypeAlias = Any
MAX_CHOSEN_ID = 2**30  # the database continues after the greatest id, and the column has a limit


def tuples(query: AnyQuery) -> Iterable[Any]:
    """Returns the rows of a query as tuples; peewee's types say that they stay models."""
    return query.tuples()


def insert(table: AnyTable, row_id: int, values: dict) -> int:
    """Inserts a row, with the next id if `row_id` is 0. Returns its id. Raises BadRequest for too great an id."""
    if not row_id:
        return table.insert(**values).execute()
    if row_id > MAX_CHOSEN_ID:
        raise BadRequest(f"id: at most {MAX_CHOSEN_ID} for a new row, so that greater ids remain for later rows")
    table.insert(id=row_id, **values).execute()
    database = m.proxy.obj
    if isinstance(database, pw.PostgresqlDatabase):
        # Otherwise the database would give this id to a later row.
        name = table._meta.table_name
        sequence = f"pg_get_serial_sequence('{name}', 'id')"
        database.execute_sql(f"SELECT setval({sequence}, GREATEST(nextval({sequence}), (SELECT MAX(id) FROM {name})))")
    return row_id
