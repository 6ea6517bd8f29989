"""The configuration as a file: checked, written, laid over the one that stands."""

import tomllib
from decimal import Decimal
from functools import partial
from pathlib import Path

import click
from flask import current_app
from flask.cli import with_appcontext

from gproxy import bootstrap, channels, runtime, settings
from gproxy.cli.opening import Opened, explained
from gproxy.config import export, litellm
from gproxy.errors import StartupError
from gproxy.settings import Settings
from gproxy.store import exporting, importing, seeding
from gproxy.store.database import Database
from gproxy.store.importing import Change
from gproxy.store.seeding import Content

YAML = (".yaml", ".yml")


@click.group()
def config() -> None:
    """The configuration as a file."""


@config.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@with_appcontext
def check(file: Path | None) -> None:
    """Look through FILE, or the seed that a start would read, for mistakes. Nothing is stored."""
    with explained():
        found = settings.load()
        path = file or found.seed_path
        if path is None:
            raise StartupError(["GPROXY_CONFIG: there is no seed file; name one"])
        content = _read(path, found)
    click.echo(
        f"{path.name} is good: {len(content.providers)} providers, {len(content.models)} models, "
        f"{len(content.aliases)} aliases, {len(content.users)} users"
    )


@config.command("export")
@click.option("--secrets", "has_secrets", is_flag=True, help="With upstreams' keys and password hashes, in clear.")
def write(has_secrets: bool) -> None:
    """Write the configuration as TOML to standard output."""
    with explained():
        opened = Opened("config export")
        try:
            content = opened.ask(exporting.content, opened.seal)
        except ValueError:
            raise StartupError(["DATABASE_SECRET_KEY: a credential was sealed with another key"]) from None
    click.echo(export.toml(content, has_secrets), nl=False)


@config.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", "is_dry", is_flag=True, help="Only tell what would change.")
@click.option("--prune", "prunes", is_flag=True, help="Delete what the file lacks.")
@with_appcontext
def read(file: Path, is_dry: bool, prunes: bool) -> None:
    """Lay FILE over the configuration, all of it or nothing.

    TOML as of a seed or an export; a `config.yaml` of LiteLLM is translated first, and what has no place here is told.
    """
    with explained():
        found = settings.load()
        content = _read(file, found)
        if _is_empty(found):
            _begin(found, content, is_dry)
            return
        opened = Opened("config import")
        do = (
            partial(opened.ask, importing.apply_import, opened.database)
            if is_dry
            else partial(opened.change, importing.apply_import)
        )
        changes = do(content, opened.seal, prunes, is_dry)
        if changes and not is_dry:
            _read_accounts_anew(opened)
    for change in changes:
        click.echo(_line(change))
    click.echo(f"{len(changes)} changes{', none made: a dry run' if is_dry else ''}")


@config.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def translate(file: Path) -> None:
    """Write LiteLLM's FILE as a seed to standard output; what has no place in it is told on standard error."""
    # Imported where it is needed.
    import tomli_w

    with explained():
        document, lost = litellm.translated(_text(file))
    for line in lost:
        click.echo(line, err=True)
    click.echo(tomli_w.dumps(document), nl=False)


def _read(file: Path, found: Settings) -> Content:
    """Raises StartupError."""
    if file.suffix in YAML:
        document, lost = litellm.translated(_text(file))
        for line in lost:
            click.echo(f"{file.name}: {line}", err=True)
    else:
        try:
            document = tomllib.loads(_text(file), parse_float=Decimal)
        except (ValueError, RecursionError) as fault:
            raise StartupError([f"{file.name}: not readable as TOML: {fault}"]) from None
    return bootstrap.read(document, file.name, found.environ, channels.load(), current_app.extensions["reserved"])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as fault:
        raise StartupError([f"{file.name}: cannot be read: {fault}"]) from None


def _read_accounts_anew(opened: Opened) -> None:
    """In a running gateway, whose workers share what is used of each: another period counts anew."""
    shared = runtime.shared_state(opened.settings, opened.ask(seeding.deployment))
    shared.forget()
    shared.close()


def _is_empty(found: Settings) -> bool:
    """Whether no gateway was ever started on this database."""
    opened = Database(found.dsn, found.data_dir)
    if opened.path is not None and not opened.path.is_file():
        return True
    return opened.run(seeding.is_unused)


def _begin(found: Settings, content: Content, is_dry: bool) -> None:
    """The first start of a database: what the file says is what it stores."""
    if is_dry:
        for what, rows in (("provider", content.providers), ("user", content.users)):
            for row in rows:
                click.echo(f"added {what}s {row.name}")
        click.echo("none made: a dry run")
        return
    defaults = {"enable_usage": content.enable_usage is not False}
    defaults["provider_defaults_json"] = content.provider_defaults_json or "{}"
    whole, told = bootstrap.with_admin(bootstrap.replace(content, **defaults), found)
    runtime.prepare(found, lambda database: seeding.fill(database, whole))
    if told is not None:
        click.echo(told.text())
    click.echo("a new database was filled")


def _line(change: Change) -> str:
    fields = ", ".join(f"{name}: {before!r} -> {after!r}" for name, (before, after) in change.fields.items())
    return f"{change.what} {change.entity} {change.name}{f' ({fields})' if fields else ''}"
