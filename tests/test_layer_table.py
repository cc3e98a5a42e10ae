"""docs/layers.md is what `caffe-bridge layer-table` makes of the registry, the tests and the recorded cases."""

import pytest

from caffe_bridge import registry
from caffe_bridge.layers.base import Layer
from caffe_bridge.tools import layer_table


@pytest.fixture(scope="module")
def rows():
    return {row.name: row for row in layer_table.rows()}


def test_the_committed_table_is_in_step(capsys):
    assert layer_table.main(["--check"]) == 0, capsys.readouterr().err


def test_check_finds_what_is_edited_or_missing(tmp_path, capsys):
    path = tmp_path / "layers.md"
    assert layer_table.main(["--check", "--out", str(path)]) == 1
    assert layer_table.main(["--out", str(path)]) == 0 == layer_table.main(["--check", "--out", str(path)])
    path.write_text(path.read_text().replace("`AbsVal`", "`AbsValue`"))
    assert layer_table.main(["--check", "--out", str(path)]) == 1
    assert "out of step" in capsys.readouterr().err


def test_every_registered_layer_has_a_row(rows):
    python = {f"{module}.{name}" for module, name in registry.python_layers()}
    assert set(rows) == set(registry.layer_types()) | python
    assert "pylayer.proposal_layer.ProposalLayer" in python


def test_rows_say_what_is_recorded_and_tested(rows):
    assert [rows[name].recorded for name in ("AbsVal", "ELU", "Convolution", "LSTMUnit", "ROIWarping")] == [
        4,
        4,
        8,
        0,
        7,
    ]
    assert rows["LSTMUnit"].loops and rows["LSTMUnit"].differences
    assert rows["Clip"].differences and not rows["Threshold"].differences
    assert rows["ROIWarping"].kernels == "`roi_warping`" and rows["ROIWarping"].source == "caffe-mnc"
    assert str(rows["Tile"]).startswith("| `Tile` | BVLC | [tile.py](../layers/tile.py) | yes |")


@pytest.mark.parametrize(
    ("bottoms", "no_gradient", "constants", "said"),
    [
        ((1, 1), (), (), "yes"),
        ((2, 3), (1,), (2,), "not bottoms 1, 2"),
        ((1, 2), (), (1, 2), "not bottom 1"),
        ((1, None), (), (3,), "not bottom 3"),
        ((1, 1), (0,), (), "parameters only"),
        ((0, 0), (), (), "no bottoms"),
        ((2, 2), Layer.ALL_BOTTOMS, (), "no"),
        ((2, 2), (), Layer.ALL_BOTTOMS, "no"),
    ],
)
def test_backward_in_words(bottoms, no_gradient, constants, said):
    cls = type("Some", (Layer,), {"bottoms": bottoms, "no_gradient": no_gradient, "constants": constants})
    assert layer_table.backward(cls) == said


def test_layers_that_are_no_layer_subclass_run_in_python():
    assert layer_table.backward(type("Own", (), {})) == "no"
