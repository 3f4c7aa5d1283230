"""Sequential MNIST: the files and what is wrong with bad ones, windows, targets, refusals."""

import gzip
import shutil

import numpy as np
import pytest
import torch

from nalu.tasks import mnist
from nalu.tasks.mnist import DamagedData, SequentialMNIST

LABELS = "t10k-labels-idx1-ubyte"
FINAL = {operation: SequentialMNIST.of(operation) for operation in ("sum", "product")}


def test_the_digits_are_the_known_ones():
    digits = mnist.load()
    sizes = {"training": 55_000, "validation": 5_000, "test": 10_000}
    assert {split: len(part.labels) for split, part in digits.items()} == sizes
    for part in digits.values():
        assert part.images.shape == (len(part.labels), 28, 28)
        assert part.images.dtype == part.labels.dtype == torch.uint8
    assert digits["training"].labels[:6].tolist() == [5, 0, 4, 1, 9, 2]
    assert digits["test"].labels[:4].tolist() == [7, 2, 1, 0]
    pixels = mnist.normalised(digits["training"].images[:5_000])
    assert pixels.dtype == torch.float32
    assert pixels.mean().item() == pytest.approx(0, abs=0.02)
    assert pixels.std().item() == pytest.approx(1, abs=0.02)
    # 49,560 digits of the training set are not 0, as the authors' steps an epoch say.
    assert len(FINAL["product"].allowed(digits["training"].labels)) // 2 // 64 == 387


def missing(path):
    path.unlink()


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


def not_gzip(path):
    path.write_bytes(b"<html>404</html>")


def flipped_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def relabelled(path):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))


