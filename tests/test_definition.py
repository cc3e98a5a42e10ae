"""Definitions as Caffe builds them: where they are read from, filtering, splits, and a solver's nets."""

import random
from pathlib import Path

import pytest

from caffe_bridge import CaffeError, PrototxtError, SolverError, schema
from caffe_bridge.definition import NetDefinition, insert_splits, read_net, read_solver, solver_nets

FILES = Path(__file__).parent / "reference" / "files"


def names(definition):
    return [layer.name for layer in definition.param.layer]


class TestReadNet:
    def test_path(self, tmp_path, monkeypatch):
        path = tmp_path / "net.prototxt"
        path.write_text('name: "n"\n\nlayer { name: "a" }\nlayer { name: "b" }')
        monkeypatch.chdir(tmp_path)
        for source in (path, str(path), "net.prototxt"):
            definition = read_net(source, "TEST")
            assert names(definition) == ["a", "b"]
            assert definition.path == str(source)
            assert definition.lines == [3, 4]
            assert definition.where(1) == f"{source}:4"

    @pytest.mark.parametrize("text", ['name: "n"', "layer { name: 'n' }", "# nothing\n", b"name: 'n'", ""])
    def test_text(self, text):
        definition = read_net(text, "TRAIN")
        assert definition.path == ""
        assert definition.param.state.phase == schema.TRAIN

    def test_where_of_a_text(self):
        assert read_net("\nlayer { name: 'n' }", "TEST").where(0) == "line 2"
        assert read_net('input: "x"\ninput_shape { dim: 1 }', "TEST").where(0) == "line 1"

    @pytest.mark.parametrize("name", ["none.prototxt", "some/net", "train_val.pt", "C:/nets/net.prototxt"])
    def test_no_such_file(self, name):
        with pytest.raises(PrototxtError, match=f"{name}: no such file"):
            read_net(name, "TEST")

    def test_directory(self, tmp_path):
        with pytest.raises(PrototxtError, match="cannot be read"):
            read_net(str(tmp_path), "TEST")

    def test_message(self):
        param = schema.NetParameter(layer=[{"name": "a"}], input=["x"], input_shape=[{"dim": [1]}])
        definition = read_net(param, "TEST")
        assert names(definition) == ["input", "a"]
        assert definition.lines == [None, None]
        assert definition.where(1) == ""
        assert list(param.input) == ["x"]

    def test_wrong_kind(self):
        with pytest.raises(PrototxtError, match=r"expected a caffe.NetParameter, got a caffe.LayerParameter"):
            read_net(schema.LayerParameter(), "TEST")
        with pytest.raises(TypeError):
            read_net(None, "TEST")
        with pytest.raises(PrototxtError, match="phase must be TRAIN or TEST"):
            read_net("", "test")

    def test_errors_name_the_file(self, tmp_path):
        path = tmp_path / "net.prototxt"
        path.write_text("layer {\n  nam: 'x'\n}")
        with pytest.raises(PrototxtError) as caught:
            read_net(path, "TEST")
        assert (caught.value.path, caught.value.line, caught.value.column) == (str(path), 2, 3)

    def test_old_format_keeps_lines(self):
        definition = read_net(FILES / "v0.prototxt", "TEST")
        text = (FILES / "v0.prototxt").read_text().splitlines()
        for layer, line in zip(definition.param.layer, definition.lines, strict=True):
            if layer.type != "Input":
                assert text[line - 1].lstrip().startswith("layers")


def kept(rules, phase="TEST", **state):
    return bool(read_net(f"layer {{ {rules} }}", phase, **state).param.layer)


class TestFilter:
    @pytest.mark.parametrize(
        ("rules", "state", "expected"),
        [
            ("", {}, True),
            ("include { phase: TEST }", {}, True),
            ("include { phase: TEST }", {"phase": "TRAIN"}, False),
            ("exclude { phase: TEST }", {}, False),
            ("exclude { phase: TEST }", {"phase": "TRAIN"}, True),
            ("include { phase: TRAIN } include { phase: TEST }", {}, True),
            ("include {}", {}, True),
            ("exclude {}", {}, False),
            ("include { min_level: 1 }", {}, False),
            ("include { min_level: 1 }", {"level": 1}, True),
            ("include { max_level: 1 }", {"level": 2}, False),
            ("include { min_level: -1 max_level: 1 }", {}, True),
            ("include { stage: 'a' }", {}, False),
            ("include { stage: 'a' }", {"stages": ["b", "a"]}, True),
            ("include { stage: 'a' stage: 'b' }", {"stages": ["a"]}, False),
            ("include { stage: 'a' } include { stage: 'b' }", {"stages": ["b"]}, True),
            ("include { not_stage: 'a' }", {"stages": ["a"]}, False),
            ("include { not_stage: 'a' }", {"stages": ["b"]}, True),
            ("exclude { stage: 'a' phase: TRAIN }", {"stages": ["a"]}, True),
        ],
    )
    def test_rules(self, rules, state, expected):
        assert kept(rules, **state) is expected

    def test_files_state(self):
        text = (
            "state { phase: TRAIN level: 5 stage: 'own' } layer { include { phase: TEST stage: 'own' stage: 'arg' } }"
        )
        definition = read_net(text, "TEST", stages=("arg",))
        assert len(definition.param.layer) == 1
        assert definition.param.state == schema.NetState(phase=schema.TEST, level=0, stage=["own", "arg"])

    def test_both_kinds_of_rule(self):
        with pytest.raises(PrototxtError, match="has include and exclude rules") as caught:
            read_net("\nlayer { include {} exclude {} }", "TEST")
        assert caught.value.line == 2


