import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import errors, patterns

ORDER: dict[str, Any] = {
    "id": "e-1",
    "name": "order.created",
    "source": "shop",
    "subject": None,
    "data": {
        "total": 150,
        "kind": "web",
        "express": True,
        "note": "",
        "tags": ["new", "vip"],
        "customer": {"name": "Straße Ltd"},
        "items": [{"sku": "a", "qty": 1}, {"sku": "b", "qty": 5}],
        "nothing": None,
    },
    "time": 1_790_000_000_000,
}


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("order.created", "order.created", True),
        ("order.created", "order.createdx", False),
        ("order.created", "Order.created", False),
        ("order.*", "order.created", True),
        ("order.*", "order", False),
        ("order.*", "order.eu.created", False),
        ("*", "order", True),
        ("*", "order.created", False),
        ("*.*", "order.created", True),
        ("order.**", "order", True),
        ("order.**", "order.eu.created", True),
        ("order.**", "orders.created", False),
        ("**", "a", True),
        ("**", "a.b.c", True),
        ("**.created", "created", True),
        ("**.created", "order.eu.created", True),
        ("**.created", "order.created.late", False),
        ("a.**.z", "a.z", True),
        ("a.**.z", "a.b.c.z", True),
        ("a.**.z", "a.b.c", False),
        ("a.**.**.z", "a.z", True),
        ("**.*", "a", True),
        ("*.**", "a", True),
        ("**.a.**.b.**", "x.a.y.a.b", True),
        ("**.a.**.b.**", "x.b.y.a", False),
        ("a.*.**.*", "a.b", False),
        ("a.*.**.*", "a.b.c", True),
    ],
)
def test_a_star_takes_one_segment_and_two_take_any_number(pattern: str, name: str, expected: bool) -> None:
    assert patterns.matches(patterns.validate_pattern(pattern), patterns.validate_name(name)) is expected


def reference(pattern: list[str], name: list[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return reference(pattern[1:], name) or (bool(name) and reference(pattern, name[1:]))
    return bool(name) and pattern[0] in ("*", name[0]) and reference(pattern[1:], name[1:])


@given(
    st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=1, max_size=7),
    st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=7),
)
@settings(deadline=None)
def test_matching_agrees_with_the_plain_recursive_definition(pattern: list[str], name: list[str]) -> None:
    assert patterns.matches(".".join(pattern), ".".join(name)) is reference(pattern, name)


def test_many_double_stars_do_not_slow_the_match() -> None:
    pattern = patterns.validate_pattern(".".join(["**", "a"] * 50) + ".b")
    name = patterns.validate_name(".".join(["a"] * 128))
    started = time.process_time()
    for _ in range(100):
        assert not patterns.matches(pattern, name)
    # A backtracking matcher would not finish one of them within this life.
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "a.", ".a", "a..b", "a b", "a.*", "**", "é", "a\n", "a.b\x00", "٣", "\ud800", "a" * 256),
        *(None, 1, b"a", ["a"], {"a": 1}),
    ],
)
def test_a_name_that_is_none_is_refused_with_the_field_and_the_rule(name: object) -> None:
    with pytest.raises(errors.Invalid) as caught:
        patterns.validate_name(name, "events.name")
    assert caught.value.field == "events.name"
    assert "event name" in caught.value.message


@pytest.mark.parametrize("pattern", ["", "a.", "***", "a*", "*a.b", "a.**b", "a.?", "a" * 256, "\ud800", None, 7])
def test_a_pattern_that_is_none_is_refused(pattern: object) -> None:
    with pytest.raises(errors.Invalid, match="event pattern"):
        patterns.validate_pattern(pattern)


def test_a_refused_segment_is_named() -> None:
    with pytest.raises(errors.Invalid, match=r"'order\.cre ated'.*'cre ated' must be letters, digits"):
        patterns.validate_name("order.cre ated")


