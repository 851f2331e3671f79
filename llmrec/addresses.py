"""Text servers that a recipe names: which of them may be used, and which of them are sent the key.

A recipe, a run or an export may come from somebody else, and its `url` would then receive the key and everything that
is sent. So an address counts as the user's own only if the user typed it on the command line or set it in
OPENAI_BASE_URL. Only such an address gets OPENAI_API_KEY; any other is asked about on the terminal first.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any
from urllib.parse import urlsplit

from llmrec.errors import TextError

KEY, BASE = "OPENAI_API_KEY", "OPENAI_BASE_URL"

_named: set[str] = set()  # origins from the command line of this process
_confirmed: set[str] = set()  # origins that the user agreed to when asked


def name(url: str) -> None:
    """Record an address that the user typed on the command line."""
    _named.add(_origin(url))


def name_in(value: Any) -> None:
    """Record the addresses in a value that the user typed, such as that of `chat.url=…`; lists and mappings too."""
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        with contextlib.suppress(TextError):
            name(value)
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        name_in(one)


def key_for(url: str) -> str | None:
    """OPENAI_API_KEY if the user named this address (scheme, host and port), otherwise None."""
    return os.environ.get(KEY) or None if _is_named(_origin(url)) else None


def require(url: str, key: str) -> None:
    """Return if texts may be sent to an address; ask on the terminal where the user has not named it.

    Args:
        key: the recipe key that holds it, such as `chat.url`, for messages.

    Raises:
        TextError: the address is no http(s) URL, the user says no, or there is no terminal to ask on.
    """
    origin = _origin(url)
    if _is_named(origin) or origin in _confirmed:
        return
    remedy = f"If you trust it, name it yourself: add {key}={url} to the command, or set {BASE}={url}."
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise TextError(f"the recipe would send texts to {origin} ({key}), an address that you did not name. {remedy}")
    print(f"The recipe sends texts to {origin} ({key}), without a key. Continue? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise TextError(f"nothing was sent to {origin}. {remedy}")
    _confirmed.add(origin)


def _is_named(origin: str) -> bool:
    base = os.environ.get(BASE)
    return origin in _named or (bool(base) and origin == _origin(str(base)))


def _origin(url: str) -> str:
    """Scheme, host and port of an address, in the one spelling that addresses are compared by."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        host = (parts.hostname or "").rstrip(".")
    except (ValueError, KeyError):
        host, port = "", 0
    if not host or not url.strip().isprintable() or set(parts.netloc) & set("@\\ "):  # clients read these differently
        raise TextError(f"{ascii(url)[:200]} is no address of a server: write it as http://HOST:PORT/v1.")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
