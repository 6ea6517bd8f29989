"""The types of the snapshot: whether a call's credential still has the same key, and the secrets."""

from dataclasses import replace

from gproxy.snapshot import Credential, Provider, ProviderSettings, ServiceAccount, Snapshot

WRITTEN, DECODED = "p%40ss%2Fword+1", "p@ss/word+1"
PEM = "-----BEGIN PRIVATE KEY-----\nabc\n"
KEY = Credential(1, 7, "sk-1")
ACCOUNT = Credential(2, 7, "PEM", account=ServiceAccount("acme-1", "a@acme.test", "https://tokens.test/t", "k1"))


def snapshot(*credentials: Credential) -> Snapshot:
    return Snapshot({}, provider_by_id={7: Provider(7, "p", "vertex", ProviderSettings(), credentials)})


def test_a_credential_is_current_while_its_key_and_account_are_the_same():
    found = snapshot(KEY, replace(ACCOUNT, weight=3, rpm=5))
    assert found.is_current(KEY) and found.is_current(ACCOUNT)
    assert not found.is_current(replace(KEY, secret="sk-2"))
    for name in ("project_id", "client_email", "token_uri", "private_key_id"):
        changed = replace(ACCOUNT, account=replace(ACCOUNT.account, **{name: "other"}))
        assert not found.is_current(changed)
        assert changed.fingerprint != ACCOUNT.fingerprint


def test_a_deleted_credential_and_one_of_a_disabled_provider_are_not_current():
    assert not snapshot(KEY).is_current(ACCOUNT)
    assert not Snapshot({}).is_current(KEY)


def provider(name: str, proxy: str | None, *credentials: Credential) -> Provider:
    return Provider(len(name), name, "openai", ProviderSettings(proxy=proxy), credentials)


def test_secrets_are_keys_and_passwords_of_proxies_as_written_and_decoded():
    account = ServiceAccount("acme-1", "a@b", "https://tokens.test")
    providers = (
        provider("one", f"http://me:{WRITTEN}@proxy:3128", Credential(1, 1, "sk-one"), Credential(2, 1, "sk-two")),
        provider("three", "socks5h://me:plain-password@proxy", Credential(3, 3, PEM, account=account)),
        provider("seven", "direct", Credential(4, 4, None)),
        provider("eleven", "http://proxy:3128"),
        provider("thirteen", None),
    )
    found = Snapshot({}, providers={one.name: one for one in providers})
    assert found.secrets == {"sk-one", "sk-two", PEM, WRITTEN, DECODED, "plain-password"}


def test_a_snapshot_without_providers_has_no_secrets():
    assert Snapshot({}).secrets == frozenset()
