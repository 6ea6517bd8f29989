"""The marshmallow schemas of all tables of a seed document, and their fields. Unknown tables and keys are errors."""

import re
from collections.abc import Callable
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from urllib.parse import urlsplit

from marshmallow import Schema, ValidationError, fields, validates_schema
from marshmallow.validate import Length, OneOf, Range, Regexp

from gproxy import patterns
from gproxy.channels import vertex
from gproxy.config.routing import Routing
from gproxy.snapshot import HEADER_SAFE
from gproxy.units import NANO, NS

PROXY_SCHEMES = ("http", "https", "socks4", "socks5", "socks5h")  # as of GPROXY_PROXY
STRATEGIES = ("round_robin", "sticky", "cache_affinity")
MAX_ATTEMPTS, MAX_WEIGHT, MAX_TARGETS = 20, 1_000, 16
MAX_CONNECTIONS = 100_000
CONNECTIONS = f"expected a whole number from 1 to {MAX_CONNECTIONS}"
ATTEMPTS = f"expected a whole number from 1 to {MAX_ATTEMPTS}"
TIER = f"expected a whole number from 0, which is tried first, to {MAX_WEIGHT}"
TARGETS = f"at most {MAX_TARGETS} targets"
UNSUPPORTED = "not yet supported by this version; remove it"
NEVER = "not part of gproxy; remove it"
MAX_USD = 1_000_000  # per call or million tokens; beyond, a cost would not fit its column
MAX_CAP_USD = 1_000_000_000
MAX_COUNT = 2**53
MAX_ASSUMED = 10_000_000
ASSUMED = f"expected a whole number from 1 to {MAX_ASSUMED}"
PERIODS = ("day", "week", "month")
DISABLERS = ("user", "administrator")
DISABLER = "expected one of {choices}; leave it out for a key that an administrator disabled"
MAX_SECONDS = 86_400
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
UNSENDABLE = "holds a line break, blank or other character that no header can carry; mend the key"
ADDRESS = re.compile(r"[^\s\x00-\x1f\x7f?#]+")
TOOL_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Headers that carry keys, delimit the message or belong to one connection.
NEVER_FORWARDED = {
    "authorization", "x-api-key", "x-goog-api-key", "cookie", "host", "content-length", "content-type",
    "connection", "transfer-encoding", "te", "upgrade", "keep-alive", "proxy-authorization", "accept-encoding",
    "expect",
}  # fmt: skip


class Text(fields.String):
    """A text of 1 to 1024 characters."""

    def __init__(self, *checks: Callable, **kwargs):
        super().__init__(validate=[Length(1, 1024, error="expected 1 to 1024 characters"), *checks], **kwargs)


def without_nul(text: str) -> None:
    if "\0" in text:
        raise ValidationError("holds a NUL character, which no database can store; remove it")


def bounded_pattern(text: str) -> None:
    """Rejects a pattern with too many stars or characters."""
    if (problem := patterns.problem(text)) is not None:
        raise ValidationError(problem)


def bounded_alias(name: str) -> None:
    """Rejects the name of an alias that is a pattern with too many stars or characters."""
    if "*" in name:
        bounded_pattern(name)


def pattern() -> Text:
    return Text(without_nul, bounded_pattern, required=True)


def header_safe(key: str) -> None:
    """Rejects a key that cannot be sent in a header. The error does not contain the key."""
    if not REFERENCE.fullmatch(key) and not HEADER_SAFE.fullmatch(key):
        raise ValidationError(UNSENDABLE)


