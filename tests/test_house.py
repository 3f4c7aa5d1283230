"""What one change touches: a unit, a task, a protocol or a field of a run is one file or class.

Each is tried with a toy, in a copy of the package where nothing else is changed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

UNIT = '''"""Half: z_o = 1/2 Σ_i W_oi x_i."""

import torch.nn.functional as F
from torch import nn

from .base import Model, Unit


class Half(Unit):
    """(..., in_features) -> (..., out_features)."""

    label = "½"
    aliases = ("half-of-it",)
    axes = {"weight": "oi"}
    models = {"Half": Model(("Half", "Half"), "C3", "*")}
    optimizer = {"rule": "SGD", "rate": 0.01, "clip_norm": 1.0}

    def reset_parameters(self):
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x):
        return F.linear(x, self.weight) / 2
'''

TASK = '''"""Twice: t = 2 x₀."""

from dataclasses import dataclass
from typing import ClassVar

from ..fields import checked
from .arithmetic import Arithmetic, Ranges, as_ranges


@dataclass(frozen=True)
class Twice(Arithmetic):
    """2 x₀ of two inputs, for one layer."""

    interpolation: Ranges = checked(((1.0, 2.0),), as_ranges)
    extrapolation: Ranges = checked(((2.0, 6.0),), as_ranges)

    input_size: ClassVar[int] = 2
    operation: ClassVar[str] = "mul"
    offsets: ClassVar[int] = 1

    def subsets(self, offset=0):
        return (0, 1), (0, 1)

    def target(self, x, offset):
        return 2 * x[..., :1]

    def near(self, x, epsilon):
        return (2 - epsilon) * x[..., :1] + epsilon * x[..., 1:2]
'''


@pytest.fixture
def package(tmp_path):
    """A copy of the package, to which a test adds its toy."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "nalu", tmp_path / "nalu", ignore=ignored))


def output(package, code: str) -> list[str]:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=package.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_unit_is_its_file(package):
    """It is trained as it says, and has its look and its names; others have their keys."""
    (package / "units" / "half.py").write_text(UNIT, encoding="utf-8")
    lines = output(
        package,
        "import nalu\n"
        "from nalu.experiments import model_named, simple_multiplication\n"
        "from nalu.figures import look\n"
        "from nalu.tables import model_label\n"
        "from nalu.__main__ import main\n"
        "print(nalu.Half(2, 1), model_named('half-of-it'), model_label('Half'))\n"
        "print(look('Half')['color'], look('Half')['marker'])\n"
        "runs = simple_multiplication(seeds=[0], models=['Half', 'NMU'], iterations=10)\n"
        "print(runs[0].optimizer.rule, runs[0].optimizer.rates, 'optimizer' in "
        "runs[1].specification())\n"
        "print(*nalu.sweep(runs, store='store', progress=False).engine)\n"
        "main('sweep simple_multiplication --models ½ --seeds 0 --iterations 3 --store s'.split())",
    )
    assert lines[:4] == [
        "Half(in_features=2, out_features=1) ('Half', ('Half', 'Half')) ½",
        "C3 *",
        "SGD (0.01, 0.01) False",
        "reference cpu",
    ]
    assert any(line.startswith("Half") for line in lines[4:])


def test_a_task_is_its_file(package):
    """Its runs are trained, scored by its own threshold, stored, and read again."""
    (package / "tasks" / "twice.py").write_text(TASK, encoding="utf-8")
    lines = output(
        package,
        "import nalu\n"
        "from nalu.evaluation import threshold\n"
        "from nalu.store import Store\n"
        "from nalu.runs import run_in\n"
        "from nalu.tasks.twice import Twice\n"
        "from nalu.training.run import Run\n"
        "run = Run(('NAU',), Twice(), 'final', 3000, learning_rate=0.01)\n"
        "row = nalu.sweep([run], store='store', progress=False).iloc[0]\n"
        "print(row.engine, row.operation, row.input_size, row.threshold == threshold(run.task))\n"
        "store = Store('store')\n"
        "print(*(run_in(store.get(key)) == run for key in store.keys()))",
    )
    assert lines == ["reference mul 2 True", "True"]


def test_a_protocol_and_a_field_are_their_class(package):
    """A field that says nothing leaves keys as they are, and one that does is a column."""
    protocol = package / "training" / "protocol.py"
    protocol.write_text(
        protocol.read_text(encoding="utf-8").replace(
            "PROTOCOLS = {",
            "@dataclass(frozen=True)\nclass Plain(Draft):\n"
            '    """Nothing is added to the loss."""\n\n    name = "plain"\n\n'
            "    def penalty(self, unit, step):\n        return unit.w_hat.new_zeros(())\n\n\n"
            "PROTOCOLS = {",
        ).replace("(Draft, Final)}", "(Draft, Final, Plain)}"),
        encoding="utf-8",
    )  # fmt: skip
    run = package / "training" / "run.py"
    run.write_text(
        run.read_text(encoding="utf-8").replace(
            "    stream: str =", "    warm_up: int = whole(0, silent=0)\n    stream: str ="
        ),
        encoding="utf-8",
    )
    lines = output(
        package,
        "import nalu\n"
        "from nalu.experiments import static_function\n"
        "from nalu.__main__ import parser, specifications\n"
        "line = 'sweep simple_multiplication --warm-up 5 --seeds 0 --models NMU'.split()\n"
        "(warm,) = specifications(parser().parse_args(line))\n"
        "print(warm.warm_up, warm.specification()['warm_up'], warm.labels()['warm_up'])\n"
        "cold = static_function('draft', [0], ['mul'], ['NMU'])[0]\n"
        "print(cold.key('cpu'))\n"
        "plain = warm.but(protocol='plain', iterations=5, warm_up=0)\n"
        "table = nalu.sweep([plain], store='store', progress=False)\n"
        "print(*table.protocol, *table.engine)",
    )
    assert lines == ["5 5 5", "NAU-NMU-mul-100-draft-cpu-4a00d4c445c8c692-0", "plain reference"]
