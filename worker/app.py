"""The worker process: the broker that Dramatiq's command line runs, with everything behind it."""

import multiprocessing
import os
import signal
import socket
import sys
from types import FrameType

import dramatiq

from millrace import processes, wiring
from millrace.dispatch import WakingBroker
from millrace.observability import set_up_logging
from millrace.services import Services
from millrace.settings import SettingError, Settings
from sandbox.client import Sandbox
from sandbox.config import ConfigError, SandboxConfig
from worker import actors, poolwatch
from worker.executor import Executor
from worker.keeper import Keeper
from worker.middleware import AroundMessages, Lifetime
from worker.offers import REPEAT_S, Offers
from worker.poolwatch import PoolWatch
from worker.repeated import Repeated
from worker.runlog import Shipper

WRONG_CONFIGURATION = 78  # EX_CONFIG of sysexits.h: starting again would not help
_SPARE_CONNECTIONS = 4  # beside one per thread: the keeper's, and the one at the start


def main() -> None:
    """Build this process from its environment, for `dramatiq worker.app:main`. A wrong setting ends it."""
    if (parent := multiprocessing.parent_process()) is not None and parent.pid is not None:
        processes.tie_to(parent.pid, signal.SIGTERM)
        heed_once(signal.SIGTERM)
    # Straight to where the process was told to write: Dramatiq's pipe would make its parent copy each line.
    sys.stderr = sys.__stderr__
    try:
        settings = Settings.from_env()
        set_up_logging("worker", settings.log_level)
        wired = wiring.build(settings, max_connections=settings.worker_threads + _SPARE_CONNECTIONS)
        sandbox = Sandbox(SandboxConfig.from_env(os.environ).socket_path)
    except (SettingError, ConfigError) as error:
        print(error, file=sys.stderr)
        sys.exit(WRONG_CONFIGURATION)
    offers = Offers(wired.services)
    offers.announce()
    dramatiq.set_broker(create_broker(wired.services, wired.broker, sandbox, offers))


def heed_once(number: signal.Signals) -> None:
    """Let the handler of this signal hear it once.

    Who stops a whole group reaches this process twice, since its parent passes the signal on. Dramatiq takes the
    second for impatience and drops what runs; but the stop ends by itself, at the latest after its grace.
    """
    handler, heard = signal.getsignal(number), False

    def heed(signal_number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if callable(handler) and not heard:
            heard = True
            handler(signal_number, frame)

    signal.signal(number, heed)


def create_broker(services: Services, broker: WakingBroker, jails: Sandbox, offers: Offers) -> WakingBroker:
    """Give the broker its actors and middleware, and start the threads behind them."""
    keeper = Keeper(services, worker=f"{socket.gethostname()[:60]}:{os.getpid()}")
    shipper = Shipper()
    executor = Executor(services, jails, keeper, shipper)
    broker.add_middleware(AroundMessages(services))
    repeated = (
        Repeated(PoolWatch(jails.figures).look, poolwatch.LOOK_S, "pool-watch"),
        Repeated(offers.repeat, REPEAT_S, "runtime-offers"),
    )
    broker.add_middleware(Lifetime(executor, keeper, shipper, repeated))
    actors.declare(broker, executor)
    return broker

