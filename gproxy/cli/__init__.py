"""Commands of an operator, `flask --app wsgi …`. They find settings as the server does."""

from gproxy.cli import config, ledger, secrets, users

COMMANDS = (ledger.books, config.config, users.users, users.keys, secrets.secrets)
