"""The command groups `users` and `keys`."""

import click
from marshmallow import ValidationError

from gproxy.admission import passwords
from gproxy.admission.keys import digest, fingerprint
from gproxy.cli.context import CommandContext, report_errors
from gproxy.config.entities import User
from gproxy.config.keys import new_key
from gproxy.config.loading import loaded
from gproxy.errors import NotFound
from gproxy.store import entities
from gproxy.store import users as user_store


@click.group()
def users() -> None:
    """Manage users."""


@users.command("list")
def list_users() -> None:
    """List every user: id, name, and whether it is an administrator or disabled."""
    with report_errors():
        for row in CommandContext("users list").ask(entities.find, entities.USER, {}):
            flags = ["administrator"] * row["is_admin"] + ["disabled"] * (not row["enabled"])
            click.echo("\t".join([str(row["id"]), row["name"], " ".join(flags)]).rstrip())


@users.command("add")
@click.argument("name")
@click.option("--admin", "is_admin", is_flag=True, help="Make the user an administrator.")
@click.option("--password", is_flag=True, help="Ask for a password, so that the user can log in.")
def add_user(name: str, is_admin: bool, password: bool) -> None:
    """Create a user."""
    try:
        row = {**loaded(User(), {"name": name, "is_admin": is_admin}), **(_read_password() if password else {})}
    except ValidationError as fault:
        raise click.UsageError(f"NAME: {fault.messages_dict['name'][0]}") from None
    with report_errors():
        (user_id,) = CommandContext("users add").change(entities.put, entities.USER, [row])
    click.echo(f"user {user_id}")


@users.command("set-password")
@click.argument("name")
def set_password(name: str) -> None:
    """Ask for a user's new password; this ends the user's sessions."""
    _change(name, _read_password())


@users.command()
@click.argument("name")
def enable(name: str) -> None:
    """Enable a user."""
    _change(name, {"enabled": True})


@users.command()
@click.argument("name")
def disable(name: str) -> None:
    """Disable a user, with every key and session."""
    _change(name, {"enabled": False})


@users.command("delete")
@click.argument("name")
def delete_user(name: str) -> None:
    """Delete a user with every key; usage rows stay."""
    with report_errors():
        context = CommandContext("users delete")
        context.change(entities.delete, entities.USER, [_user_id(context, name)])


def _change(name: str, values: dict) -> None:
    with report_errors():
        context = CommandContext("users")
        context.change(entities.put, entities.USER, [{"id": _user_id(context, name), **values}])


def _read_password() -> dict:
    """Returns the hash of a password read from a terminal (twice, without echo) or from a pipe (one line)."""
    stdin = click.get_text_stream("stdin")  # pyright: ignore[reportCallIssue] - click types its lazy names as object
    if stdin.isatty():
        text = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        text = stdin.readline().rstrip("\n")
    with report_errors():
        return {"password": passwords.hash_password(text)}


def _user_id(context: CommandContext, name: str) -> int:
    """Raises NotFound."""
    user = context.ask(user_store.by_name, name)
    if user is None:
        raise NotFound(f"there is no user {name!r}")
    return user.id


@click.group()
def keys() -> None:
    """Manage users' API keys."""


@keys.command("list")
@click.argument("user", required=False)
def list_keys(user: str | None) -> None:
    """List every key, or those of USER: id, user, fingerprint, label, and whether it is disabled."""
    with report_errors():
        context = CommandContext("keys list")
        for key in context.ask(user_store.keys, None if user is None else [_user_id(context, user)]):
            columns = [str(key.id), key.user_name, key.fingerprint, key.label or ""]
            click.echo("\t".join([*columns, *["disabled"] * (not key.enabled)]).rstrip())


@keys.command("add")
@click.argument("user")
@click.option("--label", help="A note on what the key is for.")
def add_key(user: str, label: str | None) -> None:
    """Create a key for USER and print it. It is not displayed again."""
    key = new_key()
    with report_errors():
        context = CommandContext("keys add")
        key_digest = digest(key)
        digests, key_settings = [(key_digest, fingerprint(key_digest))], user_store.KeySettings(label)
        context.change(user_store.add_keys, _user_id(context, user), digests, key_settings)
    click.echo(key)


@keys.command("enable")
@click.argument("key_id", type=int)
def enable_key(key_id: int) -> None:
    """Enable a key."""
    with report_errors():
        CommandContext("keys enable").change(user_store.change_key, key_id, {"enabled": True})


@keys.command("disable")
@click.argument("key_id", type=int)
def disable_key(key_id: int) -> None:
    """Disable a key."""
    with report_errors():
        CommandContext("keys disable").change(user_store.change_key, key_id, {"enabled": False})


@keys.command("delete")
@click.argument("key_id", type=int)
def delete_key(key_id: int) -> None:
    """Delete a key; usage rows stay."""
    with report_errors():
        CommandContext("keys delete").change(user_store.delete_keys, [key_id])
