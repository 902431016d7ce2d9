"""One worker process: Dramatiq's threads on a broker, with everything behind it."""

import os
import signal
import socket
import sys

import dramatiq

from millrace import exposition, wiring
from millrace.dispatch import WakingBroker
from millrace.services import Services
from millrace.settings import SettingError, Settings
from millrace.supervisor import WRONG_CONFIGURATION
from sandbox.client import Sandbox
from sandbox.config import ConfigError, SandboxConfig
from sandbox.egress.policy import Policy
from worker import actors, poolwatch, posting
from worker.callbacks import Deliverer
from worker.databases import Databases
from worker.executor import Executor
from worker.family import GRACE_S, LAST_WORDS_S, STOPS
from worker.keeper import Keeper
from worker.middleware import AroundMessages, Lifetime
from worker.offers import LOOK_S, Offers
from worker.poolwatch import PoolWatch
from worker.posting import Poster
from worker.repeated import Repeated
from worker.runlog import Shipper

# Beside one per thread: the keeper's, that of callbacks, that of data sources, and the one at the start.
_SPARE_CONNECTIONS = 6
_TIDY_S = 30.0


def main(settings: Settings, listener: socket.socket | None) -> int:
    """Carry runs until SIGTERM, as a process of the family; with a listener, answer for metrics. Returns the exit code.

    The first SIGTERM is waited for, and no second one cuts the stop short, which ends by itself. Ctrl-C and a hang-up
    are for the parent.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, STOPS)  # before there is a thread, for all of them to inherit it
    try:
        wired = wiring.build(settings, max_connections=settings.worker_threads + _SPARE_CONNECTIONS)
        config = SandboxConfig.from_env(os.environ)
        authorities = posting.trusted()
    except (SettingError, ConfigError) as error:
        print(error, file=sys.stderr)
        return WRONG_CONFIGURATION
    offers = Offers(wired.services)
    offers.repeat()  # before the first run; and later if the database is away, which must not end this process
    # What scripts may reach, but for their own lists: those bind code, and an address for callbacks or of a data source
    # is the tenant's own choice.
    policy = Policy.from_json({"allow": list(config.egress_allow)})
    poster, databases = Poster(policy, authorities), Databases(wired.services, policy)
    broker = create_broker(wired.services, wired.broker, Sandbox(config.socket_path), offers, poster, databases)
    worker = dramatiq.Worker(broker, worker_threads=settings.worker_threads)
    worker.start()
    if listener is not None:
        exposition.serve(listener)
    signal.sigwait({signal.SIGTERM})
    worker.stop(timeout=round((GRACE_S + LAST_WORDS_S) * 1000))
    databases.close()
    broker.close()
    return 0


def create_broker(
    services: Services, broker: WakingBroker, jails: Sandbox, offers: Offers, poster: Poster, databases: Databases
) -> WakingBroker:
    """Give the broker its actors and middleware, and start the threads behind them."""
    keeper = Keeper(services, worker=f"{socket.gethostname()[:60]}:{os.getpid()}")
    shipper = Shipper()
    executor = Executor(services, jails, keeper, shipper, databases)
    broker.add_middleware(AroundMessages(services))
    repeated = (
        Repeated(PoolWatch(jails.figures).look, poolwatch.LOOK_S, "pool-watch"),
        Repeated(offers.repeat, LOOK_S, "runtime-offers"),
        Repeated(databases.tidy, _TIDY_S, "data-sources"),
        Deliverer(services, poster),
    )
    broker.add_middleware(Lifetime(executor, keeper, shipper, repeated))
    actors.declare(broker, executor)
    return broker
