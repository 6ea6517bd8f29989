"""Which replacements are on in this process."""

from gproxy import settings

ON = settings.fast_paths()


def is_on(name: str) -> bool:
    """True if the replacement in the file of this name is switched on."""
    return name in ON