def host_address(url: str) -> None:
    """Rejects everything but an http or https URL to which a path can be appended."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or not ADDRESS.fullmatch(url):
        raise ValidationError("expected http://host or https://host, with a path at most")
    if "@" in parts.netloc:
        raise ValidationError("must not hold a user or password; put the key into credentials")


def proxy_address(url: str) -> None:
    """Rejects everything but a proxy's URL and "direct". The error does not contain the URL's password."""
    if url == "direct":
        return
    try:
        parts = urlsplit(url)
        is_proxy = parts.scheme in PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_proxy = False
    if not is_proxy:
        raise ValidationError(f'expected {", ".join(PROXY_SCHEMES)} URL such as http://proxy:3128, or "direct"')


def forwardable(name: str) -> None:
    if not HEADER_NAME.fullmatch(name) or name.lower() in NEVER_FORWARDED:
        raise ValidationError(f"{name!r} is never forwarded; remove it")


class Switch(fields.Boolean):
    """Exactly `true` or `false`. Required if it has no default and is not optional."""

    def __init__(self, default: bool | None = None, *, is_optional: bool = False):
        options: dict[str, Any] = {"required": not is_optional} if default is None else {"load_default": default}
        super().__init__(**options)

    def _deserialize(self, value, attr, data, **kwargs):
        if not isinstance(value, bool):
            raise ValidationError("expected true or false")
        return value


class Seconds(fields.Field):
    def _deserialize(self, value, attr, data, **kwargs):
        is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        if not is_number or not Decimal(value).is_finite() or not 0 < value <= MAX_SECONDS:
            raise ValidationError(f"expected seconds, more than 0 and at most {MAX_SECONDS}")
        return float(value)


class Usd(fields.Field):
    """An amount in USD as a number. Loads to Decimal."""

    def _deserialize(self, value, attr, data, **kwargs):
        is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
        if not is_number or not Decimal(value).is_finite() or value < 0:
            raise ValidationError("expected an amount in USD, a number such as 0.25 that is not negative")
        if value > MAX_USD:
            raise ValidationError(f"expected an amount in USD of at most {MAX_USD}")
        return Decimal(value)


class ToolPrices(fields.Field):
    """USD per call of a vendor's tool, by the tool's name. Any name is accepted, since vendors add tools."""

    def _deserialize(self, value, attr, data, **kwargs):
        if not isinstance(value, dict):
            raise ValidationError("expected a table, such as { web_search = 0.01 }")
        found, problems = {}, {}
        for name, amount in value.items():
            try:
                if not TOOL_NAME.fullmatch(name):
                    raise ValidationError("expected a tool's name in lower case, such as web_search")
                found[name] = Usd().deserialize(amount)
            except ValidationError as fault:
                problems[name] = fault.messages
        if problems:
            raise ValidationError(problems)
        return found


class Money(fields.Field):
    """An amount in USD as a number. Loads to nano-USD; the tenth decimal is rounded half up.

    With `zero`, an amount of 0 is rejected, and the error contains this remedy.
    """

    def __init__(self, zero: str | None = None, **kwargs):
        super().__init__(**kwargs)
        self.zero = zero

    def _deserialize(self, value, attr, data, **kwargs):
        is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        # The digits of a float as they were written, not its binary value.
        amount = Decimal(repr(value) if isinstance(value, float) else value) if is_number else Decimal("NaN")
        if not amount.is_finite():
            raise ValidationError("expected an amount in USD as a number, such as 12.5")
        if amount > MAX_CAP_USD:
            raise ValidationError(f"expected an amount in USD of at most {MAX_CAP_USD}")
        nano = int((amount * NANO).quantize(Decimal(1), ROUND_HALF_UP)) if amount > 0 else 0
        if self.zero is not None and nano == 0:
            raise ValidationError(f"expected an amount in USD of more than 0; {self.zero}")
        if amount < 0:
            raise ValidationError("expected an amount in USD that is not negative")
        return nano


class Count(fields.Field):
    """The amount of a rate limit: a whole number; 0 blocks everything."""

    def __init__(self, *, is_optional: bool = False):
        options: dict[str, Any] = {} if is_optional else {"load_default": None}
        super().__init__(allow_none=True, **options)

    def _deserialize(self, value, attr, data, **kwargs):
        if type(value) is not int or not 0 <= value <= MAX_COUNT:
            raise ValidationError(f"expected a whole number from 0, which blocks, to {MAX_COUNT}")
        return value


class Weight(fields.Field):
    """The relative frequency with which one of several is chosen."""

    def _deserialize(self, value, attr, data, **kwargs):
        if type(value) is not int or not 1 <= value <= MAX_WEIGHT:
            raise ValidationError(f"expected a whole number from 1 to {MAX_WEIGHT}; to leave it out disable it")
        return value


class Instant(fields.Field):
    """RFC 3339 with an offset, as a TOML date-time or as text. Loads to nanoseconds since the epoch."""

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                value = None
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise ValidationError("expected a date and time with offset, such as 2027-01-31T00:00:00Z")
        instant = int(value.timestamp()) * NS
        if not 0 <= instant < 2**63:
            raise ValidationError("expected a year from 1970 to 2261; remove it if the key never expires")
        return instant


class UnsupportedField(fields.Field):
    """A field whose feature this version lacks. It accepts only the neutral values, which request nothing."""

    def __init__(self, *neutral, refusal: str = UNSUPPORTED):
        super().__init__(load_default=None)
        self.neutral, self.refusal = neutral, refusal

    def _deserialize(self, value, attr, data, **kwargs):
        if any(value is one or (isinstance(one, str | list | dict) and value == one) for one in self.neutral):
            return None
        raise ValidationError(self.refusal)


class ProviderSettings(Schema):
    base_url = fields.String(validate=host_address)
    protocol = fields.String()
    forward_headers = fields.List(fields.String(validate=forwardable))
    connect_timeout_s = Seconds()
    first_byte_timeout_s = Seconds()
    idle_timeout_s = Seconds()
    total_timeout_s = Seconds()
    write_timeout_s = Seconds()
    max_connections = fields.Integer(strict=True, validate=Range(1, MAX_CONNECTIONS, error=CONNECTIONS))
    connection_wait_s = Seconds()
    # Without a default: a provider that does not set it follows [global].
    strict_translation = Switch(is_optional=True)
    fetch_images = Switch(is_optional=True)
    on_disconnect = fields.String(validate=OneOf(("cancel", "drain"), error='expected "cancel" or "drain"'))
    drain_s = Seconds()
    retry_timeouts = Switch(is_optional=True)
    max_attempts = fields.Integer(strict=True, validate=Range(1, MAX_ATTEMPTS, error=ATTEMPTS))
    retry_within_s = Seconds()
    heartbeat_s = Seconds()
    unpriced = fields.String(validate=OneOf(("allow", "deny"), error='expected "allow" or "deny"'))
    assumed_output_tokens = fields.Integer(strict=True, validate=Range(1, MAX_ASSUMED, error=ASSUMED))
    stop_at_quota = Switch(is_optional=True)
    early_heartbeat_s = UnsupportedField()
    user_agent = UnsupportedField()
    max_retries_on_429 = UnsupportedField()
    rotation_strategy = fields.String(validate=OneOf(STRATEGIES, error="expected one of {choices}"))
    rewrite_rules = UnsupportedField([])
    sanitize_rules = UnsupportedField([])
    cache_breakpoints = UnsupportedField([])
    enable_magic_cache = UnsupportedField(False)
    flatten_system_before_cache = UnsupportedField(False)
    extra_beta_headers = UnsupportedField([])


class Defaults(ProviderSettings):
    """Settings of all providers that do not set them. A host and a protocol can only be set for one provider."""

    base_url = UnsupportedField()
    protocol = UnsupportedField()


class OwnSettings(ProviderSettings):
    """Settings of one provider, including those that have no global default."""

    proxy = fields.String(validate=proxy_address)
    ca_file = Text()
    client_cert_file = Text()
    client_key_file = Text()
    location = fields.String(validate=Regexp(r"[a-z][a-z0-9-]{0,62}\Z", error="expected a location, as us-central1"))

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _check(self, data, original, **kwargs):
        if given(original, "client_key_file") and not given(original, "client_cert_file"):
            raise ValidationError("client_key_file without client_cert_file; give both, or neither")


MAX_DAYS, MAX_MB = 36_500, 1_000_000
MEGABYTES = f"expected a whole number from 1 to {MAX_MB}"


def days(**kwargs) -> fields.Integer:
    error = f"expected a whole number of days from 1 to {MAX_DAYS}"
    return fields.Integer(strict=True, validate=Range(1, MAX_DAYS, error=error), **kwargs)


class Switches(Schema):
    """What is logged of requests, and how long logs and usage rows are kept."""

    enable_upstream_log = Switch(is_optional=True)
    enable_upstream_log_body = Switch(is_optional=True)
    enable_downstream_log = Switch(is_optional=True)
    enable_downstream_log_body = Switch(is_optional=True)
    log_retention_days = days()
    log_retention_mb = fields.Integer(strict=True, validate=Range(1, MAX_MB, error=MEGABYTES))
    usage_retention_days = days(allow_none=True)


class Global(Switches, Defaults):
    """The table [global]. Process settings are validated by `settings`; here they are only accepted."""

    host = fields.Raw()
    port = fields.Raw()
    dsn = fields.Raw(allow_none=True)
    data_dir = fields.Raw()
    proxy = fields.Raw(allow_none=True)
    spoof_emulation = UnsupportedField(refusal=NEVER)
    update_channel = UnsupportedField(refusal=NEVER)
    enable_usage = Switch(True)


# The fields of a credential: one key, or the fields of a Google service account's key file.
ACCOUNT = ("project_id", "client_email", "private_key")
SECRETS = ("api_key", *ACCOUNT, "private_key_id", "token_uri")


def private_key(pem: str) -> None:
    """Rejects everything but an RSA key in PEM format. The error does not contain the key."""
    if not REFERENCE.fullmatch(pem):
        try:
            vertex.read_key(pem)
        except ValueError as fault:
            raise ValidationError(f"{fault}; copy it unchanged from the key file") from None


def token_address(url: str) -> None:
    if not REFERENCE.fullmatch(url):
        host_address(url)


class Secret(Schema):
    """One key, or a service account."""

    api_key = Text(header_safe)
    project_id = Text(without_nul)
    client_email = Text(without_nul)
    private_key = fields.String(validate=[Length(1, 16_384), private_key])
    private_key_id = Text(without_nul)
    token_uri = Text(token_address, load_default=vertex.OAUTH_URI)
    # Further fields of a key file. They are accepted and ignored.
    type = fields.Raw()
    client_id = fields.Raw()
    auth_uri = fields.Raw()
    auth_provider_x509_cert_url = fields.Raw()
    client_x509_cert_url = fields.Raw()
    universe_domain = fields.Raw()

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _check(self, data, original, **kwargs):
        if not isinstance(original, dict):
            return
        if not any(given(original, name) for name in ACCOUNT):
            if not given(original, "api_key"):
                raise ValidationError("Missing data for required field.", "api_key")
        elif given(original, "api_key"):
            raise ValidationError("an api_key and a service account; give one of them")
        elif missing := [name for name in ACCOUNT if not given(original, name)]:
            raise ValidationError({name: ["Missing data for required field."] for name in missing})


class Credential(Secret):
    name = Text(allow_none=True, load_default=None)
    enabled = Switch(True)
    weight = Weight(load_default=1)
    rpm = Count()
    concurrency = Count()


PATH_SEGMENT = Regexp(
    r"[A-Za-z0-9][A-Za-z0-9._-]*\Z", error="may hold letters, digits, `.`, `_` and `-`: it is a path segment"
)


class Provider(Schema):
    name = Text(PATH_SEGMENT, required=True)
    channel = Text(required=True)
    label = fields.String(allow_none=True, load_default=None)
    enabled = Switch(True)
    settings = fields.Nested(OwnSettings, load_default=dict)
    routing = Routing()
    credentials = fields.List(fields.Nested(Credential), load_default=list)


class Tier(Schema):
    input_tokens_up_to = fields.Integer(strict=True, required=True, validate=Range(1, 2**53))
    price_input_tokens = Usd()
    price_output_tokens = Usd()
    price_cache_read_input_tokens = Usd()
    price_cache_creation_input_tokens = Usd()
    price_cache_creation_input_tokens_5min = Usd()
    price_cache_creation_input_tokens_1h = Usd()
    price_input_audio_tokens = Usd()
    price_input_image_tokens = Usd()
    price_output_audio_tokens = Usd()
    price_output_image_tokens = Usd()
    price_cache_read_input_audio_tokens = Usd()


def tiers_differ(tiers: list[dict]) -> None:
    upper_bounds = [tier["input_tokens_up_to"] for tier in tiers]
    problems = [f"the tier up to {tier['input_tokens_up_to']} has no rate; add one" for tier in tiers if len(tier) == 1]
    if len(set(upper_bounds)) < len(upper_bounds):
        problems.insert(0, "two tiers have the same input_tokens_up_to and are overlapping; remove one")
    if problems:
        raise ValidationError(problems)


def tiers() -> fields.List:
    return fields.List(fields.Nested(Tier), validate=tiers_differ)


class Priced(Schema):
    """The fields of a price document. A row without any of them has no price."""

    price_each_call = Usd(allow_none=True)
    price_tiers = tiers()
    flex_price_each_call = Usd(allow_none=True)
    flex_price_tiers = tiers()
    scale_price_each_call = Usd(allow_none=True)
    scale_price_tiers = tiers()
    priority_price_each_call = Usd(allow_none=True)
    priority_price_tiers = tiers()
    batch_price_each_call = Usd(allow_none=True)
    batch_price_tiers = tiers()
    tool_prices = ToolPrices()


class Model(Priced):
    provider_name = Text(required=True)
    model_id = Text(required=True)
    display_name = fields.String(allow_none=True, load_default=None)
    enabled = Switch(True)


class Target(Schema):
    provider_name = Text(required=True, data_key="provider")
    model_id = Text(required=True, data_key="model")
    tier = fields.Integer(strict=True, load_default=0, validate=Range(0, MAX_WEIGHT, error=TIER))
    weight = Weight(load_default=1)


def targets_differ(targets: list[dict]) -> None:
    if len({(one["provider_name"], one["model_id"]) for one in targets}) < len(targets):
        raise ValidationError("two targets are the same; remove one")


def given(original, *names: str) -> list[str]:
    """Returns those of the names that the document contains and that are not null, with valid values or not."""
    return [name for name in names if isinstance(original, dict) and original.get(name) is not None]


class Alias(Priced):
    alias = Text(bounded_alias, required=True)
    provider_name = Text()
    model_id = Text()
    enabled = Switch(True)
    targets = fields.List(fields.Nested(Target), validate=Length(max=MAX_TARGETS, error=TARGETS))

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _check(self, data, original, **kwargs):
        own = given(original, "provider_name", "model_id")
        if given(original, "targets") and original["targets"] != []:
            if own:
                raise ValidationError("give either provider_name and model_id, or targets")
        elif len(own) < 2:
            raise ValidationError("give provider_name and model_id, or targets with provider and model")


class Amounts(Schema):
    """The amounts of a rate limit. An amount that is missing is not limited."""

    rpm = Count()
    rpd = Count()
    total_tokens = Count()
    concurrency = Count()

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _check_amounts(self, data, original, **kwargs):
        if not given(original, "rpm", "rpd", "total_tokens", "concurrency"):
            raise ValidationError("give at least one of rpm, rpd, total_tokens and concurrency, or remove it")


class KeyLimit(Amounts):
    model_pattern = pattern()


class KeyPermission(Schema):
    provider_name = Text(allow_none=True, load_default=None)
    model_pattern = pattern()


def key_cap() -> Money:
    return Money("leave it out: without one there is no cap; to block disable the key", allow_none=True)


class Key(Schema):
    api_key = Text(header_safe)
    api_key_digest = fields.String(validate=Regexp(r"[0-9a-f]{64}\Z", error="expected 64 lower-case hex digits"))
    label = fields.String(allow_none=True, load_default=None)
    enabled = Switch(True)
    disabled_by = fields.String(allow_none=True, load_default=None, validate=OneOf(DISABLERS, error=DISABLER))
    expires_at = Instant(allow_none=True, load_default=None)
    budget = key_cap()
    permissions = fields.List(fields.Nested(KeyPermission))  # an empty list permits nothing
    rate_limits = fields.List(fields.Nested(KeyLimit), load_default=list)

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _check(self, data, original, **kwargs):
        if len(given(original, "api_key", "api_key_digest")) != 1:
            raise ValidationError("give either api_key or api_key_digest")
        if given(original, "disabled_by") and original.get("enabled") is not False:
            raise ValidationError("the key is not disabled; remove it, or write enabled = false", "disabled_by")


class User(Schema):
    name = Text(required=True)
    password = fields.String(allow_none=True, load_default=None)
    enabled = Switch(True)
    is_admin = Switch(False)
    # Without a default: an import without it leaves a stored user as it is. A new user may make keys.
    may_make_keys = Switch(is_optional=True)
    keys = fields.List(fields.Nested(Key), load_default=list)


class Permission(Schema):
    user_name = Text(required=True)
    provider_name = Text(allow_none=True, load_default=None)
    model_pattern = pattern()


class FilePermission(Schema):
    user_name = Text(required=True)
    provider_name = Text(required=True)


class RateLimit(Amounts):
    user_name = Text(required=True)
    model_pattern = pattern()


def user_cap(**kwargs) -> Money:
    remedy = "remove the row: without one there is no cap; to block use a rate limit of 0 or disable the user"
    return Money(remedy, **kwargs)


def quota_period(**kwargs) -> fields.String:
    error = "expected day, week or month; leave it out for a quota without a period"
    return fields.String(allow_none=True, validate=OneOf(PERIODS, error=error), **kwargs)


class Quota(Schema):
    user_name = Text(required=True)
    quota = user_cap(required=True)
    cost_used = Money(load_default=0)
    period = quota_period(load_default=None)


class Seed(Schema):
    settings = fields.Nested(Global, data_key="global", load_default=dict)
    providers = fields.List(fields.Nested(Provider), load_default=list)
    models = fields.List(fields.Nested(Model), load_default=list)
    model_aliases = fields.List(fields.Nested(Alias), load_default=list)
    users = fields.List(fields.Nested(User), load_default=list)
    permissions = fields.List(fields.Nested(Permission), load_default=list)
    file_permissions = fields.List(fields.Nested(FilePermission), load_default=list)
    rate_limits = fields.List(fields.Nested(RateLimit), load_default=list)
    quotas = fields.List(fields.Nested(Quota), load_default=list)
