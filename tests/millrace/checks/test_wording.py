"""Messages say what is on offer in few words."""

from millrace.checks import wording


def test_a_short_list_of_modules_is_told_and_a_long_one_is_not() -> None:
    assert wording.offer("axois", ["axios", "lodash"]) == "Did you mean 'axios'? Available: axios, lodash."
    many = [f"module{number}" for number in range(200)]
    assert len(wording.offer("nothing", many)) < 200
    assert "GET /runtimes" in wording.offer("nothing", many)
