"""The tables, as peewee models. No model and no peewee type leaves this package.

Money is nano-USD in a 64-bit integer, time is nanoseconds since the epoch, booleans are real booleans.
"""

from typing import Any

import peewee as pw

proxy = pw.DatabaseProxy()


class Table(pw.Model):
    # Fields that peewee makes, declared for the type checker: the id of a row, and `…_id` of each foreign key below.
    id: "pw.IntegerField[int]"

    class Meta:
        database = proxy
        legacy_table_names = False


class GlobalSettings(Table):
    """One row. Process settings are not stored: every start reads them again."""

    enable_usage = pw.BooleanField(default=True)
    enable_upstream_log = pw.BooleanField(default=False)
    enable_upstream_log_body = pw.BooleanField(default=False)
    enable_downstream_log = pw.BooleanField(default=False)
    enable_downstream_log_body = pw.BooleanField(default=False)
    provider_defaults_json = pw.TextField(default="{}")
    seal_json = pw.TextField(null=True)  # salt and check value once the database is sealed
    log_retention_days = pw.IntegerField(default=7)
    log_retention_mb = pw.IntegerField(default=1024)
    usage_retention_days = pw.IntegerField(null=True)
    deployment = pw.TextField(default="")  # a random name, under which several machines share state
    updated_at = pw.BigIntegerField()

    class Meta:
        table_name = "global_settings"


class Machine(Table):
    """One running gateway with its data directory; its id is part of every usage id."""

    id = pw.IntegerField(primary_key=True)
    owner = pw.TextField(unique=True)
    seen_at = pw.BigIntegerField()

    class Meta:
        table_name = "machines"


class Revision(Table):
    """How often a group of tables has changed; incremented in the transaction that writes them."""

    table = pw.TextField(primary_key=True, column_name="table_name")
    revision = pw.BigIntegerField(default=0)

    class Meta:
        table_name = "revisions"


class Provider(Table):
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
    provider = pw.ForeignKeyField(Provider, on_delete="CASCADE")
    provider_id: "pw.IntegerField[int]"
    name = pw.TextField(null=True)
    kind = pw.TextField()
    secret_json = pw.TextField()
    enabled = pw.BooleanField(default=True)
    weight = pw.IntegerField(default=1)
    rpm = pw.BigIntegerField(null=True)
    concurrency = pw.BigIntegerField(null=True)
    created_at = pw.BigIntegerField()
    updated_at = pw.BigIntegerField()

    class Meta:
        table_name = "credentials"


class CredentialStatus(Table):
    credential = pw.ForeignKeyField(Credential, on_delete="CASCADE")
    credential_id: "pw.IntegerField[int]"
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
    provider = pw.ForeignKeyField(Provider, on_delete="CASCADE")
    provider_id: "pw.IntegerField[int]"
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
    alias: Any = pw.TextField(unique=True)  # Any: peewee has a method of this name
    enabled = pw.BooleanField(default=True)
    pricing_json = pw.TextField(null=True)
    created_at = pw.BigIntegerField()
    updated_at = pw.BigIntegerField()

    class Meta:
        table_name = "model_aliases"


class AliasTarget(Table):
    alias: Any = pw.ForeignKeyField(ModelAlias, on_delete="CASCADE")
    alias_id: "pw.IntegerField[int]"
    provider = pw.ForeignKeyField(Provider, on_delete="CASCADE")
    provider_id: "pw.IntegerField[int]"
    model_id = pw.TextField()
    tier = pw.IntegerField(default=0)
    weight = pw.IntegerField(default=1)

    class Meta:
        table_name = "model_alias_targets"


class User(Table):
    name = pw.TextField(unique=True)
    password = pw.TextField(null=True)
    enabled = pw.BooleanField(default=True)
    is_admin = pw.BooleanField(default=False)
    may_make_keys = pw.BooleanField(default=True)  # by `/user/keys/generate`
    created_at = pw.BigIntegerField()
    updated_at = pw.BigIntegerField()

    class Meta:
        table_name = "users"


BY_USER, BY_ADMINISTRATOR = "user", "administrator"


def who_disabled(enabled: bool, disabled_by: str | None) -> str | None:
    """Who disabled a key with these columns, None if it is enabled.

    An older version on another machine disables a key without a name: it counts as disabled by an administrator.
    """
    return None if enabled else disabled_by or BY_ADMINISTRATOR


