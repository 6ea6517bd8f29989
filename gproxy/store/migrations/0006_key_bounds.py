"""Who disabled a key, and which users may make keys."""

import json

COLUMNS = (
    ("user_keys", "disabled_by TEXT"),
    # With a default of the database's own: an older version that runs on beside this one knows nothing of it.
    ("users", "may_make_keys BOOLEAN NOT NULL DEFAULT TRUE"),
)
USER, ADMINISTRATOR = "user", "administrator"
BY_USERS = "user/keys/update-enabled"


def up(migrator, db):
    for table, column in COLUMNS:
        db.execute_sql(f"ALTER TABLE {table} ADD COLUMN {column}")
    logged, place = _who_disabled(db), db.param
    for (key_id,) in db.execute_sql("SELECT id FROM user_keys WHERE NOT enabled").fetchall():
        values = (logged.get(key_id, ADMINISTRATOR), key_id)
        db.execute_sql(f"UPDATE user_keys SET disabled_by = {place} WHERE id = {place}", values)


def _who_disabled(db) -> dict[int, str]:
    """Returns by key who disabled it according to the audit log, by the rule that applies from now on.

    A user who enabled a key that an administrator had disabled, and disabled it again, does not count.
    """
    found: dict[int, str] = {}
    query = "SELECT entity_id, action, changes FROM audits WHERE entity = 'user_keys' ORDER BY at, id"
    for entity_id, action, changes in db.execute_sql(query).fetchall():
        switched = json.loads(changes).get("fields", {}).get("enabled")
        if not switched or not entity_id.isdecimal():
            continue
        key_id, is_enabled = int(entity_id), switched[1]
        if action != BY_USERS:
            found.pop(key_id, None)
            if not is_enabled:
                found[key_id] = ADMINISTRATOR
        elif not is_enabled:
            found.setdefault(key_id, USER)
        elif found.get(key_id) == USER:
            del found[key_id]
        else:  # it was disabled by an administrator, or before the log begins
            found[key_id] = ADMINISTRATOR
    return found
