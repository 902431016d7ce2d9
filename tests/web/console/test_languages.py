"""The console speaks English, Russian and Uzbek: completely, and to everybody in their own."""

import ast
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jinja2 import nodes

import millrace
from millrace.models import User
from millrace.scripts.statuses import STATUS
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.console.conftest import member, post, sign_in
from web import console
from web.console import catalogues, charts, languages, pages, sentences, words

OURS = ("ru", "uz")
TITLES = {"en": "Sign in to Millrace", "ru": "Вход в Millrace", "uz": "Millracega kirish"}
TEMPLATES = Path(console.__file__).parents[1] / "templates" / "console"
SOURCES = sorted(Path(console.__file__).parent.glob("*.py"))
PLACE = re.compile(r"%\((\w+)\)([sd])")
# What is translated by a variable, with every value that it can have.
BY_VARIABLE = {
    ("execution.html", "word"): words.STATUSES,
    ("execution_parts.html", "status_word(runs[0].status)"): words.STATUSES,
    ("executions.html", "each"): words.STATUSES,
    ("script_form.html", "each"): STATUS,
    ("scripts.html", "each"): STATUS,
    ("scripts.py", "script.status"): STATUS,
    ("usage.py", "unit"): tuple(unit for _size, unit in charts._TIMES),
}
NOT_TRANSLATED = {"Millrace", "· Millrace", "UUID", "/orders", "order.invoice.created"}


def catalogue(language: str) -> Catalog:
    with (languages.FOLDER / f"{language}.po").open("rb") as file:
        return read_po(file, locale=language, abort_invalid=True)


def pairs(language: str) -> Iterator[tuple[str, str]]:
    """Every text with what it becomes; of plurals every form with the text for many."""
    for message in catalogue(language):
        if message.id and isinstance(message.id, str):
            yield message.id, str(message.string)
        elif message.id:
            yield from ((message.id[1], form) for form in message.string)


@pytest.mark.parametrize("language", OURS)
def test_every_text_is_translated_and_no_translation_is_left_over(language: str) -> None:
    known = {message.id: message for message in catalogue(language) if message.id}
    assert set(catalogues.texts()) - set(known) == set(), "python -m web.console.catalogues adds them; then translate"
    assert set(known) - set(catalogues.texts()) == set(), "nothing uses these any more"
    for text, message in known.items():
        forms = (message.string,) if isinstance(text, str) else message.string
        assert not message.fuzzy and all(form.strip() for form in forms), f"{text!r} has no translation"
        assert len(forms) == (1 if isinstance(text, str) else catalogue(language).num_plurals), text


@pytest.mark.parametrize("language", OURS)
def test_every_translation_takes_the_values_of_its_text(language: str) -> None:
    for text, translation in pairs(language):
        assert sorted(PLACE.findall(translation)) == sorted(PLACE.findall(text)), translation
        assert ("%%" in translation) == ("%%" in text), translation
        if PLACE.search(text):
            assert translation % {name: "7" for name, _kind in PLACE.findall(text)}


@pytest.mark.parametrize("language", OURS)
def test_no_translation_can_break_out_of_a_page_or_an_attribute(language: str) -> None:
    for text, translation in pairs(language):
        assert not set(translation) & set('"<>&\n\t`'), translation
        assert translation == translation.strip(), translation
        assert (translation[-1] in ".?") == (text[-1] in ".?"), translation


def test_uzbek_has_its_own_letters() -> None:
    for text, translation in pairs("uz"):
        if "'" not in text:
            assert not set(translation) & set("'’‘"), f"ʻ or ʼ is meant: {translation}"
        assert not re.search(r"[ogOG]ʼ|[ЀӿА-я]", translation), translation


def template(name: str, app: Flask) -> nodes.Template:
    return app.jinja_env.parse((TEMPLATES / name).read_text("utf-8"))


