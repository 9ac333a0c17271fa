"""Who may reach a server of this program: this machine alone, or who has the token."""

import ipaddress
import re

from alignbench.errors import UserError

TOKEN_VARIABLE = "ALIGNBENCH_TOKEN"


def is_loopback(host: str) -> bool:
    """Say whether a host, by name or address, is this machine as seen from itself alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def checked_token(token: str | None) -> str | None:
    """Return a token, None where it is empty.

    Raises:
        UserError: it cannot be sent in a header.
    """
    if token and not re.fullmatch(r"[!-~]+", token):
        raise UserError("the token must consist of ASCII letters, digits and signs, without spaces")
    return token or None


def check_reach(host: str, token: str | None) -> None:
    """Refuse to let others in without a token.

    Raises:
        UserError: naming the host.
    """
    if token is None and not is_loopback(host):
        raise UserError(f"host={host} can be reached by others; set {TOKEN_VARIABLE} or give --token")
