"""Users and their keys."""

import click
from marshmallow import ValidationError

from gproxy.admission import passwords
from gproxy.admission.keys import digest, fingerprint
from gproxy.cli.opening import Opened, explained
from gproxy.config.entities import User
from gproxy.config.keys import new_key
from gproxy.errors import NotFound
from gproxy.store import entities
from gproxy.store import users as functions


@click.group()
def users() -> None:
    """Users."""


@users.command("list")
def list_users() -> None:
    """Every user: id, name, and what there is to say."""
    with explained():
        for row in Opened("users list").ask(entities.find, entities.USER, {}):
            said = ["administrator"] * row["is_admin"] + ["disabled"] * (not row["enabled"])
            click.echo("\t".join([str(row["id"]), row["name"], " ".join(said)]).rstrip())


@users.command("add")
@click.argument("name")
@click.option("--admin", "is_admin", is_flag=True, help="An administrator.")
@click.option("--password", is_flag=True, help="Ask for a password, so that the user can log in.")
def add_user(name: str, is_admin: bool, password: bool) -> None:
    """Make a user."""
    try:
        row = {**User().load({"name": name, "is_admin": is_admin}), **(_asked() if password else {})}
    except ValidationError as fault:
        raise click.UsageError(f"NAME: {fault.messages['name'][0]}") from None
    with explained():
        (user_id,) = Opened("users add").change(entities.put, entities.USER, [row])
    click.echo(f"user {user_id}")


@users.command("set-password")
@click.argument("name")
def set_password(name: str) -> None:
    """Ask for a user's new password; sessions end."""
    _change(name, _asked())


@users.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let a user in again."""
    _change(name, {"enabled": True})


@users.command()
@click.argument("name")
def disable(name: str) -> None:
    """Lock a user out, with every key and session."""
    _change(name, {"enabled": False})


@users.command("delete")
@click.argument("name")
def delete_user(name: str) -> None:
    """Delete a user with every key; usage rows stay."""
    with explained():
        opened = Opened("users delete")
        opened.change(entities.delete, entities.USER, [_user_id(opened, name)])


def _change(name: str, values: dict) -> None:
    with explained():
        opened = Opened("users")
        opened.change(entities.put, entities.USER, [{"id": _user_id(opened, name), **values}])


def _asked() -> dict:
    """From a terminal without echo, twice; from a pipe one line."""
    stdin = click.get_text_stream("stdin")
    if stdin.isatty():
        text = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        text = stdin.readline().rstrip("\n")
    with explained():
        return {"password": passwords.hash_password(text)}


def _user_id(opened: Opened, name: str) -> int:
    user = opened.ask(functions.by_name, name)
    if user is None:
        raise NotFound(f"there is no user {name!r}")
    return user.id


@click.group()
def keys() -> None:
    """Users' keys."""


@keys.command("list")
@click.argument("user", required=False)
def list_keys(user: str | None) -> None:
    """Every key, or those of USER: id, user, fingerprint, label, and whether it is disabled."""
    with explained():
        opened = Opened("keys list")
        for key in opened.ask(functions.keys, None if user is None else [_user_id(opened, user)]):
            said = [key.label or ""] + ["disabled"] * (not key.enabled)
            click.echo("\t".join([str(key.id), key.user_name, key.fingerprint, *said]).rstrip())


@keys.command("add")
@click.argument("user")
@click.option("--label", help="What it is for.")
def add_key(user: str, label: str | None) -> None:
    """Make a key for USER; it is shown this once."""
    key = new_key()
    with explained():
        opened = Opened("keys add")
        shown = digest(key)
        opened.change(functions.add_keys, _user_id(opened, user), [(shown, fingerprint(shown))], label)
    click.echo(key)


@keys.command("enable")
@click.argument("key_id", type=int)
def enable_key(key_id: int) -> None:
    """Switch a key on."""
    with explained():
        Opened("keys enable").change(functions.change_key, key_id, {"enabled": True})


@keys.command("disable")
@click.argument("key_id", type=int)
def disable_key(key_id: int) -> None:
    """Switch a key off."""
    with explained():
        Opened("keys disable").change(functions.change_key, key_id, {"enabled": False})


@keys.command("delete")
@click.argument("key_id", type=int)
def delete_key(key_id: int) -> None:
    """Delete a key; usage rows stay."""
    with explained():
        Opened("keys delete").change(functions.delete_keys, [key_id])
