"""Passwords: what one may be, and its hash. They are used just as they are typed."""

import argon2
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from millrace.errors import Invalid

SHORTEST, LONGEST = 12, 200
# Those of the most used passwords that are long enough to pass, as published lists of stolen ones have them.
_MOST_USED = """
    123456789012 1234567890123 12345678901234 123456789012345 1234567890123456 012345678910 123123123123 112233445566
    123456123456 1q2w3e4r5t6y 1q2w3e4r5t6y7u 1qaz2wsx3edc 1qaz2wsx3edc4rfv qazwsxedcrfv qwertyuiop123 qwertyuiop[]
    qwertyuiopasdfghjkl qwerty123456 qwerty1234567 qwertyqwerty asdfghjkl123 abcdefghijkl abcd12345678 abc123456789
    password1234 password12345 password123456 passwordpassword password123! p@ssw0rd1234 passw0rd1234 adminadminadmin
    admin1234567 administrator administrator1 changemechangeme changeme1234 letmein12345 welcome12345 iloveyou1234
    qwer1234qwer 1234qwerasdf correcthorsebatterystaple trustno1trustno1 superadmin123 millrace1234 millracemillrace
"""


def check(password: str, email: str) -> None:
    """Raises Invalid, without the value, for one that must not be chosen."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Invalid(f"A password has from {SHORTEST} to {LONGEST} characters.", field="password")
    lowered = password.lower()
    if lowered == email.lower():
        raise Invalid("A password must not be the email.", field="password")
    if lowered in _MOST_USED.split() or len(set(lowered)) < 3:
        raise Invalid("This password is among the first that anybody would try.", field="password")


def digest(password: str) -> str:
    """Its hash, with a salt of its own."""
    return _hasher().hash(_bytes(password))


def matches(digest_: str | None, password: str) -> bool:
    """Whether this is the password. Without a digest it is not, after the same work as for a wrong one."""
    try:
        _hasher().verify(digest_ or _NOBODY, _bytes(password))
    except (VerifyMismatchError, InvalidHashError):
        return False
    return digest_ is not None


def is_outdated(digest_: str) -> bool:
    """Whether today's parameters are others than those of this digest."""
    return _hasher().check_needs_rehash(digest_)


def _bytes(password: str) -> bytes:
    # A form can carry halves of surrogate pairs, which are no UTF-8. The end of what is longer than any password
    # would cost time and change nothing.
    return password[: LONGEST + 1].encode("utf-8", "surrogatepass")


def _hasher() -> argon2.PasswordHasher:
    # OWASP's minimum is two passes over 19 MiB. More memory would be better still, but each sign-in holds it.
    return argon2.PasswordHasher(time_cost=3, memory_cost=19 * 1024, parallelism=1)


# Of random bytes that nobody kept, with the parameters above, so that it costs the same.
_NOBODY = (
    "$argon2id$v=19$m=19456,t=3,p=1$UkORasoG7Z9N94T2SqdxFw$26K83gKo54+KyDfGOBuJ7tFPIsQBP9VLBYK8U9Kn6JY"
)
