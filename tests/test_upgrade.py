"""Older formats are upgraded to what Caffe makes of them."""

import logging
from pathlib import Path

import pytest

from caffe_bridge import PrototxtError, dialects, schema, text_format
from caffe_bridge.upgrade import upgrade_net, upgrade_solver

FILES = Path(__file__).parent / "reference" / "files"


def upgraded(text):
    net = schema.NetParameter()
    lines = text_format.parse(text, net)
    done = upgrade_net(net, "old.prototxt", lines)
    assert len(lines.get("layer", [])) == len(net.layer)
    return net, lines.get("layer", []), done


def expect(net, text):
    expected = schema.NetParameter()
    text_format.parse(text, expected)
    assert text_format.format(net) == text_format.format(expected)


V0 = """
name: "v0" input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { layer { name: "pad1" type: "padding" pad: 2 } bottom: "data" top: "pad1" }
layers {
  layer { name: "conv1" type: "conv" num_output: 4 kernelsize: 5 stride: 2 group: 1 biasterm: false
    weight_filler { type: "gaussian" std: 0.1 } blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0 }
  bottom: "pad1" top: "conv1" }
layers { layer { name: "pool1" type: "pool" pool: AVE kernelsize: 3 stride: 2 } bottom: "conv1" top: "pool1" }
layers { layer { name: "norm1" type: "lrn" local_size: 3 alpha: 0.1 beta: 0.5 } bottom: "pool1" top: "norm1" }
layers { layer { name: "drop1" type: "dropout" dropout_ratio: 0.25 } bottom: "norm1" top: "norm1" }
layers { layer { name: "ip" type: "innerproduct" num_output: 2 bias_filler { value: 1 } } bottom: "norm1" top: "ip" }
layers { layer { name: "loss" type: "softmax_loss" } bottom: "ip" bottom: "data" }
"""