def split(text, phase="TEST"):
    return insert_splits(read_net(text, phase))


def wiring(definition):
    return [(layer.name, list(layer.bottom), list(layer.top)) for layer in definition.param.layer]


class TestSplits:
    def test_two_readers(self):
        definition = split(
            """layer { name: "in" top: "x" top: "y" }
            layer { name: "p" bottom: "x" bottom: "y" top: "p" }
            layer { name: "q" bottom: "y" bottom: "y" top: "q" }"""
        )
        assert wiring(definition) == [
            ("in", [], ["x", "y"]),
            ("y_in_1_split", ["y"], ["y_in_1_split_0", "y_in_1_split_1", "y_in_1_split_2"]),
            ("p", ["x", "y_in_1_split_0"], ["p"]),
            ("q", ["y_in_1_split_1", "y_in_1_split_2"], ["q"]),
        ]
        assert definition.param.layer[1].type == "Split"
        assert definition.lines == [1, 1, 2, 3]

    def test_in_place_makes_a_new_version(self):
        definition = split(
            """layer { name: "in" top: "x" } layer { name: "r" bottom: "x" top: "x" }
            layer { name: "p" bottom: "x" top: "p" } layer { name: "q" bottom: "x" top: "q" }"""
        )
        assert wiring(definition)[1:] == [
            ("r", ["x"], ["x"]),
            ("x_r_0_split", ["x"], ["x_r_0_split_0", "x_r_0_split_1"]),
            ("p", ["x_r_0_split_0"], ["p"]),
            ("q", ["x_r_0_split_1"], ["q"]),
        ]

    def test_loss_weight_is_a_reader(self):
        definition = split(
            """layer { name: "l" top: "a" top: "b" loss_weight: 2 loss_weight: 3 }
            layer { name: "p" bottom: "a" top: "p" }"""
        )
        assert wiring(definition)[1:] == [
            ("a_l_0_split", ["a"], ["a_l_0_split_0", "a_l_0_split_1"]),
            ("p", ["a_l_0_split_1"], ["p"]),
        ]
        assert list(definition.param.layer[1].loss_weight) == [2, 0]
        assert not definition.param.layer[0].loss_weight

    def test_zero_loss_weight_is_none(self):
        text = "layer { name: 'l' top: 'a' loss_weight: 0 } layer { name: 'p' bottom: 'a' }"
        assert wiring(split(text)) == [("l", [], ["a"]), ("p", ["a"], [])]

    def test_already_split_net_is_unchanged(self):
        once = split("layer { name: 'i' top: 'x' } layer { bottom: 'x' bottom: 'x' }")
        assert insert_splits(once) == once

    def test_given_definition_is_not_changed(self):
        definition = read_net("layer { name: 'i' top: 'x' } layer { bottom: 'x' bottom: 'x' }", "TEST")
        before = definition.param.SerializeToString()
        insert_splits(definition)
        assert definition.param.SerializeToString() == before

    def test_unknown_bottom(self):
        with pytest.raises(PrototxtError) as caught:
            split("layer { name: 'i' top: 'conv1' }\nlayer { name: 'r' bottom: 'conv2' }")
        assert "bottom 'conv2' of layer 'r' is made by no earlier layer" in str(caught.value)
        assert "did you mean 'conv1'?" in str(caught.value)
        assert caught.value.line == 2

    def test_names_cannot_blow_up(self):
        readers = "layer { bottom: 'x' }" * 3
        with pytest.raises(PrototxtError, match="longer than 1000 characters"):
            split(f"layer {{ name: '{'n' * 2000}' top: 'x' }}" + readers)

    def test_definition_without_lines(self):
        param = schema.NetParameter(layer=[{"name": "a"}])
        assert insert_splits(NetDefinition(param)).lines == [None]


NET = """layer { name: "train" include { phase: TRAIN } } layer { name: "test" include { phase: TEST } }
layer { name: "extra" include { stage: "extra" } }"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A directory laid out as Caffe's root, with a net in models/m; the working directory is elsewhere."""
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "net.prototxt").write_text(NET)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


