"""First code in the jail: makes this folder a package of a name that no import statement can spell, so that a script
may have files of any name, and starts to serve."""

from __future__ import annotations

import sys

PACKAGE = "<boot>"

if __name__ == "__main__":
    folder = __file__.rpartition("/")[0]
    package = type(sys)(PACKAGE)
    package.__path__ = [folder]
    sys.modules[PACKAGE] = package
    __package__ = PACKAGE
    packages = f"{folder}/packages"
    # An archive of the standard library is looked for and never there.
    sys.path[:] = [*(place for place in sys.path if place != folder and not place.endswith(".zip")), packages]

    from .session import Session

    arguments = sys.argv[1:]
    del sys.argv[1:]
    preload = [name for name in arguments if name != "--hurry"]
    Session(packages).serve(preload, rehearse="--hurry" not in arguments)
