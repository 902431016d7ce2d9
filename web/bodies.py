"""Request bodies: whole, or refused. A part of one must never pass for all of it."""

import io

from flask import Request
from gunicorn.http.errors import NoMoreData, ParseException

from millrace.errors import Invalid, TooLarge

MAX_BYTES = 8 * 1024 * 1024  # of the APIs: 5 MiB of source are 6.7 MiB of base64


def read(request: Request, limit: int = MAX_BYTES) -> bytes:
    """All that the client sent; it can be read again, as a form for instance.

    Raises TooLarge beyond `limit` bytes, whether the client said so before or not, and Invalid for a body that broke
    off or is framed wrongly. Neither Werkzeug nor the server tells a body that is cut from one that ends.
    """
    declared = request.content_length
    if declared is not None and declared > limit:
        raise _too_large(limit)
    if declared is None and not request.environ.get("wsgi.input_terminated"):
        raw = b""  # nothing says where it would end, so by HTTP there is none
    else:
        raw = _read(request, limit + 1 if declared is None else declared)
    if len(raw) > limit:
        raise _too_large(limit)
    if declared is not None and len(raw) < declared:
        raise Invalid(f"The body broke off after {len(raw)} of {declared} bytes.", field="body")
    request.environ["wsgi.input"] = io.BytesIO(raw)
    return raw


def _read(request: Request, size: int) -> bytes:
    try:
        raw: bytes = request.environ["wsgi.input"].read(size)
    except (NoMoreData, ConnectionError):
        raise Invalid("The body broke off before its end.", field="body") from None
    except ParseException as error:
        raise Invalid(f"The body's chunks are not as HTTP wants them: {error}.", field="body") from None
    return raw


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body has more than {limit} bytes, which is the most that a request may have.")
