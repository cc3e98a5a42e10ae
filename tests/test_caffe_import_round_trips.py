"""Caffe nets written as ONNX and read back compute what they computed.

ZOO=1 takes the large nets too (about a minute of one core).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_cases
import pytest
import torch

import caffe_bridge
from caffe_bridge import CaffeError
from caffe_bridge.convert.caffe_import import import_onnx
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.onnx_export import export_onnx
from caffe_bridge.convert.onnx_export.origins import KEY
from caffe_bridge.convert.onnx_export.verification import difference, random_inputs
from caffe_bridge.convert.onnx_files import build_net

TOLERANCE = 1e-4
PROTOTXT = Path(caffe_bridge.__file__).parents[1] / "prototxt"
SMALL = ["lenet", "squeezenet", "mobilenet", "mobilenet_v2", "faster_rcnn_tiny", "mnc5_tiny"]
LARGE = ["alexnet", "googlenet", "vgg16", "resnet50", "densenet121", "inception_v3", "unet", "fcn8s", "ssd300", "mnc5"]
# Types that only the exporter's notes can tell from their nodes.
COMPOSED = {
    "ArgMax", "DetectionOutput", "Embed", "Filter", "LSTM", "PSROIPooling", "Pooling", "Proposal", "ROIPooling",
    "Threshold",
    "BatchReindex", "MaskPooling", "MaskResize", "ROIWarping", "Upsample", "Im2col", "YoloDetectionOutput",
    "Yolov3DetectionOutput",
}  # fmt: skip


def outputs(net: caffe_bridge.Net, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        found = net(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    for node in net.graph.nodes:
        if hasattr(node.layer, "reset"):
            node.layer.reset()
    return {name: value.detach().numpy() for name, value in found.items()}


def assert_same(net: caffe_bridge.Net, model: Model, inputs: dict[str, np.ndarray]) -> None:
    wanted, found = outputs(net, inputs), outputs(build_net(model), inputs)
    # An output that a layer makes of an input in place cannot have the input's name in ONNX.
    for name, want in wanted.items():
        if name not in net.inputs:
            assert difference(found[name], want) <= TOLERANCE, name
    assert len(found) == len(wanted)


def there(net: caffe_bridge.Net, path: Path, notes: bool = True) -> onnx.ModelProto:
    export_onnx(net, path)
    model = onnx.load(path)
    if not notes:
        del model.metadata_props[:]
    return model


@pytest.mark.parametrize("name", onnx_cases.names())
def test_recorded_cases(name, tmp_path):
    case = onnx_cases.load(name)
    with case.configured():
        net = case.net()
        inputs = {blob: case.inputs[blob].astype(np.float32) for blob in net.inputs}
        shapes = {blob: array.shape for blob, array in inputs.items()}
        model = there(net, tmp_path / "a.onnx")
        assert_same(net, import_onnx(model, input_shapes=shapes, dialect="caffe-bridge"), inputs)
        del model.metadata_props[:]
        try:
            plain = import_onnx(model, input_shapes=shapes, dialect="caffe-bridge")
        except CaffeError:
            types = {layer.type for layer in net.definition.param.layer}
            assert types & (COMPOSED | {"Python"}), types
            return
        assert_same(net, plain, inputs)


def zoo(name: str) -> caffe_bridge.Net:
    """A net of prototxt/ with random weights that keep values in bounds."""
    files = [PROTOTXT / name / file for file in ("deploy.prototxt", "test.prototxt")]
    torch.manual_seed(0)
    net = caffe_bridge.Net(next(file for file in files if file.exists()))
    with torch.no_grad():
        for node in net.graph.nodes:
            for i, parameter in enumerate(node.layer.blobs):
                if node.type == "BatchNorm":
                    parameter.copy_(torch.rand_like(parameter) + 0.5 if i < 2 else torch.ones_like(parameter))
                elif node.type == "Scale":
                    parameter.copy_(torch.rand_like(parameter) + 0.5)
                elif parameter.ndim > 1:
                    parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
    return net


class TestZoo:
    @pytest.mark.parametrize("name", SMALL + (LARGE if os.environ.get("ZOO") else []))
    def test_there_and_back(self, name, tmp_path):
        net = zoo(name)
        inputs = random_inputs(net)
        shapes = {blob: array.shape for blob, array in inputs.items()}
        model = there(net, tmp_path / "a.onnx")
        found = import_onnx(model, input_shapes=shapes, dialect="caffe-bridge")
        assert_same(net, found, inputs)
        old = [layer.name for layer in net.definition.param.layer if layer.type not in ("Dropout", "Input")]
        kept = {layer.name for layer in found.definition.layer}
        assert sum(name in kept for name in old) >= 0.97 * len(old)

    @pytest.mark.parametrize("name", ["lenet", "squeezenet", "mobilenet_v2"])
    def test_without_notes(self, name, tmp_path):
        net = zoo(name)
        model = there(net, tmp_path / "a.onnx", notes=False)
        inputs = {blob: array[:1] for blob, array in random_inputs(net).items()}
        shapes = {blob: array.shape for blob, array in inputs.items()}
        assert_same(net, import_onnx(model, dialect="bvlc", input_shapes=shapes), inputs)


class TestNotes:
    def net(self) -> caffe_bridge.Net:
        return caffe_bridge.Net(
            'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }'
            'layer { name: "norm" type: "MVN" bottom: "x" top: "y" mvn_param { eps: 0.01 } }'
        )

    def test_layers_come_back(self, tmp_path):
        model = import_onnx(there(self.net(), tmp_path / "a.onnx"))
        assert [layer.type for layer in model.definition.layer] == ["Input", "MVN"]
        assert list(model.definition.layer[0].input_param.shape[0].dim) == [2, 3, 4, 5]

    def test_changed_nodes_are_read_as_they_are(self, tmp_path):
        model = there(self.net(), tmp_path / "a.onnx")
        for tensor in model.graph.initializer:
            if tensor.raw_data == np.float32(0.01).tobytes():
                tensor.raw_data = np.float32(0.5).tobytes()
        found = import_onnx(model)
        assert "MVN" not in [layer.type for layer in found.definition.layer]
        x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
        centred = x - x.mean((2, 3), keepdims=True)
        wanted = centred / (np.sqrt((centred**2).mean((2, 3), keepdims=True)) + 0.5)
        assert difference(outputs(build_net(found), {"x": x})["y"], wanted) <= TOLERANCE

    def test_nodes_that_read_from_within_a_layer_are_named(self, tmp_path):
        model = there(self.net(), tmp_path / "a.onnx")
        model.graph.node.add(op_type="Relu", input=[model.graph.node[0].output[0]], output=["z"], name="outside")
        model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [2, 3, 4, 5]))
        with pytest.raises(CaffeError, match=r"outside.*from within the nodes of a layer"):
            import_onnx(model)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"layers": [{}]}', '{"inputs": 3}', '{"layers": [{"layer": "type: {"}]}', "[" * 100000]
    )
    def test_notes_that_are_none(self, text, tmp_path):
        model = there(self.net(), tmp_path / "a.onnx", notes=False)
        model.metadata_props.add(key=KEY, value=text)
        assert len(import_onnx(model, input_shapes={"x": (1, 3, 4, 5)}).definition.layer) > 2

    def test_no_layer_that_reads_files_comes_back(self, tmp_path):
        model = there(self.net(), tmp_path / "a.onnx")
        (entry,) = (entry for entry in model.metadata_props if entry.key == KEY)
        entry.value = entry.value.replace('type: \\"MVN\\"', 'type: \\"HDF5Data\\"')
        assert "HDF5Data" in entry.value
        assert "HDF5Data" not in [layer.type for layer in import_onnx(model).definition.layer]