class TestV0:
    def test_layers(self):
        net, lines, done = upgraded(V0)
        expect(
            net,
            """
            name: "v0"
            layer { name: "input" type: "Input" top: "data"
              input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
            layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
              param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
              convolution_param { num_output: 4 bias_term: false pad: 2 kernel_size: 5 group: 1 stride: 2
                weight_filler { type: "gaussian" std: 0.1 } } }
            layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
              pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
            layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1"
              lrn_param { local_size: 3 alpha: 0.1 beta: 0.5 } }
            layer { name: "drop1" type: "Dropout" bottom: "norm1" top: "norm1" dropout_param { dropout_ratio: 0.25 } }
            layer { name: "ip" type: "InnerProduct" bottom: "norm1" top: "ip"
              inner_product_param { num_output: 2 bias_filler { value: 1 } } }
            layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "data" }
            """,
        )
        assert done == ["V0 layers", "V1 layers", "input fields"]
        assert lines == [2, 4, 8, 9, 10, 11, 12]

    def test_data_layers(self):
        net, _, _ = upgraded(
            """
            layers { layer { name: "d" type: "data" source: "db" batchsize: 4 scale: 0.5 meanfile: "m" cropsize: 7
              mirror: true rand_skip: 3 } top: "data" top: "label" }
            layers { layer { name: "i" type: "images" source: "l" batchsize: 2 shuffle_images: true new_height: 5
              new_width: 6 } top: "x" top: "y" }
            layers { layer { name: "w" type: "window_data" source: "s" batchsize: 2 det_fg_threshold: 0.6
              det_bg_threshold: 0.4 det_fg_fraction: 0.3 det_context_pad: 16 det_crop_mode: "square" } top: "v" }
            layers { layer { name: "h" type: "hdf5_output" hdf5_output_param { file_name: "f" } } bottom: "x" }
            layers { layer { name: "c" type: "concat" concat_dim: 0 } bottom: "x" bottom: "y" top: "z" }
            """
        )
        expect(
            net,
            """
            layer { name: "d" type: "Data" top: "data" top: "label"
              transform_param { scale: 0.5 mirror: true crop_size: 7 mean_file: "m" }
              data_param { source: "db" batch_size: 4 rand_skip: 3 } }
            layer { name: "i" type: "ImageData" top: "x" top: "y"
              image_data_param { source: "l" batch_size: 2 shuffle: true new_height: 5 new_width: 6 } }
            layer { name: "w" type: "WindowData" top: "v"
              window_data_param { source: "s" batch_size: 2 fg_threshold: 0.6 bg_threshold: 0.4 fg_fraction: 0.3
                context_pad: 16 crop_mode: "square" } }
            layer { name: "h" type: "HDF5Output" bottom: "x" hdf5_output_param { file_name: "f" } }
            layer { name: "c" type: "Concat" bottom: "x" bottom: "y" top: "z" concat_param { concat_dim: 0 } }
            """,
        )

    def test_useless_field_is_dropped_with_a_warning(self, caplog):
        net, _, _ = upgraded('layers { layer { name: "r" type: "tanh" num_output: 3 } top: "y" }')
        expect(net, 'layer { name: "r" type: "TanH" top: "y" }')
        assert "old.prototxt:1: layer 'r' (tanh) has no use for num_output" in caplog.text

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                'layers { layer { name: "a" type: "convv" } }',
                "layer 'a' has unknown type 'convv' (did you mean 'conv'?)",
            ),
            ('layers { layer { type: "relu" } bottom: "x" top: "x" }', "bottom 'x' of layer '' is made by no earlier"),
            ('layers { layer { type: "relu" } } layers { name: "b" }', "layer 'b' is in another format"),
            (
                'input: "x" layers { layer { name: "p" type: "padding" pad: 1 } bottom: "x" top: "p" }'
                'layers { layer { name: "r" type: "relu" } bottom: "p" top: "r" }',
                "padding layer 'p' can only be followed by a conv or pool layer with one bottom, not by 'r' (relu)",
            ),
            ('layers { layer { name: "p" type: "padding" } top: "p" }', "must have one bottom and one top"),
        ],
    )
    def test_refused(self, text, message):
        with pytest.raises(PrototxtError) as caught:
            upgraded(text)
        assert message in str(caught.value)
        assert (caught.value.path, caught.value.line) == ("old.prototxt", 1)


class TestV1:
    def test_fields(self):
        net, lines, done = upgraded(
            """force_backward: true
            layers { name: "c" type: CONVOLUTION bottom: "x" top: "y" include { phase: TRAIN } param: "w" param: "b"
              blob_share_mode: PERMISSIVE blobs_lr: 1 blobs_lr: 2 weight_decay: 3 loss_weight: 0.5
              convolution_param { num_output: 2 pad: 1 } }
            layers { name: "s" type: SIGMOID_CROSS_ENTROPY_LOSS bottom: "y" exclude { stage: "z" }
              loss_param { ignore_label: 1 } }
            """
        )
        expect(
            net,
            """force_backward: true
            layer { name: "c" type: "Convolution" bottom: "x" top: "y" include { phase: TRAIN } loss_weight: 0.5
              param { name: "w" share_mode: PERMISSIVE lr_mult: 1 decay_mult: 3 } param { name: "b" lr_mult: 2 }
              convolution_param { num_output: 2 pad: 1 } }
            layer { name: "s" type: "SigmoidCrossEntropyLoss" bottom: "y" exclude { stage: "z" }
              loss_param { ignore_label: 1 } }
            """,
        )
        assert lines == [2, 5]
        assert done == ["V1 layers"]

    def test_every_type_has_a_name(self):
        for value in schema.V1LayerParameter.LayerType.values():
            net = schema.NetParameter(layers=[{"type": value}])
            upgrade_net(net)
            assert bool(net.layer[0].type) == (value != 0)

    @pytest.mark.parametrize(
        ("type_", "param"), [("DATA", "data"), ("IMAGE_DATA", "image_data"), ("WINDOW_DATA", "window_data")]
    )
    def test_transformation_fields(self, type_, param):
        net, _, done = upgraded(
            f"layers {{ type: {type_} {param}_param {{"
            ' source: "s" scale: 2 mean_file: "m" crop_size: 3 mirror: true } }'
        )
        layer = net.layer[0]
        assert layer.transform_param == schema.TransformationParameter(scale=2, mean_file="m", crop_size=3, mirror=True)
        assert [field.name for field, _ in getattr(layer, f"{param}_param").ListFields()] == ["source"]
        assert done == ["data transformation fields", "V1 layers"]

    def test_mixed_with_current_layers(self):
        with pytest.raises(PrototxtError, match=r"old.prototxt:2: both 'layer' and 'layers'"):
            upgraded("layer {}\nlayers {}")