def expression(node: nodes.Node) -> str:
    """A Jinja expression as it was written, as far as this test has to know it."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Call):
        return f"{expression(node.node)}({', '.join(map(expression, node.args))})"
    if isinstance(node, nodes.Getattr):
        return f"{expression(node.node)}.{node.attr}"
    if isinstance(node, nodes.Getitem):
        return f"{expression(node.node)}[{expression(node.arg)}]"
    assert isinstance(node, nodes.Const), node
    return repr(node.value)


def said_in_templates(app: Flask) -> Iterator[tuple[str, nodes.Expr]]:
    for path in sorted(TEMPLATES.glob("*.html")):
        for call in template(path.name, app).find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name in ("_", "gettext", "ngettext"):
                yield from ((path.name, each) for each in call.args[: 2 if call.node.name == "ngettext" else 1])


def said_in_python() -> Iterator[tuple[str, ast.expr]]:
    for path in SOURCES:
        if path.name in ("languages.py", "sentences.py"):  # which make and use these functions for others
            continue
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("_", "ngettext"):
                yield from ((path.name, each) for each in call.args[: 2 if call.func.id == "ngettext" else 1])


def test_what_is_translated_by_a_variable_can_only_be_a_text_that_is_known(app: Flask) -> None:
    """In templates its text would not even be escaped."""
    found = {(name, expression(each)) for name, each in said_in_templates(app) if not isinstance(each, nodes.Const)}
    found |= {(name, ast.unparse(each)) for name, each in said_in_python() if not isinstance(each, ast.Constant)}
    assert found == set(BY_VARIABLE)
    for values in BY_VARIABLE.values():
        assert set(values) <= set(catalogues.texts())


def test_every_text_in_python_is_found_by_the_extractor() -> None:
    """It does not look into f-strings, for one."""
    known = {part for text in catalogues.texts() for part in ([text] if isinstance(text, str) else text)}
    said = {each.value for _, each in said_in_python() if isinstance(each, ast.Constant)}
    assert said - known == set()


class Visible(HTMLParser):
    """What people read or hear of a page."""

    ATTRIBUTES = ("aria-label", "title", "placeholder", "alt", "data-confirm", "hx-confirm")

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.code = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.code = tag in ("code", "script", "style")
        self.texts += [value for name, value in attrs if name in self.ATTRIBUTES and value]

    def handle_endtag(self, tag: str) -> None:
        self.code = False

    def handle_data(self, data: str) -> None:
        if not self.code:
            self.texts.append(data)


@pytest.mark.parametrize("name", [path.name for path in sorted(TEMPLATES.glob("*.html"))])
def test_no_text_stands_in_a_template_untranslated(app: Flask, name: str) -> None:
    pieces = [
        each.data if isinstance(each, nodes.TemplateData) else "*"
        for output in template(name, app).find_all(nodes.Output)
        for each in output.nodes
    ]
    reader = Visible()
    reader.feed("".join(pieces))
    texts = {" ".join(text.split()) for text in reader.texts}
    words = {text for text in texts if re.search(r"[A-Za-z]{2}", text) and "=" not in text}  # which attributes have
    assert words - NOT_TRANSLATED == set()


def strings(*folders: Path) -> list[str]:
    """Every literal of these sources, and the fixed pieces of those with values in them."""
    return [
        node.value
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if path.name != "sentences.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_the_sentences_that_are_recognised_are_those_that_the_verbs_say() -> None:
    web = Path(console.__file__).parents[1]
    said = "\n".join(strings(Path(millrace.__file__).parent, web))
    said += said.replace("The body is", "The input is")
    # Some are put together: by what they are about, by their rule, and by whose passwords were wrong.
    joints = re.compile(r"""%\(\w+\)s | ^place\.\w+:\s | ^triggers\.http\.\w+\s | ^event\s\w+\s | ^schedule\s |
        (?<=wrong\spasswords)\s | (?<=must\sbe\s)(?=letters) | ,\s(?=or\s\*) | [.:]\s""", re.VERBOSE)  # fmt: skip
    for form in sentences.FORMS:
        for piece in joints.split(form):
            assert piece.strip(" '.:,;") in said, form


def test_whatever_the_console_itself_refuses_is_recognised(app: Flask) -> None:
    """`_` can't be used below languages.py, nor where the language of a request is not known."""
    errors = {"Invalid", "NotFound", "Conflict", "Denied", "Forbidden", "TooMany", "TooLarge", "Unprocessable"}
    raised = [
        re.sub(r"\{.*?\}", "7", ast.unparse(call.args[0]).removeprefix("f")[1:-1])
        for path in SOURCES
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in errors and call.args
        if isinstance(call.args[0], ast.Constant | ast.JoinedStr)
    ]
    assert raised
    with app.test_request_context(headers={"Accept-Language": "ru"}):
        assert [text for text in raised if sentences.translated(text) == text] == []