def test_names_may_have_255_characters() -> None:
    assert patterns.validate_name("a" * 255) == "a" * 255


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({}, True),
        ({"source": ["shop"]}, True),
        ({"source": "shop"}, True),
        ({"source": ["other"]}, False),
        ({"source": ["other", {"prefix": "sh"}]}, True),
        ({"source": [{"prefix": "x"}]}, False),
        ({"source": [{"suffix": "op"}]}, True),
        ({"source": [{"suffix": {"equals-ignore-case": "OP"}}]}, True),
        ({"source": [{"equals-ignore-case": "SHOP"}]}, True),
        ({"data.customer.name": [{"equals-ignore-case": "STRASSE ltd"}]}, True),
        ({"data.total": [{"numeric": [">", 100]}]}, True),
        ({"data": {"total": [{"numeric": [">", 100, "<=", 149.5]}]}}, False),
        ({"data.total": [{"numeric": ["=", 150.0]}]}, True),
        ({"data.kind": [{"numeric": [">", 0]}]}, False),
        ({"data.express": [{"numeric": ["=", 1]}]}, False),
        ({"data.total": 150.0}, True),
        ({"data.total": "150"}, False),
        ({"data.express": True}, True),
        ({"data.express": 1}, False),
        ({"data.nothing": None}, True),
        ({"data.missing": None}, False),
        ({"data.note": ""}, True),
        ({"data.kind": [{"anything-but": ["a", "b"]}]}, True),
        ({"data.kind": [{"anything-but": "web"}]}, False),
        ({"data.kind": [{"anything-but": {"prefix": "we"}}]}, False),
        ({"data.kind": [{"anything-but": {"suffix": ["x", "y"]}}]}, True),
        ({"data.missing": [{"anything-but": "web"}]}, False),
        ({"data.customer": [{"anything-but": "web"}]}, False),
        ({"data.kind": [{"exists": True}]}, True),
        ({"data.nothing": [{"exists": True}]}, True),
        ({"data.customer": [{"exists": True}]}, True),
        ({"data.kind": [{"exists": False}]}, False),
        ({"data.missing": [{"exists": False}]}, True),
        ({"nowhere.missing": [{"exists": False}]}, True),
        ({"source.missing": [{"exists": False}]}, True),
        ({"data.missing": [{"exists": False}, "x"]}, True),
        ({"data.tags": "vip"}, True),
        ({"data.tags": ["old"]}, False),
        ({"data.customer": "x"}, False),
        ({"data.items.sku": "b"}, True),
        ({"data.items": {"sku": ["b"], "qty": [5]}}, True),
        ({"data.items": {"sku": ["a"], "qty": [5]}}, False),
        ({"data.items.sku": "a", "data.items.qty": 5}, False),
        ({"data.total": 150, "data": {"kind": "web"}, "source": "shop"}, True),
        ({"data.total": 150, "data": {"kind": "post"}}, False),
        ({"source.prefix": "x"}, False),
    ],
)
def test_a_filter_holds_when_every_key_has_one_condition_that_does(filter: dict[str, Any], expected: bool) -> None:
    patterns.validate_filter(filter)
    assert patterns.matches_filter(filter, ORDER) is expected


def nested(depth: int) -> dict[str, Any]:
    filter: dict[str, Any] = {"a": ["x"]}
    for _ in range(depth):
        filter = {"a": filter}
    return filter


