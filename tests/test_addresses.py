"""Passwords in addresses: whatever they are, they are neither printed nor sent; what only looks like one passes."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chexworld_ray import cli
from chexworld_ray.addresses import masked, refuse_secrets
from chexworld_ray.errors import UserError
from chexworld_ray.runtime import submit as submitting
from chexworld_ray.runtime.cluster import say
from chexworld_ray.storage import place

NEEDLE = "QXZJ789"
needles = st.lists(st.text(NEEDLE, min_size=5, max_size=9), min_size=1, max_size=4)
odd = st.text(":/@%?#&=+,;.~!$'\"()[]{}|\\^`<>*-_ \t\né世", max_size=3)
spaceless = st.text(":/@%?#&=+,;.~!$'\"()[]{}|\\^`<>*-_é世", max_size=3)
Secret = tuple[str, list[str]]


def joined(between: st.SearchStrategy[str]) -> st.SearchStrategy[Secret]:
    """A secret, and the parts of it that nothing else would print."""
    return st.tuples(needles, st.lists(between, min_size=5, max_size=5)).map(
        lambda drawn: ("".join(a + b for a, b in zip([*drawn[0], ""], drawn[1], strict=False)), drawn[0])
    )


ADDRESSES: list[Callable[[str], str]] = [
    lambda password: f"s3://AKIA:{password}@bucket/data",
    lambda password: f"s3://:{password}@bucket",
    lambda password: f"gs://someone:{password}@bucket/a@b",
    lambda password: f"abfs://container:{password}@account.dfs.core.windows.net/data",
    lambda password: f"memory://x,s3://AKIA:{password}@bucket/data",
    lambda password: f"simplecache::s3://AKIA:{password}@bucket/data",
]
QUERIES: list[Callable[[str], str]] = [
    lambda token: f"https://account.blob.core.windows.net/c/x?sv=2022-11-02&sr=c&sig={token}",
    lambda token: f"https://bucket.s3.amazonaws.com/x?X-Amz-Signature={token}",
    lambda token: f"https://host:8443/x?a=1&token={token}&b=2",
    lambda token: f"abfs://container@account.dfs.core.windows.net/data?sig={token}",
    lambda token: f"https://host/x#access_token={token}",
    lambda token: f"gs://bucket/x?key={token}",
]
FINE = [
    "data/shards",
    "/data/run@3/a:b",
    "timm:vit_small_patch16_224@/data/weights.pth",
    "s3://bucket/some data/run@3",
    "gs://bucket/2026-11-25T08:22:00",
    "s3://bucket/a?versionId=3",
    "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/name/key",
    "abfs://container@account.dfs.core.windows.net/data",
    "abfss://my-data@account.dfs.core.windows.net/a,wasbs://$web@account.blob.core.windows.net/b",
    "http://127.0.0.1:8265",
    "http://[::1]:8265/x",
    "hdfs://namenode:8020/data",
    "zip://table.csv::s3://bucket/tables.zip",
    "file:///data/a:b@c",
]


def not_told(text: str, parts: list[str]) -> None:
    assert not [part for part in parts if part in text]


@pytest.mark.parametrize("address", FINE)
def test_what_is_no_password_passes_and_is_printed(address: str) -> None:
    refuse_secrets(address)
    assert masked(f"done: {address} is there") == f"done: {address} is there"
    assert cli.main(["--no-such-option", address]) == 2


@pytest.mark.parametrize("make", ADDRESSES)
@settings(max_examples=30, deadline=None)
@given(secret=joined(odd))
def test_an_address_with_a_password_is_refused_without_telling_it(make: Callable[[str], str], secret: Secret) -> None:
    address = make(secret[0])
    for action in (refuse_secrets, place):
        # a chain is refused as one, whatever it carries
        with pytest.raises(UserError, match=r"user name or password|a chain of addresses") as caught:
            action(address)
        not_told(str(caught.value), secret[1])


@pytest.mark.parametrize("make", QUERIES)
@settings(max_examples=30, deadline=None)
@given(secret=joined(odd))
def test_an_address_with_a_signature_is_refused_without_telling_it(make: Callable[[str], str], secret: Secret) -> None:
    with pytest.raises(UserError, match="an address with a") as caught:
        refuse_secrets(make(secret[0]))
    not_told(str(caught.value), secret[1])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(make=st.sampled_from([*ADDRESSES, *QUERIES]), secret=joined(odd), at=st.integers(0, 6))
def test_no_command_prints_or_sends_one(
    make: Callable[[str], str],
    secret: Secret,
    at: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = make(secret[0])
    run = ["--storage", "runs", "--name", "n"]
    words = [
        ["inspect", address],
        ["export", "--run", address],
        ["pretrain", "--data", "data", *run, f"--init={address}"],
        ["submit", "--", "pretrain", "--data", address, *run],
        ["submit", "--address", address, "--", "inspect", "data"],
        ["import", "file.pth", "--out", address],
        ["no-such-command", address],
    ][at]
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(submitting, "JobSubmissionClient", lambda url: pytest.fail("something was sent"))
        assert cli.main(words) == 2
        if words[0] == "submit":
            with pytest.raises(UserError):
                submitting.submit(words[-1:] if at == 4 else words[2:], address if at == 4 else None, wait=False)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    not_told(said.err, secret[1])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    make=st.sampled_from([*ADDRESSES, lambda password: f"http://someone:x{password}@127.0.0.1:9/api", *QUERIES]),
    secret=joined(spaceless),
    quote=st.sampled_from(["", "'", '"']),
)
def test_tracebacks_and_log_lines_do_not_tell_what_an_error_quotes(
    make: Callable[[str], str],
    secret: Secret,
    quote: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of an address that came from the environment, say, whose error some library words."""
    text = f"can't reach {quote}{make(secret[0])}{quote}: refused"

    class Failing:
        def run(self) -> int:
            raise RuntimeError(text)

    monkeypatch.setattr(cli, "parse", lambda argv: Failing())
    assert cli.main(["inspect", "data"]) == 1
    say(text)
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "RuntimeError: can't reach" in said
    not_told(said, secret[1])


def test_text_around_an_address_stays() -> None:
    told = masked("see s3://bucket/run@3: no such run; or http://me:pw@host:9/a?b=1, and abfs://c@account.dfs/x")
    assert told == "see s3://bucket/run@3: no such run; or http://***@host:9/a?b=1, and abfs://c@account.dfs/x"


def test_words_that_are_full_of_signs_are_masked_at_once() -> None:
    """They come in names out of strangers' files; a test that hangs has failed."""
    for sign in ("?", "%26token", "%26key_", "?&", "#%3d", "x://", "?key%3", "token%26"):
        told = masked("s3://bucket/" + "?a" + sign * 40_000)
        assert told.startswith("s3://bucket/?")
        assert len(told) < 5_000


def test_a_secret_is_masked_wherever_its_field_stands() -> None:
    for query in (
        "?a=1&sig=pw",
        "?sig=pw",
        "#x;my_key.1=pw",
        "%3fa%3d1%26auth%3dpw",
        "?a%3dtoken=pw",
        "?x&X-Amz-Signature=pw",
    ):
        assert masked(f"at s3://b/c{query}, end") == f"at s3://b/c{query[0]}*** end"
    kept = "s3://b/c?keys=1&monkey=2&design=3&tok=en end"
    assert masked(kept) == kept
