"""The pages name what exists, and everything that exists is on a page: settings, routes, metrics, headers, errors."""

import json
import re
import shlex
import tomllib
from decimal import Decimal

import pytest
import yaml

from gproxy import bootstrap, channels, errors, settings
from gproxy.app import create_app, reserved_names
from gproxy.config import schemas
from gproxy.metrics import definitions
from tests import documents, test_architecture
from tests.documents import PAGES, ROOT

README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
DOCS = ROOT / "docs"
TROUBLESHOOTING, ARCHITECTURE, UPSTREAMS = (
    DOCS / f"{name}.md" for name in ("troubleshooting", "architecture", "upstreams")
)
OPERATOR_PAGES = [page for page in PAGES if page not in (CONTRIBUTING, ARCHITECTURE)]
EVERY_SPAN = {span for page in PAGES for span in documents.spans(page)}
EVERY_TEXT = "\n".join(map(documents.read, PAGES))
LONGEST_WITHOUT_CONTENTS = 80  # lines: two screens
# Rooms of the page that are about to exist.
FUTURE_ROOMS = {"tasks", "admin_ops", "status"}
# The variables of tests and of make, which no gateway reads.
OTHER_VARIABLES = {"DATABASE_SECRET_KEY_NEW"}
# Messages that a library writes.
MESSAGES_OF_OTHERS = {"…: Unknown field."}


