"""Tokens and URLs that prove themselves: keyed hashes (RFC 2104) of what they open."""

from __future__ import annotations

import hashlib
import hmac


class Signer:
    """Signs with one secret of the server, each kind of thing under a name of its own."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def attempt_token(self, execution_id: str, attempt: int) -> str:
        """Opens one attempt and nothing else."""
        return self._sign("attempt", execution_id, str(attempt))

    def is_attempt_token(self, token: str, execution_id: str, attempt: int) -> bool:
        """Whether a token opens this attempt, compared in constant time."""
        return _same(token, self.attempt_token(execution_id, attempt))

    def url_signature(self, method: str, path: str, expires_at_ms: int) -> str:
        """Lets anyone call one path by one method until a time."""
        return self._sign("url", method, path, str(expires_at_ms))

    def is_url_signature(self, signature: str, method: str, path: str, expires_at_ms: int) -> bool:
        """Whether a signature is the one of this call; whether it has expired is the caller's to say."""
        return _same(signature, self.url_signature(method, path, expires_at_ms))

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._secret, "\0".join(parts).encode(), hashlib.sha256).hexdigest()


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode())
