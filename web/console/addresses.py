"""Addresses that a form or a link may lead to: our own paths and nothing else."""

import re

# A browser takes "//host", "/\host" and "/<tab>/host" for another host.
_OWN = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]*")


def own(address: str | None) -> str | None:
    """The address if it is a path here, else None."""
    return address if address is not None and len(address) <= 2000 and _OWN.fullmatch(address) else None
