"""What users get wrong: one line that says what and where, no traceback, exit status 2 from the tools."""

import h5py
import numpy as np
import pytest
import torch

import caffe_bridge
from caffe_bridge import cli
from caffe_bridge.errors import CaffeError, LayerError, PrototxtError, WeightsError

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 4 } }
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with net.prototxt, its weights in both formats, and a picture."""
    import cv2

    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    net = caffe_bridge.Net("net.prototxt")
    net.save("net.caffemodel")
    net.save("net.caffemodel.h5")
    cv2.imwrite("picture.png", np.full((40, 60, 3), 90, np.uint8))
    return tmp_path


def failing(capsys, *arguments):
    """Run a verb that must fail as users' mistakes do; returns its one line."""
    assert cli.main(list(arguments)) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()[-1:]
    assert "Traceback" not in captured.err and line.startswith(f"caffe-bridge {arguments[0]}: error: ")
    return line


def test_missing_files(files, capsys):
    assert "nowhere.caffemodel" in failing(capsys, "convert", "nowhere.caffemodel", "out.safetensors")
    with pytest.raises(PrototxtError, match="nowhere.prototxt: no such file"):
        caffe_bridge.Net("nowhere.prototxt")
    with pytest.raises(WeightsError, match="nowhere.caffemodel"):
        caffe_bridge.Net("net.prototxt", "nowhere.caffemodel")
    assert "nowhere.prototxt" in failing(capsys, "demo", "--def", "nowhere.prototxt", "--net", "net.caffemodel")


def test_a_truncated_caffemodel_names_file_and_layer(files, capsys):
    whole = (files / "net.caffemodel").read_bytes()
    (files / "cut.caffemodel").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(WeightsError, match=r"cut.caffemodel: .*truncated"):
        caffe_bridge.Net("net.prototxt", "cut.caffemodel")
    assert "cut.caffemodel" in failing(capsys, "convert", "cut.caffemodel", "out.safetensors")


def test_hdf5_of_another_net_names_layer_and_both_shapes(files):
    with h5py.File("other.h5", "w") as file:
        file["data/conv/0"] = np.zeros((5, 3, 3, 3), "f")
        file["data/conv/1"] = np.zeros(5, "f")
    with pytest.raises(WeightsError, match=r"other.h5: layer 'conv'.*\(5, 3, 3, 3\).*\(2, 3, 3, 3\)"):
        caffe_bridge.Net("net.prototxt", "other.h5")
    with h5py.File("nothing.h5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(WeightsError, match="nothing.h5"):
        caffe_bridge.Net("net.prototxt", "nothing.h5")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("InnerProduct", "InnerProdukt"), r"net.prototxt:4: layer 'fc' \(InnerProdukt\).*did you mean InnerProduct"),
        (("num_output: 4", "num_outputs: 4"), r"net.prototxt:4:\d+: .*num_outputs.*num_output"),
        (('bottom: "conv"', 'bottom: "convolution"'), "layer 'fc'.*bottom 'convolution' is made by no earlier layer"),
        (("kernel_size: 3", "kernel_size: 30"), r"layer 'conv' \(Convolution\), bottoms \[\(1, 3, 8, 8\)\]"),
    ],
)
def test_wrong_prototxts_name_line_and_layer(files, wrong, message):
    (files / "net.prototxt").write_text(NET.replace(*wrong))
    with pytest.raises(CaffeError, match=message) as caught:
        caffe_bridge.Net("net.prototxt")
    assert "\n" not in str(caught.value)


def test_a_wrong_prototxt_is_one_line_from_the_tools(files, capsys):
    (files / "net.prototxt").write_text(NET.replace("num_output: 4", "num_outputs: 4"))
    line = failing(capsys, "demo", "--def", "net.prototxt", "--net", "net.caffemodel", "--images", "picture.png")
    assert "net.prototxt:4" in line and "num_output" in line


def test_an_image_that_is_none(files, capsys):
    (files / "picture.png").write_bytes(b"not a picture")
    prototxt = str(caffe_bridge.__path__[0]) + "/../prototxt/mnc5_tiny/test.prototxt"
    status = cli.main(["demo", "--def", prototxt, "--images", "picture.png", "--out", "out", "--cpu"])
    captured = capsys.readouterr()
    assert status == 2 and "picture.png" in captured.err and "Traceback" not in captured.err


def test_a_roi_with_nan_is_named():
    from caffe_bridge.layers import functional as F

    rois = torch.tensor([[0, 1, 1, 5, 5], [0, 1, float("nan"), 5, 5]])
    for pool in (F.roi_warping, F.roi_pooling):
        with pytest.raises(LayerError, match=r"RoI row 1 \(0, 1, nan, 5, 5\) is not finite"):
            pool(torch.zeros(1, 2, 8, 8), rois, 2, 1.0)


def test_a_roi_with_nan_in_a_net_names_the_layer():
    net = caffe_bridge.Net("""
        layer { name: "data" type: "Input" top: "data" top: "rois"
                input_param { shape { dim: 1 dim: 2 dim: 8 dim: 8 } shape { dim: 1 dim: 5 } } }
        layer { name: "warp" type: "ROIWarping" bottom: "data" bottom: "rois" top: "warp"
                roi_warping_param { pooled_h: 2 pooled_w: 2 } }
    """)
    with pytest.raises(LayerError, match=r"line 4: layer 'warp' \(ROIWarping\), bottoms .*RoI row 0 "):
        net(data=torch.zeros(1, 2, 8, 8), rois=torch.tensor([[0, 1, 1, float("nan"), 5]]))
