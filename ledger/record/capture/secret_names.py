"""Names that give a secret away: of variables, options, configuration keys, headers, and of files."""

from __future__ import annotations

import re
from typing import Final

_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_WORD: Final = re.compile(r"[^A-Za-z0-9]+")

# fmt: off
_SECRET_ENDINGS: Final = (
    "secret", "secrets", "password", "passwords", "passwd", "passphrase", "passcode", "credential",
    "credentials", "apikey", "accesskey", "secretkey", "privatekey", "accountkey", "authkey", "authtoken",
    "accesstoken",
)
_SECRET_WORDS: Final = frozenset({
    "auth", "authorization", "bearer", "cookie", "cred", "creds", "dsn", "jwt", "pat", "pwd",
})
_SECRET_KEYS: Final = frozenset({
    "access", "account", "api", "auth", "client", "deploy", "encryption", "license", "master", "private",
    "secret", "service", "session", "shared", "signing", "ssh", "storage",
})
"""What makes a secret of the word ``key`` that follows."""
_SECRET_TOKENS: Final = frozenset({"access", "api", "auth", "bearer", "refresh", "secret"})
_SECRET_PASSES: Final = frozenset({
    "admin", "database", "db", "ftp", "http", "https", "login", "mail", "mongo", "mysql", "pg",
    "postgres", "proxy", "rabbitmq", "redis", "root", "smtp", "ssh", "sudo", "user",
})
_ABOUT: Final = frozenset({
    "algorithm", "backend", "bits", "count", "dir", "enabled", "expiry", "file", "host", "len", "length",
    "limit", "method", "mode", "name", "path", "policy", "port", "provider", "required", "rotation",
    "scheme", "size", "sock", "socket", "timeout", "ttl", "type", "user", "username", "version",
})
"""A name that ends so tells something about a secret, not the secret."""
_SWITCH: Final = frozenset({"disable", "enable", "no", "skip", "use"})
"""A name that starts so is a switch."""
_TOKEN_NEIGHBOURS: Final = frozenset({
    "accuracy", "begin", "bos", "budget", "by", "class", "classification", "cls", "dim", "drop",
    "dropout", "each", "embed", "embedding", "embeddings", "end", "eos", "eot", "first", "id", "ids",
    "idx", "image", "index", "last", "level", "loss", "mask", "max", "mean", "merging", "min", "mixer",
    "mixing", "multi", "n", "next", "num", "pad", "padding", "per", "pos", "position", "prefix", "prob",
    "pruning", "sep", "special", "start", "step", "stop", "sub", "total", "type", "types", "unk", "vocab",
    "weight", "weights", "word",
})
"""Beside one of these the word ``token`` is a language model's, not a service's."""
# fmt: on
_WORKING_DIRECTORY: Final = frozenset({"pwd", "oldpwd"})


def is_secret_name(name: str) -> bool:
    """Whether a variable, option, configuration key or header of this name holds a secret.

    ``HF_TOKEN``, ``apiKey`` and ``db.password`` do; ``max_tokens``, ``tokenizer``, ``author`` do not.
    """
    words = [w.lower() for part in _NOT_WORD.split(name) for w in _CAMEL.split(part) if w]
    if not words or "_".join(words) in _WORKING_DIRECTORY or words[0] in _SWITCH or words[-1] in _ABOUT:
        return False
    return any(_is_secret_word(words, i) for i in range(len(words)))


def _is_secret_word(words: list[str], i: int) -> bool:
    word = words[i]
    before = words[i - 1] if i else ""
    after = words[i + 1] if i + 1 < len(words) else ""
    if word.endswith(_SECRET_ENDINGS) or word in _SECRET_WORDS:
        return True
    if word.endswith("token"):
        return not {before, after} & _TOKEN_NEIGHBOURS
    if word in ("key", "keys"):
        return before in _SECRET_KEYS
    if word == "string":
        return before == "connection"
    return (word == "tokens" and before in _SECRET_TOKENS) or (
        word == "pass" and not after and before in _SECRET_PASSES
    )


_PUBLIC_TEMPLATES: Final = (".example", ".sample", ".template", ".dist", ".pub")
_SECRET_FILE: Final = re.compile(
    r"^(\.env(\..+)?|.+\.env|.+\.(pem|key|p12|pfx|jks|keystore|kdbx|ppk|ovpn)|"
    r"id_(rsa|dsa|ecdsa|ed25519)(_.*)?|[._]netrc|\.pgpass|\.pypirc|\.npmrc|\.htpasswd|\.git-credentials|"
    r"\.dockercfg|\.s3cfg|\.boto|\.vault-token|\.?credentials?(\..+)?|client_secrets?.*\.json|service[-_]?account.*\.json|"
    r"\.?secrets?\.(ya?ml|json|toml|ini|env|txt))$",
    re.IGNORECASE,
)
_SECRET_FOLDERS: Final = frozenset({".ssh", ".aws", ".gnupg", ".kube", ".azure"})


def is_secret_file(path: str) -> bool:
    """Whether a file of this relative path is a secret by convention: ``.env``, ``id_rsa``."""
    *folders, name = path.split("/")
    if name.lower().endswith(_PUBLIC_TEMPLATES):
        return False
    return bool(_SECRET_FILE.match(name)) or not _SECRET_FOLDERS.isdisjoint(folders)
