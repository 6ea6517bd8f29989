"""The operator's commands, `flask --app wsgi …`. They read the same settings as the server."""

from gproxy.cli import config, ledger, secrets, users

COMMANDS = (ledger.ledger, config.config, users.users, users.keys, secrets.secrets)