@pytest.mark.parametrize(("sentence", "expected"), [
    ("A script with the name 'Daily %s' exists already.", "Скрипт с названием 'Daily %s' уже есть."),
    ("Script 'a' is paused; only an active script can run.",
     "Статус скрипта 'a': на паузе; запустить можно только активный."),
    ("cron minute '99' must be 0-59", "cron, поле minute: вместо '99' должно быть 0-59"),
    ("10 of 10 running for this script", "выполняется 10 из 10 для этого скрипта"),
    ("This is not a sentence of ours: 100 %.", "This is not a sentence of ours: 100 %."),
    ("A script with the name '" + "x" * 5000, "A script with the name '" + "x" * 5000),
    ("", ""), (None, ""),
])  # fmt: skip
def test_a_verb_is_understood_in_the_language_of_the_reader(app: Flask, sentence: str, expected: str) -> None:
    with app.test_request_context(headers={"Accept-Language": "ru"}):
        assert sentences.translated(sentence) == expected
    with app.test_request_context():
        assert sentences.translated(sentence) == (sentence or "")


def language_of(page: str) -> str:
    found = re.search(r'<html lang="(\w+)"', page)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(("header", "expected"), [
    ("", "en"), ("en", "en"), ("ru", "ru"), ("uz", "uz"), ("RU", "ru"), ("ru-RU", "ru"), ("uz-Latn-UZ", "uz"),
    ("ru-RU,ru;q=0.9,en-US;q=0.8,en;q=0.7", "ru"), ("uz-UZ, en;q=0.5", "uz"), ("en;q=0.1, ru-RU;q=0.9", "ru"),
    ("ru;q=0.2, uz;q=0.3, en;q=0.1", "uz"), ("de, fr;q=0.9", "en"), ("de, uz;q=0.1", "uz"), ("*", "en"),
    ("de, *;q=0.5", "en"), ("ru;q=0", "en"), ("ru;q=0, uz;q=0.1", "uz"), ("*, ru;q=0.5", "ru"),
    ("ru;q=abc", "en"), ("ru;q=nan", "en"), (";;;,,,=", "en"), ("ru_RU", "en"), ("-ru", "en"),
])  # fmt: skip
def test_who_is_not_known_is_met_in_the_language_that_the_browser_wants_most(
    app: Flask, header: str, expected: str
) -> None:
    answer = app.test_client().get("/login", headers={"Accept-Language": header})
    assert language_of(answer.text) == expected
    assert f"<h1>{TITLES[expected]}</h1>" in answer.text
    assert "Accept-Language" in answer.headers["Vary"]


@example("ru;q=" + "9" * 400)
@example("x" * 20_000)
@example("ru," * 5000)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_header_breaks_a_page(app: Flask, header: str) -> None:
    answer = app.test_client().get("/login", headers={"Accept-Language": header})
    assert answer.status_code == 200
    assert language_of(answer.text) in languages.LANGUAGES


def test_what_the_user_chose_counts_more_than_the_browser(
    browser: FlaskClient, services: Services
) -> None:
    russian = {"Accept-Language": "ru"}
    assert language_of(browser.get("/scripts", headers=russian).text) == "ru"
    post(browser, "/profile", name="Ada", language="uz", theme="")
    page = browser.get("/scripts", headers=russian).text
    assert language_of(page) == "uz" and "<h1>Skriptlar</h1>" in page
    with services.database.connection_context():
        User.update(language="xx").execute()  # one that was there once
    assert language_of(browser.get("/scripts", headers=russian).text) == "ru"


PAGES = (
    "/scripts", "/scripts/new", "/executions", "/schedules", "/events", "/dead-letters", "/usage", "/members",
    "/members/roles", "/members/roles/new", "/api-keys", "/audit", "/settings",
    "/settings/data-sources/new?kind=sqlite", "/settings/data-sources/new?kind=postgresql", "/profile", "/workspaces",
    "/scripts/{id}", "/scripts/{id}/edit", "/scripts/{id}/executions", "/scripts/{id}/versions",
    "/scripts/{id}/schedule", "/scripts/{id}/secrets", "/scripts/{id}/executions/{run}", "/nothing-here",
)  # fmt: skip


