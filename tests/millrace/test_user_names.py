"""How people are called in lists of what they did."""

from millrace import users
from millrace.models import User
from millrace.services import Services


def test_a_user_is_called_by_name_or_else_by_email(memory: Services) -> None:
    ann = User.create(email="ann@example.com", name="Ann", created_at=memory.clock())
    ben = User.create(email="ben@example.com", created_at=memory.clock())
    assert users.names([ann.id, None, ben.id, ann.id, 10**6]) == {ann.id: "Ann", ben.id: "ben@example.com"}
    assert users.names([None]) == {}
