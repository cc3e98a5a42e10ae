"""The schema: numbers and defaults of Caffe's messages, a pool of its own, and the forks' numbers in binary files."""

import pickle
import subprocess
import sys

import pytest

from caffe_bridge import WeightsError, dialects, schema
from caffe_bridge.proto_compiler import compile_proto


@pytest.mark.parametrize(
    ("message", "field", "number", "default"),
    [
        ("NetParameter", "layer", 100, None),
        ("BlobProto", "data", 5, None),
        ("BlobProto", "raw_data", 12, b""),
        ("LayerParameter", "roi_warping_param", 11870, None),
        ("LayerParameter", "mask_resize_param", 11890, None),
        ("LayerParameter", "roi_pooling_param", 8266711, None),
        ("LayerParameter", "smooth_l1_loss_param", 8266712, None),
        ("LayerParameter", "norm_param", 206, None),
        ("LayerParameter", "psroi_pooling_param", 10001, None),
        ("LayerParameter", "shuffle_channel_param", 164, None),
        ("BatchNormParameter", "moving_average_fraction", 2, pytest.approx(0.999)),
        ("ConvolutionParameter", "dilation", 18, None),
        ("DropoutParameter", "scale_train", 2, True),
        ("LRNParameter", "beta", 3, 0.75),
        ("NormalizeParameter", "eps", 4, pytest.approx(1e-10)),
        ("SolverParameter", "snapshot_format", 37, 1),
        ("SolverParameter", "random_seed", 20, -1),
        ("DetectionOutputParameter", "code_type", 6, 1),
        ("V1LayerParameter", "blob_share_mode", 1002, None),
        ("V0LayerParameter", "det_crop_mode", 59, "warp"),
        ("MVNParameter", "eps", 3, pytest.approx(1e-9)),
    ],
)
def test_number_and_default(message, field, number, default):
    cls = getattr(schema, message)
    assert cls.DESCRIPTOR.fields_by_name[field].number == number
    if default is not None:
        assert getattr(cls(), field) == default


def test_enums():
    assert (schema.TRAIN, schema.TEST) == (0, 1)
    assert schema.Phase.Name(1) == "TEST"
    assert schema.PoolingParameter.AVE == 1
    assert schema.V1LayerParameter.LayerType.Value("THRESHOLD") == 31
    assert schema.LossParameter.NONE == 3
    assert schema.DESCRIPTOR.package == "caffe"


def test_packing_is_caffes():
    blob = schema.BlobProto(data=[1, 2], shape={"dim": [2]})
    assert blob.SerializeToString() == bytes.fromhex("2a 08 0000803f 00000040 3a 03 0a 01 02")
    assert schema.EltwiseParameter(coeff=[1]).SerializeToString() == bytes.fromhex("15 0000803f")


def test_messages_pickle_into_another_process():
    layer = schema.LayerParameter(name="a", pooling_param={"pad": 2})
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).pooling_param.pad)"
    result = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(layer), check=True, capture_output=True)
    assert result.stdout.strip() == b"2"


def test_unknown_name():
    with pytest.raises(AttributeError, match="NoSuchParameter"):
        schema.NoSuchParameter  # noqa: B018


def test_import_is_lazy():
    code = "import sys, caffe_bridge, caffe_bridge.schema; assert 'google.protobuf' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


OTHER_CAFFE_PB2 = """
from google.protobuf import descriptor_pb2, descriptor_pool
file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
message = file.message_type.add(name="NetParameter")
message.field.add(name="name", number=1, label=1, type=9)
message.field.add(name="only_there", number=999, label=1, type=5)
descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
from google.protobuf import message_factory
get = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory().GetPrototype
Other = get(descriptor_pool.Default().FindMessageTypeByName("caffe.NetParameter"))
"""
OURS = "from caffe_bridge import schema, definition; assert schema.NetParameter(name='n').layer is not None\n"
BOTH = """
assert Other is not schema.NetParameter
assert definition.read_net(Other(name="foreign", only_there=1), "TEST").param.name == "foreign"
"""


@pytest.mark.parametrize("code", [OTHER_CAFFE_PB2 + OURS + BOTH, OURS + OTHER_CAFFE_PB2 + BOTH])
def test_another_caffe_pb2_in_the_process(code):
    subprocess.run([sys.executable, "-c", code], check=True)


