"""What a caller may do: the union of their rows and nothing else."""

import pytest

from gproxy.admission.permissions import Rights
from gproxy.store.snapshot import Caller, Grant, glob


def rights(*grants: tuple[int | None, str], is_admin: bool = False) -> Rights:
    found = tuple(Grant(provider, glob(pattern).fullmatch) for provider, pattern in grants)
    return Rights(Caller(1, "user", 1, is_admin, None, found))


ONE_GPT, ANY_CLAUDE = (1, "gpt-*"), (None, "claude-?")


@pytest.mark.parametrize(
    ("grants", "provider", "name", "may"),
    [
        ([], 1, "gpt-4", False),
        ([ONE_GPT], 1, "gpt-4", True),
        ([ONE_GPT], 1, "gpt-", True),
        ([ONE_GPT], 1, "gpt", False),
        ([ONE_GPT], 1, "my-gpt-4", False),
        ([ONE_GPT], 1, "GPT-4", False),
        ([ONE_GPT], 2, "gpt-4", False),
        ([ONE_GPT], None, "gpt-4", False),
        ([ANY_CLAUDE], 1, "claude-4", True),
        ([ANY_CLAUDE], 2, "claude-4", True),
        ([ANY_CLAUDE], None, "claude-4", True),
        ([ANY_CLAUDE], 2, "claude-45", False),
        ([ONE_GPT, ANY_CLAUDE], 1, "gpt-4", True),
        ([ONE_GPT, ANY_CLAUDE], 2, "claude-4", True),
        ([ONE_GPT, ANY_CLAUDE], 2, "gpt-4", False),
        ([(None, "*")], 7, "vendor/any:thing\n", True),
        ([(None, "*")], None, "", True),
        ([(1, "a.c")], 1, "abc", False),
        ([(1, "a*c*e")], 1, "abcde", True),
        ([(1, "a*c*e")], 1, "abcdef", False),
    ],
)
def test_a_row_allows_the_names_that_it_matches_at_its_provider(grants, provider, name, may):
    assert rights(*grants).may_use(provider, name) is may


@pytest.mark.parametrize(
    ("grants", "name", "may"),
    [([], "x", False), ([ONE_GPT], "gpt-4", True), ([ONE_GPT], "claude-4", False), ([ANY_CLAUDE], "claude-4", True)],
)
def test_a_name_may_be_allowed_somewhere(grants, name, may):
    assert rights(*grants).may_use_somewhere(name) is may


@pytest.mark.parametrize(
    ("grants", "provider", "may"),
    [
        ([], 1, False),
        ([ONE_GPT], 1, True),
        ([ONE_GPT], 2, False),
        ([ANY_CLAUDE], 2, True),
        ([ONE_GPT, (2, "")], 2, True),
    ],
)
def test_a_provider_is_entered_by_any_row_about_it(grants, provider, may):
    assert rights(*grants).may_enter(provider) is may


def test_an_administrator_without_rows_may_nothing():
    admin = rights(is_admin=True)
    assert not admin.may_use(1, "gpt-4")
    assert not admin.may_use(None, "gpt-4")
    assert not admin.may_use_somewhere("gpt-4")
    assert not admin.may_enter(1)
