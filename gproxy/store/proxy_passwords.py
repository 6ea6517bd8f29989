"""Hides the password in the address of a provider's proxy, and restores it when the hidden form is sent back."""

import json
import re
from collections.abc import Callable

from gproxy.errors import BadRequest

# User and password may contain "@"; the last one precedes the host.
_PASSWORD = re.compile(r"(://[^/?#:]*:)([^/?#]*)(?=@)")
MASK = "***"


def _mask(password: str) -> str:
    return MASK


def hide(settings: dict, replace: Callable[[str], str] = _mask) -> dict:
    """The settings with the password masked, or replaced by what `replace` returns for it."""
    if not isinstance(proxy := settings.get("proxy"), str):
        return settings
    return {**settings, "proxy": _PASSWORD.sub(lambda match: match[1] + replace(match[2]), proxy)}


def hide_in(settings_json: str, replace: Callable[[str], str] = _mask) -> str:
    """Like `hide`, for the JSON text of settings. Text without a password stays as it is."""
    settings = json.loads(settings_json)
    hidden = hide(settings, replace)
    return settings_json if hidden == settings else json.dumps(hidden)


def restore(settings_json: str, before_json: str | None) -> str:
    """New settings with a masked password replaced by the one that was stored for the same address.

    Raises BadRequest if no password was stored for it.
    """
    settings = json.loads(settings_json)
    if f":{MASK}@" not in str(settings.get("proxy")):
        return settings_json
    before = json.loads(before_json) if before_json else {}
    if hide(before).get("proxy") != settings["proxy"]:
        raise BadRequest(
            f"proxy: the password is hidden as {MASK}, and no password is stored for this address; send it"
        )
    return json.dumps({**settings, "proxy": before["proxy"]})
