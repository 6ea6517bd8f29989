"""Permissions: the union of the user's rows, restricted by the key's rows, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gproxy.admission.permissions import Rights
from gproxy.snapshot import Caller, Grant, glob


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
def test_a_row_allows_the_matching_names_at_its_provider(grants, provider, name, may):
    assert rights(*grants).may_use(provider, name) is may


@pytest.mark.parametrize(
    ("grants", "name", "may"),
    [([], "x", False), ([ONE_GPT], "gpt-4", True), ([ONE_GPT], "claude-4", False), ([ANY_CLAUDE], "claude-4", True)],
)
def test_a_name_is_allowed_if_any_provider_allows_it(grants, name, may):
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
def test_any_row_for_a_provider_gives_access_to_it(grants, provider, may):
    assert rights(*grants).may_access_provider(provider) is may


def test_an_administrator_without_rows_has_no_rights():
    admin = rights(is_admin=True)
    assert not admin.may_use(1, "gpt-4")
    assert not admin.may_use(None, "gpt-4")
    assert not admin.may_use_somewhere("gpt-4")
    assert not admin.may_access_provider(1)


# -- keys -----------------------------------------------------------------------------------------------------------

ROWS = st.lists(
    st.tuples(st.sampled_from([None, 1, 2]), st.text("ab*?", min_size=1, max_size=4)).map(
        lambda row: Grant(row[0], glob(row[1]).fullmatch)
    ),
    max_size=4,
).map(tuple)
NAMES, PROVIDERS = st.text("ab", max_size=4), st.sampled_from([None, 1, 2, 3])


def narrowed(users: tuple[Grant, ...], keys: tuple[Grant, ...] | None) -> Rights:
    return Rights(Caller(1, "user", 1, False, None, users, key_grants=keys))


@given(ROWS, ROWS, PROVIDERS, NAMES)
def test_a_key_allows_exactly_the_names_that_its_rows_and_the_users_rows_allow(users, keys, provider, name):
    both, user, key = narrowed(users, keys), narrowed(users, None), narrowed(keys, None)
    assert both.may_use(provider, name) is (user.may_use(provider, name) and key.may_use(provider, name))
    assert both.may_use_somewhere(name) is (user.may_use_somewhere(name) and key.may_use_somewhere(name))
    if provider is not None:
        assert both.may_access_provider(provider) is (
            user.may_access_provider(provider) and key.may_access_provider(provider)
        )


@given(ROWS, ROWS, ROWS, PROVIDERS, NAMES)
def test_key_rows_only_restrict_and_user_rows_only_extend(users, more, keys, provider, name):
    assert narrowed(users, None).may_use(provider, name) or not narrowed(users, keys).may_use(provider, name)
    if narrowed(users, keys).may_use(provider, name):
        assert narrowed(users + more, keys).may_use(provider, name)


def test_a_key_with_an_empty_list_of_rows_allows_nothing():
    assert not narrowed((Grant(None, glob("*").fullmatch),), ()).may_use(1, "a")


@pytest.mark.parametrize(
    ("files", "keys", "provider", "may"),
    [
        ({1}, None, 1, True),
        ({1}, None, 2, False),
        (set(), None, 1, False),
        ({1}, (Grant(1, glob("a").fullmatch),), 1, True),
        ({1}, (Grant(None, glob("a").fullmatch),), 1, True),
        ({1}, (Grant(2, glob("*").fullmatch),), 1, False),
    ],
)
def test_files_need_a_file_permission_and_a_key_with_access_to_the_provider(files, keys, provider, may):
    one = Caller(
        1, "user", 1, False, None, (Grant(None, glob("*").fullmatch),), key_grants=keys, files=frozenset(files)
    )
    assert Rights(one).may_use_files(provider) is may
