"""No secret survives: not in what is printed, not in arguments, configurations, URLs or variables."""

from __future__ import annotations

import json
import os
import shlex
import string
from itertools import pairwise
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ledger.record.capture.secret_names import is_secret_file, is_secret_name
from ledger.record.capture.secrets import Redactor

NOBODY = Redactor({})
GITHUB = "ghp_" + "a1B2" * 9
PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEA0123456789\n" * 3 + "-----END RSA PRIVATE KEY-----"
SHAPES = [
    "AKIA" + "ABCD1234" * 2,
    GITHUB,
    "github_pat_" + "11ABCDEFG0" * 4,
    "sk-" + "Ab1" * 16,
    "sk-ant-api03-" + "x9_-" * 10,
    "sk-proj-" + "Zz0" * 12,
    "hf_" + "AbCdEfGhIj" * 3,
    "xoxb-123456789012-abcdefABCDEF",
    "AIza" + "SyA1b2C3d4" * 3 + "E5f6G",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "glpat-" + "abcDEF123_" * 2,
    "npm_" + "abcdefABCDEF" * 3,
    PEM,
]

# --- names


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "apiKey",
        "api_key",
        "API-KEY",
        "APIKEY",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "db.password",
        "DB_PASS",
        "PGPASSWORD",
        "MYSQL_PWD",
        "passwd",
        "secret",
        "client_secret",
        "clientSecret",
        "private_key",
        "signing_key",
        "credentials",
        "GITHUB_PAT",
        "AUTH",
        "auth_token",
        "X-Api-Key",
        "Authorization",
        "authToken",
        "SENTRY_DSN",
        "JWT",
        "cookie",
        "AZURE_STORAGE_CONNECTION_STRING",
        "AccountKey",
        "--token",
        "token",
        "refreshToken",
        "access_tokens",
        "passphrase",
        "encryption_key",
        "hf.token",
        "my_secret_value",
        "SECRET_1",
        "DB_PASSWORD_2",
        "privateKey",
    ],
)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens",
        "token_count",
        "tokenizer",
        "n_tokens",
        "author",
        "authors",
        "key_size",
        "monkey",
        "PWD",
        "OLDPWD",
        "keys",
        "tokens",
        "tokens_per_batch",
        "pad_token",
        "eos_token_id",
        "TOKENIZERS_PARALLELISM",
        "max_new_tokens",
        "num_tokens",
        "tokens/s",
        "token_dropout",
        "keyboard",
        "sort_key",
        "public_key",
        "key",
        "query_key",
        "pass_rate",
        "forward_pass",
        "compass",
        "bypass",
        "GIT_AUTHOR_NAME",
        "authority",
        "SSH_AUTH_SOCK",
        "password_file",
        "secret_name",
        "token_path",
        "use_auth_token",
        "lr",
        "optimizer",
        "patience",
        "pattern",
        "path",
        "string",
        "cls_token",
        "image_token_index",
        "vocab_size",
        "secretary",
        "token_type_ids",
    ],
)
def test_other_names(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".env.local",
        "conf/.env",
        "prod.env",
        "server.pem",
        "a/b/id_rsa",
        "id_ed25519_work",
        ".netrc",
        "_netrc",
        "credentials",
        "credentials.json",
        ".aws/config",
        ".ssh/known_hosts",
        "secrets.yaml",
        "client_secret_1.json",
        "service-account.json",
        "x.key",
        ".git-credentials",
        ".npmrc",
    ],
)
def test_secret_files(path: str) -> None:
    assert is_secret_file(path)


@pytest.mark.parametrize(
    "path",
    [
        "train.py",
        ".env.example",
        ".env.template",
        "id_rsa.pub",
        "environment.yml",
        "secrets.py",
        "keys.py",
        "tokens.txt",
        "env/a.py",
    ],
)
def test_other_files(path: str) -> None:
    assert not is_secret_file(path)


# --- shapes


@pytest.mark.parametrize("token", SHAPES)
def test_shapes_are_withheld_wherever_they_are(token: str) -> None:
    for text in (
        token,
        f"using {token}.",
        f'{{"x": "{token}"}}',
        f"x={token}",
        f"https://h/?x={token}&y=1",
        f"({token})",
    ):
        for clean in (NOBODY.text(text), NOBODY.url(text), *NOBODY.argv([text]), str(NOBODY.config({"x": [text]}))):
            assert token not in clean
            assert "[withheld]" in clean


