"""`check_parameters` as a notebook sees it, in a real IPython shell."""

import math

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from nalu.parameters import Between

DEFAULTS = """
steps: int = 1000  # of training
rate: float = 0.5  # of learning
seeds: list[int] = [1, 2]
rates: list[float] = [0.1, 1]
unit: str = "NMU"
quick: bool = False
"""

CHECK = """
from nalu.parameters import Between, check_parameters

check_parameters(
    steps=range(1, 10**6 + 1),
    rate=Between(0, 1, open=True),
    seeds=range(100),
    rates=Between(0, 1),
    unit=["NAU", "NMU"],
)
"""


@pytest.fixture(scope="module")
def ipython(tmp_path_factory):
    """The shell of this process, as in a kernel."""
    config = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(
        config=config, ipython_dir=str(tmp_path_factory.mktemp("ipython"))
    )
    yield shell
    shell.restore_sys_module_state()
    InteractiveShell.clear_instance()


@pytest.fixture
def notebook(ipython):
    """Runs cells in a fresh notebook, up to the first that fails, whose error it raises."""
    ipython.reset(new_session=True)

    def run(*cells):
        for cell in cells:
            ipython.run_cell(cell, store_history=True).raise_error()

    return run


@pytest.fixture
def complaint(notebook):
    """What a notebook answers to parameters that papermill injected."""

    def run(injected, check=CHECK):
        with pytest.raises(ValueError, match=r"must be|there is no parameter") as error:
            notebook(DEFAULTS, f"# Parameters\n{injected}\n", check)
        return str(error.value)

    return run


def test_defaults_pass(notebook):
    notebook(DEFAULTS, CHECK)


@pytest.mark.parametrize(
    "injected",
    [
        "steps = 1",
        "steps = 1000000",
        "rate = 0.001",
        "seeds = [0, 99]",
        "rates = [0, 1, 0.5]",  # whole numbers are numbers
        'unit = "NAU"\nquick = True',
    ],
)
def test_right_parameters_pass(notebook, injected):
    notebook(DEFAULTS, f"# Parameters\n{injected}\n", CHECK)


def test_names_of_ordinary_cells_are_no_parameters(notebook):
    notebook("import math\nstep = 3", DEFAULTS, "# Parameters\nsteps = 5\n", "rat = 4", CHECK)


@pytest.mark.parametrize(
    ("injected", "must_be"),
    [
        ("steps = 10.0", "steps is 10.0, but must be a whole number"),
        ("steps = '10'", "steps is '10', but must be a whole number"),
        ("steps = True", "steps is True, but must be a whole number"),
        ("steps = None", "steps is None, but must be a whole number"),
        ("steps = 0", "steps is 0, but must be a whole number from 1 to 1000000"),
        ("steps = 1000001", "steps is 1000001, but must be a whole number from 1 to 1000000"),
        ("rate = '0.5'", "rate is '0.5', but must be a finite number"),
        ("rate = 1", "rate is 1, but must be a number between 0 and 1, excluded"),
        ("rate = float('nan')", "rate is nan, but must be a finite number"),
        ("quick = 1", "quick is 1, but must be True or False"),
        ("quick = 'no'", "quick is 'no', but must be True or False"),
        ("unit = 3", "unit is 3, but must be text"),
        ("unit = 'nmu'", "unit is 'nmu', but must be one of 'NAU', 'NMU'"),
        ("seeds = '1, 2'", "seeds is '1, 2', but must be a list of whole numbers"),
        ("seeds = 1", "seeds is 1, but must be a list of whole numbers"),
        ("seeds = []", "seeds is [], but must be a list of whole numbers, at least one"),
        ("seeds = [1, 2.0]", "in seeds, 2.0 must be a whole number"),
        ("seeds = [1, 100]", "in seeds, 100 must be a whole number from 0 to 99"),
        ("rates = [1, 2]", "in rates, 2 must be a number between 0 and 1, included"),
    ],
)
def test_wrong_value_is_refused_with_what_is_allowed(complaint, injected, must_be):
    assert must_be in complaint(injected)


@pytest.mark.parametrize(("name", "meant"), [("step", "steps"), ("Units", "unit")])
def test_unknown_name_is_refused_with_the_nearest(complaint, name, meant):
    message = complaint(f"{name} = 5")
    assert f"there is no parameter {name} (did you mean {meant}?)" in message
    assert "only steps, rate, seeds, rates, unit, quick" in message


def test_unknown_name_unlike_any_gets_no_suggestion(complaint):
    assert "did you mean" not in complaint("xyz = 5")


def test_all_problems_are_reported_at_once(complaint):
    message = complaint("steps = 0\nlearning = 2\nquick = 'yes'\nrate = 0.25")
    assert "steps is 0" in message
    assert "no parameter learning" in message
    assert "quick is 'yes'" in message
    assert "rate is" not in message
    assert len(message.splitlines()) == 3


def test_rule_for_a_parameter_that_is_not_there_is_the_authors_mistake(notebook):
    check = "from nalu.parameters import check_parameters; check_parameters(stpes=range(3))"
    with pytest.raises(TypeError, match="no stpes, only steps"):
        notebook(DEFAULTS, check)


def test_type_is_checked_where_nothing_else_is_said(complaint):
    check = "from nalu.parameters import check_parameters; check_parameters()"
    assert "steps is 1.5" in complaint("steps = 1.5", check)


@pytest.mark.parametrize("value", [0, 1, 0.5])
def test_between_includes_its_ends(value):
    assert value in Between(0, 1)


@pytest.mark.parametrize("value", [0, 1, -1, 2, math.nan])
def test_open_between_excludes_its_ends(value):
    assert 0.5 in Between(0, 1, open=True)
    assert value not in Between(0, 1, open=True)


@pytest.mark.parametrize("between", [Between(0, math.inf), Between(0, math.inf, open=True)])
def test_between_holds_numbers(between):
    assert 1e300 in between
    assert math.nan not in between
