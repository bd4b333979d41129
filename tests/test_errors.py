"""Errors: faults as objects, and the lines that they are printed as."""

import pytest

from emmeter.errors import DataError, Fault, SettingsError, lines


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (Fault("network.blocks", "0", "must be at least 1"), "network.blocks = 0: must be at least 1"),
        (Fault("netwrk", None, "is not a key"), "netwrk: is not a key"),
        (Fault("", None, "plan: the calibration failed"), "plan: the calibration failed"),
        (
            Fault("seed", "-1", "must be at least 0", "studies.width.arms.x2"),
            "studies.width.arms.x2: seed = -1: must be at least 0",
        ),
    ],
)
def test_faults_are_lines(fault, line):
    assert str(fault) == line
    assert line.endswith(fault.text)


def test_equal_faults_of_two_arms_have_one_text():
    first, second = (Fault("seed", "-1", "must be at least 0", where) for where in ("a", "b"))
    assert first != second
    assert first.text == second.text


def test_an_error_has_one_line_per_fault():
    fault = Fault("seed", "-1", "must be at least 0")
    error = SettingsError(fault, "plan: is no study")
    assert error.faults == (fault, Fault("", None, "plan: is no study"))
    assert str(error) == "seed = -1: must be at least 0\nplan: is no study"
    assert lines(error) == error.lines == str(error).splitlines()


def test_lines_of_other_errors():
    assert lines(OSError(28, "No space left on device")) == ["[Errno 28] No space left on device"]
    assert lines(MemoryError()) == []


def test_names_of_any_bytes_make_one_printable_line():
    names = ("a\nb\udcff\u2028: x", "second")
    assert str(DataError(*names)).splitlines() == DataError(*names).lines == [r"a\nb\udcff\u2028: x", "second"]
    assert str(SettingsError(Fault(names[0], None, "is unknown"))) == r"a\nb\udcff\u2028: x: is unknown"
