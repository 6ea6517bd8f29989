"""What deeds of several entities do with a row."""

import peewee as pw

from gproxy.errors import BadRequest
from gproxy.store import models as m

MAX_GIVEN = 2**30  # numbers go on behind the greatest, and a column of them ends


def insert(table: type[pw.Model], row_id: int, values: dict) -> int:
    """A new row, of this id unless it is 0. Returns its id. Raises BadRequest."""
    if not row_id:
        return table.insert(**values).execute()
    if row_id > MAX_GIVEN:
        raise BadRequest(f"id: at most {MAX_GIVEN} for a new row, or there is no room behind it")
    table.insert(id=row_id, **values).execute()
    database = m.proxy.obj
    if isinstance(database, pw.PostgresqlDatabase):
        # Or the next row that is numbered by the database would get the same number.
        name = table._meta.table_name
        sequence = f"pg_get_serial_sequence('{name}', 'id')"
        database.execute_sql(f"SELECT setval({sequence}, GREATEST(nextval({sequence}), (SELECT MAX(id) FROM {name})))")
    return row_id
