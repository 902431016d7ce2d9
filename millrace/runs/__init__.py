"""The life of a run: every start ends in `submit`, every end passes through `finish`."""

from millrace.runs.claiming import claim, lost_or_cancelled, release, renew
from millrace.runs.ending import MAX_DURATION_MS, Ending, cancel, expire, finish, poisoned
from millrace.runs.locks import bounds_of, lock_script
from millrace.runs.reading import await_end, find, payload_text, result_text
from millrace.runs.sending import release_due, release_workspace
from millrace.runs.submitting import INLINE_LIMIT, KEY_LIFE_MS, MAX_DELAY_MS, Order, Submitted, digest, submit

__all__ = [
    "INLINE_LIMIT", "KEY_LIFE_MS", "MAX_DELAY_MS", "MAX_DURATION_MS", "Ending", "Order", "Submitted", "await_end",
    "bounds_of", "cancel", "claim", "digest", "expire", "find", "finish", "lock_script", "lost_or_cancelled",
    "payload_text", "poisoned", "release", "release_due", "release_workspace", "renew", "result_text", "submit",
]  # fmt: skip
