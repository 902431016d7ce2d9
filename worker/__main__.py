"""`python -m worker`: as many worker processes as the settings say, each of which is `worker.app`."""

import functools
import sys

from millrace import exposition
from millrace.observability import set_up_logging
from millrace.settings import SettingError, Settings
from millrace.supervisor import WRONG_CONFIGURATION
from worker import app
from worker.family import Family


def main() -> int:
    """Keep the worker processes until a signal. Returns the exit code."""
    try:
        settings = Settings.from_env()
        set_up_logging("worker", settings.log_level)
        # One listener for all: whichever is there answers, for it shows what all of them count.
        listener = exposition.listen(settings, shared=True)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 1 if isinstance(error, exposition.PortTaken) else WRONG_CONFIGURATION
    return Family(functools.partial(app.main, settings, listener), settings.worker_processes).run()


if __name__ == "__main__":
    sys.exit(main())
