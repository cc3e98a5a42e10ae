"""The operators torch.ops.caffe of written sources: in exported programs, in files, and as layers of Caffe again."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch
from test_caffe_import_round_trips import zoo

from caffe_bridge.convert import torch_files
from caffe_bridge.convert.caffe_import import ConversionError, import_program
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.onnx_files import build_net
from caffe_bridge.convert.program_archive import read_program
from caffe_bridge.convert.torch_export.parts import source_of
from caffe_bridge.convert.torch_export.parts.arrangement import filter_rows
from caffe_bridge.convert.torch_export.parts.pooling import max_pool_with_mask
from caffe_bridge.convert.torch_export.parts.regions import roi_pooling

ROI_POOLING = (
    'name: "pool" type: "ROIPooling" bottom: "a" bottom: "b" top: "c" '
    "roi_pooling_param { pooled_w: 3 pooled_h: 2 spatial_scale: 0.5 }"
)


def model_of(net) -> Model:
    layers = {node.name: list(node.layer.blobs) for node in net.graph.nodes if node.layer.blobs}
    return Model(net.name, layers, net.definition.param)


class Pooled(torch.nn.Module):
    """A module somebody wrote who knows Caffe's layer."""

    def __init__(self, layer: str):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.layer = layer

    def forward(self, image, rois):
        return torch.relu(roi_pooling(self.conv(image), rois, (2, 3), 0.5, layer=self.layer))


ROIS = torch.tensor([[0.0, 1, 2, 9, 11], [1, 0, 0, 4, 15]])


def export(module: torch.nn.Module, *inputs: torch.Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(module.eval(), inputs)


def test_a_module_of_ones_own():
    module, image = Pooled(ROI_POOLING), torch.randn(2, 3, 10, 12)
    model = import_program(export(module, image, ROIS), dialect="caffe-bridge")
    assert [layer.type for layer in model.definition.layer] == ["Input", "Input", "Convolution", "ROIPooling", "ReLU"]
    net = build_net(model)
    with torch.no_grad():
        (found,) = net(image=image, rois=ROIS).values()
        torch.testing.assert_close(found, module(image, ROIS))


def test_pooling_of_torchvision():
    """torchvision need not be there: its operator is defined here by what Caffe's computes."""
    if not hasattr(torch.ops.torchvision, "roi_pool"):

        @torch.library.custom_op("torchvision::roi_pool", mutates_args=())
        def _(
            x: torch.Tensor, rois: torch.Tensor, spatial_scale: float, pooled_height: int, pooled_width: int
        ) -> tuple[torch.Tensor, torch.Tensor]:
            found = roi_pooling(x, rois, (pooled_height, pooled_width), spatial_scale)
            return found, torch.zeros_like(found)

        _.register_fake(lambda x, rois, _, *size: tuple(x.new_empty(len(rois), x.shape[1], *size) for _ in range(2)))

    class Module(torch.nn.Module):
        def forward(self, image, rois):
            return torch.ops.torchvision.roi_pool(image * 2, rois, 0.5, 2, 3)[0].relu()

    image = torch.randn(2, 3, 10, 12)
    model = import_program(export(Module(), image, ROIS), dialect="opencv")
    (found,) = build_net(model)(image=image, rois=ROIS).values()
    torch.testing.assert_close(found, Module()(image, ROIS))


def test_gradients_pass_through_the_function():
    image = torch.randn(2, 3, 10, 12)
    module = Pooled(ROI_POOLING)
    module(image, ROIS).sum().backward()
    assert module.conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("", "does not say which layer"),
        ('name: "x" type: "ROIPooling" bottom: ', "cannot be read"),
        ('type: "ImageData" top: "x" image_data_param { source: "/etc/passwd" }', "type 'ImageData'"),
        ('type: "Python" top: "x" python_param { module: "os" layer: "system" }', "type 'Python'"),
        (ROI_POOLING.replace('bottom: "b"', 'bottom: "b" bottom: "d"'), "2 tensors for the 3 bottoms"),
        (ROI_POOLING.replace("pooled_w: 3", "pooled_w: 4"), "gives a value of shape"),
        (ROI_POOLING.replace("pooled_w: 3", "pooled_w: 0"), "pooled_w"),
        ('type: "InnerProduct" bottom: "a" top: "c" inner_product_param { num_output: 4 }', "has weights"),
    ],
)
def test_wrong_notes_are_refused(layer, reason):
    program = export(Pooled(layer), torch.randn(2, 3, 10, 12), ROIS)
    with pytest.raises(ConversionError, match=reason):
        import_program(program, dialect="caffe-bridge")


