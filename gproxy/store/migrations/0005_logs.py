"""Room for logs of requests that are kept within bounds, and sums of usage by hours and days."""

import peewee as pw

HOUR_NS = 3_600_000_000_000
# With defaults of the database's own: an older version that runs on beside this one knows nothing of them.
COLUMNS = (
    ("global_settings", "log_retention_days INTEGER NOT NULL DEFAULT 7"),
    ("global_settings", "log_retention_mb INTEGER NOT NULL DEFAULT 1024"),
    ("global_settings", "usage_retention_days INTEGER"),
    ("downstream_requests", "size BIGINT NOT NULL DEFAULT 0"),
    ("upstream_requests", "size BIGINT NOT NULL DEFAULT 0"),
)
INDEXES = (
    ("downstream_requests_size", "downstream_requests (at, size)"),
    ("upstream_requests_size", "upstream_requests (at, size)"),
    ("upstream_requests_downstream_trace_id", "upstream_requests (downstream_trace_id)"),
)
GONE = ("usages_user_id", "usages_provider_id")  # the ones below begin as these
OF_PAGES = ("user_id", "user_key_id", "provider_id", "credential_id", "model")
KEY = ("span", "period", "user_id", "user_key_id", "provider_id", "provider_channel", "credential_id", "model")
SUMMED = (
    *("input_tokens", "output_tokens", "reasoning_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    *("cache_creation_input_tokens_5min", "cache_creation_input_tokens_1h", "cost"),
)
MOST = 1_000_000 * 1_000_000_000  # of one row: a million dollars; no sum is too great for its column then
FILL = f"""
INSERT INTO usage_sums ({", ".join(KEY)}, requests, unpriced, succeeded, refused, failed, latency_ms, most_latency_ms,
    input_tokens, output_tokens, reasoning_tokens, cache_read_input_tokens, cache_creation_input_tokens,
    cache_creation_input_tokens_5min, cache_creation_input_tokens_1h, cost)
SELECT {{span}}, at / {HOUR_NS} / {{span}}, COALESCE(user_id, 0), COALESCE(user_key_id, 0), COALESCE(provider_id, 0),
    COALESCE(provider_channel, ''), COALESCE(credential_id, 0), COALESCE(model, ''), COUNT(*),
    SUM(CASE WHEN priced THEN 0 ELSE 1 END), SUM(CASE WHEN status < 400 THEN 1 ELSE 0 END),
    SUM(CASE WHEN status >= 400 AND status < 500 THEN 1 ELSE 0 END),
    SUM(CASE WHEN status >= 500 THEN 1 ELSE 0 END), SUM(COALESCE(latency_ms, 0)), MAX(COALESCE(latency_ms, 0)),
    {", ".join(f"SUM(CASE WHEN {name} > {MOST} THEN {MOST} ELSE {name} END)" for name in SUMMED)}
FROM usages GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
"""
SUMS = ("requests", "unpriced", "succeeded", "refused", "failed", "latency_ms", *SUMMED)
# And each hour with all of it in one row.
OF_ALL = f"""
INSERT INTO usage_sums ({", ".join((*KEY, *SUMS, "most_latency_ms"))})
SELECT -1, period, 0, 0, 0, '', 0, '', {", ".join(f"SUM({name})" for name in SUMS)}, MAX(most_latency_ms)
FROM usage_sums WHERE span = 1 GROUP BY period
"""
FILLS = (*(FILL.replace("{span}", str(span)) for span in (1, 24)), OF_ALL)


def up(migrator, db):
    class UsageSum(pw.Model):
        span = pw.IntegerField()
        period = pw.IntegerField()
        user_id = pw.IntegerField()
        user_key_id = pw.IntegerField()
        provider_id = pw.IntegerField()
        provider_channel = pw.TextField()
        credential_id = pw.IntegerField()
        model = pw.TextField()
        requests = pw.BigIntegerField()
        unpriced = pw.BigIntegerField()
        succeeded = pw.BigIntegerField()
        refused = pw.BigIntegerField()
        failed = pw.BigIntegerField()
        latency_ms = pw.BigIntegerField()
        most_latency_ms = pw.BigIntegerField()
        input_tokens = pw.BigIntegerField()
        output_tokens = pw.BigIntegerField()
        reasoning_tokens = pw.BigIntegerField()
        cache_read_input_tokens = pw.BigIntegerField()
        cache_creation_input_tokens = pw.BigIntegerField()
        cache_creation_input_tokens_5min = pw.BigIntegerField()
        cache_creation_input_tokens_1h = pw.BigIntegerField()
        cost = pw.BigIntegerField()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "usage_sums"
            primary_key = pw.CompositeKey(*KEY)

    for table, column in COLUMNS:
        db.execute_sql(f"ALTER TABLE {table} ADD COLUMN {column}")
    for name, columns in INDEXES:
        db.execute_sql(f"CREATE INDEX {name} ON {columns}")
    for name in GONE:
        db.execute_sql(f"DROP INDEX IF EXISTS {name}")
    for name in OF_PAGES:
        db.execute_sql(f"CREATE INDEX usages_{name}_at_trace_id ON usages ({name}, at, trace_id)")
    db.create_tables([UsageSum])
    for statement in FILLS:
        db.execute_sql(statement)
