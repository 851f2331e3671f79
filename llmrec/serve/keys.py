"""Keys that clients show as `Authorization: Bearer KEY`. Only their digests are kept."""

from __future__ import annotations

import hashlib
import hmac
import os

from llmrec.errors import RunError
from llmrec.serve.settings import ADMIN_KEY, API_KEY


class Keys:
    """The keys of a server; the environment may name several, with commas between, so that they can be exchanged."""

    def __init__(self, api: str | None, admin: str | None) -> None:
        """Take keys; None or "" where there are none, and then nobody has one."""
        self.admin = _digests(admin)
        self.api = [*_digests(api), *self.admin]

    @classmethod
    def from_environment(cls) -> Keys:
        """LLMREC_API_KEY and LLMREC_ADMIN_KEY.

        Raises:
            RunError: one of them holds a key that no client can send; the message does not repeat it.
        """
        for name in (API_KEY, ADMIN_KEY):
            _check(name, os.environ.get(name, ""))
        return cls(os.environ.get(API_KEY), os.environ.get(ADMIN_KEY))

    def opens(self, header: str | None, admin: bool = False) -> bool:
        """Whether an Authorization header shows a key; an admin's opens everything."""
        scheme, _, key = (header or "").partition(" ")
        shown = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        known = [hmac.compare_digest(shown, one) for one in (self.admin if admin else self.api)]
        return scheme.lower() == "bearer" and any(known)


def _digests(keys: str | None) -> list[bytes]:
    return [hashlib.sha256(key.strip().encode()).digest() for key in (keys or "").split(",") if key.strip()]


def _check(name: str, value: str) -> None:
    """Refuse keys that cannot stand in an HTTP header: they would lock every client out."""
    keys = [key.strip() for key in value.split(",")] if value else []
    for number, key in enumerate(keys, 1):
        if not key:
            fault = "is empty"
        elif not key.isascii():
            fault = "has letters outside ASCII"
        elif any(not "!" <= letter <= "~" for letter in key):
            fault = "has a blank, a line break or another control character inside"
        else:
            continue
        raise RunError(
            f"no client can send key {number} of {len(keys)} in {name}: it {fault}. Write keys of visible ASCII "
            f"characters, with one comma between several, or make one: export {name}=$(openssl rand -hex 24)"
        )
