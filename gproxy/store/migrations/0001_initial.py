"""Every table of the first version."""

from typing import Any

import peewee as pw


class NeverAgain(pw.AutoField):
    """On SQLite too, the id of a deleted row is never given again: usage rows go on naming it."""

    def ddl(self, ctx):
        return pw.NodeList((super().ddl(ctx), pw.SQL("AUTOINCREMENT")))


def up(migrator, db):
    id_field = NeverAgain if isinstance(db, pw.SqliteDatabase) else pw.AutoField

    class Table(pw.Model):
        class Meta:
            database = db
            legacy_table_names = False

    class GlobalSettings(Table):
        enable_usage = pw.BooleanField(default=True)
        enable_upstream_log = pw.BooleanField(default=False)
        enable_upstream_log_body = pw.BooleanField(default=False)
        enable_downstream_log = pw.BooleanField(default=False)
        enable_downstream_log_body = pw.BooleanField(default=False)
        provider_defaults_json = pw.TextField(default="{}")
        seal_json = pw.TextField(null=True)
        updated_at = pw.BigIntegerField()

        class Meta:
            table_name = "global_settings"

    class Machine(Table):
        id = pw.IntegerField(primary_key=True)
        owner = pw.TextField(unique=True)
        seen_at = pw.BigIntegerField()

        class Meta:
            table_name = "machines"

    class Revision(Table):
        table = pw.TextField(primary_key=True, column_name="table_name")
        revision = pw.BigIntegerField(default=0)

        class Meta:
            table_name = "revisions"

    class Provider(Table):
        id = id_field()
        name = pw.TextField(unique=True)
        channel = pw.TextField(index=True)
        label = pw.TextField(null=True)
        enabled = pw.BooleanField(default=True)
        settings_json = pw.TextField(default="{}")
        routing_json = pw.TextField(default="{}")
        created_at = pw.BigIntegerField()
        updated_at = pw.BigIntegerField()

        class Meta:
            table_name = "providers"

    class Credential(Table):
        id = id_field()
        provider = pw.ForeignKeyField(Provider, on_delete="CASCADE")
        name = pw.TextField(null=True)
        kind = pw.TextField()
        secret_json = pw.TextField()
        enabled = pw.BooleanField(default=True)
        created_at = pw.BigIntegerField()
        updated_at = pw.BigIntegerField()

        class Meta:
            table_name = "credentials"

    class CredentialStatus(Table):
        credential = pw.ForeignKeyField(Credential, on_delete="CASCADE")
        channel = pw.TextField()
        health_kind = pw.TextField()
        health_json = pw.TextField(null=True)
        checked_at = pw.BigIntegerField(null=True)
        last_error = pw.TextField(null=True)
        updated_at = pw.BigIntegerField()

        class Meta:
            table_name = "credential_statuses"
            indexes = ((("credential", "channel"), True),)

    class Model(Table):
        id = id_field()
        provider = pw.ForeignKeyField(Provider, on_delete="CASCADE")
        model_id = pw.TextField()
        display_name = pw.TextField(null=True)
        enabled = pw.BooleanField(default=True)
        pricing_json = pw.TextField(null=True)
        created_at = pw.BigIntegerField()
        updated_at = pw.BigIntegerField()

        class Meta:
            table_name = "models"
            indexes = ((("provider", "model_id"), True),)

    class ModelAlias(Table):
        id = id_field()
        alias: Any = pw.TextField(unique=True)
        enabled = pw.BooleanField(default=True)
        pricing_json = pw.TextField(null=True)
        created_at = pw.BigIntegerField()
        updated_at = pw.BigIntegerField()

        class Meta:
            table_name = "model_aliases"

    class AliasTarget(Table):
        alias: Any = pw.ForeignKeyField(ModelAlias, on_delete="CASCADE")
        provider = pw.ForeignKeyField(Provider, on_delete="CASCADE")
        model_id = pw.TextField()
        tier = pw.IntegerField(default=0)
        weight = pw.IntegerField(default=1)

        class Meta:
            table_name = "model_alias_targets"

    class User(Table):
        id = id_field()
        name = pw.TextField(unique=True)
        password = pw.TextField(null=True)
        enabled = pw.BooleanField(default=True)
        is_admin = pw.BooleanField(default=False)
        created_at = pw.BigIntegerField()
        updated_at = pw.BigIntegerField()

        class Meta:
            table_name = "users"

    class UserKey(Table):
        id = id_field()
        user = pw.ForeignKeyField(User, on_delete="CASCADE")
        api_key_digest = pw.TextField(unique=True)
        fingerprint = pw.TextField()
        label = pw.TextField(null=True)
        enabled = pw.BooleanField(default=True)
        expires_at = pw.BigIntegerField(null=True)
        budget = pw.BigIntegerField(null=True)
        cost_used = pw.BigIntegerField(default=0)
        created_at = pw.BigIntegerField()
        updated_at = pw.BigIntegerField()

        class Meta:
            table_name = "user_keys"

    class ModelPermission(Table):
        user = pw.ForeignKeyField(User, on_delete="CASCADE")
        key = pw.ForeignKeyField(UserKey, null=True, on_delete="CASCADE")
        provider = pw.ForeignKeyField(Provider, null=True, on_delete="CASCADE")
        model_pattern = pw.TextField()
        created_at = pw.BigIntegerField()

        class Meta:
            table_name = "user_model_permissions"

    class FilePermission(Table):
        user = pw.ForeignKeyField(User, on_delete="CASCADE")
        provider = pw.ForeignKeyField(Provider, on_delete="CASCADE")
        created_at = pw.BigIntegerField()

        class Meta:
            table_name = "user_file_permissions"
            indexes = ((("user", "provider"), True),)

    class RateLimit(Table):
        user = pw.ForeignKeyField(User, on_delete="CASCADE")
        key = pw.ForeignKeyField(UserKey, null=True, on_delete="CASCADE")
        model_pattern = pw.TextField()
        rpm = pw.BigIntegerField(null=True)
        rpd = pw.BigIntegerField(null=True)
        total_tokens = pw.BigIntegerField(null=True)
        concurrency = pw.BigIntegerField(null=True)
        created_at = pw.BigIntegerField()
        updated_at = pw.BigIntegerField()

        class Meta:
            table_name = "user_rate_limits"

    class Quota(Table):
        user = pw.ForeignKeyField(User, unique=True, on_delete="CASCADE")
        quota = pw.BigIntegerField()
        cost_used = pw.BigIntegerField(default=0)
        period = pw.TextField(null=True)
        updated_at = pw.BigIntegerField()

        class Meta:
            table_name = "user_quotas"

    class CredentialFile(Table):
        user = pw.ForeignKeyField(User, on_delete="CASCADE")
        user_key = pw.ForeignKeyField(UserKey, null=True, on_delete="CASCADE")
        provider = pw.ForeignKeyField(Provider, on_delete="CASCADE")
        credential = pw.ForeignKeyField(Credential, on_delete="CASCADE")
        file_id = pw.TextField()
        active = pw.BooleanField(default=True)
        created_at = pw.BigIntegerField()
        updated_at = pw.BigIntegerField()
        deleted_at = pw.BigIntegerField(null=True)

        class Meta:
            table_name = "user_credential_files"
            indexes = ((("user", "provider", "file_id"), True),)

    class ClaudeFile(Table):
        provider = pw.ForeignKeyField(Provider, on_delete="CASCADE")
        file_id = pw.TextField()
        file_created_at = pw.TextField()
        filename = pw.TextField()
        mime_type = pw.TextField()
        size_bytes = pw.BigIntegerField()
        downloadable = pw.BooleanField(null=True)
        raw_json = pw.TextField()
        created_at = pw.BigIntegerField()
        updated_at = pw.BigIntegerField()

        class Meta:
            table_name = "claude_files"
            indexes = ((("provider", "file_id"), True),)

    class DownstreamRequest(Table):
        trace_id = pw.BigIntegerField(primary_key=True)
        at = pw.BigIntegerField()
        internal = pw.BooleanField(default=False)
        user_id = pw.IntegerField(null=True)
        user_key_id = pw.IntegerField(null=True)
        request_method = pw.TextField()
        request_headers_json = pw.TextField()
        request_path = pw.TextField()
        request_query = pw.TextField(null=True)
        request_body = pw.BlobField(null=True)
        response_status = pw.IntegerField(null=True)
        response_headers_json = pw.TextField()
        response_body = pw.BlobField(null=True)
        created_at = pw.BigIntegerField()

        class Meta:
            table_name = "downstream_requests"
            indexes = ((("at", "trace_id"), False),)

    class UpstreamRequest(Table):
        trace_id = pw.BigIntegerField(primary_key=True)
        downstream_trace_id = pw.BigIntegerField(null=True)
        at = pw.BigIntegerField()
        internal = pw.BooleanField(default=False)
        provider_id = pw.IntegerField(null=True)
        credential_id = pw.IntegerField(null=True)
        request_method = pw.TextField()
        request_headers_json = pw.TextField()
        request_url = pw.TextField(null=True)
        request_body = pw.BlobField(null=True)
        response_status = pw.IntegerField(null=True)
        response_headers_json = pw.TextField()
        response_body = pw.BlobField(null=True)
        initial_latency_ms = pw.IntegerField(null=True)
        total_latency_ms = pw.IntegerField(null=True)
        created_at = pw.BigIntegerField()

        class Meta:
            table_name = "upstream_requests"
            indexes = ((("at", "trace_id"), False),)

    class Usage(Table):
        trace_id = pw.BigIntegerField(primary_key=True)
        downstream_trace_id = pw.BigIntegerField(null=True)
        request_id = pw.TextField()
        at = pw.BigIntegerField()
        provider_id = pw.IntegerField(null=True, index=True)
        provider_channel = pw.TextField(null=True)
        credential_id = pw.IntegerField(null=True)
        user_id = pw.IntegerField(null=True, index=True)
        user_key_id = pw.IntegerField(null=True)
        operation = pw.TextField()
        protocol = pw.TextField()
        model = pw.TextField(null=True)
        input_tokens = pw.BigIntegerField(default=0)
        output_tokens = pw.BigIntegerField(default=0)
        reasoning_tokens = pw.BigIntegerField(default=0)
        cache_read_input_tokens = pw.BigIntegerField(default=0)
        cache_creation_input_tokens = pw.BigIntegerField(default=0)
        cache_creation_input_tokens_5min = pw.BigIntegerField(default=0)
        cache_creation_input_tokens_1h = pw.BigIntegerField(default=0)
        cost = pw.BigIntegerField(default=0)
        price_source = pw.TextField(null=True)
        priced = pw.BooleanField(default=False)
        estimated = pw.BooleanField(default=False)
        status = pw.IntegerField(null=True)
        outcome = pw.TextField()
        latency_ms = pw.IntegerField(null=True)
        first_byte_ms = pw.IntegerField(null=True)
        attempts = pw.IntegerField(default=1)
        losses = pw.TextField(default="[]")
        end_user = pw.TextField(null=True)
        tag = pw.TextField(null=True)
        created_at = pw.BigIntegerField()

        class Meta:
            table_name = "usages"
            indexes = ((("at", "trace_id"), False),)

    class Adjustment(Table):
        at = pw.BigIntegerField()
        user_id = pw.IntegerField(index=True)
        kind = pw.TextField()
        cost = pw.BigIntegerField()
        requests = pw.BigIntegerField(default=0)

        class Meta:
            table_name = "adjustments"

    class JournalMark(Table):
        segment = pw.TextField(primary_key=True)
        offset = pw.BigIntegerField()

        class Meta:
            table_name = "journal_marks"

    tables = (
        GlobalSettings,
        Machine,
        Revision,
        Provider,
        Credential,
        CredentialStatus,
        Model,
        ModelAlias,
        AliasTarget,
        User,
        UserKey,
        ModelPermission,
        FilePermission,
        RateLimit,
        Quota,
        CredentialFile,
        ClaudeFile,
        DownstreamRequest,
        UpstreamRequest,
        Usage,
        Adjustment,
        JournalMark,
    )
    db.create_tables(tables)

    rows = [{"table": name, "revision": 1} for name in ("settings", "providers", "models", "aliases", "users")]
    Revision.insert_many(rows).execute()