@pytest.mark.parametrize("language", OURS)
def test_every_page_is_in_the_language_of_its_reader(
    app: Flask, services: Services, alice: Tenant, language: str
) -> None:
    with services.database.connection_context():
        factories.runtime(services)
        script = factories.script(services, alice)
        run = factories.finished(services, script, status="failed", result=None, error="TypeError: no", error_code="X")
    browser = sign_in(app, services, member(services, alice.id, "org_admin"), alice.id)
    known = {text: translation for text, translation in pairs(language) if len(text) > 12 and text != translation}
    for path in PAGES:
        answer = browser.get(path.format(id=script.uuid, run=run.id), headers={"Accept-Language": language})
        assert answer.status_code == (404 if path == "/nothing-here" else 200), path
        if "<html" in answer.text:
            assert language_of(answer.text) == language, path
            reader = Visible()
            reader.feed(answer.text)
            assert {" ".join(text.split()) for text in reader.texts} & set(known) == set(), path


@pytest.mark.parametrize(("language", "days"), [
    ("en", {1: "1 day", 2: "2 days", 5: "5 days", 21: "21 days"}),
    ("ru", {1: "1 день", 2: "2 дня", 5: "5 дней", 11: "11 дней", 21: "21 день", 22: "22 дня", 112: "112 дней"}),
    ("uz", {1: "1 kun", 2: "2 kun", 21: "21 kun"}),
])  # fmt: skip
def test_numbers_have_the_form_that_fits(app: Flask, language: str, days: dict[int, str]) -> None:
    with app.test_request_context(headers={"Accept-Language": language}):
        for number, text in days.items():
            assert languages.ngettext("%(num)s day", "%(num)s days", number) % {"num": number} == text


@pytest.mark.parametrize(("language", "kept", "measured"), [
    ("en", "30 days", ["12 ms", "3.4 s", "5 min 2 s", "2 h 3 min", "7 B", "1.5 KB", "2.0 TB"]),
    ("ru", "30 дней", ["12 мс", "3,4 с", "5 мин 2 с", "2 ч 3 мин", "7 Б", "1,5 КБ", "2,0 ТБ"]),
    ("uz", "30 kun", ["12 ms", "3,4 s", "5 daq 2 s", "2 soat 3 daq", "7 B", "1,5 KB", "2,0 TB"]),
])  # fmt: skip
def test_amounts_are_written_as_people_there_write_them(
    app: Flask, browser: FlaskClient, language: str, kept: str, measured: list[str]
) -> None:
    assert f"<dd>{kept}</dd>" in browser.get("/usage", headers={"Accept-Language": language}).text
    with app.test_request_context(headers={"Accept-Language": language}):
        amounts = [pages.duration(ms) for ms in (12, 3400, 302_000, 7_380_000)]
        assert [*amounts, *(pages.size(count) for count in (7, 1536, 2 * 1024**4))] == measured


def test_millraces_own_roles_are_translated_and_a_workspaces_are_not(
    browser_as: Callable[[str], FlaskClient],
) -> None:
    browser = browser_as("org_admin")
    fields = {"name": "viewers", "title": "Viewer", "permissions": "scripts.read"}
    assert post(browser, "/members/roles/new", **fields).status_code == 303
    page = browser.get("/members/roles", headers={"Accept-Language": "ru"}).text
    assert re.findall(r"<td class=\"name\".*?<span>(.*?)<span", page)[-2:] == ["Наблюдатель", "Viewer"]


def test_the_catalogues_are_brought_up_to_date_and_what_is_known_stays(tmp_path: Path) -> None:
    path = tmp_path / "ru.po"
    shutil.copy(languages.FOLDER / "ru.po", path)
    whole = path.read_text("utf-8")
    entry = re.compile(r'\n#: [^\n]*\nmsgid "Save"\nmsgstr "Сохранить"\n')
    assert entry.search(whole)
    path.write_text(entry.sub('\nmsgid "Nobody says this"\nmsgstr "Никто"\n', whole), "utf-8")
    catalogues.update(path)
    assert path.read_text("utf-8") == whole.replace('msgid "Save"\nmsgstr "Сохранить"', 'msgid "Save"\nmsgstr ""')
    shutil.copy(languages.FOLDER / "ru.po", path)
    catalogues.update(path)
    assert path.read_text("utf-8") == whole, "run python -m web.console.catalogues"
