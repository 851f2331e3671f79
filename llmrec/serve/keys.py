"""Keys that clients show as `Authorization: Bearer KEY`. Only their digests are kept."""

from __future__ import annotations

import hashlib
import hmac
import os

from llmrec.serve.settings import ADMIN_KEY, API_KEY


class Keys:
    """The keys of a server; the environment may name several, with commas between, so that they can be exchanged."""

    def __init__(self, api: str | None, admin: str | None) -> None:
        """Take keys; None or "" where there are none, and then nobody has one."""
        self.admin = _digests(admin)
        self.api = [*_digests(api), *self.admin]

    @classmethod
    def from_environment(cls) -> Keys:
        """LLMREC_API_KEY and LLMREC_ADMIN_KEY."""
        return cls(os.environ.get(API_KEY), os.environ.get(ADMIN_KEY))

    def opens(self, header: str | None, admin: bool = False) -> bool:
        """Whether an Authorization header shows a key; an admin's opens everything."""
        scheme, _, key = (header or "").partition(" ")
        shown = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        known = [hmac.compare_digest(shown, one) for one in (self.admin if admin else self.api)]
        return scheme.lower() == "bearer" and any(known)


def _digests(keys: str | None) -> list[bytes]:
    return [hashlib.sha256(key.strip().encode()).digest() for key in (keys or "").split(",") if key.strip()]
