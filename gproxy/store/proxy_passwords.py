"""Hides the password in the address of a provider's proxy, and restores it when the hidden form is sent back."""

import json
import re

from gproxy.errors import BadRequest

_PASSWORD = re.compile(r"(://[^/@:]*:)[^/@]*(?=@)")
MASK = "***"


def hide(settings: dict) -> dict:
    """The settings with the password masked."""
    if not isinstance(proxy := settings.get("proxy"), str):
        return settings
    return {**settings, "proxy": _PASSWORD.sub(rf"\g<1>{MASK}", proxy)}


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
