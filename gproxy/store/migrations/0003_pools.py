"""Pools of credentials: weights and limits of their own; and what became of each attempt of a call."""

# With defaults of the database's own: an older version that runs on beside this one knows nothing of them.
COLUMNS = (
    ("credentials", "weight INTEGER NOT NULL DEFAULT 1"),
    ("credentials", "rpm BIGINT"),
    ("credentials", "concurrency BIGINT"),
    ("usages", "tries TEXT NOT NULL DEFAULT '[]'"),
)


def up(migrator, db):
    for table, column in COLUMNS:
        db.execute_sql(f"ALTER TABLE {table} ADD COLUMN {column}")
