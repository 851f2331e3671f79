"""A socket that listens."""

from __future__ import annotations

import ipaddress
import socket

from llmrec.errors import RunError


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone: `localhost`, 127.0.0.0/8 or ::1. Names are not looked up.

    Args:
        host: a name or an address, without a port; IPv6 with or without square brackets.
    """
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens, taken before anything slow is loaded.

    Raises:
        RunError: the port is in use, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise RunError(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose another port with --port, or stop what is there."
        ) from error
    return listening
