"""Members and roles of a workspace."""

from collections.abc import Mapping
from http import HTTPStatus

from flask import Blueprint, Response, request

from millrace import joining, members, roles
from millrace.errors import Conflict, DomainError, Forbidden, Invalid, NotFound
from millrace.models import Role
from web import wire
from web.console import errors, identity, pages
from web.console.languages import gettext as _
from web.console.languages import said
from web.console.sentences import translated

blueprint = Blueprint("console_members", __name__)


@blueprint.route("/members")
@identity.needs(roles.MANAGE)
def index() -> Response:
    """Who belongs here."""
    return _members()


def _members(error: DomainError | None = None, link: str | None = None, about: str = "") -> Response:
    """The page; with a link that is shown this once, for whom it is `about`."""
    status = HTTPStatus.OK if error is None else errors.status_of(error)
    workspace = wire.workspace().id
    return pages.page(
        "members.html", status=status, rows=members.of(workspace), waiting=joining.waiting(wire.services(), workspace),
        roles=roles.of(workspace), givable=_givable, error=None if error is None else translated(error.message),
        link=link, about=about, email=request.form.get("email", "") if error else "", mine=identity.me().user.id,
    )  # fmt: skip


def _givable(role: Role) -> bool:
    """Whether whoever looks at the page may give this role; for what is hidden."""
    return set(role.permissions) <= identity.me().permissions


@blueprint.route("/members", methods=["POST"])
@identity.needs(roles.MANAGE)
def invite() -> Response:
    """Make somebody a member, or offer them a place. Their link is shown once."""
    email, role = request.form.get("email", ""), request.form.get("role", "")
    try:
        invited = members.invite(wire.services(), wire.workspace().id, email, role, identity.me().actor)
    except (Invalid, Conflict, NotFound, Forbidden) as error:
        return _members(error)
    return _members(link=_link(invited.token), about=invited.user.email)


def _link(token: str) -> str:
    return f"{wire.services().settings.url}/invitations/{token}"


@blueprint.route("/members/invitations/<int:user_id>/withdraw", methods=["POST"])
@identity.needs(roles.MANAGE)
def withdraw(user_id: int) -> Response:
    """End the invitation of who has not joined yet."""
    try:
        joining.withdraw(wire.services(), wire.workspace().id, user_id, identity.me().actor)
    except Forbidden as error:
        return _members(error)
    pages.say(_("The invitation was withdrawn."))
    return pages.go("/members")


@blueprint.route("/members/<member_id>/role", methods=["POST"])
@identity.needs(roles.MANAGE)
def change(member_id: str) -> Response:
    """Give a member another role."""
    role = request.form.get("role", "")
    try:
        member = members.set_role(wire.services(), wire.workspace().id, member_id, role, identity.me().actor)
    except (Conflict, Forbidden) as error:
        return _members(error)
    pages.say(said(_("%(email)s has another role now."), email=member.user.email))
    return pages.go("/members")


@blueprint.route("/members/<member_id>/remove", methods=["POST"])
@identity.needs(roles.MANAGE)
def remove(member_id: str) -> Response:
    """Take a member's place."""
    try:
        members.remove(wire.services(), wire.workspace().id, member_id, identity.me().actor)
    except (Conflict, Forbidden) as error:
        return _members(error)
    pages.say(_("The member was removed."))
    return pages.go("/members")


@blueprint.route("/members/<member_id>/reset", methods=["POST"])
@identity.needs(roles.MANAGE)
def reset(member_id: str) -> Response:
    """A link with which a member chooses another password, shown once."""
    workspace = wire.workspace().id
    try:
        token = members.reset(wire.services(), workspace, member_id, identity.me().actor)
    except Forbidden as error:
        return _members(error)
    return _members(link=_link(token), about=members.find(workspace, member_id).user.email)


# Roles


@blueprint.route("/members/roles")
@identity.needs(roles.MANAGE)
def all_roles() -> Response:
    """What each role allows."""
    return pages.page("roles.html", rows=roles.of(wire.workspace().id), permissions=roles.OF_WORKSPACE)


@blueprint.route("/members/roles/new")
@identity.needs(roles.MANAGE)
def new_role() -> Response:
    """The form of a new role."""
    return _role_form(None, {"name": "", "title": "", "permissions": ["scripts.read"]})


@blueprint.route("/members/roles/new", methods=["POST"])
@identity.needs(roles.MANAGE)
def add_role() -> Response:
    """Add it."""
    form = request.form
    name, title, wanted = form.get("name", "").strip(), form.get("title", ""), form.getlist("permissions")
    try:
        role = roles.add(wire.services(), wire.workspace().id, name, title, wanted, identity.me().actor)
    except (Invalid, Conflict, Forbidden) as error:
        return _role_form(None, {"name": name, "title": title, "permissions": wanted}, error)
    pages.say(said(_("The role “%(title)s” was added."), title=role.title))
    return pages.go("/members/roles")


def _role_form(role: Role | None, values: Mapping[str, object], error: DomainError | None = None) -> Response:
    wrong = {} if error is None else {getattr(error, "field", ""): translated(error.message)}
    return pages.page(
        "role.html", status=HTTPStatus.OK if error is None else errors.status_of(error), role=role, values=values,
        errors=wrong, permissions=roles.OF_WORKSPACE,
    )  # fmt: skip


@blueprint.route("/members/roles/<name>")
@identity.needs(roles.MANAGE)
def edit_role(name: str) -> Response:
    """The form of a role of this workspace's own."""
    role = _own(name)
    return _role_form(role, {"name": role.name, "title": role.title, "permissions": role.permissions})


@blueprint.route("/members/roles/<name>", methods=["POST"])
@identity.needs(roles.MANAGE)
def change_role(name: str) -> Response:
    """Change it."""
    role, title, wanted = _own(name), request.form.get("title", ""), request.form.getlist("permissions")
    try:
        roles.change(wire.services(), wire.workspace().id, name, title, wanted, identity.me().actor)
    except (Invalid, Conflict, Forbidden) as error:
        return _role_form(role, {"name": name, "title": title, "permissions": wanted}, error)
    pages.say(_("Saved."))
    return pages.go("/members/roles")


@blueprint.route("/members/roles/<name>/remove", methods=["POST"])
@identity.needs(roles.MANAGE)
def remove_role(name: str) -> Response:
    """Remove it."""
    roles.remove(wire.services(), wire.workspace().id, name, identity.me().actor)
    pages.say(_("The role was removed."))
    return pages.go("/members/roles")


def _own(name: str) -> Role:
    role = roles.find(wire.workspace().id, name)
    if role.workspace_id is None:
        raise Conflict(_("The roles of Millrace's own stay as they are."))
    return role