@pytest.mark.parametrize(
    "text",
    [
        "step 100 loss 2.345 lr 0.001 tokens/s 12345",
        "max_tokens: 512, tokenizer: gpt2, n_tokens=5",
        "the sk-learn-random-forest-regressor-pipeline is fitted",
        "def f(token: str, password=None) -> None:",
        "s3://bucket:9000/path@v2/file and http://localhost:8080/a@b",
        "git@github.com:a/b.git",
        "seed=42 key=value monkey: 5",
        "sha256 3f786850e387550fdab836ed7e6dc881de23001b3f786850e387550fdab836ed",
        "Epoch 1/10 |█████     | 50% [00:01<00:01]",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert NOBODY.text(text) == text
    assert NOBODY.url(text) == text


# --- values given to names


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("password=hunter2 x", "password=[withheld] x"),
        ("api_key: abc", "api_key: [withheld]"),
        ("{'api_key': 'abc def', 'lr': 1}", "{'api_key': '[withheld]', 'lr': 1}"),
        ('{"db": {"password": "a\\"b", "port": 1}}', '{"db": {"password": "[withheld]", "port": 1}}'),
        ('{"token":12345,"x":1}', '{"token":[withheld],"x":1}'),
        ('os.environ["API_KEY"] = "abc"', 'os.environ["API_KEY"] = "[withheld]"'),
        ("Authorization: Bearer abcdefgh", "Authorization: [withheld] [withheld]"),
        ("+ curl --password hunter2 -v", "+ curl --password [withheld] -v"),
        ("Secret Key: abc", "Secret Key: [withheld]"),
        ("password: [withheld]", "password: [withheld]"),
        ("AccountName=a;AccountKey=abc==;X=1", "AccountName=a;AccountKey=[withheld]"),
    ],
)
def test_values_of_secret_names_in_text(text: str, clean: str) -> None:
    assert NOBODY.text(text) == clean
    assert NOBODY.text(clean) == clean


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("postgresql+psycopg://me:hunter2@db:5432/x", "postgresql+psycopg://me:[withheld]@db:5432/x"),
        ("postgresql://me:pa/ss@w:rd@db/x", "postgresql://me:[withheld]@db/x"),
        ("mysql://u:it's@h/d", "mysql://u:[withheld]@h/d"),
        ("postgresql://u:two words@h/d", "postgresql://u:[withheld]@h/d"),
        ("redis://:hunter2@h:6379/0", "redis://:[withheld]@h:6379/0"),
        ("https://me:hunter2@h/x", "https://[withheld]@h/x"),
        ("https://token@h/x", "https://[withheld]@h/x"),
        ("https://h/x?a=1&sig=abc%2F&b=2", "https://h/x?a=1&sig=[withheld]&b=2"),
        ("https://h/x?api_key=abc#access_token=def", "https://h/x?api_key=[withheld]"),
        ("https://b.s3.amazonaws.com/k?X-Amz-Signature=abc", "https://b.s3.amazonaws.com/k?X-Amz-Signature=[withheld]"),
        ("host=h user=u password=hunter2", "host=h user=u password=[withheld]"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("lakefs://repo/main/path@x", "lakefs://repo/main/path@x"),
        ("sqlite:////abs/ledger.db", "sqlite:////abs/ledger.db"),
        ("file:data/train", "file:data/train"),
    ],
)
def test_urls(url: str, clean: str) -> None:
    assert NOBODY.url(url) == clean
    assert NOBODY.url(clean) == clean


def test_arguments() -> None:
    argv = [
        "python",
        "t.py",
        "--token",
        "abc",
        "--api-key=z",
        "optim.token=q",
        "--max-tokens",
        "5",
        "-e",
        "WANDB_API_KEY=2",
    ]
    argv += [
        "--password",
        "--verbose",
        "+db.password=a=b",
        "--url",
        "redis://:p@h",
        '{"secret": "x"}',
        "--use-auth-token",
        "x",
    ]
    assert NOBODY.argv(argv) == (
        *(
            "python",
            "t.py",
            "--token",
            "[withheld]",
            "--api-key=[withheld]",
            "optim.token=[withheld]",
            "--max-tokens",
            "5",
        ),
        *("-e", "WANDB_API_KEY=[withheld]", "--password", "--verbose", "+db.password=[withheld]"),
        *("--url", "redis://:[withheld]@h", '{"secret": "[withheld]"}', "--use-auth-token", "x"),
    )