class TestCompiler:
    def test_scopes_and_options(self):
        file = compile_proto(
            """
            syntax = "proto2"; package p; // remark
            message A {
              message B { enum E { X = 0; Y = 1; } optional E e = 1 [default = Y]; }
              repeated B b = 1; /* and
              another */ repeated int32 n = 2 [packed = true, deprecated = true];
              optional string s = 3 [default = 'x;y'];
              optional C c = 4;
            }
            message C { reserved 2; required float f = 1 [default = -1e-3]; }
            """,
            "p.proto",
        )
        a, c = file.message_type
        assert a.nested_type[0].field[0].type_name == ".p.A.B.E"
        assert a.field[0].type_name == ".p.A.B"
        assert a.field[1].options.packed
        assert a.field[2].default_value == "x;y"
        assert (a.field[3].type_name, c.field[0].default_value) == (".p.C", "-1e-3")

    @pytest.mark.parametrize(
        "text", ["message A { optional Nothing x = 1; }", "message A {", "message A { optional int32 x }", "nonsense;"]
    )
    def test_mistakes(self, text):
        with pytest.raises(ValueError, match=r"t\.proto"):
            compile_proto(text, "t.proto")


def varint(value):
    out = []
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message_field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def enum_field(number, value):
    return varint(number << 3) + varint(value)


def float_field(number, hexadecimal):
    return varint(number << 3 | 5) + bytes.fromhex(hexadecimal)


def wire_layer(type_, *fields, bottoms=1):
    head = message_field(1, b"x") + message_field(2, type_.encode())
    return head + b"".join(message_field(3, b"b") for _ in range(bottoms)) + b"".join(fields)


ONE, TWO = "0000803f", "00000040"

# (the fork's bytes, what caffe.proto reads from them)
DIALECTS = {
    "PSPNet interp": (wire_layer("Interp", message_field(143, enum_field(3, 8))), "interp_param", {"zoom_factor": 8}),
    "BVLC input": (
        wire_layer("Input", message_field(143, message_field(1, message_field(1, b"\x05"))), bottoms=0),
        "input_param",
        {"shape": [{"dim": [5]}]},
    ),
    "BVLC crop": (wire_layer("Crop", message_field(144, enum_field(1, 1))), "crop_param", {"axis": 1}),
    "BVLC embed": (wire_layer("Embed", message_field(137, enum_field(1, 3))), "embed_param", {"num_output": 3}),
    "BVLC tile": (wire_layer("Tile", message_field(138, enum_field(2, 3))), "tile_param", {"tiles": 3}),
    "BVLC swish": (wire_layer("Swish", message_field(147, float_field(1, TWO))), "swish_param", {"beta": 2}),
    "PSPNet accuracy": (
        wire_layer("SegAccuracy", message_field(144, enum_field(2, 255))),
        "seg_accuracy_param",
        {"ignore_label": [255]},
    ),
    "PSPNet write": (
        wire_layer("MatWrite", message_field(145, message_field(1, b"p"))),
        "mat_write_param",
        {"prefix": "p"},
    ),
    "DeepLab crf": (wire_layer("DenseCRF", message_field(146, enum_field(1, 5))), "dense_crf_param", {"max_iter": 5}),
    "DeepLab transform": (
        wire_layer("DomainTransform", message_field(147, enum_field(1, 5))),
        "domain_transform_param",
        {"num_iter": 5},
    ),
    "DeepLab adaptive bias": (
        wire_layer("AdaptiveBiasChannel", message_field(148, enum_field(1, 5))),
        "adaptive_bias_channel_param",
        {"num_iter": 5},
    ),
    "DeepLab bias": (
        wire_layer("BiasChannel", message_field(149, float_field(1, TWO))),
        "bias_channel_param",
        {"bg_bias": 2},
    ),
    "YOLO reorg": (wire_layer("Reorg", message_field(149, enum_field(1, 2))), "reorg_param", {"stride": 2}),
    "DeepLab labels": (
        wire_layer("UniqueLabel", message_field(150, enum_field(1, 2))),
        "unique_label_param",
        {"max_labels": 2},
    ),
    "YOLO upsample": (wire_layer("Upsample", message_field(150, enum_field(1, 3))), "upsample_param", {"scale": 3}),
    "SegNet upsample": (
        wire_layer("Upsample", message_field(137, enum_field(6, 9)), bottoms=2),
        "upsample_param",
        {"upsample_h": 9},
    ),
    "SegNet data": (
        wire_layer("DenseImageData", message_field(138, enum_field(2, 4)), bottoms=0),
        "dense_image_data_param",
        {"batch_size": 4},
    ),
    "PSPNet bn": (
        wire_layer("BN", message_field(152, message_field(1, b"") + float_field(3, ONE))),
        "bn_param",
        {"slope_filler": {}, "momentum": 1},
    ),
    "SegNet bn": (
        wire_layer("BN", message_field(45, message_field(1, b"") + message_field(2, b"") + enum_field(3, 1))),
        "bn_param",
        {"scale_filler": {}, "shift_filler": {}, "bn_mode": 1},
    ),
    "SSD multibox": (
        wire_layer("MultiBoxLoss", message_field(201, enum_field(4, 21))),
        "multibox_loss_param",
        {"num_classes": 21},
    ),
    "C++ proposal": (
        wire_layer("Proposal", message_field(201, enum_field(1, 8))),
        "proposal_param",
        {"feat_stride": 8},
    ),
    "BVLC loss": (
        wire_layer("SoftmaxWithLoss", message_field(101, enum_field(3, 3))),
        "loss_param",
        {"normalization": 3},
    ),
    "R-FCN pre-fixed": (
        wire_layer("SoftmaxWithLoss", message_field(101, enum_field(3, 3) + float_field(4, TWO))),
        "loss_param",
        {"normalization": schema.LossParameter.PRE_FIXED, "pre_fixed_normalizer": 2},
    ),
    "R-FCN none": (
        wire_layer("SoftmaxWithLoss", message_field(101, enum_field(3, 4) + float_field(4, TWO))),
        "loss_param",
        {"normalization": schema.LossParameter.NONE, "pre_fixed_normalizer": 2},
    ),
    "SegNet loss": (
        wire_layer(
            "SoftmaxWithLoss",
            message_field(101, enum_field(3, 1) + float_field(4, ONE) + float_field(4, TWO)),
            bottoms=2,
        ),
        "loss_param",
        {"weight_by_label_freqs": True, "class_weighting": [1, 2]},
    ),
}


