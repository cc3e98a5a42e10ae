"""The text format: everything protobuf accepts, and errors that say where and what."""

import math

import pytest

from caffe_bridge import PrototxtError, schema, text_format


def net(text):
    message = schema.NetParameter()
    text_format.parse(text, message)
    return message


def layer(text):
    message = schema.LayerParameter()
    text_format.parse(text, message, "net.prototxt")
    return message


class TestAccepted:
    @pytest.mark.parametrize(
        ("written", "value"),
        [
            ('"plain"', "plain"),
            ("'single'", "single"),
            ('"it\'s"', "it's"),
            ("'a' \"b\" # remark\n 'c'", "abc"),
            (r'"\a\b\f\n\r\t\v\\\'\"\?"', "\a\b\f\n\r\t\v\\'\"?"),
            (r'"\101\x42\u0043\U0001F600"', "ABC\U0001f600"),
            (r'"\303\251"', "é"),
            ('"é # no remark"', "é # no remark"),
            ('""', ""),
        ],
    )
    def test_strings(self, written, value):
        assert layer(f"name: {written}").name == value

    def test_bytes_field(self):
        datum = schema.Datum()
        text_format.parse(r'data: "\000\377a\xfe"', datum)
        assert datum.data == b"\0\xffa\xfe"

    @pytest.mark.parametrize(
        ("written", "value"),
        [("1", 1), ("1.5f", 1.5), ("-.5", -0.5), ("- 2.", -2), ("1e3", 1000), ("1E-2F", 0.01), ("inf", math.inf)]
        + [("-Infinity", -math.inf), ("1e400", math.inf), ("007", 7)],
    )
    def test_floats(self, written, value):
        assert layer(f"power_param {{ scale: {written} }}").power_param.scale == pytest.approx(value)

    def test_nan(self):
        assert math.isnan(layer("power_param { scale: nan }").power_param.scale)

    @pytest.mark.parametrize(("written", "value"), [("-3", -3), ("0x1F", 31), ("-0X10", -16), ("017", 15), ("0", 0)])
    def test_integers(self, written, value):
        assert layer(f"concat_param {{ axis: {written} }}").concat_param.axis == value

    @pytest.mark.parametrize(
        ("written", "value"),
        [(word, True) for word in ("true", "True", "t", "1")]
        + [(word, False) for word in ("false", "False", "f", "0")],
    )
    def test_bools(self, written, value):
        assert layer(f"transform_param {{ mirror: {written} }}").transform_param.mirror is value

    @pytest.mark.parametrize("written", ["AVE", "1"])
    def test_enums(self, written):
        assert layer(f"pooling_param {{ pool: {written} }}").pooling_param.pool == schema.PoolingParameter.AVE

    @pytest.mark.parametrize(
        "text",
        [
            "layer { name: 'a' } layer { name: 'b' }",
            "layer: { name: 'a' }, layer < name: 'b' >;",
            "layer [ { name: 'a'; }, < name: 'b', > ]",
            "layer: [{name:'a'},{name:'b'}]",
            "\ufefflayer\r\n{\r\n\tname:'a'}# last\r\nlayer{name:'b'}",
            b"\xef\xbb\xbflayer { name: 'a' } # \xb1\xb8 in another encoding\nlayer { name: 'b' }",
        ],
    )
    def test_messages(self, text):
        assert [layer.name for layer in net(text).layer] == ["a", "b"]

    def test_lists(self):
        message = layer('bottom: ["a", "b"] bottom: "c" loss_weight: [1, -2.5] top: [] propagate_down: [true, f]')
        assert list(message.bottom) == ["a", "b", "c"]
        assert list(message.loss_weight) == [1, -2.5]
        assert list(message.propagate_down) == [True, False]
        assert not message.top

    def test_empty(self):
        assert net("  # nothing\n") == schema.NetParameter()

    def test_old_content_is_replaced(self):
        message = schema.NetParameter(name="old")
        text_format.parse("force_backward: true", message)
        assert not message.HasField("name")