def ids(page) -> str:
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_a_page_says_whom_it_is_for_and_has_contents_if_it_is_long(page):
    text = documents.read(page)
    assert documents.headings(page, "#") == [documents.headings(page)[0]]
    if page != README:
        assert text.split("\n\n")[1].startswith("This page is for ")
    if text.count("\n") > LONGEST_WITHOUT_CONTENTS:
        contents = {target for target in documents.links(page) if target.startswith("#")}
        missing = {documents.anchor(one) for one in documents.headings(page, "##")} - {one[1:] for one in contents}
        assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_has_a_target(page):
    for target in documents.links(page):
        name, _, fragment = target.partition("#")
        linked = page if not name else (page.parent / name).resolve()
        assert linked.exists(), target
        if fragment:
            assert fragment in map(documents.anchor, documents.headings(linked)), target


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_prose_fits_the_line(page):
    lines = documents.prose(page).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", "- ["))] == []


@pytest.mark.parametrize("block", documents.blocks(), ids=lambda block: block.name)
def test_a_block_has_a_language_that_is_checked(block):
    assert block.language in ("sh", "python", "toml", "json", "yaml", "ini", "text")
    if block.language == "json":
        assert json.loads(block.text)
    if block.language == "yaml":
        assert yaml.safe_load(block.text)
    if block.language == "ini":
        names = {line.partition("=")[0] for line in block.text.splitlines()}
        assert names <= known_variables() | set(settings.VENDOR_KEYS)


@pytest.mark.parametrize("block", documents.blocks("toml"), ids=lambda block: block.name)
def test_a_seed_file_that_is_shown_is_good(block):
    variables = {name: f"value-of-{name.lower()}" for name in settings.REFERENCE.findall(block.text)}
    document = tomllib.loads(block.text, parse_float=Decimal)
    assert bootstrap.read(document, block.name, variables, channels.load(), reserved_names(create_app())) is not None


def known_variables() -> set[str]:
    source = (ROOT / "gproxy" / "settings.py").read_text()
    return set(re.findall(r'"((?:GPROXY|DATABASE)_[A-Z_]+)"', source))


def test_settings_and_their_documentation_agree():
    shown = set(documents.first_cells(documents.section(README, "Configuration"))) - {"SSL_CERT_FILE"}
    assert shown == known_variables()
    named = set(re.findall(r"\b(?:GPROXY|DATABASE)_[A-Z_]*[A-Z]\b", EVERY_TEXT)) - OTHER_VARIABLES
    # An export names the variable of an upstream key by this prefix.
    assert {name for name in named if not name.startswith("GPROXY_KEY_")} <= known_variables()


def test_every_setting_of_a_provider_is_documented():
    shown = set(documents.first_cells(documents.section(UPSTREAMS, "Settings")))
    fields = schemas.Defaults().fields | schemas.OwnSettings().fields
    assert shown == {name for name, field in fields.items() if not isinstance(field, schemas.UnsupportedField)}


def test_every_switch_of_the_gateway_is_documented():
    assert set(schemas.Switches().fields) <= EVERY_SPAN


def test_every_table_of_a_seed_file_is_shown():
    example = (ROOT / "conf" / "gproxy.example.toml").read_text()
    tables = {field.data_key or name for name, field in schemas.Seed().fields.items()}
    assert {name for name in tables if f"[{name}]" not in example} == set()


# A route as a page names it: `GET /admin/health`, `/admin/explain`, `/v1/embeddings`.
ROUTE = re.compile(r"(?:(GET|POST) )?(/(?:admin|user|v1|me|login|logout|metrics|openapi|healthz|readyz)[\w/.\-{}]*)$")
# Beginnings of routes.
GENERIC = {"/admin/{entity}", "/admin/config/", "/v1", "/v1beta", "/user", "/admin"}


def rules() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for rule in create_app().url_map.iter_rules():
        found.setdefault(re.sub(r"<(?:path:)?(\w+)>", "{}", rule.rule), set()).update(rule.methods)
    return found


def test_every_route_that_a_page_names_exists():
    known, wrong = rules(), set()
    for span in EVERY_SPAN:
        if (named := ROUTE.match(span)) and named[2] not in GENERIC:
            path = re.sub(r"\{\w+\}", "{}", named[2])
            if path not in known or (named[1] and named[1] not in known[path]):
                wrong.add(span)
    assert wrong == set()


def test_every_route_of_an_operator_is_on_a_page():
    text = "\n".join(map(documents.read, OPERATOR_PAGES))
    entities = documents.first_cells(documents.section(DOCS / "admin.md", "Entities"))
    verbs = ("query", "upsert", "batch-upsert", "delete", "batch-delete")
    missing = set()
    for path in rules():
        parts = path.strip("/").split("/")
        if parts[0] not in ("admin", "user", "me", "login", "logout", "metrics", "healthz", "readyz", "openapi.json"):
            continue
        is_verb = len(parts) == 3 and parts[0] == "admin" and parts[1] in entities and parts[2] in verbs
        has_own = path in text or (f"`/{parts[-1]}`" in text and "/".join(parts[:-1]) in text)
        if "{}" not in path and not is_verb and not has_own:
            missing.add(path)
    assert missing == set()


def test_every_metric_is_documented_and_exists():
    shown = documents.section(DOCS / "operating.md", "Metrics")
    for family in definitions.FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        assert f"| `{family.name}` | {family.kind} | {labels} | {family.help.rstrip('.')} |" in shown
    known = {family.name for family in definitions.FAMILIES}
    named = set(re.findall(r"\bgproxy_\w+", "\n".join(map(documents.read, OPERATOR_PAGES))))
    assert {re.sub(r"_bucket$", "", name) for name in named} == known


def error_classes(kind: type = errors.GatewayError) -> list[type]:
    return [kind, *(inner for one in kind.__subclasses__() for inner in error_classes(one))]


def test_every_error_code_has_its_entry():
    found = {(kind.status, kind.code, kind.label) for kind in error_classes()}
    table = documents.section(TROUBLESHOOTING, "Error codes").partition("\n### ")[0]
    shown = re.findall(r"^\| (\d+) \| \[`(\w+)`\]\(#\w+\) \| `([\w ]+)` \|$", table, re.MULTILINE)
    assert {(int(status), code, label) for status, code, label in shown} == found
    sections = documents.headings(TROUBLESHOOTING, "###")
    assert sorted(sections) == sorted(f"`{code}`" for code in {code for _, code, _ in found})
    for name in sections:
        assert documents.first_cells(documents.section(TROUBLESHOOTING, name)), name


def test_the_readme_has_every_error_code():
    table = documents.section(README, "Responses and errors")
    rows = re.findall(r"^\| ([\d, ]+) \| (.*) \|$", table, re.MULTILINE)
    shown = {(int(status), code) for statuses, codes in rows for status in statuses.split(", ")
             for code in re.findall(r"`(\w+)`", codes)}  # fmt: skip
    assert {(kind.status, kind.code) for kind in error_classes()} <= shown
    assert {code for _, code in shown} == {kind.code for kind in error_classes()}


def messages() -> list[str]:
    """The messages of the troubleshooting page: of error codes, of a failed start, and of the log."""
    found = []
    for heading in documents.headings(TROUBLESHOOTING, "###"):
        found += documents.first_cells(documents.section(TROUBLESHOOTING, heading))
    for heading in ("Messages of a failed start", "Log lines"):
        found += documents.first_cells(documents.section(TROUBLESHOOTING, heading))
    return [message for message in found if message not in MESSAGES_OF_OTHERS]


# Between these a message has fixed words. Numbers, names of counters and kinds of rows are filled in.
FILLED_IN = re.compile(
    r"…|: |(?<![\d.])\b\d{2,}\b|(?<=unknown )\w+|"
    r"\b(?:rpm|rpd|total_tokens|concurrency|sk-admin-1|quota of|budget of this key)\b"
)


@pytest.mark.parametrize("message", messages())
def test_a_message_of_the_troubleshooting_page_is_one_of_the_program(message):
    fixed = [piece.strip(" ;'\"") for piece in FILLED_IN.split(message)]
    assert [piece for piece in fixed if not any(piece in text for text in documents.texts_of_code())] == []


def test_every_header_of_gproxy_is_documented():
    written = {found for text in documents.texts_of_code() for found in re.findall(r"\bx-gproxy-[a-z-]+[a-z]\b", text)}
    assert written
    assert {name for name in written if name not in EVERY_SPAN} == set()
    named = {found for span in EVERY_SPAN for found in re.findall(r"\bx-gproxy-[a-z-]+[a-z]\b", span)}
    assert named <= written


def test_every_command_that_a_page_names_exists():
    app = create_app()
    commands = {
        f"{group.name} {name}" for group in app.cli.commands.values() if hasattr(group, "commands")
        for name in group.commands
    }  # fmt: skip
    shown = documents.section(DOCS / "admin.md", "Command line").replace("<code>", "`").replace("</code>", "`")
    named = set()
    for text in re.findall(r"flask --app wsgi (\w+ [\w&#;-]+)", shown):
        group, _, names = text.partition(" ")
        named |= {f"{group} {name}" for name in names.split("&#124;")}
    assert named == commands


def test_every_make_target_that_a_page_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for block in documents.blocks("sh"):
        for line in block.text.splitlines():
            if line.startswith("make "):
                assert re.search(rf"^[^\t#]*{re.escape(shlex.split(line)[1].replace('.venv', ''))}\b", makefile, re.M)


def test_the_table_of_rooms_is_the_one_that_tests_enforce():
    table = documents.section(ARCHITECTURE, "What a room may import")
    shown = dict(re.findall(r"^\| `([\w/]+)` \| (.*) \|$", table, re.MULTILINE))
    for room, allowed in test_architecture.ROOMS.items():
        names = set(re.findall(r"`([\w.]+)`", shown.pop(room)))
        assert names == (set() if allowed == test_architecture.EVERYTHING else allowed), room
    assert set(shown) <= FUTURE_ROOMS
    jobs = set(documents.first_cells(documents.section(ARCHITECTURE, "Rooms")))
    assert set(test_architecture.ROOMS) - {"web/llm"} <= jobs <= set(test_architecture.ROOMS) | FUTURE_ROOMS


@pytest.mark.parametrize("page", [CONTRIBUTING, ARCHITECTURE], ids=ids)
def test_every_file_that_a_page_for_contributors_names_exists(page):
    for span in documents.spans(page):
        if re.match(r"(gproxy|tests|conf|docs)/[\w/.]+$", span):
            assert (ROOT / span).exists(), span


def test_the_settings_shown_for_nginx_are_those_of_the_site_file():
    shipped = (ROOT / "conf" / "nginx.conf").read_text()
    shown = re.findall(
        r"^\| (`\w+_\w+ .*?) \|", documents.section(DOCS / "operating.md", "Install with systemd and nginx"), re.M
    )
    found = [span for cell in shown for span in re.findall(r"`([^`]+)`", cell)]
    assert len(found) > 4
    assert [setting for setting in found if f"{setting};" not in shipped] == []


def test_every_channel_is_documented():
    example = documents.blocks("toml")[1].text
    assert all(name in example for name in channels.load())
    assert settings.PUBLISHED_KEY in documents.read(README)