class TestDialects:
    @pytest.mark.parametrize("name", DIALECTS)
    def test_both_ways(self, name):
        wire, field, content = DIALECTS[name]
        layer = schema.LayerParameter.FromString(dialects.decode(wire))
        expected = getattr(schema.LayerParameter(**{field: content}), field)
        assert getattr(layer, field) == expected
        assert {f.name for f, _ in layer.ListFields()} <= {"name", "type", "bottom", field}
        assert dialects.encode(layer.SerializeToString()) == wire

    @pytest.mark.parametrize(
        ("type_", "theirs", "field"), [("BN", 137, "bn_param"), ("Upsample", 149, "upsample_param")]
    )
    def test_other_numbers_are_read(self, type_, theirs, field):
        layer = schema.LayerParameter.FromString(dialects.decode(wire_layer(type_, message_field(theirs, b""))))
        assert layer.HasField(field)

    def test_empty_segnet_bn_stays_segnets(self):
        layer = schema.LayerParameter.FromString(dialects.decode(wire_layer("BN", message_field(45, b""))))
        assert layer.bn_param.HasField("bn_mode")

    def test_rfcn_none_without_a_normalizer(self):
        layer = schema.LayerParameter.FromString(dialects.decode(wire_layer("L", message_field(101, enum_field(3, 4)))))
        assert layer.loss_param.normalization == schema.LossParameter.NONE

    def test_whole_net(self):
        wire = message_field(1, b"n") + message_field(100, DIALECTS["PSPNet interp"][0]) + message_field(100, b"")
        net = dialects.parse_net(memoryview(wire))
        assert net.layer[0].interp_param.zoom_factor == 8
        assert dialects.serialize_net(net) == wire

    @pytest.mark.parametrize("data", ["ff", "0a05", "0b", "ffffffffffffffffffffffff01", "a20605ffffffffff", "0aff"])
    def test_malformed(self, data):
        with pytest.raises(WeightsError):
            dialects.parse_net(bytes.fromhex(data))
