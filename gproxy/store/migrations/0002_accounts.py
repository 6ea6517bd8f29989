"""An account of what each user and key has spent, and room for limits, budgets and permissions of keys."""

import secrets

MOST = 2**63 - 1
NANO = 1_000_000_000
# With defaults of the database's own: an older version that runs on beside this one knows nothing of them.
COLUMNS = (
    ("global_settings", "deployment TEXT NOT NULL DEFAULT ''"),
    ("user_quotas", "opening BIGINT NOT NULL DEFAULT 0"),
    ("user_quotas", "opened_at BIGINT NOT NULL DEFAULT 0"),
    ("user_keys", "narrowed BOOLEAN NOT NULL DEFAULT FALSE"),
    ("adjustments", "key_id INTEGER"),
    ("adjustments", "note TEXT"),
    ("adjustments", "created_at BIGINT NOT NULL DEFAULT 0"),
)
INDEXES = (
    ("usages_created_at", "usages (created_at)"),
    ("adjustments_created_at", "adjustments (created_at)"),
    ("adjustments_key_id", "adjustments (key_id)"),
)
# No key or provider is one value more, which NULL would not be.
UNIQUE = (
    ("user_rate_limits", "user_id, (COALESCE(key_id, 0)), model_pattern"),
    ("user_model_permissions", "user_id, (COALESCE(key_id, 0)), (COALESCE(provider_id, 0)), model_pattern"),
)


def up(migrator, db):
    migrator.migrate(migrator.drop_not_null("user_quotas", "quota"), migrator.drop_not_null("adjustments", "user_id"))
    for table, column in COLUMNS:
        db.execute_sql(f"ALTER TABLE {table} ADD COLUMN {column}")
    for name, columns in INDEXES:
        db.execute_sql(f"CREATE INDEX {name} ON {columns}")
    for table, columns in UNIQUE:
        db.execute_sql(f"DELETE FROM {table} WHERE id NOT IN (SELECT MIN(id) FROM {table} GROUP BY {columns})")
        db.execute_sql(f"CREATE UNIQUE INDEX {table}_once ON {table} ({columns})")
    _execute(db, "UPDATE global_settings SET deployment = ?", secrets.token_hex(16))
    _open_accounts(db)


def _open_accounts(db):
    """What users and keys have spent so far, by the rows and adjustments there are."""
    spent = _sums(db, "usages", "user_id")
    for user, cost in _sums(db, "adjustments", "user_id").items():
        spent[user] = spent.get(user, 0) + cost
    known = {user for (user,) in db.execute_sql("SELECT id FROM users").fetchall()}
    before = dict(db.execute_sql("SELECT user_id, cost_used FROM user_quotas").fetchall())
    for user in sorted(known & spent.keys() | before.keys()):
        if user not in before:
            _execute(db, "INSERT INTO user_quotas (user_id, cost_used, updated_at) VALUES (?, 0, 0)", user)
        opening = before.get(user, 0)
        used = min(opening + spent.get(user, 0), MOST)
        _execute(db, "UPDATE user_quotas SET opening = ?, cost_used = ? WHERE user_id = ?", opening, used, user)
    for key, cost in _sums(db, "usages", "user_key_id").items():
        _execute(db, "UPDATE user_keys SET cost_used = ? WHERE id = ?", min(cost, MOST), key)


def _sums(db, table, column):
    """In whole dollars and the rest: no sum is too great for a number of the database."""
    rest = f"cost - cost / {NANO} * {NANO}"
    found = db.execute_sql(
        f"SELECT {column}, SUM(cost / {NANO}), SUM({rest}) FROM {table} WHERE {column} IS NOT NULL GROUP BY {column}"
    )
    return {owner: int(dollars) * NANO + int(nano) for owner, dollars, nano in found.fetchall()}


def _execute(db, sql, *values):
    db.execute_sql(sql.replace("?", db.param), values)
