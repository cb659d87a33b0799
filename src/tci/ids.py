"""Unguessable identifiers and keys in base 58, the alphabet without look-alikes (0 O I l)."""

import secrets

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def new_session_id() -> str:
    """Return `ses_` and 21 characters: 123 bits of randomness."""
    return f"ses_{random_text(21)}"


def is_session_id(text: str) -> bool:
    """Whether the text could be a session's id."""
    return text.startswith("ses_") and len(text) == 25 and set(text[4:]) <= set(ALPHABET)  # noqa: PLR2004 (see above)


def new_sandbox_id() -> str:
    """Return `sbx_` and 16 characters: unique, not secret."""
    return f"sbx_{random_text(16)}"


def new_api_key() -> str:
    """Return `tci_` and 40 characters: 234 bits of randomness."""
    return f"tci_{random_text(40)}"


def random_text(length: int) -> str:
    """Return characters of the alphabet from the system's secure source."""
    # Eight bytes more than the text can hold, so that no character is likelier than another.
    number, text = int.from_bytes(secrets.token_bytes(length + 8)), []
    for _ in range(length):
        number, digit = divmod(number, len(ALPHABET))
        text.append(ALPHABET[digit])
    return "".join(text)
