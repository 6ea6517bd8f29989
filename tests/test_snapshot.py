"""What a snapshot says about itself: the secrets that no log may contain."""

from gproxy.snapshot import Credential, Provider, ProviderSettings, ServiceAccount, Snapshot

WRITTEN, DECODED = "p%40ss%2Fword+1", "p@ss/word+1"
PEM = "-----BEGIN PRIVATE KEY-----\nabc\n"


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
