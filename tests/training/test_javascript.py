"""Printed functions in JavaScript, run by Node, against the same functions in Python.

Node comes with Playwright, so that these tests are skipped nowhere.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import playwright
import pytest
import torch
from test_generated import loss_and_gradients
from torch import nn

from nalu.training import generated
from nalu.training.javascript import javascript
from nalu.training.run import LAYERS

NODE = next((Path(playwright.__file__).parent / "driver").glob("node*"))
CALL = """
const rows = shapes.rows[0], turns = shapes.sums[1], BLOCK = task.x[0].length, TRAINING = 0;
const array = (n, m) => Array.from({length: n}, () => new Float64Array(m));
const memory = {
  e: new Float64Array(shapes.e[0]), de: new Float64Array(shapes.de[0]),
  rows: array(rows, BLOCK), sums: array(shapes.sums[0], turns),
};
function fill() {}
function targets() {}
const g = new Float64Array(p.length), z = new Float64Array(BLOCK);
construct(p, memory.e);
const loss = gradients(p, g, memory, task, {batch_size: BLOCK - 1}, 0);
pull_back(p, g, memory.de);
predict(p, memory.e, task.x, z, memory.rows);
console.log(JSON.stringify([loss, Array.from(g), Array.from(z)]));
"""


@pytest.mark.parametrize("inputs", [4, 14])
@pytest.mark.parametrize("names", [("NALU", "NMU"), ("NMU", "ReLU6")], ids=str)
def test_javascript_gives_the_numbers_of_python(names, inputs):
    torch.manual_seed(1)
    sizes = inputs, 2, 1
    model = nn.Sequential(LAYERS[names[0]](inputs, 2), LAYERS[names[1]](2, 1)).double()
    x, t = np.random.default_rng(0).uniform(-1, 2, (6, inputs)), np.linspace(-1, 1, 6)
    text, shapes = generated.printed(names, sizes)
    data = {
        "p": nn.utils.parameters_to_vector(model.parameters()).tolist(),
        "task": {"x": x.T.tolist(), "t": [t.tolist()], "interpolation": [0, 0], "seed": 0},
        "shapes": shapes,
    }
    constants = "".join(f"const {name} = {json.dumps(one)};\n" for name, one in data.items())
    program = constants + javascript(text) + CALL
    done = subprocess.run([NODE, "-"], input=program, text=True, capture_output=True, check=True)
    printed = [np.array(one) for one in json.loads(done.stdout)]
    for one, right in zip(printed, loss_and_gradients(model, names, sizes, x, t), strict=True):
        np.testing.assert_allclose(one, right, rtol=1e-12, atol=1e-12)
