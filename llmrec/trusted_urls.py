"""Which text servers may be used, and which of them get the API key.

A recipe, a run or an export may come from another person, and the server at its `url` would receive the key and all
texts. Therefore a URL is trusted only if the user typed it on the command line or set it in OPENAI_BASE_URL. Only a
trusted URL gets OPENAI_API_KEY. For any other URL the user must confirm on the terminal first.
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
_confirmed: set[str] = set()  # origins that the user confirmed on the terminal


def trust(url: str) -> None:
    """Record a URL that the user typed on the command line."""
    _named.add(_origin(url))


def trust_all(value: Any) -> None:
    """Record all URLs in a value that the user typed, such as that of `chat.url=…`, also in lists and mappings."""
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        with contextlib.suppress(TextError):
            trust(value)
    for member in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        trust_all(member)


def api_key_for(url: str) -> str | None:
    """Return OPENAI_API_KEY if the user named the scheme, host and port of this URL, otherwise None."""
    return os.environ.get(KEY) or None if _is_named(_origin(url)) else None


def require_trusted(url: str, key: str) -> None:
    """Return if texts may be sent to a URL. Ask on the terminal if the user has not named it.

    Args:
        key: the recipe key of the URL, such as `chat.url`, for messages.

    Raises:
        TextError: not an http(s) URL, the user refuses, or there is no terminal.
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
    """Return scheme, host and port of a URL in a normal form, for comparison; TextError if it is not an http(s) URL."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        host = (parts.hostname or "").rstrip(".")
    except (ValueError, KeyError):
        host, port = "", 0
    if not host or not url.strip().isprintable() or set(parts.netloc) & set("@\\ "):  # clients read these differently
        raise TextError(f"{ascii(url)[:200]} is not the URL of a server: write it as http://HOST:PORT/v1.")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