@pytest.mark.parametrize(
    ("filter", "path"),
    [
        (None, "filter"),
        (["a"], "filter"),
        ("a", "filter"),
        ({"a": []}, "filter.a"),
        ({"a": {}}, "filter.a"),
        ({"": ["x"]}, "filter."),
        ({"a..b": ["x"]}, "filter.a..b"),
        ({"a": {"b": [[1]]}}, "filter.a.b"),
        ({"a": [float("nan")]}, "filter.a"),
        ({"a": [{"prefix": 1}]}, "filter.a"),
        ({"a": [{"prefix": {"suffix": "x"}}]}, "filter.a"),
        ({"a": [{"wildcard": "x*"}]}, "filter.a"),
        ({"a": [{"prefix": "x", "suffix": "y"}]}, "filter.a"),
        ({"a": [{}]}, "filter.a"),
        ({"a": [{"exists": "yes"}]}, "filter.a"),
        ({"a": [{"numeric": [">"]}]}, "filter.a"),
        ({"a": [{"numeric": [">", 1, "<"]}]}, "filter.a"),
        ({"a": [{"numeric": ["!", 1]}]}, "filter.a"),
        ({"a": [{"numeric": [["x"], 1]}]}, "filter.a"),
        ({"a": [{"numeric": [">", "1"]}]}, "filter.a"),
        ({"a": [{"numeric": [">", True]}]}, "filter.a"),
        ({"a": [{"anything-but": []}]}, "filter.a"),
        ({"a": [{"anything-but": {"numeric": [1]}}]}, "filter.a"),
        ({"a": [{"anything-but": {}}]}, "filter.a"),
        ({"a": {"prefix": "x"}}, "filter.a"),
        ({"$or": [{"a": 1}]}, "filter.$or"),
        ({"a.b": 1, "a": {"b": 2}}, "filter.a.b"),
        ({"a": 1, "a.b": 2}, "filter.a"),
        ({"a": ["x" * 1025]}, "filter.a"),
        ({"a": ["x"] * 201}, "filter.a"),
        ({"a": [{"anything-but": ["x"] * 201}]}, "filter.a"),
        (nested(10), "filter.a.a.a.a.a.a.a.a.a.a.a"),
        ({".".join("a" * 11): 1}, "filter.a.a.a.a.a.a.a.a.a.a.a"),
        ({1: ["x"]}, "filter"),
    ],
)
def test_a_broken_filter_is_refused_by_its_path(filter: object, path: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        patterns.validate_filter(filter)
    assert caught.value.field == path
    assert caught.value.message.startswith(path)


def test_hostile_filters_are_refused_and_not_walked() -> None:
    deep: dict[str, Any] = nested(50_000)
    wide = {f"k{number}": [number] for number in range(100_000)}
    for filter in (deep, wide, {"a" * 10_000_000: 1}, {"\ud800": ["\ud800" * 2000]}):
        with pytest.raises(errors.Invalid) as caught:
            patterns.validate_filter(filter)
        caught.value.message.encode()
        assert len(caught.value.message) < 500


def test_a_filter_of_exactly_the_limits_is_accepted() -> None:
    patterns.validate_filter(nested(9))
    patterns.validate_filter({"a": ["x" * 1024] * 200})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(json_values | st.fixed_dictionaries({"source": json_values, "data": json_values}))
@settings(deadline=None)
def test_matching_never_raises_whatever_the_event(event: object) -> None:
    filter = patterns.compile_filter(
        {
            "source": ["a", 1, None, True, {"prefix": "x"}, {"anything-but": [1, "b"]}],
            "data": {"a": [{"numeric": [">", 1]}, {"exists": False}], "b.c": [{"suffix": "y"}]},
        }
    )
    assert filter.matches(event) in (True, False)


def test_an_event_of_any_depth_is_matched() -> None:
    event: Any = "x"
    for _ in range(100_000):
        event = [event]
    assert patterns.matches_filter({"data": ["x"]}, {"data": event}) is False


@given(json_values, json_values)
@settings(deadline=None)
def test_a_filter_for_a_value_takes_exactly_the_events_that_have_it(left: Any, right: Any) -> None:
    if isinstance(left, dict | list) or left != left or left in (float("inf"), float("-inf")):
        return
    expected = right if isinstance(right, list) else [right]
    same = [value for value in expected if value == left and isinstance(value, bool) == isinstance(left, bool)]
    assert patterns.matches_filter({"k": [left]}, {"k": right}) is bool(same)