def test_configurations() -> None:
    config = {
        "optim": {"lr": 0.1, "token_dropout": 0.5},
        "auth": {"user": "me", "enabled": True, "keys": ["a", "b"]},
        "wandb": {"api_key": "k", "entity": None},
        "model": {"tokenizer": "bpe", "max_tokens": 512, "pad_token": "<pad>"},
        "store": "postgresql://me:hunter2@db/x",
        "prompt": "The secret: love is all",
        "password": 12345678,
        "token": "",
    }
    clean, withheld = NOBODY.config(config)
    assert clean == config | {
        "auth": {"user": "[withheld]", "enabled": True, "keys": ["[withheld]", "[withheld]"]},
        "wandb": {"api_key": "[withheld]", "entity": None},
        "store": "postgresql://me:[withheld]@db/x",
        "password": "[withheld]",
    }
    assert withheld == ("auth.user", "auth.keys.0", "auth.keys.1", "wandb.api_key", "store", "password")


def test_variables() -> None:
    environ = {
        "HF_TOKEN": "abc",
        "LR": "1",
        "COPY": "value-of-secret",
        "MY_SECRET": "value-of-secret",
        "EMPTY_TOKEN": "",
    }
    assert Redactor(environ).mapping(environ) == {
        "HF_TOKEN": "[withheld]",
        "LR": "1",
        "COPY": "[withheld]",
        "MY_SECRET": "[withheld]",
        "EMPTY_TOKEN": "",
    }


