"""The password in the address of a provider's proxy, which is shown to nobody and may be sent back as it is shown."""

import json
import re

from gproxy.errors import BadRequest

_PASSWORD = re.compile(r"(://[^/@:]*:)[^/@]*(?=@)")
HIDDEN = "***"


def hidden(settings: dict) -> dict:
    """The settings without it."""
    if not isinstance(proxy := settings.get("proxy"), str):
        return settings
    return {**settings, "proxy": _PASSWORD.sub(rf"\g<1>{HIDDEN}", proxy)}


def restored(settings_json: str, before_json: str | None) -> str:
    """Stored settings whose password may be hidden, with the one that stood at the same address before.

    Raises BadRequest where there was none.
    """
    settings = json.loads(settings_json)
    if f":{HIDDEN}@" not in str(settings.get("proxy")):
        return settings_json
    before = json.loads(before_json) if before_json else {}
    if hidden(before).get("proxy") != settings["proxy"]:
        raise BadRequest(f"proxy: its password stands as {HIDDEN}, and none is known for this address; write it")
    return json.dumps({**settings, "proxy": before["proxy"]})
