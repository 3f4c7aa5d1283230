"""What the text of the book concludes still follows from what its notebooks compute."""

import nbformat
import pytest


@pytest.fixture(scope="session")
def glued(build, site):
    """The numbers in the text of a page, by notebook and name."""

    def numbers(name: str) -> dict[str, float]:
        found = {}
        for cell in nbformat.read(build.EXECUTED / f"{name}.ipynb", 4).cells:
            for output in cell.get("outputs", []):
                if "scrapbook" in output.metadata:
                    (text,) = output.data.values()
                    found[output.metadata.scrapbook.name] = float(text)  # it may be nan
        return found

    return numbers


def test_nalu_extrapolates_products_better_than_a_network_and_sums_worse(glued):
    number = glued("01-introduction")
    for name in ("product", "quotient"):
        assert number[f"nalu-beyond-{name}"] < number[f"network-beyond-{name}"] / 5
    for name in ("sum", "difference"):
        assert number[f"network-beyond-{name}"] < number[f"nalu-beyond-{name}"] / 5
    assert number["solved-difference"] < 50 < number["solved-sum"]
    assert number["stuck-difference"] > 10


def test_only_regularised_constructions_end_at_whole_numbers(glued):
    number = glued("02-weight-construction")
    for name in ("NAU, draft", "NAU, final"):
        assert number[f"whole-{name}"] > 80
    for name in ("Linear", "NAC₊", "NAU, clipped only"):
        assert number[f"whole-{name}"] < 10
    for name in ("Linear", "NAU, clipped only", "NAU, draft", "NAU, final"):
        assert number[f"right-{name}"] == 100
    assert number["right-NAC₊"] < 100
    assert number["free-end-NAC₊"] < number["free-end-Linear"]
    assert number["free-start-NAC₊"] < number["free-end-NAC₊"]


def test_multiplication_through_a_logarithm_has_solutions_that_divide(glued):
    number = glued("03-multiplication-unit")
    assert number["eq4-worst"] < 1e-6
    assert number["outside"] > 99
    assert number["NAC•-divides"] > 25
    assert number["NMU-divides"] == 0
    assert number["upper-NMU"] < number["upper-NAC•"]  # the NMU's own trap


def test_first_pushes_on_the_gate_go_to_multiplication(glued):
    number = glued("03-multiplication-unit")
    for name in ("sum", "product"):
        assert number[f"gate-{name}"] > 75
        assert number[f"too-small-{name}"] > 90
    assert number["mul-is-larger"] > 75


def test_table_1_depends_on_the_seeds_where_the_text_says_so(glued):
    number = glued("05-simple-multiplication")
    assert abs(number["draft-NMU-rate"] - number["paper-NMU-rate"]) <= 3
    assert number["draft-NACMul-rate"] > number["draft-NALU-rate"]
    assert number["paper-NACMul-rate"] < number["paper-NALU-rate"]
    assert abs(number["many-draft-NACMul"] - number["many-draft-NALU"]) < 2
    assert 25 < number["order"] < 50
    assert number["chance-NACMul"] < 1
    assert number["nalu-median-sparsity"] < 1e-5 < number["nalu-worst-sparsity"] / 100
    assert number["apart"] > 0.05
    for model in ("NACMul", "NALU", "NMU"):
        assert abs(number[f"final-{model}-rate"] - number[f"draft-{model}-rate"]) <= 2


def test_the_final_means_of_table_1_are_those_of_many_runs(glued):
    number = glued("05-simple-multiplication")
    for model in ("NACMul", "NALU", "NMU"):
        low, high = (number[f"printed-at-{model}-{end}"] for end in ("low", "high"))
        assert low < number[f"many-at-{model}"] < high
        assert not low < number[f"final-{model}-at"] < high  # of a hundred
        low, high = (number[f"printed-sparsity-{model}-{end}"] for end in ("low", "high"))
        assert (low < number[f"many-sparsity-{model}"] < high) == (model != "NMU")
    assert number["printed-sparsity"] < number["sets-sparsity-low"]
    assert number["sets-sparsity-high"] < 6e-8


def test_the_authors_random_numbers_give_the_printed_row(glued):
    number = glued("05-simple-multiplication")
    assert number["authors-NACMul"] == number["paper-NACMul-rate"]
    assert number["authors-NACMul-at"] == number["authors-NACMul-at-printed"]
    assert number["authors-NACMul-sparsity"] == pytest.approx(7.5e-6, abs=0.05e-6)
    assert number["authors-NMU"] == number["paper-NMU-rate"]
    assert 1 <= abs(number["authors-NALU"] - number["paper-NALU-rate"]) <= 3
    for model in ("NMU", "NALU"):
        assert number[f"authors-{model}-at"] != number[f"authors-{model}-at-printed"]


def test_rounding_moves_runs_where_the_text_says_so(glued):
    number = glued("05-simple-multiplication")
    assert number["apart-NACMul"] > 0 < number["apart-NALU"]
    assert number["apart-NMU"] == number["moved-NMU"] == 0
    assert number["sparsity-moved-NMU"] > 10 > 1 > number["sparsity-moved-NALU"]
    assert number["latest-NMU"] < number["authors-fifth"]


