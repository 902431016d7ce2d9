"""Bring the .po files up to date with the console's sources: `python -m web.console.catalogues`.

A new text comes in without a translation, which a test asks for; one that nothing uses any more goes. What stands above
the texts, the glossary and the header, stays as it is.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from babel.messages.extract import extract_from_file
from babel.messages.pofile import normalize, read_po

from web.console import languages

_WEB = Path(__file__).parents[1]
Id = str | tuple[str, str]  # a pair has a form for one and one for many


def texts() -> dict[Id, list[str]]:
    """Every text of the console in the order of the sources, with the names of the files that use it."""
    found: dict[Id, list[str]] = {}
    for method, path in _sources():
        for _line, text, _comments, _context in extract_from_file(method, path):
            files = found.setdefault(text if isinstance(text, str) else (text[0], text[1]), [])
            if path.name not in files:
                files.append(path.name)
    return found


def _sources() -> Iterator[tuple[str, Path]]:
    for method, pattern in (("jinja2", "templates/console/*.html"), ("python", "console/*.py")):
        yield from ((method, path) for path in sorted(_WEB.glob(pattern)))


def update(path: Path) -> None:
    """Rewrite one file."""
    head, _blank, _old = path.read_text("utf-8").partition("\n\n")
    with path.open("rb") as file:
        known = read_po(file, locale=path.stem)
    translations: dict[Any, Any] = {message.id: message.string for message in known if message.id}
    entries = [_entry(text, files, translations, known.num_plurals) for text, files in texts().items()]
    path.write_text("\n\n".join([head.rstrip("\n"), *entries]) + "\n", "utf-8")


def _entry(text: Id, files: list[str], translations: Mapping[Any, Any], plurals: int) -> str:
    lines = [f"#: {' '.join(files)}"]
    if isinstance(text, str):
        lines += [f"msgid {normalize(text, width=0)}", f"msgstr {normalize(translations.get(text, ''), width=0)}"]
    else:
        forms = translations.get(text) or ("",) * plurals
        lines += [f"msgid {normalize(text[0], width=0)}", f"msgid_plural {normalize(text[1], width=0)}"]
        lines += [f"msgstr[{number}] {normalize(form, width=0)}" for number, form in enumerate(forms)]
    return "\n".join(lines)


if __name__ == "__main__":
    for each in sorted(languages.FOLDER.glob("*.po")):
        update(each)
