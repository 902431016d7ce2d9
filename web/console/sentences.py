"""What the verbs say to people, in the reader's language: they speak English, and know neither pages nor languages.

A sentence is recognised by its form, and what stands in it is put into the form's translation. One that is not known
here stays English. A test holds that the verbs still speak so.
"""

import functools
import re

from web.console.languages import gettext

N_ = str  # marks a text for the translations
_LONGEST = 1000
_STATUS = "status"  # a value of this name is a word of ours, which is translated as well
_PLACE = re.compile(r"%\((\w+)\)s")

FORMS = (
    # People
    N_("Sign in first."),
    N_("You are not a member of any workspace."),
    N_("This needs the permission %(permission)s."),
    N_("This form is too old, or not ours. Load the page again."),
    N_("You look at another workspace now, so nothing was done. Load the page again."),
    N_("This sign-in was not begun in this browser, or is too old. Begin again."),
    N_("The sign-in service does not say that your email is verified."),
    N_("The sign-in service does not say which email you have."),
    N_("The sign-in service did not accept this sign-in. Begin again."),
    N_("The sign-in service's answer cannot be trusted. Begin again."),
    N_("The sign-in service's answer is for somebody else."),
    N_("Too many people are signing in at this moment."),
    N_("There were too many wrong passwords for this email. Try again in %(wait)s."),
    N_("There were too many wrong passwords from your address. Try again in %(wait)s."),
    N_("This link was used already, or is too old. Ask for a new one."),
    N_("This invitation is for somebody else. Sign in as the person whom it is for."),
    N_("The role of this invitation is gone. Ask for a new one."),
    N_("There is no such invitation."),
    N_("A password has from %(shortest)s to %(longest)s characters."),
    N_("A password must not be the email."),
    N_("This password is among the first that anybody would try."),
    N_("The old password is not right."),
    N_("Your password was changed just now."),
    N_("You have no password here: you sign in elsewhere."),
    N_("A name has up to 100 printable characters."),
    N_("The language is one of %(choices)s."),
    N_("The theme is one of %(choices)s."),
    N_("There is no such session."),
    # Members, roles, keys
    N_("An email has the form name@host, of up to 254 characters."),
    N_("'%(email)s' is a member already."),
    N_("A workspace can have %(most)s members."),
    N_("There is no member '%(id)s'."),
    N_("They belong to other workspaces as well; an operator can make a link for them."),
    N_("Somebody has to manage the workspace; this would leave nobody who may."),
    N_("This takes permissions that you do not have yourself: %(permissions)s."),
    N_("There is no role '%(name)s'."),
    N_("There is a role '%(name)s' already."),
    N_("A role's name begins with a letter and has up to 30 of a-z, 0-9, '_' and '-'."),
    N_("A role's title has from 1 to 60 printable characters."),
    N_("A role of a workspace gives some of %(permissions)s."),
    N_("A workspace can have %(most)s roles of its own."),
    N_("Members have the role '%(name)s'; give them another one first."),
    N_("Superadmin"),
    N_("Org Admin"),
    N_("Developer"),
    N_("Viewer"),
    N_("An API key's name has from 1 to 100 printable characters."),
    N_("A workspace can have %(most)s API keys; revoke some first."),
    N_("There is no API key '%(id)s'."),
    N_("There is no workspace '%(id)s'."),
    # Scripts
    N_("There is no script '%(id)s'."),
    N_("There is no such script."),
    N_("A script with the name '%(name)s' exists already."),
    N_("A script with the id '%(id)s' exists already."),
    N_("name must have printable characters alone."),
    N_("Script '%(id)s' is %(status)s; only an active script can run."),
    N_("Script '%(id)s' is %(status)s, which is final: it can't become %(status_wanted)s."),
    N_("Script '%(id)s' is %(status)s and can't become %(status_wanted)s, only %(following)s."),
    N_("Script '%(id)s' was changed meanwhile: it has version %(version)s now."),
    N_("Script '%(id)s' has no version %(number)s."),
    N_("The source of version %(number)s is missing in the object store."),
    N_("A source of %(lines)s lines is not compared, %(most)s at most."),
    N_("Another script of this workspace has the path '%(path)s'."),
    N_("triggers.http.path must begin with '/' and consist of up to ten segments of letters, digits, '.', '_', '~' and "
       "'-', 200 characters in all."),
    N_("triggers.http.secret is required when auth is '%(auth)s'."),
    N_("triggers.http.secret must have from 1 to 500 characters."),
    N_("A script can have 50 event triggers, not %(count)s."),
    N_("event pattern %(pattern)s: the segment %(segment)s must be letters, digits, '_' and '-', or * or ** alone"),
    N_("event name %(name)s: the segment %(segment)s must be letters, digits, '_' and '-'"),
    N_("event name must have 1 to %(most)s characters, this one has %(count)s"),
    N_("Event name '%(name)s' begins with '%(first)s.', which only Millrace itself publishes."),
    N_("data has %(size)s bytes as JSON, %(most)s at most."),
    N_("There is no event '%(id)s'."),
    N_("There is no runtime '%(name)s'."),
    N_("No worker has started yet, so there is no runtime to run scripts with."),
    N_("The input is not JSON: %(reason)s at line %(line)s, column %(column)s."),
    N_("The body is not JSON: %(reason)s at line %(line)s, column %(column)s."),
    N_("A secret's name begins with a letter or '_' and has up to 128 letters, digits, '_', '.' and '-'."),
    N_("A script can have %(most)s secrets, not %(count)s."),
    N_("Secret '%(name)s' has %(size)s bytes, %(most)s at most."),
    N_("Script '%(id)s' has no secret '%(name)s'."),
    # Schedules
    N_("schedule must have the five fields minute, hour, day of month, month and day of week, such as 0 9 * * 1-5"),
    N_("crontab must have five fields (minute hour day-of-month month day-of-week), this one has %(count)s"),
    N_("cron %(part)s %(text)s must be %(rule)s, with the wildcards %(wildcards)s"),
    N_("cron %(part)s %(text)s must not end before it begins"),
    N_("cron %(part)s %(text)s must be %(rule)s"),
    N_("%(field)s %(zone)s must be an IANA time zone such as Europe/Berlin"),
    N_("Script '%(id)s' has no schedule."),
    N_("until must not be in the future."),
    N_("from must be earlier than until."),
    N_("There are more than %(most)s due times from then until then: choose less at a time."),
    N_("Paused from %(since)s until %(until)s: nothing was started meanwhile."),
    N_("Run '%(run)s', which was due at %(due)s, has not ended."),
    N_("backfilled"),
    # Executions
    N_("There is no run '%(run)s' of this script."),
    N_("Run '%(run)s' goes on; it can be replayed once it is over."),
    N_("Version %(number)s of the script is gone."),
    N_("Workspace '%(id)s' is %(status)s and can't run scripts now."),
    N_("waits for a free worker"),
    N_("not before %(seconds)s s from now: it is tried again then"),
    N_("not before %(seconds)s s from now"),
    N_("%(taken)s of %(most)s running for this script"),
    N_("%(taken)s of %(most)s running for its key"),
    N_("%(taken)s of %(most)s running for this workspace"),
    N_("%(taken)s of %(most)s under way for its batch"),
    N_("its batch is being cancelled"),
    N_("its turn comes within a second"),
    N_("There is no dead letter '%(id)s'."),
    N_("Dead letter '%(id)s' was sent again before."),
    N_("The platform could not carry it out."),
    N_("It lost %(count)s workers in a row."),
    N_("It killed %(count)s workers."),
    N_("It failed %(count)s times."),
    N_("cursor must be a next_cursor of this same list."),
    # Data sources
    N_("There is no data source '%(name)s'."),
    N_("A data source '%(name)s' exists already."),
    N_("The data source '%(name)s' has no file '%(file)s' in this workspace's folder."),
    N_("The data source '%(name)s' was changed meanwhile."),
    N_("A workspace can have %(most)s data sources."),
    N_("A data source's name has up to 63 lower-case letters, digits and '-'."),
    N_("A password has 1 to %(most)s characters, and no NUL."),
    N_("Another host, port or sslmode needs the password anew."),
    N_("A port is a whole number from 1 to 65535."),
    N_("The tenant's column is a name of up to 63 letters, digits and '_'."),
    N_("The tenant's setting is two names with a dot between them, such as app.tenant_id."),
    N_("place.host: a host is a name or an address."),
    N_("place.database: a database has 1 to 63 characters."),
    N_("place.user: a user has 1 to 63 characters."),
    N_("place.schema: a schema is a name of up to 63 letters, digits and '_'."),
    N_("place.sslmode: sslmode is one of %(choices)s."),
    N_("place.file: a file is a plain name of letters, digits, '.', '_' and '-' in the workspace's folder."),
)  # fmt: skip


def translated(sentence: str | None) -> str:
    """The sentence of a verb in the language of this request, or as it is."""
    text = sentence or ""
    for form, pattern in _patterns() if len(text) <= _LONGEST else ():
        if found := pattern.fullmatch(text):
            return gettext(form) % {name: _value(name, text) for name, text in found.groupdict().items()}
    return text


def _value(name: str, text: str) -> str:
    return gettext(text) if name.startswith(_STATUS) else text


@functools.cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((form, _pattern(form)) for form in FORMS)


def _pattern(form: str) -> re.Pattern[str]:
    """What matches every sentence of this form. Odd pieces are the names of values, as `re.split` cuts it."""
    pieces = _PLACE.split(form)
    return re.compile(
        "".join(f"(?P<{piece}>.*?)" if number % 2 else re.escape(piece) for number, piece in enumerate(pieces)),
        re.DOTALL,
    )