def test_failures_have_negative_weights_or_leave_a_factor_out(glued):
    number = glued("05-simple-multiplication")
    assert number["divides-NACMul"] > 0.9 * number["failed-NACMul"]
    assert number["divides-NALU"] > 0.6 * number["failed-NALU"]
    assert number["fits-NACMul"] == 0  # "do not even fit that of training"
    assert number["missing-NMU"] == number["failed-NMU"]


def test_the_threshold_alone_fails_linear_differences(glued):
    number = glued("08-what-counts-as-success")
    assert number["linear-first"] == number["linear-first-printed"] == 100
    assert number["linear-last"] < 50
    assert number["linear-last-printed"] < 20
    assert number["linear-median-fixed"] == number["linear-all-fixed"] == 100
    assert number["linear-median-5"] <= number["linear-last-5"] <= number["linear-all-5"] < 50
    assert number["linear-median-4"] < 20 < number["linear-last-4"]


def test_table_2_comes_out(glued):
    number = glued("06-static-function")
    assert number["rates"] == 11
    assert number["rates-that-differ"] == 0
    assert number["means-that-differ"] <= 3  # of 20; more would be a rare chance at 5 %
    assert number["nmu-at"] < number["nac-at"]
    assert number["nac-sparsity"] < number["nmu-sparsity"]


def test_the_final_table_2_comes_out_but_for_late_runs(glued):
    number = glued("06-static-function")
    assert number["final-rates"] == 11
    assert number["final-rates-that-differ"] == 0
    for operation in ("sub", "add"):
        here, paper = (
            [
                number[f"nau-{operation}-{measure}-{of}"]
                for measure in ("solved_at", "solved_at_median")
            ]
            for of in ("here", "paper")
        )
        assert here[1] == pytest.approx(paper[1], rel=0.1)
        assert here[0] < 1.2 * here[1]
        assert paper[0] > 5 * paper[1]
        for stream in ("philox", "authors"):
            assert number[f"{stream}-{operation}-unsolved"] == 0
            assert number[f"{stream}-{operation}-last"] < paper[0] / 5


def test_the_fall_beyond_a_hundred_inputs_is_the_medians(glued):
    number = glued("07-boundary")
    assert number["first-beyond"] == 125
    assert number["beyond-draft"] < 20
    assert number["first-best"] == 100
    assert number["largest-best"] < number["beyond-best"] < 100
    assert number["beyond-draft"] < number["beyond-best"] / 5
    assert number["first-median-error"] > 0.2 > 10 * number["first-best-error"]
    assert number["largest-best"] <= 20 < number["largest-lax"]
    assert number["little-draft"] < number["little-best"] == 100
    assert number["none-draft"] < number["none-best"] < number["none-lax"] == 100
    differ = sum(number[f"{p}-differ"] for p in ("input_size", "overlap_ratio", "subset_ratio"))
    assert differ <= 3
    assert number["square-sparsity"] > 5 * 0.0035


def test_the_nmu_and_the_nau_extrapolate_as_the_operations_do(glued):
    number = glued("09-sequential-mnist")
    for name in ("product-NMU", "sum-NAU"):
        assert number[f"{name}-solved"] > 0.8 * number[f"{name}-scored"]
        assert number[f"{name}-runs"] == number["seeds"]
        assert number[f"{name}-excess"] < 50
    for name in ("product-NACMul", "sum-NAC"):
        assert 0 < number[f"{name}-solved"] < 0.2 * number[f"{name}-scored"]
        assert number[f"{name}-runs"] == 1
        assert number[f"{name}-excess"] > 1000
    assert number["product-NALU-solved"] == number["product-LSTM-solved"] == 0


def test_the_nmu_and_the_nau_are_sparse_before_the_ramp(glued):
    number = glued("09-sequential-mnist")
    assert number["product-sparse-from"] < 10_000 < number["product-steps"]
    assert number["sum-sparse-from"] < number["sum-steps"] < 10_000
    assert number["right-first"] < number["right-last"] / 1.5  # NAC• leaves where it was right
    assert number["starts-right"] < 25 < 50 < number["starts-flat"]
    for model in ("NACMul", "NAC"):  # half-way to a weight of 1
        assert 0.4 < number[f"zero-{model}-most"] < 0.5
    assert number["between-first"] > 2


def test_nac_arrives_with_more_steps(glued):
    number = glued("09-sequential-mnist")
    assert number["longer-sum-solved"] == number["sum-lengths"] > number["sum-NAC-solved"]
    assert number["sum-steps"] < number["longer-sum-last"]
    assert number["longer-product-solved"] == 0
    assert 1 < number["longer-product-over"] < number["product-NACMul-excess"] / 100
    for name in ("sum", "product"):
        assert 0.9 < abs(number[f"longer-{name}-state"]) < 1


def test_success_depends_on_the_length_that_is_asked_for(glued):
    number = glued("09-sequential-mnist")
    assert number["product-LSTM (read-out)-solved"] <= 2 * number["seeds"]  # of 1 and 2 digits
    assert number["lstm-beyond"] > 10
    assert number["lstm-least"] > 50 * number["threshold"]
    assert number["product-paper-margin"] < number["margin"] / 2
    for name, model in (("product", "NMU"), ("sum", "NAU")):
        assert number[f"{name}-blind"] < 2 < 10 < number[f"{name}-blind-first"]
        assert number[f"{name}-{model}-theirs"] < number[f"{name}-{model}-solved"]