def test_dialects_without_the_layer_say_so():
    program = export(Pooled(ROI_POOLING), torch.randn(2, 3, 10, 12), ROIS)
    assert import_program(program, dialect="opencv")
    with pytest.raises(ConversionError, match="a ROIPooling, which ssd lacks"):
        import_program(program, dialect="ssd")


def test_dialects_that_always_round_up_say_so():
    class Module(torch.nn.Module):
        def forward(self, x):
            pooled, _ = max_pool_with_mask(x, (2, 2), (2, 2), None, False, layer=note)
            return pooled

    note = 'type: "Pooling" bottom: "a" top: "b" top: "c" pooling_param { kernel_size: 2 stride: 2 round_mode: FLOOR }'
    program = export(Module(), torch.randn(1, 2, 7, 7))
    assert import_program(program, dialect="bvlc")
    with pytest.raises(ConversionError, match="a Pooling, which caffe-1.0 lacks"):
        import_program(program, dialect="caffe-1.0")


def test_sizes_on_which_data_decide():
    class Chosen(torch.nn.Module):
        def forward(self, rows, selector):
            note = 'type: "Filter" bottom: "a" bottom: "b" top: "c"'
            (kept,) = filter_rows([rows], selector, layer=note)
            return {"twice": torch.flatten(kept.reshape(kept.shape[0], 2, 3).relu(), 1) * 2}

    rows, selector = torch.randn(5, 6), torch.tensor([1.0, 0, 1, 1, 0])
    net = build_net(import_program(export(Chosen(), rows, selector), dialect="caffe-bridge"))
    for chosen in (selector, torch.ones(5), 1 - selector):
        with torch.no_grad():
            torch.testing.assert_close(net(rows=rows, selector=chosen)["twice"], Chosen()(rows, chosen)["twice"])
    program = export(Masked(), rows, selector)
    with pytest.raises(ConversionError, match="index"):
        import_program(program)


class Masked(torch.nn.Module):
    """Torch's own choice of rows, of which Caffe's layer is not told."""

    def forward(self, rows, selector):
        return rows[selector > 0.5].relu()


def test_weights_that_layers_share_stay_shared():
    net = zoo("mnc5_tiny")
    arguments = tuple(torch.zeros(net.graph.shapes[name]) for name in net.inputs)
    arguments[1][0] = torch.tensor([*arguments[0].shape[2:], 1.0])
    written = torch_files.torch_module(net)
    made = build_net(import_program(export(written.module(), *arguments), dialect="caffe-bridge"))
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in net.parameters())


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path):
        """A detector as .pt2 and as source, with an input and what the net makes of it."""
        net = zoo("faster_rcnn_tiny")
        torch_files.write_program(str(tmp_path / "net.pt2"), model_of(net))
        torch_files.write_source(str(tmp_path / "net.py"), model_of(net))
        image, info = net.inputs
        inputs = {
            image: torch.randn(net.graph.shapes[image]),
            info: torch.tensor([[*net.graph.shapes[image][2:], 1.0]]),
        }
        with torch.no_grad():
            outputs = torch_files.torch_module(net).module()(*inputs.values())
        torch.save([list(inputs.values()), outputs], tmp_path / "data")
        return tmp_path

    def test_read_here(self, folder):
        inputs, wanted = torch.load(folder / "data", weights_only=True)
        program = read_program(str(folder / "net.pt2"))
        assert any(str(node.target).startswith("caffe.proposals") for node in program.graph.nodes)
        found = program.module()(*inputs)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value)

    def test_read_with_the_source_alone(self, folder):
        """In a process that has nothing of caffe-bridge."""
        script = """
            import sys, torch
            sys.modules["caffe_bridge"] = None
            import net
            inputs, wanted = torch.load("data", weights_only=True)
            for module in (torch.export.load("net.pt2").module(), net.load("net.safetensors")):
                with torch.no_grad():
                    found = module(*inputs)
                for name, value in wanted.items():
                    torch.testing.assert_close(found[name], value)
            """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_several_sources_define_the_operators_once():
    module, image = Pooled(ROI_POOLING), torch.randn(2, 3, 10, 12)
    program = export(module, image, ROIS)
    names: dict = {"__name__": "another source"}
    exec("from __future__ import annotations\nimport functools, torch\n" + "\n".join(source_of(["roi_pooling"])), names)
    assert names["roi_pooling"] is not roi_pooling
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image, ROIS), module(image, ROIS))
