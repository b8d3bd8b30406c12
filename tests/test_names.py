"""Names: which are the same, which is meant, and how a message shows them."""

from __future__ import annotations

import pytest

from hf_distill.errors import DataError
from hf_distill.names import are_generic, folded, look_up, nearest, nearest_or_all, plug_in, shortened


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


def test_a_registry_gives_its_entries_and_what_a_dotted_path_names():
    assert look_up("one", {"one": 1}, "task", DataError) == 1
    assert look_up("tests.helpers.named:Own", {}, "task", DataError, base=object).__name__ == "Own"
    with pytest.raises(
        DataError, match=r"^task: 'ones' is unknown; did you mean one\?; choose one of one, or .*:Class$"
    ):
        look_up("ones", {"one": 1}, "task", DataError, base=object)


@pytest.mark.parametrize(
    ("path", "base", "message"),
    [
        (
            "no.such.module:f",
            None,
            r"^data\.path: no\.such\.module:f cannot be imported \(.*\); .* package.module:function$",
        ),
        ("tests.helpers.named:nothing", None, "cannot be imported"),
        ("tests.helpers.named", None, "names nothing that can be imported"),
        ("tests.helpers.named:Own.method", None, "names nothing that can be imported"),
        (":own", None, "names nothing that can be imported"),
        ("tests.helpers.named:VALUE", None, "is of type float and cannot be called"),
        ("tests.helpers.named:own", Exception, "tests.helpers.named:own is no subclass of builtins.Exception"),
        ("tests.helpers.named:Own", Exception, "no subclass of"),
    ],
)
def test_a_dotted_path_that_names_nothing_of_use_is_refused(path, base, message):
    with pytest.raises(DataError, match=message):
        plug_in(path, "data.path", DataError, base)


@pytest.mark.parametrize("name", ["own", "Own", "own_instance", "own_method", "own_partial", "own_cached"])
def test_what_a_module_defines_itself_is_taken(name):
    assert callable(plug_in(f"tests.helpers.named:{name}", "data.path", DataError))


@pytest.mark.parametrize(
    "path",
    [
        *("os:system", "posix:system", "builtins:eval", "subprocess:run", "antigravity:X", "test.support:run_unittest"),
        *("xml.sax:parse", "importlib:import_module", "_io:open", "functools:partial", "ctypes:CDLL"),
        *(
            f"tests.helpers.named:{name}"
            for name in ("run", "system", "evaluated", "Popen", "partial_of", "partial_twice")
        ),
        *(
            f"tests.helpers.named:{name}"
            for name in ("wrapped", "cached", "method_of", "getter", "descriptor", "opened")
        ),
    ],
)
def test_nothing_of_pythons_standard_library_is_taken_under_any_name(path):
    with pytest.raises(DataError, match=rf"^data\.path: {path} is of Python's standard library"):
        plug_in(path, "data.path", DataError)


@pytest.mark.parametrize("path", ["six.moves.builtins:eval", "datasets.utils.file_utils:partial", "torch:os.system"])
def test_nothing_of_it_is_taken_through_another_library(path):
    with pytest.raises(DataError, match=r"of Python's standard library|cannot be imported|names nothing"):
        plug_in(path, "data.path", DataError)
