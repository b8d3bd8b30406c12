"""Names: which are the same, which is meant, and how a message shows them."""

from __future__ import annotations

from hf_distill.names import are_generic, folded, nearest, nearest_or_all, shortened


def test_case_blanks_and_joints_make_no_difference():
    assert {folded(name) for name in ("Card Arrival", "card_arrival", " card-arrival ", "CARD  ARRIVAL")} == {
        "card arrival"
    }
    assert folded("card arrival") != folded("cardarrival")


def test_only_numbered_labels_are_generic():
    assert are_generic(["LABEL_0", "LABEL_10"])
    assert not are_generic(["LABEL_0", "good"])
    assert not are_generic(["MY_LABEL_0"])


def test_long_lists_are_shortened():
    assert shortened(["a", "b"]) == "a, b"
    assert shortened(["a", "b", "c"], 2) == "a, b and 1 more"


def test_the_nearest_known_name_is_told_and_only_a_near_one():
    assert nearest("temprature", ["beta", "temperature"]) == "; did you mean temperature?"
    assert nearest("x", ["beta", "temperature"]) == ""
    assert nearest_or_all("temprature", ["beta", "temperature"]) == "; did you mean temperature?"
    assert nearest_or_all("x", ["beta", "temperature"]) == "; expected one of beta, temperature"
