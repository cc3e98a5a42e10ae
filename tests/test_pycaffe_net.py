"""The pycaffe face: live blobs, Caffe's diffs, splits, user layers, scripts."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import CaffeError, LayerError

TRAINING = """
name: "pynet" force_backward: true
input: "data" input_shape { dim: 2 dim: 3 dim: 6 dim: 6 }
input: "label" input_shape { dim: 2 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "a" type: "InnerProduct" bottom: "conv" top: "a"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "conv" top: "b"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label" top: "loss" loss_weight: 2 }
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(TRAINING)
    made = caffe.Net(str(path), caffe.TRAIN)
    made.blobs["data"].data[...] = np.random.randn(2, 3, 6, 6)
    made.blobs["label"].data[...] = [1, 4]
    return made


def test_names_are_caffes_with_automatic_splits(net):
    assert net.inputs == ["data", "label"] and net.outputs == ["loss"]
    assert list(net.params) == ["conv", "a", "b"]
    splits = ["conv_relu_0_split_0", "conv_relu_0_split_1"]
    assert list(net.blobs) == ["data", "label", "conv", *splits, "a", "b", "sum", "loss"]
    assert list(net.layer_dict)[3] == "conv_relu_0_split" and net.layer_dict["conv_relu_0_split"].type == "Split"
    assert net.bottom_names["a"] == [splits[0]] and net.top_names["sum"] == ["sum"]
    assert net.blob_loss_weights["loss"] == 2 and net.blob_loss_weights["sum"] == 0


def test_data_and_diff_are_live_views(net):
    held = {name: blob.data for name, blob in net.blobs.items()}
    weight, diff = net.params["conv"][0].data, net.params["conv"][0].diff
    net.forward()
    net.backward()
    for name, view in held.items():
        np.testing.assert_array_equal(view, net.blobs[name].data)
    assert diff.any() and np.shares_memory(weight, net.params["conv"][0].data)
    before = net.blobs["loss"].data.copy()
    weight[...] = 0
    net.forward()
    assert net.blobs["loss"].data != before


def test_splits_share_data_and_sum_diffs(net):
    net.forward()
    net.backward()
    whole, parts = net.blobs["conv"], [net.blobs[f"conv_relu_0_split_{i}"] for i in range(2)]
    assert all(np.shares_memory(whole.data, part.data) for part in parts)
    # The in-place ReLU has already turned the sum into the gradient of its own input.
    expected = (parts[0].diff + parts[1].diff) * (whole.data > 0)
    np.testing.assert_allclose(whole.diff, expected, rtol=1e-5, atol=1e-7)


def test_parameter_diffs_accumulate_and_blob_diffs_do_not(net):
    net.forward()
    net.backward()
    once = net.params["a"][0].diff.copy(), net.blobs["data"].diff.copy()
    net.backward()
    np.testing.assert_allclose(net.params["a"][0].diff, 2 * once[0], rtol=1e-6)
    np.testing.assert_allclose(net.blobs["data"].diff, once[1], rtol=1e-6)
    net.clear_param_diffs()
    assert not net.params["a"][0].diff.any()


def test_backward_starts_from_the_loss_weight_and_matches_differences(net):
    net.forward()
    net.backward()
    weight, gradient = net.params["conv"][0].data, net.params["conv"][0].diff
    assert net.blobs["loss"].diff == 2
    for index in [(0, 0, 0, 0), (3, 2, 1, 1), (2, 1, 2, 0)]:
        losses = []
        for step in (1e-2, -2e-2):
            weight[index] += step
            losses.append(2 * float(net.forward()["loss"]))
        weight[index] += 1e-2
        assert gradient[index] == pytest.approx((losses[0] - losses[1]) / 2e-2, abs=2e-3, rel=2e-2)


def test_a_blob_may_be_changed_between_two_layers(net):
    net.forward(end="sum")
    net.blobs["sum"].data[...] = [[10, 0, 0, 0, 0], [0, 10, 0, 0, 0]]
    assert net.forward(start="loss")["loss"] == pytest.approx(10, abs=1e-3)


def test_partial_passes_return_the_named_blobs(net):
    assert set(net.forward(end="a", blobs=["conv"])) == {"a", "conv"}
    net.forward()
    assert set(net.backward(end="a", diffs=["sum"])) == {"conv_relu_0_split_0", "sum"}
    with pytest.raises(CaffeError, match="no layer is named 'nothing'"):
        net.forward(end="nothing")


def test_inputs_by_keyword_and_their_checks(net):
    x = np.random.randn(2, 3, 6, 6)
    assert set(net.forward(data=x, label=np.array([0, 1]))) == {"loss"}
    np.testing.assert_array_equal(net.blobs["data"].data, x.astype("f"))
    with pytest.raises(CaffeError, match="inputs are data, label"):
        net.forward(image=x)
    with pytest.raises(CaffeError, match="input 'data' has 3 items"):
        net.forward(data=np.zeros((3, 3, 6, 6)), label=np.array([0, 1]))


def test_reshape_propagates_and_growing_replaces_memory(net):
    old = net.blobs["data"].data
    net.blobs["data"].reshape(1, 3, 6, 6)
    net.blobs["label"].reshape(1)
    net.reshape()
    assert net.blobs["sum"].data.shape == (1, 5) and np.shares_memory(old, net.blobs["data"].data)
    net.blobs["data"].reshape(4, 3, 6, 6)
    net.blobs["label"].reshape(4)
    net.forward()
    assert net.blobs["conv_relu_0_split_1"].data.shape == (4, 4, 4, 4)
    assert not np.shares_memory(old, net.blobs["data"].data)
    with pytest.raises(CaffeError, match="cannot have shape"):
        net.blobs["data"].reshape(-1, 3)


def test_forward_all_runs_in_batches(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(
        TRAINING[: TRAINING.index('layer { name: "loss"')].replace('input: "label" input_shape { dim: 2 }', "")
    )
    net = caffe.Net(str(path), caffe.TEST)
    x = np.random.randn(5, 3, 6, 6).astype("f")
    out = net.forward_all(data=x)["sum"]
    assert out.shape == (5, 5)
    net.blobs["data"].reshape(1, 3, 6, 6)
    for row, image in zip(out, x):
        np.testing.assert_allclose(net.forward(data=image[None])["sum"][0], row, atol=1e-5)


def test_share_with_uses_one_memory_for_values_only(net, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(TRAINING)
    other = caffe.Net(str(path), caffe.TRAIN)
    other.share_with(net)
    net.params["a"][0].data[...] = 7
    assert (other.params["a"][0].data == 7).all()
    other.params["a"][0].diff[...] = 1
    assert not net.params["a"][0].diff.any()


def test_callbacks_are_called_around_each_layer(net):
    seen = []
    net.before_forward(lambda i: seen.append(("before", i)))
    net.after_backward(lambda i: seen.append(("after", i)))
    net.forward(start="sum")
    net.backward(start="loss", end="loss")
    last = len(net.layers) - 1
    assert seen == [("before", last - 1), ("before", last), ("after", last)]


def test_gradients_stop_where_caffe_stops_them(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(TRAINING.replace("force_backward: true", ""))
    net = caffe.Net(str(path), caffe.TRAIN)
    net.blobs["data"].data[...] = 1
    net.blobs["data"].diff[...] = 5
    net.forward()
    net.backward()
    assert (net.blobs["data"].diff == 5).all() and net.params["conv"][0].diff.any()


def test_both_constructors_and_their_errors(tmp_path, net):
    path = str(tmp_path / "net.prototxt")
    net.save(str(tmp_path / "net.caffemodel"))
    for made in (
        caffe.Net(path, str(tmp_path / "net.caffemodel"), caffe.TEST),
        caffe.Net(path, caffe.TEST, weights=str(tmp_path / "net.caffemodel")),
        caffe.Net(network_file=path, phase=caffe.TEST, weights=str(tmp_path / "net.caffemodel")),
    ):
        np.testing.assert_array_equal(made.params["a"][0].data, net.params["a"][0].data)
    with pytest.raises(TypeError, match="needs a phase"):
        caffe.Net(path)
    with pytest.raises(CaffeError, match="no such file"):
        caffe.Net(str(tmp_path / "none.prototxt"), caffe.TEST)


class Scaled(caffe.Layer):
    """Multiplies by a learned number, its parameter blob."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = float(self.param_str)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data[0] * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] += (top[0].diff * bottom[0].data).sum()
        if propagate_down[0]:
            bottom[0].diff[...] = self.blobs[0].data[0] * top[0].diff


USERS = """
force_backward: true
input: "data" input_shape { dim: 2 dim: 3 }
layer { name: "one" type: "Python" bottom: "data" top: "one" param { name: "shared" }
        python_param { module: "users_module" layer: "Scaled" param_str: "3" } }
layer { name: "two" type: "Python" bottom: "one" top: "two" param { name: "shared" }
        python_param { module: "users_module" layer: "Scaled" param_str: "5" } }
layer { name: "loss" type: "EuclideanLoss" bottom: "two" bottom: "data" top: "loss" loss_weight: 1 }
"""


@pytest.fixture
def users_net(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "users_module", type(sys)("users_module"))
    sys.modules["users_module"].Scaled = Scaled
    path = tmp_path / "users.prototxt"
    path.write_text(USERS)
    return path


def test_a_users_python_layer_runs_unmodified(users_net):
    net = caffe.Net(str(users_net), caffe.TRAIN)
    x = np.arange(6, dtype="f").reshape(2, 3)
    net.blobs["data"].data[...] = x
    net.forward()
    np.testing.assert_array_equal(net.blobs["two"].data, 9 * x)
    net.backward()
    up = (9 * x - x) / 2
    np.testing.assert_allclose(net.blobs["one"].diff, 3 * up)
    np.testing.assert_allclose(net.params["one"][0].diff, [(up * 3 * x).sum() + (3 * up * x).sum()])
    assert net.params["one"][0] is net.params["two"][0]
    assert isinstance(net.layer_dict["one"], Scaled) and net.layer_dict["two"].blobs[0].data[0] == 3


def test_the_torch_face_runs_it_inside_autograd_only_when_trusted(users_net):
    import torch

    import caffe_bridge

    with pytest.raises(LayerError, match="no Python layer is registered as .*python_layers='import'"):
        caffe_bridge.Net(str(users_net), phase="TRAIN")
    net = caffe_bridge.Net(str(users_net), phase="TRAIN", python_layers="import")
    x = torch.arange(6.0).view(2, 3)
    out = net(data=x, blobs=["two"])
    torch.testing.assert_close(out["two"], 9 * x)
    net.loss(out).backward()
    up = (9 * x - x) / 2
    torch.testing.assert_close(net.params["one"][0].grad, (up * 3 * x).sum()[None] * 2)


def test_errors_of_a_users_layer_stay_its_own(users_net):
    class Wrong(Scaled):
        def forward(self, bottom, top):
            raise KeyError("mine")

    sys.modules["users_module"].Scaled = Wrong
    with pytest.raises(KeyError, match="mine"):
        caffe.Net(str(users_net), caffe.TRAIN).forward()
    with pytest.raises(LayerError, match="module 'users_module' has no layer 'Scalde'; did you mean 'Scaled'"):
        users_net.write_text(USERS.replace('layer: "Scaled"', 'layer: "Scalde"'))
        caffe.Net(str(users_net), caffe.TRAIN)


SCRIPT = """
import os, sys
import caffe, caffe.io, caffe.proto.caffe_pb2
from caffe.proto import caffe_pb2
import caffe_bridge.pycaffe
assert caffe is caffe_bridge.pycaffe and caffe_pb2 is caffe_bridge.pycaffe.proto.caffe_pb2
assert caffe.proto.caffe_pb2.NetParameter is caffe_pb2.NetParameter and caffe_pb2.TEST == caffe.TEST
import beside

def child():
    import caffe
    return caffe.__version__

if __name__ == "__main__":
    import multiprocessing
    import subprocess
    assert sys.modules["__main__"].__dict__ is globals()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply_async(child).get(60))
    subprocess.check_call([sys.executable, "-c", "import caffe; caffe.Net; print('child ok')"])
    print(sys.argv, __file__, sys.path[0] == os.path.dirname(os.path.abspath(__file__)), beside.value)
"""


def test_scripts_run_as_under_python(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("value = 'found'")
    done = subprocess.run(
        [sys.executable, "-m", "caffe_bridge.pycaffe", "script.py", "--flag", "x"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == caffe.__version__ and lines[1] == "child ok"
    assert lines[2] == "['script.py', '--flag', 'x'] script.py True found"


def test_a_missing_script_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "caffe_bridge.pycaffe", "none.py"],
        cwd=tmp_path,
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr == "caffe_bridge.pycaffe: error: no such script: none.py\n"


def test_install_answers_import_caffe_inside_a_process():
    code = textwrap.dedent("""
        import caffe_bridge.pycaffe
        caffe_bridge.pycaffe.install()
        import caffe.net_spec, caffe._caffe
        from caffe.pycaffe import Net
        assert caffe.net_spec is caffe_bridge.pycaffe.net_spec and Net is caffe_bridge.pycaffe.Net
    """)
    subprocess.run([sys.executable, "-c", code], check=True)


def test_running_in_batches_needs_arrays(net):
    for run in (net.forward_all, net.forward_backward_all):
        with pytest.raises(CaffeError, match="needs"):
            run()


def make_net(folder, layers, phase=caffe.TRAIN):
    path = folder / "net.prototxt"
    path.write_text(layers)
    return caffe.Net(str(path), phase)


@pytest.mark.parametrize(("batch", "times"), [(1, 1), (2, 2)])
def test_a_scale_of_one_image_sets_its_diff(tmp_path, batch, times):
    net = make_net(
        tmp_path,
        f"""input: "x" input_shape {{ dim: {batch} dim: 2 dim: 3 }}
        layer {{ name: "scale" type: "Scale" bottom: "x" top: "y" scale_param {{ bias_term: true }} }}
        layer {{ name: "sum" type: "Reduction" bottom: "y" top: "sum" loss_weight: 1 }}""",
    )
    net.blobs["x"].data[...] = 1
    net.forward()
    net.backward()
    net.backward()
    np.testing.assert_allclose(net.params["scale"][0].diff, times * batch * 3)
    np.testing.assert_allclose(net.params["scale"][1].diff, 2 * batch * 3)


@pytest.mark.parametrize(("specs", "runs"), [("", True), ("param { lr_mult: 0 } " * 3, False)])
def test_a_batch_norm_without_multipliers_starts_gradients(tmp_path, specs, runs):
    net = make_net(
        tmp_path,
        f"""input: "x" input_shape {{ dim: 4 dim: 2 }}
        layer {{ name: "bn" type: "BatchNorm" bottom: "x" top: "y" {specs} }}
        layer {{ name: "sum" type: "Reduction" bottom: "y" top: "sum" loss_weight: 2 }}""",
    )
    net.blobs["x"].data[...] = [[1, 0], [2, 1], [3, 5], [7, 4]]
    net.forward()
    net.backward()
    np.testing.assert_array_equal(net.blobs["y"].diff, 2 if runs else 0)
    assert not any(blob.diff.any() for blob in net.params["bn"])


def test_a_layer_may_share_a_parameter_with_itself(tmp_path):
    net = make_net(
        tmp_path,
        """input: "x" input_shape { dim: 4 dim: 2 }
        layer { name: "scale" type: "Scale" bottom: "x" top: "y" scale_param { bias_term: true }
                param { name: "both" } param { name: "both" } }""",
    )
    net.blobs["x"].data[...] = 2
    net.params["scale"][1].data[...] = [3, 5]
    np.testing.assert_array_equal(net.forward()["y"], [[9, 15]] * 4)


@pytest.mark.parametrize("kind", ["Concat", "Slice"])
def test_concat_of_one_and_slice_into_one_are_views(tmp_path, kind):
    net = make_net(
        tmp_path,
        f"""force_backward: true input: "x" input_shape {{ dim: 2 dim: 2 }}
        layer {{ name: "same" type: "{kind}" bottom: "x" top: "y" }}
        layer {{ name: "relu" type: "ReLU" bottom: "y" top: "y" }}""",
    )
    net.blobs["x"].data[...] = [[1, -2], [-3, 4]]
    net.forward()
    np.testing.assert_array_equal(net.blobs["x"].data, [[1, 0], [0, 4]])
    net.blobs["y"].diff[...] = 5
    net.backward()
    np.testing.assert_array_equal(net.blobs["x"].diff, [[5, 0], [0, 5]])