def test_a_path_to_a_secret_is_no_secret(tmp_path: object) -> None:
    redactor = Redactor({"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path), "SSH_AUTH_SOCK": "/tmp/agent.1"})
    assert redactor.text(f"reading {tmp_path} and /tmp/agent.1") == f"reading {tmp_path} and /tmp/agent.1"


def test_short_values_are_not_hunted_for() -> None:
    redactor = Redactor({"DB_PASS": "epoch"})
    assert redactor.text("epoch 5") == "epoch 5"
    assert redactor.mapping({"DB_PASS": "epoch"}) == {"DB_PASS": "[withheld]"}


def test_a_password_that_is_also_the_user_is_masked_in_its_place_only() -> None:
    url = "postgresql://postgres:postgres@h/db"
    redactor = Redactor({"DATABASE_URL": url})
    assert redactor.url(url) == "postgresql://postgres:[withheld]@h/db"
    assert redactor.text("postgres is up") == "postgres is up"


# --- known values, whatever they look like

SECRET = st.one_of(
    st.text(st.sampled_from(string.printable + "äß€😀"), min_size=6, max_size=40),
    st.text(st.sampled_from("ab\n\r/@:%'\"\\ =&"), min_size=6, max_size=12),
).filter(lambda s: len(s.strip()) >= 6)
AROUND = st.text(st.sampled_from(string.printable + "äß€😀"), max_size=30)


def fair(secret: str, *around: str) -> None:
    """Only chance lets a placeholder, or what stands around, complete the secret again."""
    assume(secret.strip() not in "[withheld]")
    assume(not any(secret.strip()[i:].startswith("[withheld]") for i in range(len(secret))))
    assume(not any(secret in text or secret.strip() in text for text in around))
    # The end of what is around and a placeholder's beginning, or the reverse.
    assume("[withh" not in secret)
    assume("held]" not in secret)
    assume(not secret.strip().startswith("]"))
    assume(not secret.strip().endswith("["))
    assume("d]" not in secret)


@given(SECRET, AROUND, AROUND)
@settings(max_examples=300, deadline=None)
def test_a_known_value_survives_nowhere(secret: str, before: str, after: str) -> None:
    fair(secret, before, after)
    redactor = Redactor({"MY_TOKEN": secret})
    text = before + secret + after
    outputs = [
        redactor.text(text),
        redactor.url(text),
        *redactor.argv([text, "--x", secret, f"--y={secret}"]),
        *map(str, redactor.config({"a": {"b": [text]}, secret: text})[0].values()),
        *redactor.mapping({"OTHER": text}).values(),
        *redactor.config({secret: 1})[0],
    ]
    for output in outputs:
        assert secret not in output


@given(SECRET)
@settings(max_examples=200, deadline=None)
def test_nor_in_any_dress(secret: str) -> None:
    fair(secret)
    redactor = Redactor({"MY_TOKEN": secret})
    dressed = [quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]]
    dressed.append(json.dumps(secret, ensure_ascii=False)[1:-1])
    for form in dressed:
        assert form not in redactor.text(f"<{form}>")
    if "'" not in secret:
        assert secret not in redactor.text(shlex.quote(secret))


@given(st.lists(SECRET, min_size=2, max_size=4), st.data())
@settings(max_examples=150, deadline=None)
def test_secrets_that_overlap_are_all_withheld(secrets: list[str], data: st.DataObject) -> None:
    for secret in secrets:
        fair(secret)
    redactor = Redactor({f"TOKEN_{i}": s for i, s in enumerate(secrets)})
    cut = data.draw(st.integers(1, 5))
    overlapping = secrets[0] + secrets[1][cut:] if secrets[0].endswith(secrets[1][:cut]) else secrets[0] + secrets[1]
    clean = redactor.text(overlapping)
    assert not any(secret in clean for secret in secrets)


PASSWORD = st.text(st.sampled_from(string.ascii_letters + string.digits + "!$*()_+-.~/@:%äß"), min_size=6, max_size=20)


@given(PASSWORD)
@settings(max_examples=300, deadline=None)
def test_a_password_in_a_connection_string_survives_nowhere(password: str) -> None:
    assume(not password.split("/")[0].isdigit())  # it reads as a port, so the URL means something else
    assume(password not in "postgresql://user:[withheld]@host:5432/database")
    url = f"postgresql://user:{password}@host:5432/database"
    for output in (
        NOBODY.url(url),
        NOBODY.text(f"connecting to {url} now"),
        str(NOBODY.config({"a": url})),
        *NOBODY.argv([url]),
    ):
        assert password not in output
        assert output.count("@host:5432/database") == 1


# --- streams


def masked(redactor: Redactor, content: bytes, cuts: list[int]) -> bytes:
    stream = redactor.stream()
    edges = [0, *sorted(c % (len(content) + 1) for c in cuts), len(content)]
    return b"".join(stream.feed(content[a:b]) for a, b in pairwise(edges)) + stream.close()


@given(SECRET, st.lists(AROUND, min_size=1, max_size=6), st.lists(st.integers(0, 10_000), max_size=8))
@settings(max_examples=300, deadline=None)
def test_however_a_stream_is_cut_no_secret_comes_through(secret: str, lines: list[str], cuts: list[int]) -> None:
    fair(secret, "\n".join(lines))
    content = f"\n<{secret}> ".join(["", *lines, ""]).encode()
    assert secret.encode() not in masked(Redactor({"MY_TOKEN": secret}), content, cuts)


@given(st.binary(max_size=3000), st.lists(st.integers(0, 10_000), max_size=8))
@settings(max_examples=100, deadline=None)
def test_bytes_that_hold_no_secret_come_through_as_they_are(content: bytes, cuts: list[int]) -> None:
    assume(b"=" not in content and b":" not in content)
    assert masked(NOBODY, content, cuts) == content


@pytest.mark.parametrize("size", [1, 7, 64, 4096])
@pytest.mark.parametrize("token", SHAPES)
def test_shapes_are_withheld_across_the_borders_of_a_stream(token: str, size: int) -> None:
    content = (f"step 1\n{token}\nmore {token} text\r50%\r" * 5 + f"api_key: {'k' * 30}\nend {token}").encode()
    stream = NOBODY.stream()
    clean = b"".join(stream.feed(content[i : i + size]) for i in range(0, len(content), size)) + stream.close()
    assert token.encode() not in clean
    assert b"kkk" not in clean
    assert not any(line.encode() in clean for line in token.splitlines()[1:-1])
    assert clean.count(b"step 1") == 5


def test_a_line_without_end_is_let_through_in_time_and_masked() -> None:
    stream = NOBODY.stream()
    piece = (b"x" * 999 + b" ") * 100
    out = b""
    for _ in range(10):
        out += stream.feed(piece + GITHUB.encode() + b" ")
    assert len(out) > 500_000
    out += stream.close()
    assert GITHUB.encode() not in out
    assert out.count(b"[withheld]") == 10


def test_a_private_key_without_end_does_not_hold_up_the_stream() -> None:
    stream = NOBODY.stream()
    out = stream.feed(b"-----BEGIN PRIVATE KEY-----\n")
    for _ in range(4000):
        out += stream.feed(b"A" * 63 + b"\n")
    assert out.startswith(b"[withheld]")


def test_a_secret_of_several_lines_is_found_line_by_line_too() -> None:
    redactor = Redactor({"SERVICE_PRIVATE_KEY": "first-line-of-the-secret\nsecond-line-of-the-secret"})
    clean = redactor.text("log: first-line-of-the-secret\n[rank1] second-line-of-the-secret\n")
    assert clean == "log: [withheld]\n[rank1] [withheld]\n"


def test_of_this_very_environment_nothing_is_lost_that_is_no_secret() -> None:
    redactor = Redactor(dict(os.environ))
    assert redactor.text("step 1 loss 2.5\n") == "step 1 loss 2.5\n"
