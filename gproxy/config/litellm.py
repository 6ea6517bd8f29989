"""Translates LiteLLM's `config.yaml` to a seed document (models, keys, aliases, fallbacks) and lists the rest.

Format: docs.litellm.ai/docs/proxy/configs, …/routing, …/reliability.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from urllib.parse import urlsplit

from gproxy.errors import StartupError

# Channels by LiteLLM's provider names. Other providers with an address are treated as OpenAI-compatible hosts.
CHANNELS = {
    "openai": "openai",
    "text-completion-openai": "openai",
    "anthropic": "anthropic",
    "gemini": "aistudio",
    "deepseek": "deepseek",
    "groq": "groq",
    "openrouter": "openrouter",
    "nvidia_nim": "nvidia",
}
COMPATIBLE = ("openai", "hosted_vllm", "openai_like", "lm_studio", "custom_openai", "together_ai", "fireworks_ai")
# The model names from which LiteLLM guesses the provider.
GUESSES = ((r"^(gpt-|o\d|chatgpt-|text-embedding-)", "openai"), (r"^claude-", "anthropic"), (r"^gemini-", "gemini"))
REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
PER_TOKEN = {
    "input_cost_per_token": "price_input_tokens",
    "output_cost_per_token": "price_output_tokens",
    "cache_read_input_token_cost": "price_cache_read_input_tokens",
    "cache_creation_input_token_cost": "price_cache_creation_input_tokens",
}
IMPORTED_PARAMS = {"model", "api_key", "api_base", "base_url", "weight", "rpm", "timeout", "stream_timeout", *PER_TOKEN}
MILLION = 1_000_000
UNLIMITED_TOKENS = 2**53 - 1


def translate(text: str) -> tuple[dict, list[str]]:
    """Returns the seed document, and a line for each setting that was skipped. Raises StartupError."""
    # Imported on demand: only commands need it.
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as fault:
        raise StartupError([f"not readable as YAML: {fault}"]) from None
    if not isinstance(found, dict) or not isinstance(found.get("model_list"), list):
        raise StartupError(["model_list: missing; this is not a LiteLLM configuration"])
    return _Translation(found).document()


@dataclass(frozen=True, slots=True)
class _Deployment:
    provider: str
    model: str
    weight: int


@dataclass(slots=True)
class _Translation:
    source: dict
    skipped: list[str] = field(default_factory=list)
    providers: dict[tuple[str, str | None], dict] = field(default_factory=dict)
    groups: dict[str, list[_Deployment]] = field(default_factory=dict)
    models: dict[tuple[str, str], dict] = field(default_factory=dict)

    def document(self) -> tuple[dict, list[str]]:
        for n, entry in enumerate(self.source["model_list"], 1):
            self._add_deployment(f"model_list[{n}]", entry)
        aliases = [*self._aliases(), *self._group_aliases()]
        document = {
            "providers": list(self.providers.values()),
            "models": [one for one in self.models.values() if len(one) > 2],
            "model_aliases": aliases,
            "users": self._users(),
            "permissions": [{"user_name": "admin", "model_pattern": "*"}] if self._users() else [],
        }
        self._report_other_settings()
        return {name: rows for name, rows in document.items() if rows}, self.skipped

    def _add_deployment(self, place: str, entry) -> None:
        params = entry.get("litellm_params") if isinstance(entry, dict) else None
        name = entry.get("model_name") if isinstance(entry, dict) else None
        if not isinstance(params, dict) or not isinstance(params.get("model"), str) or not isinstance(name, str):
            self.skipped.append(f"{place}: has no model_name or litellm_params.model")
            return
        vendor, model = _split(params["model"])
        base_url = params.get("api_base") or params.get("base_url")
        if base_url is not None and not _is_address(base_url):
            self.skipped.append(f"{place}: api_base is not a URL")
            return
        channel = self._channel(vendor, base_url)
        if channel is None:
            self.skipped.append(f"{place}: {params['model']}: gproxy has no channel for {vendor or 'this model'}")
            return
        provider = self._provider_of(vendor, channel, _as_reference(base_url))
        self._add_credential(place, provider, params)
        self._add_model(provider["name"], model, params, entry.get("model_info"))
        weight = params.get("weight")
        found = _Deployment(provider["name"], model, weight if isinstance(weight, int) and weight > 0 else 1)
        self.groups.setdefault(name, []).append(found)
        others = sorted(set(map(str, params)) - IMPORTED_PARAMS)
        if others:
            self.skipped.append(f"{place}: litellm_params {', '.join(others)}")

    def _channel(self, vendor: str | None, base_url: str | None) -> str | None:
        if base_url and (vendor in COMPATIBLE or vendor not in CHANNELS):
            return "custom"
        return None if vendor is None else CHANNELS.get(vendor)

    def _provider_of(self, vendor: str | None, channel: str, base_url: str | None) -> dict:
        if (known := self.providers.get((channel, base_url))) is not None:
            return known
        host = urlsplit(base_url).hostname if base_url and "://" in base_url else None
        wanted = re.sub(r"[^A-Za-z0-9._-]", "-", (host if channel == "custom" else None) or vendor or channel)
        taken = {one["name"] for one in self.providers.values()}
        name = next(one for one in (wanted, *(f"{wanted}-{n}" for n in range(2, 1000))) if one not in taken)
        found = self.providers[channel, base_url] = {"name": name, "channel": channel, "credentials": []}
        settings = {**({"base_url": base_url} if base_url else {}), **({"protocol": "openai"} if host else {})}
        if settings and channel == "custom":
            found["settings"] = {"protocol": "openai", **settings}
        elif settings:
            found["settings"] = {"base_url": base_url}
        return found

    def _add_credential(self, place: str, provider: dict, params: dict) -> None:
        key = _as_reference(params.get("api_key"))
        known = {one["api_key"]: one for one in provider["credentials"]}
        if key is None and not known and provider["channel"] == "custom":
            key = "none"  # local hosts often need no key, but a provider needs a credential
        if not isinstance(key, str):
            if not known:
                self.skipped.append(f"{place}: has no api_key; give provider {provider['name']!r} a credential")
            return
        if key not in known:
            if known:
                self.skipped.append(f"{place}: its own api_key serves all models of provider {provider['name']!r}")
            provider["credentials"].append({"api_key": key})
        rpm = params.get("rpm")
        if isinstance(rpm, int) and rpm > 0:
            row = next(one for one in provider["credentials"] if one["api_key"] == key)
            row["rpm"] = row.get("rpm", 0) + rpm

    def _add_model(self, provider: str, model: str, params: dict, info) -> None:
        rates = {}
        for table in (info if isinstance(info, dict) else {}, params):
            for litellm_name, name in PER_TOKEN.items():
                if (rate := _per_million(table.get(litellm_name))) is not None:
                    rates[name] = rate
        row = self.models.setdefault((provider, model), {"provider_name": provider, "model_id": model})
        if rates:
            row["price_tiers"] = [{"input_tokens_up_to": UNLIMITED_TOKENS, **rates}]

    def _aliases(self) -> Iterator[dict]:
        """Yields an alias for each model group: its deployments in tier 0, its fallbacks in the next tiers."""
        fallbacks = self._fallbacks()
        for name, deployments in self.groups.items():
            tiers = [deployments, *(self.groups[other] for other in fallbacks.get(name, ()) if other in self.groups)]
            targets = [
                {"provider": one.provider, "model": one.model, "tier": tier, "weight": one.weight}
                for tier, found in enumerate(tiers)
                for one in dict.fromkeys(found)
            ]
            yield {"alias": name, "targets": targets}

    def _fallbacks(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for table in ("litellm_settings", "router_settings"):
            rules = self._setting(table, "fallbacks")
            for rule in rules if isinstance(rules, list) else ():
                for name, others in rule.items() if isinstance(rule, dict) else ():
                    others = others if isinstance(others, list) else [others]
                    found.setdefault(name, []).extend(one for one in others if isinstance(one, str))
                    self.skipped += [
                        f"{table}.fallbacks: {one!r} is not in model_list"
                        for one in others
                        if not isinstance(one, str) or one not in self.groups
                    ]
        return found

    def _group_aliases(self) -> Iterator[dict]:
        group_aliases = self._setting("router_settings", "model_group_alias")
        for name, group in group_aliases.items() if isinstance(group_aliases, dict) else ():
            group = group.get("model") if isinstance(group, dict) else group
            if isinstance(group, str) and group in self.groups and name not in self.groups:
                targets = [
                    {"provider": one.provider, "model": one.model, "weight": one.weight}
                    for one in dict.fromkeys(self.groups[group])
                ]
                yield {"alias": name, "targets": targets}
            else:
                self.skipped.append(f"router_settings.model_group_alias: {name!r} refers to no model in model_list")

    def _setting(self, table: str, name: str):
        found = self.source.get(table)
        return found.get(name) if isinstance(found, dict) else None

    def _users(self) -> list[dict]:
        key = _as_reference(self._setting("general_settings", "master_key"))
        return [{"name": "admin", "is_admin": True, "keys": [{"api_key": key}]}] if isinstance(key, str) else []

    def _report_other_settings(self) -> None:
        known = {
            "general_settings": {"master_key"},
            "router_settings": {"fallbacks", "model_group_alias"},
            "litellm_settings": {"fallbacks"},
        }
        for table, values in self.source.items():
            if table == "model_list":
                continue
            names = sorted(set(map(str, values)) - known.get(table, set())) if isinstance(values, dict) else []
            if names:
                self.skipped.append(f"{table}: {', '.join(names)}")
            elif table not in known and values:
                self.skipped.append(table)


def _split(model: str) -> tuple[str | None, str]:
    """Returns LiteLLM's name of the provider, None if it is unknown, and the name of the model at this provider."""
    vendor, slash, name = model.partition("/")
    if slash:
        return vendor, name
    return next((vendor for pattern, vendor in GUESSES if re.search(pattern, model)), None), model


def _is_address(value) -> bool:
    try:
        return isinstance(value, str) and urlsplit(value) is not None
    except ValueError:
        return False


def _as_reference(value):
    """Returns `${NAME}` for `os.environ/NAME`, and other values unchanged."""
    found = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return f"${{{found[1]}}}" if found else value


def _per_million(value) -> Decimal | None:
    try:
        rate = Decimal(str(value)) * MILLION
    except InvalidOperation:
        return None
    if not rate.is_finite() or rate < 0 or isinstance(value, bool):
        return None
    return Decimal(format(rate.normalize(), "f"))