class UserKey(Table):
    user = pw.ForeignKeyField(User, on_delete="CASCADE")
    user_id: "pw.IntegerField[int]"
    api_key_digest = pw.TextField(unique=True)
    fingerprint = pw.TextField()
    label = pw.TextField(null=True)
    enabled = pw.BooleanField(default=True)
    disabled_by = pw.TextField(null=True)  # of a disabled key: BY_USER or BY_ADMINISTRATOR
    expires_at = pw.BigIntegerField(null=True)
    budget = pw.BigIntegerField(null=True)
    cost_used = pw.BigIntegerField(default=0)
    narrowed = pw.BooleanField(default=False)  # restricted to its own permissions, even if all of them were deleted
    created_at = pw.BigIntegerField()
    updated_at = pw.BigIntegerField()

    @property
    def disabler(self) -> str | None:
        return who_disabled(self.enabled, self.disabled_by)

    class Meta:
        table_name = "user_keys"


class Session(Table):
    """A login of a user. Only the digest of the session token is stored."""

    digest = pw.TextField(unique=True)
    user = pw.ForeignKeyField(User, on_delete="CASCADE")
    user_id: "pw.IntegerField[int]"
    expires_at = pw.BigIntegerField(index=True)
    created_at = pw.BigIntegerField()

    class Meta:
        table_name = "sessions"


class ModelPermission(Table):
    """A permission of a user, or of one key. Without a provider it applies to all providers.

    Unique by user, key, provider and pattern; the index treats NULL as a value (migration 0002).
    """

    user = pw.ForeignKeyField(User, on_delete="CASCADE")
    user_id: "pw.IntegerField[int]"
    key = pw.ForeignKeyField(UserKey, null=True, on_delete="CASCADE")
    key_id: "pw.IntegerField[int | None]"
    provider = pw.ForeignKeyField(Provider, null=True, on_delete="CASCADE")
    provider_id: "pw.IntegerField[int | None]"
    model_pattern = pw.TextField()
    created_at = pw.BigIntegerField()

    class Meta:
        table_name = "user_model_permissions"


class FilePermission(Table):
    user = pw.ForeignKeyField(User, on_delete="CASCADE")
    user_id: "pw.IntegerField[int]"
    provider = pw.ForeignKeyField(Provider, on_delete="CASCADE")
    provider_id: "pw.IntegerField[int]"
    created_at = pw.BigIntegerField()

    class Meta:
        table_name = "user_file_permissions"
        indexes = ((("user", "provider"), True),)


class RateLimit(Table):
    """A rate limit of a user, or of one key.

    Unique by user, key and pattern; the index treats NULL as a value (migration 0002).
    """

    user = pw.ForeignKeyField(User, on_delete="CASCADE")
    user_id: "pw.IntegerField[int]"
    key = pw.ForeignKeyField(UserKey, null=True, on_delete="CASCADE")
    key_id: "pw.IntegerField[int | None]"
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
    """The account of a user. `quota` is the cap, NULL without one.

    `cost_used` is `opening` plus the cost of the user's usage rows and adjustments from `opened_at` on.
    """

    user = pw.ForeignKeyField(User, unique=True, on_delete="CASCADE")
    user_id: "pw.IntegerField[int]"
    quota = pw.BigIntegerField(null=True)
    cost_used = pw.BigIntegerField(default=0)
    period = pw.TextField(null=True)
    opening = pw.BigIntegerField(default=0)
    opened_at = pw.BigIntegerField(default=0)
    updated_at = pw.BigIntegerField()

    class Meta:
        table_name = "user_quotas"


class CredentialFile(Table):
    user = pw.ForeignKeyField(User, on_delete="CASCADE")
    user_id: "pw.IntegerField[int]"
    user_key = pw.ForeignKeyField(UserKey, null=True, on_delete="CASCADE")
    user_key_id: "pw.IntegerField[int | None]"
    provider = pw.ForeignKeyField(Provider, on_delete="CASCADE")
    provider_id: "pw.IntegerField[int]"
    credential = pw.ForeignKeyField(Credential, on_delete="CASCADE")
    credential_id: "pw.IntegerField[int]"
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
    provider_id: "pw.IntegerField[int]"
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
    size = pw.BigIntegerField(default=0)  # bytes of all texts and bodies of the row
    created_at = pw.BigIntegerField()

    class Meta:
        table_name = "downstream_requests"
        indexes = ((("at", "trace_id"), False), (("at", "size"), False))