class TestSolver:
    def test_file(self, root):
        path = root / "models" / "m" / "solver.prototxt"
        path.write_text('net: "models/m/net.prototxt" test_iter: 1 test_interval: 5 solver_type: ADAM')
        solver, where = read_solver(path)
        assert where == str(path)
        assert solver.type == "Adam"
        assert solver.snapshot_prefix == str(root / "models" / "m" / "solver")
        train, tests = solver_nets(solver, where)
        assert names(train) == ["train"]
        assert [names(test) for test in tests] == [["test"]]
        assert train.path == str(root / "models" / "m" / "net.prototxt")

    def test_snapshot_directory(self, root):
        path = root / "solver.prototxt"
        path.write_text(f'snapshot_prefix: "{root}"')
        assert read_solver(str(path))[0].snapshot_prefix == str(root / "solver")

    def test_text_has_no_prefix(self):
        solver, path = read_solver('net: "n" base_lr: 0.1')
        assert path == ""
        assert not solver.HasField("snapshot_prefix")

    @pytest.mark.parametrize("name", ["net.prototxt", "m/net.prototxt", "models/m/net.prototxt"])
    def test_where_nets_are_looked_for(self, root, name):
        train, tests = solver_nets(read_solver(f'net: "{name}"')[0], str(root / "models" / "m" / "s.prototxt"))
        assert (names(train), tests) == (["train"], [])

    def test_working_directory_comes_first(self, root):
        Path("net.prototxt").write_text('layer { name: "here" }')
        solver = read_solver('net: "net.prototxt"')[0]
        assert names(solver_nets(solver, str(root / "models" / "m" / "s.prototxt"))[0]) == ["here"]

    def test_net_is_nowhere(self, root):
        with pytest.raises(PrototxtError, match=r"s.prototxt: net 'none.prototxt' is neither below"):
            solver_nets(read_solver('net: "none.prototxt"')[0], str(root / "s.prototxt"))

    def test_order_of_test_nets_and_states(self, root):
        solver, _ = read_solver(
            """
            net_param { state { stage: "own" } layer { name: "generic" include { stage: "s3" stage: "own" } } }
            test_net: "m/net.prototxt"
            test_net_param { layers { name: "inline" type: RELU } }
            test_iter: 1 test_iter: 2 test_iter: 3 test_interval: 1
            test_state {} test_state { stage: "extra" } test_state { stage: "s3" }
            """
        )
        train, tests = solver_nets(solver, str(root / "models" / "s.prototxt"))
        assert names(train) == []
        assert [names(test) for test in tests] == [["inline"], ["test", "extra"], ["generic"]]

    def test_train_state_overrides(self, root):
        solver, _ = read_solver('train_net: "m/net.prototxt" train_state { phase: TEST level: 2 }')
        train, _ = solver_nets(solver, str(root / "models" / "s.prototxt"))
        assert names(train) == ["test"]
        assert train.param.state.level == 2

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "got none"),
            ('net: "n" train_net: "m"', "got net and train_net"),
            ("train_net_param {} test_iter: 1", "0 test nets but 1 test_iter"),
            ("net_param {} test_net_param {} test_interval: 1", "1 test nets but 0 test_iter"),
            ("net_param {} test_iter: 1 test_interval: 1 test_state {} test_state {}", "2 test_state for 1 test nets"),
            ("net_param {} test_iter: 1", "test_interval must be above 0"),
        ],
    )
    def test_inconsistent(self, text, message):
        solver, _ = read_solver(text + "\n")
        with pytest.raises(SolverError, match=f"solver.prototxt: .*{message}"):
            solver_nets(solver, "solver.prototxt")

    def test_caffes_own_file(self, monkeypatch):
        monkeypatch.chdir(FILES)
        train, tests = solver_nets(*read_solver("solver_binaryproto.prototxt"))
        assert train.param.layer
        assert not tests


@pytest.mark.parametrize("name", ["v0", "v1", "train", "deploy"])
def test_mutated_files_raise_only_our_errors(name):
    original = (FILES / f"{name}.prototxt").read_bytes()
    generator = random.Random(name)
    pieces = [b"{", b"}", b'"', b"layer", b"layers {", b"-", b"0x", b"\xff", b"\0", b"[", b"bottom: 'data'", b"9" * 30]
    refused = 0
    for _ in range(150):
        data = bytearray(original)
        for _ in range(generator.choice([1, 1, 3])):
            at = generator.randrange(len(data))
            data[at : at + generator.choice([0, 1, 8])] = generator.choice(pieces)
        try:
            insert_splits(read_net(bytes(data), generator.choice(["TRAIN", "TEST"])))
        except CaffeError:
            refused += 1
    assert 30 < refused < 150
