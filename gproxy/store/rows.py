"""Inserting rows whose id may be chosen by the caller."""

import peewee as pw

from gproxy.errors import BadRequest
from gproxy.store import models as m

MAX_CHOSEN_ID = 2**30  # the database continues after the greatest id, and the column has a limit


def insert(table: type[pw.Model], row_id: int, values: dict) -> int:
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
