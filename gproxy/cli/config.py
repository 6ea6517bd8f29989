"""The command group `config`: checks, exports, imports and translates configuration files."""

import tomllib
from decimal import Decimal
from functools import partial
from pathlib import Path

import click
from flask import current_app
from flask.cli import with_appcontext

from gproxy import bootstrap, channels, runtime, settings
from gproxy.cli.context import CommandContext, report_errors
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
    """Check, export and import configuration files."""


@config.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@with_appcontext
def check(file: Path | None) -> None:
    """Check FILE, or the seed that a start would read, for mistakes. Nothing is stored."""
    with report_errors():
        loaded = settings.load()
        path = file or loaded.seed_path
        if path is None:
            raise StartupError(["GPROXY_CONFIG: there is no seed file; set it, or give FILE"])
        content = _read(path, loaded)
    click.echo(
        f"{path.name} is good: {len(content.providers)} providers, {len(content.models)} models, "
        f"{len(content.aliases)} aliases, {len(content.users)} users"
    )


@config.command("export")
@click.option(
    "--secrets", "has_secrets", is_flag=True, help="Include upstream keys in clear text, and password hashes."
)
def export_config(has_secrets: bool) -> None:
    """Write the configuration as TOML to standard output."""
    with report_errors():
        context = CommandContext("config export")
        try:
            content = context.ask(exporting.content, context.seal)
        except ValueError:
            raise StartupError(["DATABASE_SECRET_KEY: a credential was sealed with another key"]) from None
    click.echo(export.toml(content, has_secrets), nl=False)


@config.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", "is_dry", is_flag=True, help="Only list what would change.")
@click.option("--prune", "prunes", is_flag=True, help="Delete what the file does not contain.")
@with_appcontext
def import_config(file: Path, is_dry: bool, prunes: bool) -> None:
    """Import FILE into the configuration, all of it or nothing.

    FILE is a seed or an export in TOML, or a `config.yaml` of LiteLLM, which is translated first. Settings that are
    skipped are listed on standard error.
    """
    with report_errors():
        loaded = settings.load()
        content = _read(file, loaded)
        if _is_empty(loaded):
            _fill(loaded, content, is_dry)
            return
        context = CommandContext("config import")
        apply_import = (
            partial(context.ask, importing.apply_import, context.database)
            if is_dry
            else partial(context.change, importing.apply_import)
        )
        changes = apply_import(content, context.seal, prunes, is_dry)
        if changes and not is_dry:
            _reload_accounts(context)
    for change in changes:
        click.echo(_line(change))
    click.echo(f"{len(changes)} changes{', dry run: nothing was changed' if is_dry else ''}")


@config.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def translate(file: Path) -> None:
    """Write LiteLLM's FILE as a seed to standard output, and list skipped settings on standard error."""
    # Imported on demand: the server does not need it here.
    import tomli_w

    with report_errors():
        document, skipped = litellm.translate(_text(file))
    for line in skipped:
        click.echo(line, err=True)
    click.echo(tomli_w.dumps(document), nl=False)


def _read(file: Path, loaded: Settings) -> Content:
    """Raises StartupError."""
    if file.suffix in YAML:
        document, skipped = litellm.translate(_text(file))
        for line in skipped:
            click.echo(f"{file.name}: {line}", err=True)
    else:
        try:
            document = tomllib.loads(_text(file), parse_float=Decimal)
        except (ValueError, RecursionError) as fault:
            raise StartupError([f"{file.name}: not readable as TOML: {fault}"]) from None
    return bootstrap.read(document, file.name, loaded.environ, channels.load(), current_app.extensions["reserved"])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as fault:
        raise StartupError([f"{file.name}: cannot be read: {fault}"]) from None


def _reload_accounts(context: CommandContext) -> None:
    """Makes running workers reload all accounts from the database, because the import may have changed a period."""
    shared = runtime.shared_state(context.settings, context.ask(seeding.deployment))
    shared.forget()
    shared.close()


def _is_empty(loaded: Settings) -> bool:
    """Returns whether no gateway has ever been started on this database."""
    database = Database(loaded.dsn, loaded.data_dir)
    if database.path is not None and not database.path.is_file():
        return True
    return database.run(seeding.is_unused)


def _fill(loaded: Settings, content: Content, is_dry: bool) -> None:
    """Creates and fills a database with the file's content, as the first start of a gateway does."""
    if is_dry:
        for entity, rows in (("providers", content.providers), ("users", content.users)):
            for row in rows:
                click.echo(f"added {entity} {row.name}")
        click.echo("dry run: nothing was changed")
        return
    with_defaults = bootstrap.replace(
        content,
        enable_usage=content.enable_usage is not False,
        provider_defaults_json=content.provider_defaults_json or "{}",
    )
    complete, admin = bootstrap.with_admin(with_defaults, loaded)
    runtime.prepare(loaded, lambda database: seeding.fill(database, complete))
    if admin is not None:
        click.echo(admin.text())
    click.echo("a new database was filled")


def _line(change: Change) -> str:
    fields = ", ".join(f"{name}: {before!r} -> {after!r}" for name, (before, after) in change.fields.items())
    return f"{change.what} {change.entity} {change.name}{f' ({fields})' if fields else ''}"
