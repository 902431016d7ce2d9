"""People: passwords, limits on guessing them, and who they are."""

import threading
import time
from collections.abc import Callable, Iterator

import argon2
import pytest
import redis
import time_machine

from millrace import passwords, roles, sessions, users
from millrace.errors import Denied, DomainError, Forbidden, Invalid, NotFound, TooMany, Unprocessable
from millrace.models import Audit, Session, User
from millrace.roles import Actor
from millrace.services import Services
from millrace.signinlimits import (
    AT_ONCE,
    MINUTES,
    PATIENCE_S,
    PER_ADDRESS,
    PER_EMAIL,
    WAITING,
    SignInLimits,
    network,
)
from tests.world import at_once

ALICE = "alice@example.com"
PASSWORD = "a long enough one"
HERE = "192.0.2.1"


@pytest.fixture
def limits() -> SignInLimits:
    """Counts in memory."""
    return SignInLimits("")


@pytest.fixture
def alice(memory: Services) -> User:
    """Has a password."""
    user, new = users.add(memory, ALICE, PASSWORD)
    assert new
    return user


def outcome(act: Callable[[], object]) -> str:
    try:
        act()
    except DomainError as error:
        return type(error).__name__
    return "in"


# Signing in


@pytest.mark.parametrize("email", [ALICE, "Alice@Example.COM", f"  {ALICE} "])
def test_the_password_opens_and_the_emails_letters_may_be_large(
    memory: Services, limits: SignInLimits, alice: User, email: str
) -> None:
    assert users.authenticate(memory, limits, email, PASSWORD, HERE) == alice
    told = Audit.get()
    assert (told.actor, told.action, told.details) == (ALICE, "user.signed_in", {"address": HERE})


