"""What of the language and its standard library scripts may not use, and why."""

from typing import Final

from millrace.checks import wording
from millrace.checks.python.scoping import Path

_CODE = "code from text is forbidden"
_PROCESS = "a script starts no process and ends none"
INTERPRETER: Final = "it reaches into the interpreter"
_LOADER = "it reaches the module loader"


def _of(module: str, names: str, why: str) -> dict[Path, str]:
    return {(*module.split("."), name): why for name in names.split()}


# Each with all that is in it.
PATHS: Final[dict[Path, str]] = {
    **_of("builtins", "eval exec compile", _CODE),
    **_of("builtins", "__import__", "write an import statement"),
    **_of("builtins", "__loader__", _LOADER),
    **_of(
        "os",
        "abort execl execle execlp execlpe execv execve execvp execvpe fork forkpty kill killpg popen posix_spawn "
        "posix_spawnp spawnl spawnle spawnlp spawnlpe spawnv spawnve spawnvp spawnvpe startfile system _exit",
        _PROCESS,
    ),
    **_of("asyncio", "create_subprocess_exec create_subprocess_shell subprocess", _PROCESS),
    **_of("concurrent.futures", "ProcessPoolExecutor process", f"{_PROCESS}; ThreadPoolExecutor works"),
    **_of("sys", "_getframe _getframemodulename _current_frames _current_exceptions setprofile settrace", INTERPRETER),
    **_of("sys", "meta_path modules path_hooks path_importer_cache", _LOADER),
    **_of("inspect", "currentframe getinnerframes getouterframes stack trace", INTERPRETER),
    **_of("gc", "get_objects get_referents get_referrers", INTERPRETER),
    **_of("importlib", "__import__ _bootstrap _bootstrap_external abc find_loader machinery reload util", _LOADER),
    **_of("importlib", "import_module", "write an import statement"),
    **_of("types", "CodeType FunctionType", f"{_CODE}, and so is making functions from code"),
}

# Attributes with no other meaning, whatever has them.
ATTRIBUTES: Final = wording.words(
    "__builtins__ __globals__ __subclasses__ ag_frame cr_frame f_back f_builtins f_globals f_locals gi_frame tb_frame"
)
# What no module of a script has by itself.
NAMES: Final = wording.words("__builtins__ __loader__")

WATCHED: Final = frozenset(path[-1] for path in PATHS) | ATTRIBUTES | NAMES