class TestInputs:
    def test_shapes(self):
        net, lines, _ = upgraded(
            'layer { name: "l" }\ninput: "a" input: "b" input_shape { dim: 2 dim: 3 } input_shape { dim: 4 }'
        )
        expect(
            net,
            """layer { name: "input" type: "Input" top: "a" top: "b"
              input_param { shape { dim: 2 dim: 3 } shape { dim: 4 } } }
            layer { name: "l" }""",
        )
        assert lines == [2, 1]

    def test_without_shapes(self, caplog):
        net, _, _ = upgraded('input: "a" layer { name: "l" }')
        expect(net, 'layer { name: "l" }')
        assert "dropped: a" in caplog.text

    @pytest.mark.parametrize(
        "text", ['input: "a" input: "b" input_shape { dim: 1 }', 'input: "a" input_dim: 1 input_dim: 2 input_dim: 3']
    )
    def test_too_few_shapes(self, text):
        with pytest.raises(PrototxtError, match="inputs need"):
            upgraded(text)


def test_batch_norm_statistics_are_never_learned():
    net, _, done = upgraded(
        'layer { type: "BatchNorm" param { lr_mult: 1 } param {} param { decay_mult: 2 } }'
        'layer { type: "BatchNorm" param { lr_mult: 1 } }'
    )
    three, one = net.layer
    assert [(spec.lr_mult, spec.decay_mult) for spec in three.param] == [(0, 0)] * 3
    assert one.param[0].lr_mult == 1
    assert done == ["BatchNorm parameters"]
    assert upgrade_net(net) == []


def test_current_net_is_left_alone(caplog):
    caplog.set_level(logging.INFO, "caffe_bridge")
    net, lines, done = upgraded('name: "n"\nlayer { name: "a" type: "ReLU" }')
    assert (done, lines, caplog.text) == ([], [2], "")


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_caffes_own_files(version):
    net, _, _ = upgraded((FILES / f"{version}.prototxt").read_text())
    weights = dialects.parse_net((FILES / f"{version}.caffemodel").read_bytes())
    done = upgrade_net(weights)
    assert f"{version.upper()} layers" in done
    assert not net.layers and not weights.layers
    types = {layer.name: layer.type for layer in net.layer}
    with_blobs = [layer for layer in weights.layer if layer.blobs]
    assert with_blobs
    for layer in with_blobs:
        assert types[layer.name] == layer.type
        assert all(blob.data or blob.double_data for blob in layer.blobs)


class TestSolver:
    @pytest.mark.parametrize(
        ("old", "new"),
        [("SGD", "SGD"), ("NESTEROV", "Nesterov"), ("ADAGRAD", "AdaGrad"), ("RMSPROP", "RMSProp"), ("ADAM", "Adam")]
        + [("ADADELTA", "AdaDelta")],
    )
    def test_type(self, old, new):
        solver = schema.SolverParameter(solver_type=schema.SolverParameter.SolverType.Value(old))
        assert upgrade_solver(solver) == ["solver_type"]
        assert solver == schema.SolverParameter(type=new)
        assert upgrade_solver(solver) == []

    def test_both_types(self):
        with pytest.raises(PrototxtError, match="both solver_type and type"):
            upgrade_solver(schema.SolverParameter(solver_type=0, type="SGD"))
