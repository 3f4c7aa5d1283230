"""A verdict follows from the errors, and a wrong one is refused."""

import pytest

from nalu.errata import HOLDS, OPEN, PARTLY, WRONG, Errata, possible_mean


@pytest.mark.parametrize(
    ("verdict", "errors"),
    [
        (HOLDS, {"error": 0.1}),
        (PARTLY, {"error": 0.3, "inside": 0.1}),
        (WRONG, {"error": 0.3, "inside": 0.2}),
        (WRONG, {"error": float("nan"), "corrected": 0.0}),
    ],
)
def test_the_verdict_follows_from_the_errors(verdict, errors):
    errata = Errata()
    errata.judge("2.1: equation 0", "a claim", verdict, tolerance=0.1, **errors)
    assert errata.rows[0]["verdict"] == verdict
    for other in {HOLDS, PARTLY, WRONG} - {verdict}:
        with pytest.raises(ValueError, match=f"{verdict}, not {other}"):
            errata.judge("2.1: equation 0", "a claim", other, tolerance=0.1, **errors)
    assert len(errata.rows) == 1


def test_a_right_form_that_is_not_right_is_refused():
    with pytest.raises(ValueError, match=r"right form is off by 0\.2"):
        Errata().judge("2: text", "a claim", WRONG, error=1, corrected=0.2, tolerance=0.1)


def test_tables_and_counts_are_by_section():
    errata = Errata()
    errata.judge("1: text", "one", HOLDS, error=0, tolerance=0)
    errata.judge("2: text", "two", WRONG, error=1, corrected=0, tolerance=0, right="2")
    errata.leave_open("2: figure", "three", "no runs")
    assert list(errata.table("2")["the draft"]) == ["*text*: two", "*figure*: three"]
    assert errata.table("2")["verdict"][0] == "**wrong**; right: 2"
    assert errata.table("1")["verdict"][0] == "**holds**"
    assert errata.counts().loc["2"].to_dict() == {HOLDS: 0, PARTLY: 0, WRONG: 1, OPEN: 1}


@pytest.mark.parametrize(
    ("mean", "number", "step", "away"), [(2.5, 2, 1, 0), (2.4, 2, 1, 0.1), (130, 3, 100, 100 / 30)]
)
def test_possible_mean(mean, number, step, away):
    assert possible_mean(mean, number, step) == pytest.approx(away)
