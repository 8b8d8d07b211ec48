"""Ids and tokens, injected where tests need them fixed."""

import hashlib
import secrets
from collections.abc import Callable

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32: no i, l, o, u

IdFactory = Callable[[], str]


def new_id(length: int = 10) -> str:
    """A random id, lower case letters and digits: safe in paths, job names and URLs."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def new_token() -> str:
    """A bearer token: 256 random bits, URL-safe."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What the database keeps of a token. Tokens have full entropy, so no salt is needed."""
    return hashlib.sha256(token.encode()).hexdigest()
