"""The console's words in English, Russian and Uzbek: gettext's files, read as they are, so that nothing is compiled."""

import functools
import gettext as standard
import io
from pathlib import Path
from typing import Any

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import get_decimal_symbol
from flask import Flask, g, request

from web.console import identity

LANGUAGES = {"en": "English", "ru": "Русский", "uz": "Oʻzbekcha"}  # noqa: RUF001  # that is how Uzbek writes o'
FOLDER = Path(__file__).parent / "translations"


def install(app: Flask) -> None:
    """Give templates `_()`, `{% trans %}` and the language."""
    app.jinja_env.add_extension("jinja2.ext.i18n")
    app.jinja_env.install_gettext_callables(gettext, ngettext, newstyle=True)  # type: ignore[attr-defined]


@functools.cache
def catalogue(language: str) -> standard.NullTranslations:
    """The translations into a language; English is what the sources say."""
    if language == "en":
        return standard.NullTranslations()
    with (FOLDER / f"{language}.po").open("rb") as file:
        read = read_po(file, locale=language)
    compiled = io.BytesIO()
    write_mo(compiled, read)
    compiled.seek(0)
    return standard.GNUTranslations(compiled)


def chosen() -> str:
    """The language of this request: what the user chose, else what the browser asks for, else English."""
    if "language" not in g:
        found = identity.current() if "notes" in g else None
        mine = found.user.language if found is not None else None
        g.language = mine if mine in LANGUAGES else _asked_for()
    language: str = g.language
    return language


def _asked_for() -> str:
    """What the browser wants most of what there is. Regions and scripts count as their language, uz-Latn-UZ as uz."""
    for tag, quality in request.accept_languages:  # in the order of their quality
        language = tag.partition("-")[0].lower()
        if language in LANGUAGES and quality > 0:
            return language
    return "en"


def gettext(text: str) -> str:
    """A text in the request's language, or as it is."""
    return catalogue(chosen()).gettext(text)


def ngettext(one: str, many: str, count: int) -> str:
    """The form that fits a number."""
    return catalogue(chosen()).ngettext(one, many, count)


def said(text: str, /, **values: Any) -> str:
    """A text that is translated already, with values in it."""
    return text % values


def decimal(number: str) -> str:
    """A number as people write it here: 3.4 or 3,4."""
    return number.replace(".", get_decimal_symbol(chosen()))
