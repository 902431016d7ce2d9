"""`python -m worker`: Dramatiq's command line with this platform's numbers."""

import sys

from dramatiq import cli

from millrace.observability import set_up_logging
from millrace.settings import SettingError, Settings
from worker.app import WRONG_CONFIGURATION
from worker.middleware import GRACE_S, LAST_WORDS_S


def main() -> int:
    """Run the worker processes until a signal. Returns the exit code."""
    try:
        settings = Settings.from_env()
    except SettingError as error:
        print(error, file=sys.stderr)
        return WRONG_CONFIGURATION
    set_up_logging("worker", settings.log_level)
    arguments = cli.make_argument_parser().parse_args([
        "worker.app:main",
        "--processes", str(settings.worker_processes),
        "--threads", str(settings.worker_threads),
        "--worker-shutdown-timeout", str(round((GRACE_S + LAST_WORDS_S) * 1000)),
        "--skip-logging",
    ])  # fmt: skip
    return int(cli.main(arguments) or 0)


if __name__ == "__main__":
    sys.exit(main())