class UpstreamRequest(Table):
    trace_id = pw.BigIntegerField(primary_key=True)
    downstream_trace_id = pw.BigIntegerField(null=True, index=True)
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
    size = pw.BigIntegerField(default=0)  # bytes of all texts and bodies of the row
    created_at = pw.BigIntegerField()

    class Meta:
        table_name = "upstream_requests"
        indexes = ((("at", "trace_id"), False), (("at", "size"), False))


class Usage(Table):
    """One row for each call with an `opened` journal entry.

    The ids are plain numbers, not foreign keys: a call that ends after its user was deleted keeps its row.
    """

    trace_id = pw.BigIntegerField(primary_key=True)
    downstream_trace_id = pw.BigIntegerField(null=True)
    request_id = pw.TextField()
    at = pw.BigIntegerField()
    provider_id = pw.IntegerField(null=True)
    provider_channel = pw.TextField(null=True)
    credential_id = pw.IntegerField(null=True)
    user_id = pw.IntegerField(null=True)
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
    tries = pw.TextField(default="[]")
    losses = pw.TextField(default="[]")
    end_user = pw.TextField(null=True)
    tag = pw.TextField(null=True)
    created_at = pw.BigIntegerField(index=True)

    class Meta:
        table_name = "usages"
        # A page is read in index order for each filter, and no other rows are read.
        indexes = (
            (("at", "trace_id"), False),
            *(((name, "at", "trace_id"), False) for name in ("user_id", "user_key_id", "provider_id", "credential_id")),
            (("model", "at", "trace_id"), False),
        )


class UsageRollup(Table):
    """Hourly and daily (UTC) totals of usage rows for each combination of the filter columns.

    0 and "" replace NULL in the key. Rollups stay when retention deletes the rows.
    """

    span = pw.IntegerField()  # length in hours; -1: one hour in total, over all users, keys, providers and models
    period = pw.IntegerField()  # number of spans since the epoch
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
        table_name = "usage_sums"
        primary_key = pw.CompositeKey(
            *("span", "period", "user_id", "user_key_id", "provider_id", "provider_channel", "credential_id", "model")
        )


class Adjustment(Table):
    """An amount without a usage row, such as a batch that was stored while usage rows are switched off.

    It counts in the account of the user and in the account of the key that it names.
    """

    at = pw.BigIntegerField()
    user_id = pw.IntegerField(null=True, index=True)
    key_id = pw.IntegerField(null=True, index=True)
    kind = pw.TextField()
    cost = pw.BigIntegerField()
    requests = pw.BigIntegerField(default=0)
    note = pw.TextField(null=True)
    created_at = pw.BigIntegerField(index=True)

    class Meta:
        table_name = "adjustments"


class Audit(Table):
    """A row that an administrator added, changed or deleted, and the administrator.

    The ids are plain numbers, not foreign keys: a deleted user stays named.
    """

    at = pw.BigIntegerField()
    user_id = pw.IntegerField(null=True)
    user_name = pw.TextField()
    key_id = pw.IntegerField(null=True)
    address = pw.TextField(null=True)
    request_id = pw.TextField(null=True)
    action = pw.TextField()
    entity = pw.TextField()
    entity_id = pw.TextField(null=True)
    changes = pw.TextField()

    class Meta:
        table_name = "audits"
        indexes = ((("at", "id"), False), (("entity", "entity_id"), False))


class JournalPosition(Table):
    """The offset up to which a journal segment is stored, even if its rows were deleted since.

    Deleted after the segment.
    """

    segment = pw.TextField(primary_key=True)
    offset = pw.BigIntegerField()

    class Meta:
        table_name = "journal_marks"


ALL = (
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
    Session,
    ModelPermission,
    FilePermission,
    RateLimit,
    Quota,
    CredentialFile,
    ClaudeFile,
    DownstreamRequest,
    UpstreamRequest,
    Usage,
    UsageRollup,
    Adjustment,
    Audit,
    JournalPosition,
)