def shorter(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, "is missing"),
        (truncated, "is truncated"),
        (not_gzip, "cannot be unpacked"),
        (flipped_bit, "cannot be unpacked"),
        (relabelled, "was altered: its checksum, unpacked, is"),
        (shorter, "was altered"),
        (empty, "was altered"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_and_how_to_restore_it(damage, message, tmp_path):
    for name in (f"{LABELS}.gz", "SHA256SUMS"):
        shutil.copy(mnist.FOLDER / name, tmp_path / name)
    assert mnist.read(LABELS, tmp_path).shape == (10_000,)
    damage(tmp_path / f"{LABELS}.gz")
    with pytest.raises(DamagedData, match=message) as error:
        mnist.read(LABELS, tmp_path)
    assert f"{tmp_path / LABELS}.gz" in str(error.value)
    assert "git checkout -- data/mnist" in str(error.value)


@pytest.mark.parametrize("checksums", [None, "", "nonsense\n", f"{'0' * 64}  other-file\n"])
def test_bad_checksums_are_an_error_of_their_own(checksums, tmp_path):
    shutil.copy(mnist.FOLDER / f"{LABELS}.gz", tmp_path)
    if checksums is not None:
        (tmp_path / "SHA256SUMS").write_text(checksums)
    with pytest.raises(DamagedData, match=r"SHA256SUMS has no checksum of t10k-labels.*checkout"):
        mnist.read(LABELS, tmp_path)


def test_the_settings_of_both_papers():
    draft = {operation: SequentialMNIST.of(operation, "draft") for operation in FINAL}
    assert [draft[o].train_length for o in ("product", "sum")] == [3, 10]
    assert [FINAL[o].train_length for o in ("product", "sum")] == [2, 10]
    assert [task.digits[0] for task in (*draft.values(), *FINAL.values())] == [0, 0, 0, 1]
    assert not any(task.prefixes for task in draft.values())
    assert all(task.prefixes for task in FINAL.values())
    assert FINAL["product"].test_lengths == tuple(range(1, 21))
    assert FINAL["sum"].test_lengths == (1, 10, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)


@pytest.mark.parametrize("operation", FINAL)
@pytest.mark.parametrize("length", [1, 2, 7, 20])
def test_windows_are_a_partition_of_the_allowed_digits(operation, length):
    task, labels = FINAL[operation], mnist.load()["test"].labels
    allowed = task.allowed(labels)
    order = torch.randperm(len(allowed), generator=torch.Generator().manual_seed(0))
    windows = task.windows(allowed, order, length)
    assert windows.shape == (len(allowed) // length, length)
    assert len(windows.unique()) == windows.numel()  # none is used twice
    assert len(allowed) - windows.numel() < length  # no more than a remainder is dropped
    assert torch.equal(windows[0], allowed[order[:length]])
    assert set(labels[windows].unique().tolist()) == set(task.digits)
    assert (operation == "sum") == (0 in labels[windows])


@pytest.mark.parametrize("operation", FINAL)
@pytest.mark.parametrize("protocol", ["draft", "final"])
def test_targets_are_those_of_a_plain_loop(operation, protocol):
    task = SequentialMNIST.of(operation, protocol)
    digits = np.random.default_rng(0).choice(task.digits, (5, 20))
    expected = []
    for sequence in digits.tolist():
        totals, total = [], 0 if operation == "sum" else 1
        for digit in sequence:
            total = total + digit if operation == "sum" else total * digit
            totals.append(total)
        expected.append(totals if protocol == "final" else totals[-1:])
    target = task.target(torch.tensor(digits, dtype=torch.uint8))
    assert target.dtype == torch.float64
    np.testing.assert_allclose(target.numpy(), np.array(expected, dtype=float), rtol=1e-15)
    outputs = torch.arange(20.0).expand(5, 20)
    assert task.scored(outputs).shape == target.shape
    assert task.scored(outputs)[0, -1] == 19


def test_the_largest_target_is_finite_and_rounded_as_documented():
    target = FINAL["product"].target(torch.full((20,), 9, dtype=torch.uint8))
    assert target[-1].item() == pytest.approx(9**20, rel=1e-15)
    single = target.float().double()
    exact = torch.tensor([float(9**n) for n in range(1, 21)], dtype=torch.float64)
    assert torch.equal(single[:7], exact[:7])
    assert ((single - exact).abs() <= 2.0**-24 * exact).all()
    assert single[-1].square() < torch.finfo(torch.float32).max < 4 * single[-1].square()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"operation": "mul"}, "operation is 'mul': it must be one of sum, product"),
        ({"digits": ()}, "digits is \\(\\): it must be whole numbers from 0 to 9"),
        ({"digits": (1, 1)}, "digits is \\(1, 1\\)"),
        ({"digits": (1, 10)}, "digits is \\(1, 10\\)"),
        ({"digits": (True, 2)}, "digits is \\(True, 2\\)"),
        ({"train_length": 0}, "train_length is 0: it must be a whole number from 1"),
        ({"train_length": 2.0}, "train_length is 2.0"),
        ({"test_lengths": (0, 1)}, "test_lengths is \\(0, 1\\)"),
        ({"test_lengths": (2, 1)}, "ascending"),
        ({"test_lengths": 5}, "test_lengths is 5: it must be whole numbers from 1"),
        ({"prefixes": 1}, "prefixes is 1: it must be one of True, False"),
    ],
)
def test_messages_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        SequentialMNIST(**fields)


def test_whole_numbers_of_numpy_make_the_same_task():
    task = SequentialMNIST(test_lengths=np.arange(1, 4), digits=np.arange(1, 10))
    assert task == SequentialMNIST(test_lengths=(1, 2, 3))
    assert {type(n) for n in task.test_lengths + task.digits} == {int}


def test_what_else_is_refused():
    with pytest.raises(ValueError, match="no protocol is named 'finnal'"):
        SequentialMNIST.of("sum", "finnal")
    with pytest.raises(ValueError, match="operation is 'mul'"):
        SequentialMNIST.of("mul")
    with pytest.raises(ValueError, match="a sequence of 6 digits cannot be cut from 5"):
        FINAL["sum"].windows(torch.arange(5), torch.arange(5), 6)
