"""The database, Redis and the object store: can they be used, and which setting names the one that cannot?"""

import re
import threading
import time
from collections.abc import Callable

import peewee
import redis
import urllib3

from millrace import redis_client, wiring
from millrace.errors import PlatformError
from millrace.models import Workspace
from millrace.services import Services
from millrace.settings import SettingError, Settings

PATIENCE_S = 5.0  # for a server that is only just starting
_PAUSE_S = 0.2

Question = Callable[[Services], str]


class Unusable(Exception):
    """A store cannot be used; the message is one sentence that names its setting and holds no password."""


def build(settings: Settings) -> wiring.Wired:
    """`wiring.build`, which makes the folder of an SQLite file. Raises SettingError."""
    try:
        return wiring.build(settings)
    except OSError as error:
        raise SettingError(f"DATABASE_URL names a file whose folder cannot be made: {error}.") from None


def database(services: Services) -> str:
    """What kind of database answers. Raises Unusable."""
    try:
        with services.database.connection_context():
            services.database.execute_sql("SELECT 1")
    except peewee.PeeweeException as error:
        raise Unusable(f"DATABASE_URL names a database that cannot be used: {_words(error)}.") from None
    return services.settings.database_url.partition(":")[0]


def queue(services: Services) -> str:
    """The version of the Redis that answers. Raises Unusable."""
    try:
        client = redis_client.connect(services.settings.redis_url)
        try:
            return str(client.info("server")["redis_version"])
        finally:
            client.close()
    # An option that the client does not know shows only when it connects, as a wrong argument.
    except (redis.RedisError, TypeError, ValueError) as error:
        raise Unusable(f"REDIS_URL names a server that cannot be used: {_words(error)}.") from None


def objects(services: Services) -> str:
    """Where an object was written, read and deleted. Raises Unusable."""
    settings, key = services.settings, f"checks/{services.new_id()}"
    try:
        services.objects.put(key, b"millrace check")
        intact = services.objects.get(key) == b"millrace check"
        services.objects.delete([key])
    except PlatformError as error:
        raise Unusable(_of_store(settings, error)) from None
    if not intact:
        raise Unusable(f"S3_ENDPOINT is {settings.s3_endpoint}, where what was written did not come back.")
    return f"{settings.s3_endpoint}, bucket {settings.s3_bucket}"


def _of_store(settings: Settings, error: PlatformError) -> str:
    cause = error.__cause__
    if isinstance(cause, urllib3.exceptions.MaxRetryError) and cause.reason is not None:
        return f"S3_ENDPOINT is {settings.s3_endpoint}, which does not answer: {_words(cause.reason)}."
    return (f"S3_ENDPOINT, S3_BUCKET, S3_ACCESS_KEY and S3_SECRET_KEY name a store that cannot be used: "
            f"{_words(error)}.")


def _words(error: Exception) -> str:
    """A driver's lines and sentences as a part of one sentence; without the questions that some of them ask."""
    lines = [line.strip() for line in str(error).splitlines() if not line.endswith("?")]
    return re.sub(r"\. (?=[A-Z])", ": ", " ".join(lines)).rstrip(". ") or type(error).__name__


def wait_for_own(chosen: Settings, services: Services) -> None:
    """Until each store that the operator chose can be used: at most PATIENCE_S, all at once. Raises SettingError.

    `chosen` are the settings as they were read; embedded servers have answered before.
    """
    questions: dict[str, Question] = {"DATABASE_URL": database}
    if chosen.redis_url:
        questions["REDIS_URL"] = queue
    if chosen.s3_endpoint:
        questions["S3_ENDPOINT"] = objects
    deadline = time.monotonic() + PATIENCE_S
    asked = [_Asked(name, question, services, deadline) for name, question in questions.items()]
    for each in asked:
        each.start()
    for each in asked:
        each.join(max(0.0, deadline - time.monotonic()))
        if each.problem:
            raise SettingError(each.problem)


class _Asked(threading.Thread):
    """Asks again and again up to the deadline. A daemon, since a question may hang for longer than anybody waits."""

    def __init__(self, setting: str, question: Question, services: Services, deadline: float) -> None:
        super().__init__(name=f"ask-{setting}", daemon=True)
        self.problem = f"{setting} names a server that did not answer within {PATIENCE_S:g} s."
        self._question = question
        self._services = services
        self._deadline = deadline

    def run(self) -> None:
        """Leave `problem` empty, or with what was wrong the last time."""
        while True:
            try:
                self._question(self._services)
                self.problem = ""
                return
            except Unusable as error:
                self.problem = str(error)
            if time.monotonic() + _PAUSE_S >= self._deadline:
                return
            time.sleep(_PAUSE_S)


def check_keys(services: Services) -> None:
    """Raises SettingError when the data key of a workspace is wrapped under a master key that is not there.

    Wants a connection to a migrated database.
    """
    lacking: dict[str, list[str]] = {}
    for workspace in Workspace.select(Workspace.id, Workspace.data_key).order_by(Workspace.id):
        key_id = workspace.data_key.partition(".")[0]
        if key_id not in services.keyring.ids:
            lacking.setdefault(key_id, []).append(workspace.id)
    for key_id, workspaces in lacking.items():
        more = f" and {len(workspaces) - 1} more" if len(workspaces) > 1 else ""
        raise SettingError(
            f"MILLRACE_SECRET_KEYS lacks the master key {key_id}, which alone opens the secrets of workspace "
            f"'{workspaces[0]}'{more}; it holds {', '.join(services.keyring.ids)}."
        )
