"""What is said while something is made is heard by all who wait for it."""

from __future__ import annotations

from rgrid_server.runner.buildlog import MAX_LINES, BuildLogs


def test_who_comes_later_hears_it_from_the_first_line_and_who_has_left_no_more() -> None:
    logs, early, late = BuildLogs(), list[str](), list[str]()
    with logs.heard("a", late.append):
        with logs.heard("a", early.append) as said:
            said.say("one")
        said.say("two")
        after: list[str] = []
        with logs.heard("a", after.append):
            said.say("three")
    assert early == ["one"]
    assert late == after == ["one", "two", "three"]


def test_what_nobody_waits_for_any_more_is_forgotten() -> None:
    logs, lines = BuildLogs(), list[str]()
    with logs.heard("a", lines.append) as said:
        said.say("one")
    with logs.heard("a", lines.append), logs.heard("b", lines.append):
        assert lines == ["one"]


def test_no_more_is_kept_than_a_log_can_take() -> None:
    lines: list[str] = []
    with BuildLogs().heard("a", lines.append) as said:
        for number in range(MAX_LINES + 10):
            said.say(str(number))
    assert len(lines) == MAX_LINES