def test_whatever_is_wrong_is_denied_in_the_same_words_after_the_same_work(
    memory: Services, limits: SignInLimits, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    users.add(memory, "invited@example.com")
    work: list[str] = []
    verify = argon2.PasswordHasher.verify

    def watched(self: argon2.PasswordHasher, digest: str, password: bytes) -> bool:
        work.append(digest.rsplit("$", 2)[0])
        return verify(self, digest, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", watched)
    words = set()
    for email, password in [
        ("nobody@example.com", PASSWORD), ("invited@example.com", PASSWORD), ("invited@example.com", ""),
        (ALICE, PASSWORD + " "), (ALICE, PASSWORD.upper()), (ALICE, ""), ("", ""), ("x" * 10_000, "y" * 10_000),
        ("a\x00@example.com", "\ud800"),
    ]:  # fmt: skip
        with pytest.raises(Denied) as refused:
            users.authenticate(memory, limits, email, password, HERE)
        words.add(refused.value.message)
    assert words == {"The email or the password is not right."}
    assert len(work) == 9 and len(set(work)) == 1


def test_who_has_no_password_has_not_even_the_one_that_is_looked_at_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_NOBODY", passwords.digest(PASSWORD))
    assert not passwords.matches(None, PASSWORD)


def test_a_password_is_used_as_typed(memory: Services, limits: SignInLimits) -> None:
    composed, decomposed = "caf\u00e9 au lait", "cafe\u0301 au lait"
    users.add(memory, ALICE, composed)
    users.authenticate(memory, limits, ALICE, composed, HERE)
    with pytest.raises(Denied):
        users.authenticate(memory, limits, ALICE, decomposed, HERE)


def test_the_cost_is_no_less_than_owasps_minimum() -> None:
    parameters = argon2.extract_parameters(passwords.digest("x"))
    assert parameters.type is argon2.Type.ID
    assert parameters.memory_cost >= 19 * 1024 and parameters.time_cost >= 2 and parameters.parallelism >= 1
    assert argon2.extract_parameters(passwords._NOBODY) == parameters


def test_a_digest_with_other_parameters_is_renewed_at_the_next_sign_in(
    memory: Services, limits: SignInLimits, alice: User
) -> None:
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    User.update(password_hash=weak).execute()
    users.authenticate(memory, limits, ALICE, PASSWORD, HERE)
    renewed = User.get().password_hash
    assert renewed != weak and not passwords.is_outdated(renewed)
    users.authenticate(memory, limits, ALICE, PASSWORD, HERE)
    assert User.get().password_hash == renewed


def test_no_password_is_stored_or_told(memory: Services, limits: SignInLimits, alice: User) -> None:
    users.change_password(memory, limits, alice, PASSWORD, "another long one", HERE)
    stored = str(list(User.select().dicts())) + str(list(Audit.select().dicts()))
    assert PASSWORD not in stored and "another long one" not in stored


@pytest.mark.parametrize(("password", "words"), [
    ("x" * 11, "from 12 to 200"), ("ab3" * 67, "from 12 to 200"), ("", "from 12 to 200"), (ALICE.upper(), "the email"),
    ("password1234", "first"), ("PASSWORD1234", "first"), ("aaaaaaaaaaaaa", "first"), ("abababababab", "first"),
])  # fmt: skip
def test_a_bad_password_cannot_be_chosen_and_is_not_repeated(password: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as refused:
        passwords.check(password, ALICE)
    assert refused.value.value is None and (not password or password not in refused.value.message)


@pytest.mark.parametrize("password", ["x1y" * 4, "ab3d" * 50, "пароль на русском", " spaces at ends "])
def test_any_other_can(password: str) -> None:
    passwords.check(password, ALICE)
    assert passwords.matches(passwords.digest(password), password)


@pytest.mark.parametrize("email", [
    "", "alice", "@example.com", "alice@", "a b@example.com", "a@b@c", "x" * 250 + "@e.com", "a\x00@b", "a\n@b",
    "alice@exam\u202eple.com",
])  # fmt: skip
def test_what_is_no_email_is_refused(memory: Services, email: str) -> None:
    with pytest.raises(Invalid):
        users.add(memory, email)
    assert User.select().count() == 0


def test_one_email_is_one_user_whoever_adds_it_at_once(memory: Services) -> None:
    emails = (ALICE, ALICE.upper()) * 2
    answers = at_once(memory.database, *[lambda each=each: users.add(memory, each) for each in emails])
    assert sorted(new for _, new in answers) == [False, False, False, True]
    assert User.select().count() == 1


# Guessing


@pytest.fixture(params=["memory", "redis"])
def either(request: pytest.FixtureRequest) -> SignInLimits:
    """Counts in memory, then on Redis."""
    return SignInLimits("" if request.param == "memory" else request.getfixturevalue("redis_url"))


@pytest.fixture
def moment() -> Iterator[time_machine.Traveller]:
    """The wall clock, which the library counts by."""
    with time_machine.travel(1_900_000_000, tick=False) as traveller:
        yield traveller


def guess(limits: SignInLimits, email: str, address: str, *, right: bool = False) -> None:
    with limits.guess(email, address):
        limits.right(email) if right else limits.wrong(address)


def test_an_email_is_guessed_five_times_in_any_quarter_of_an_hour(
    either: SignInLimits, moment: time_machine.Traveller
) -> None:
    for number in range(PER_EMAIL.amount):
        guess(either, ALICE, f"192.0.2.{number}")
        moment.shift(60)
    with pytest.raises(TooMany, match="this email\\. Try again in 10 minutes") as refused:
        guess(either, ALICE, "192.0.2.99")
    assert refused.value.retry_after == (MINUTES - PER_EMAIL.amount) * 60
    guess(either, "bob@example.com", "192.0.2.99")
    moment.shift(refused.value.retry_after + 1)
    guess(either, ALICE, HERE)  # the first is forgotten, and no more
    with pytest.raises(TooMany):
        guess(either, ALICE, HERE)


def test_an_address_guesses_twenty_times_whatever_emails_it_tries(
    either: SignInLimits, moment: time_machine.Traveller
) -> None:
    for number in range(PER_ADDRESS.amount):
        guess(either, f"{number}@example.com", HERE)
    with pytest.raises(TooMany, match="from your address") as refused:
        guess(either, ALICE, HERE)
    assert refused.value.retry_after == MINUTES * 60
    guess(either, ALICE, "192.0.2.2")


def test_who_signs_in_is_not_counted(either: SignInLimits) -> None:
    for _ in range(PER_ADDRESS.amount * 2):
        guess(either, ALICE, HERE, right=True)
    for _ in range(PER_EMAIL.amount - 1):
        guess(either, ALICE, HERE)
    guess(either, ALICE, HERE, right=True)
    for _ in range(PER_EMAIL.amount):
        guess(either, ALICE, HERE)
    with pytest.raises(TooMany):
        guess(either, ALICE, HERE)


def test_a_right_password_is_refused_as_well_once_there_were_too_many_wrong_ones(
    memory: Services, limits: SignInLimits, alice: User
) -> None:
    guesses = ["in"] * PER_EMAIL.amount
    for number in range(PER_EMAIL.amount):
        guesses[number] = outcome(lambda: users.authenticate(memory, limits, ALICE, "wrong", HERE))
    assert set(guesses) == {"Denied"}
    assert outcome(lambda: users.authenticate(memory, limits, ALICE.upper(), PASSWORD, HERE)) == "TooMany"


def test_guesses_at_once_are_not_more_than_the_limit(
    memory: Services, redis_url: str, alice: User
) -> None:
    shared = [SignInLimits(redis_url), SignInLimits(redis_url)]  # as of two processes
    answers = at_once(memory.database, *[
        lambda number=number: users.authenticate(memory, shared[number % 2], ALICE, "wrong", f"192.0.2.{number}")
        for number in range(16)
    ])  # fmt: skip
    kinds = sorted(type(each).__name__ for each in answers)
    assert kinds == ["Denied"] * PER_EMAIL.amount + ["TooMany"] * (16 - PER_EMAIL.amount)


def test_an_address_at_once_goes_over_by_no_more_than_a_process_works_on(memory: Services, redis_url: str) -> None:
    limits = SignInLimits(redis_url)
    answers = at_once(memory.database, *[
        lambda number=number: users.authenticate(memory, limits, f"{number}@example.com", "wrong", HERE)
        for number in range(PER_ADDRESS.amount + 12)
    ])  # fmt: skip
    denied = sum(isinstance(each, Denied) for each in answers)
    assert PER_ADDRESS.amount <= denied < PER_ADDRESS.amount + AT_ONCE


def test_a_flood_of_guesses_takes_no_thread_beyond_those_that_may_wait() -> None:
    limits = SignInLimits("")
    begun, go = threading.Semaphore(0), threading.Event()

    def hold(number: int) -> None:
        with limits.guess(f"{number}@example.com", f"192.0.2.{number}"):
            begun.release()
            go.wait(30)

    threads = [threading.Thread(target=hold, args=(number,), daemon=True) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=30)
    for _ in range(WAITING):
        assert limits._room.acquire(blocking=False)  # those who wait
    started = time.monotonic()
    with pytest.raises(TooMany, match="at this moment"), limits.guess(ALICE, HERE):
        pass
    assert time.monotonic() - started < PATIENCE_S
    go.set()
    for thread in threads:
        thread.join()
    for _ in range(WAITING):
        limits._room.release()
    guess(limits, ALICE, HERE)


def test_without_redis_people_sign_in_and_guesses_are_bounded_all_the_same(
    memory: Services, alice: User
) -> None:
    uptime = [0.0]
    limits = SignInLimits("redis://127.0.0.1:1/0", lambda: uptime[0])
    users.authenticate(memory, limits, ALICE, PASSWORD, HERE)
    for _ in range(PER_EMAIL.amount):
        assert outcome(lambda: users.authenticate(memory, limits, ALICE, "wrong", HERE)) == "Denied"
    assert outcome(lambda: users.authenticate(memory, limits, ALICE, PASSWORD, HERE)) == "TooMany"


def test_redis_is_asked_again_when_it_is_back(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uptime = [0.0]
    limits = SignInLimits(redis_url, lambda: uptime[0])
    client = redis.Redis.from_url(redis_url)
    with monkeypatch.context() as patch:
        patch.setattr(redis.ConnectionPool, "get_connection", lambda *_a, **_k: (_ for _ in ()).throw(
            redis.ConnectionError("away")))
        guess(limits, ALICE, HERE)
    guess(limits, ALICE, HERE)
    assert client.keys("*") == []  # not at once
    uptime[0] += 60
    guess(limits, ALICE, HERE)
    assert len(client.keys("*")) == 2
    assert all(0 < client.ttl(key) <= MINUTES * 60 + 1 for key in client.keys("*"))
    assert not any(b"alice" in key or HERE.encode() in key for key in client.keys("*"))
    client.close()


@pytest.mark.parametrize(("address", "counts_as"), [
    ("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::/64"), ("2001:db8::ffff:1", "2001:db8::/64"),
    ("::ffff:192.0.2.1", "192.0.2.1"), ("unix", "unix"), ("", ""),
])
def test_whoever_has_an_address_of_ipv6_has_all_of_its_network(address: str, counts_as: str) -> None:
    assert network(address) == counts_as


# Changing


def test_a_changed_password_ends_all_other_sessions(memory: Services, limits: SignInLimits, alice: User) -> None:
    mine, other = (sessions.begin(memory, alice, None, "browser") for _ in range(2))
    users.change_password(memory, limits, alice, PASSWORD, "another long one", HERE, keep=sessions.digest(mine))
    assert sessions.find(memory, mine) is not None and sessions.find(memory, other) is None
    assert outcome(lambda: users.authenticate(memory, limits, ALICE, PASSWORD, HERE)) == "Denied"
    users.authenticate(memory, limits, ALICE, "another long one", HERE)
    assert "user.password_changed" in [row.action for row in Audit.select()]


def test_the_old_password_is_needed_and_guessed_no_more_often_than_at_the_sign_in(
    memory: Services, limits: SignInLimits, alice: User
) -> None:
    sessions.begin(memory, alice, None, "browser")
    before = User.get().password_hash
    for _ in range(PER_EMAIL.amount):
        with pytest.raises(Denied, match="old password"):
            users.change_password(memory, limits, alice, "wrong", "another long one", HERE)
    with pytest.raises(TooMany):
        users.change_password(memory, limits, alice, PASSWORD, "another long one", HERE)
    assert User.get().password_hash == before and Session.select().count() == 1


def test_of_two_changes_at_once_one_holds(memory: Services, limits: SignInLimits, alice: User) -> None:
    answers = at_once(memory.database, *[
        lambda new=new: users.change_password(memory, limits, User.get(), PASSWORD, new, HERE)
        for new in ("the first new one", "the second new one")
    ])  # fmt: skip
    assert sorted(type(each).__name__ for each in answers) in (["Conflict", "NoneType"], ["Denied", "NoneType"])


def test_who_signs_in_elsewhere_has_no_password_to_change(memory: Services, limits: SignInLimits) -> None:
    user, _ = users.add(memory, ALICE)
    with pytest.raises(Unprocessable):
        users.change_password(memory, limits, user, "", "another long one", HERE)


def test_preferences_are_kept_and_checked(memory: Services, alice: User) -> None:
    changed = users.set_preferences(memory, alice, " Alice ", "uz", "dark")
    assert (changed.name, changed.language, changed.theme) == ("Alice", "uz", "dark")
    changed = users.set_preferences(memory, alice, " ", None, None)
    assert (changed.name, changed.language, changed.theme) == (None, None, None)
    for wrong in (("x" * 101, None, None), ("a\x00", None, None), (None, "de", None), (None, None, "pink")):
        with pytest.raises(Invalid):
            users.set_preferences(memory, alice, *wrong)
    assert User.get_by_id(alice.id) == changed


def test_only_who_manages_the_platform_promotes(memory: Services, alice: User) -> None:
    admin = Actor("bob@example.com", frozenset(roles.OF_WORKSPACE))
    for act in (users.promote, users.demote):
        with pytest.raises(Forbidden):
            act(memory, ALICE, admin)
        with pytest.raises(NotFound):
            act(memory, "nobody@example.com", roles.OPERATOR)
    assert not users.has_superadmin()
    assert users.promote(memory, ALICE, roles.OPERATOR).role == "superadmin" and users.has_superadmin()
    assert users.demote(memory, ALICE.upper(), roles.OPERATOR).role is None and not users.has_superadmin()
