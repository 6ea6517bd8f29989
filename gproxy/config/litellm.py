"""LiteLLM's `config.yaml` as a seed document: models, keys, aliases, fallbacks, and what has no place here.

Format: docs.litellm.ai/docs/proxy/configs, …/routing, …/reliability.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from urllib.parse import urlsplit

from gproxy.errors import StartupError

# LiteLLM's names of providers by our channels; others are OpenAI-compatible hosts where they tell an address.
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
# Names by which LiteLLM guesses the provider of a bare model.
GUESSES = ((r"^(gpt-|o\d|chatgpt-|text-embedding-)", "openai"), (r"^claude-", "anthropic"), (r"^gemini-", "gemini"))
REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
PER_TOKEN = {
    "input_cost_per_token": "price_input_tokens",
    "output_cost_per_token": "price_output_tokens",
    "cache_read_input_token_cost": "price_cache_read_input_tokens",
    "cache_creation_input_token_cost": "price_cache_creation_input_tokens",
}
TAKEN = {"model", "api_key", "api_base", "base_url", "weight", "rpm", "timeout", "stream_timeout", *PER_TOKEN}
MILLION = 1_000_000
NO_BOUND = 2**53 - 1


def translated(text: str) -> tuple[dict, list[str]]:
    """The seed document, and a line for each thing that has no place in it. Raises StartupError."""
    # Imported where it is needed.
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as fault:
        raise StartupError([f"not readable as YAML: {fault}"]) from None
    if not isinstance(found, dict) or not isinstance(found.get("model_list"), list):
        raise StartupError(["model_list: missing; this is no configuration of LiteLLM"])
    return _Translation(found).document()


@dataclass(frozen=True, slots=True)
class _Deployment:
    provider: str
    model: str
    weight: int


@dataclass(slots=True)
class _Translation:
    told: dict
    lost: list[str] = field(default_factory=list)
    providers: dict[tuple[str, str | None], dict] = field(default_factory=dict)
    groups: dict[str, list[_Deployment]] = field(default_factory=dict)
    models: dict[tuple[str, str], dict] = field(default_factory=dict)

    def document(self) -> tuple[dict, list[str]]:
        for n, entry in enumerate(self.told["model_list"], 1):
            self._deploy(f"model_list[{n}]", entry)
        aliases = [*self._aliases(), *self._group_aliases()]
        document = {
            "providers": list(self.providers.values()),
            "models": [one for one in self.models.values() if len(one) > 2],
            "model_aliases": aliases,
            "users": self._users(),
            "permissions": [{"user_name": "admin", "model_pattern": "*"}] if self._users() else [],
        }
        self._rest()
        return {name: rows for name, rows in document.items() if rows}, self.lost

    def _deploy(self, place: str, entry) -> None:
        params = entry.get("litellm_params") if isinstance(entry, dict) else None
        name = entry.get("model_name") if isinstance(entry, dict) else None
        if not isinstance(params, dict) or not isinstance(params.get("model"), str) or not isinstance(name, str):
            self.lost.append(f"{place}: has no model_name or litellm_params.model")
            return
        vendor, model = _split(params["model"])
        base_url = params.get("api_base") or params.get("base_url")
        if base_url is not None and not _is_address(base_url):
            self.lost.append(f"{place}: api_base is no address")
            return
        channel = self._channel(vendor, base_url)
        if channel is None:
            self.lost.append(f"{place}: {params['model']}: gproxy has no channel for {vendor or 'it'}")
            return
        provider = self._provider(vendor, channel, _referred(base_url))
        self._credential(place, provider, params)
        self._model(provider["name"], model, params, entry.get("model_info"))
        weight = params.get("weight")
        found = _Deployment(provider["name"], model, weight if isinstance(weight, int) and weight > 0 else 1)
        self.groups.setdefault(name, []).append(found)
        left = sorted(set(map(str, params)) - TAKEN)
        if left:
            self.lost.append(f"{place}: litellm_params {', '.join(left)}")

    def _channel(self, vendor: str | None, base_url: str | None) -> str | None:
        if base_url and (vendor in COMPATIBLE or vendor not in CHANNELS):
            return "custom"
        return CHANNELS.get(vendor)

    def _provider(self, vendor: str, channel: str, base_url: str | None) -> dict:
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

    def _credential(self, place: str, provider: dict, params: dict) -> None:
        key = _referred(params.get("api_key"))
        known = {one["api_key"]: one for one in provider["credentials"]}
        if key is None and not known and provider["channel"] == "custom":
            key = "none"  # hosts in one's own net often want no key, and a provider wants one
        if not isinstance(key, str):
            if not known:
                self.lost.append(f"{place}: names no api_key; give provider {provider['name']!r} a credential")
            return
        if key not in known:
            if known:
                self.lost.append(f"{place}: its own api_key serves all models of provider {provider['name']!r}")
            provider["credentials"].append({"api_key": key})
        rpm = params.get("rpm")
        if isinstance(rpm, int) and rpm > 0:
            row = next(one for one in provider["credentials"] if one["api_key"] == key)
            row["rpm"] = row.get("rpm", 0) + rpm

    def _model(self, provider: str, model: str, params: dict, info) -> None:
        rates = {}
        for source in (info if isinstance(info, dict) else {}, params):
            for name, ours in PER_TOKEN.items():
                if (rate := _per_million(source.get(name))) is not None:
                    rates[ours] = rate
        row = self.models.setdefault((provider, model), {"provider_name": provider, "model_id": model})
        if rates:
            row["price_tiers"] = [{"input_tokens_up_to": NO_BOUND, **rates}]

    def _aliases(self) -> Iterator[dict]:
        """Each model group with its deployments, and its fallbacks in the tiers behind them."""
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
            rules = self._of(table, "fallbacks")
            for rule in rules if isinstance(rules, list) else ():
                for name, others in rule.items() if isinstance(rule, dict) else ():
                    others = others if isinstance(others, list) else [others]
                    found.setdefault(name, []).extend(one for one in others if isinstance(one, str))
                    self.lost += [
                        f"{table}.fallbacks: {one!r} is no model of the list"
                        for one in others
                        if not isinstance(one, str) or one not in self.groups
                    ]
        return found

    def _group_aliases(self) -> Iterator[dict]:
        told = self._of("router_settings", "model_group_alias")
        for name, meant in told.items() if isinstance(told, dict) else ():
            meant = meant.get("model") if isinstance(meant, dict) else meant
            if isinstance(meant, str) and meant in self.groups and name not in self.groups:
                targets = [
                    {"provider": one.provider, "model": one.model, "weight": one.weight}
                    for one in dict.fromkeys(self.groups[meant])
                ]
                yield {"alias": name, "targets": targets}
            else:
                self.lost.append(f"router_settings.model_group_alias: {name!r} leads to no model of the list")

    def _of(self, table: str, name: str):
        found = self.told.get(table)
        return found.get(name) if isinstance(found, dict) else None

    def _users(self) -> list[dict]:
        key = _referred(self._of("general_settings", "master_key"))
        return [{"name": "admin", "is_admin": True, "keys": [{"api_key": key}]}] if isinstance(key, str) else []

    def _rest(self) -> None:
        known = {
            "general_settings": {"master_key"},
            "router_settings": {"fallbacks", "model_group_alias"},
            "litellm_settings": {"fallbacks"},
        }
        for table, values in self.told.items():
            if table == "model_list":
                continue
            names = sorted(set(map(str, values)) - known.get(table, set())) if isinstance(values, dict) else []
            if names:
                self.lost.append(f"{table}: {', '.join(names)}")
            elif table not in known and values:
                self.lost.append(table)


def _split(model: str) -> tuple[str | None, str]:
    """LiteLLM's name of the provider, and the model that it is asked for."""
    vendor, slash, rest = model.partition("/")
    if slash:
        return vendor, rest
    return next((vendor for pattern, vendor in GUESSES if re.search(pattern, model)), None), model


def _is_address(value) -> bool:
    try:
        return isinstance(value, str) and urlsplit(value) is not None
    except ValueError:
        return False


def _referred(value):
    """`os.environ/NAME` as `${NAME}`."""
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