REFUSED = [
    ("name: 'a'\n  botom: 'b'", 2, 3, "LayerParameter has no field 'botom' (did you mean 'bottom'?)"),
    ("name: 'a' name: 'b'", 1, 11, "non-repeated field 'name' is set more than once"),
    ("lrn_param {} lrn_param {}", 1, 14, "non-repeated field 'lrn_param' is set more than once"),
    ("pooling_param { pool: MEAN }", 1, 23, "pool must be one of MAX, AVE, STOCHASTIC; got MEAN"),
    ("pooling_param { pool: AVG }", 1, 23, "(did you mean 'AVE'?)"),
    ("pooling_param { pool: 7 }", 1, 23, "MAX (0), AVE (1), STOCHASTIC (2); got 7"),
    ("pooling_param { pool: 'MAX' }", 1, 23, "without quotes"),
    ("pooling_param { pad: -1 }", 1, 22, "pad must be between 0 and 4294967295, got -1"),
    ("pooling_param { pad: 4294967296 }", 1, 22, "pad must be between"),
    ("pooling_param { pad: 1.5 }", 1, 22, "expected an integer for pad, got 1.5"),
    ("pooling_param { pad: 08 }", 1, 22, "expected an integer for pad, got 08"),
    ("concat_param { axis: -2147483649 }", 1, 22, "axis must be between"),
    ("pooling_param { pad: " + "9" * 5000 + " }", 1, 22, "pad must be between"),
    ("power_param { scale: 'x' }", 1, 22, "expected a number for scale"),
    ("power_param { scale: +1 }", 1, 22, "unexpected character '+'"),
    ("power_param { scale: 0x10 }", 1, 22, "expected a number for scale"),
    ("transform_param { mirror: yes }", 1, 27, "expected true or false for mirror, got yes"),
    ("transform_param { mirror: 2 }", 1, 27, "mirror must be between 0 and 1"),
    ("name: a", 1, 7, "expected a quoted string for name, got a"),
    ("name: 'a", 1, 7, "this string is not closed on its line"),
    ('name: "a\nb"', 1, 7, "this string is not closed on its line"),
    (r"name: 'a\q'", 1, 9, "bad escape"),
    (r"name: '\777'", 1, 8, "bad escape"),
    (r"name: '\ud800'", 1, 8, "bad escape"),
    (r"name: 'a' '\xff'", 1, 11, "name is not UTF-8"),
    (b"top: 'x'\nname: 'a\xff'", 2, 7, "this string is not UTF-8"),
    (b"\xff\xfen\0a\0", 1, 1, "this byte is not UTF-8"),
    ("name 'a'", 1, 6, "expected ':' after name, got 'a'"),
    ("name:", 1, 6, "expected a quoted string for name but the text ends"),
    ("lrn_param {\n k: 1\n", 1, 11, "the bracket opened here is not closed"),
    ("lrn_param { k: 1 >", 1, 18, "expected the name of a field of LRNParameter, got >"),
    ("}", 1, 1, "expected the name of a field of LayerParameter, got }"),
    ("lrn_param: 3", 1, 12, "expected '{' after lrn_param, got 3"),
    ("name: ['a']", 1, 7, "expected a quoted string for name, got ["),
    ("top: ['a' 'b'; 'c']", 1, 14, "expected ',' or ']', got ;"),
    ("top: ['a',]", 1, 11, "expected a quoted string for top, got ]"),
    ("clip_param { min: 0 }", 1, 12, "ClipParameter lacks its required field 'max'"),
    ("[caffe.ext]: 1", 1, 1, "expected the name of a field"),
]


@pytest.mark.parametrize(("text", "line", "column", "message"), REFUSED)
def test_refused(text, line, column, message):
    with pytest.raises(PrototxtError) as caught:
        layer(text)
    error = caught.value
    assert message in str(error)
    assert (error.path, error.line, error.column) == ("net.prototxt", line, column)
    assert str(error).startswith(f"net.prototxt:{line}:{column}: ")
    assert len(str(error)) < 1000


def test_nesting_is_bounded():
    from google.protobuf import descriptor_pb2

    with pytest.raises(PrototxtError, match="deep"):
        text_format.parse("nested_type {" * 100_000, descriptor_pb2.DescriptorProto())


def test_lines_of_top_level_entries():
    lines = text_format.parse(
        'name: "n"\ninput: "a" input: [\n"b",\n"c"]\n\nlayer {\n name: "x" }\nlayer { }\nlayer: [ {},\n{} ]',
        schema.NetParameter(),
    )
    assert lines == {"name": [1], "input": [2, 3, 4], "layer": [6, 8, 9, 10]}


def test_format_reads_back_the_same():
    message = layer(
        r"name: 'é\001\n' loss_weight: 0.1 loss_weight: 1e-30 loss_weight: inf bn_param { bn_mode: LEARN eps: 1e-5 }"
        " pooling_param { pool: AVE }"
    )
    text = text_format.format(message)
    assert "loss_weight: 0.1\n" in text
    assert layer(text) == message


def test_agrees_with_protobufs_own_parser():
    from google.protobuf import text_format as theirs

    text = """
        name: 'n' 'm' input: ["a", "b"], input_shape { dim: [1, 0x3, 010, -1] };
        layer { name: "c" type: 'Convolution' bottom: "a" convolution_param < pad: [1 2] > }
    """.replace("[1 2]", "[1, 2]")
    expected = schema.NetParameter()
    theirs.Parse(text, expected)
    assert net(text) == expected
