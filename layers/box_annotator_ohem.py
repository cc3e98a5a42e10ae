"""BoxAnnotatorOHEM of R-FCN."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers import ranks
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("BoxAnnotatorOHEM", source="R-FCN")
class BoxAnnotatorOHEM(Layer):
    """Keeps the labels of the `roi_per_img` RoIs of each image with the highest loss (Shrivastava et al., 2016).

    Bottoms: RoIs (R, 5), their losses (R, 1), labels (R, 1) and box weights (R, K); trailing axes of 1 may follow.
    Tops: labels (R, 1, 1, 1), `ignore_label` for the others, and weights (R, K, 1, 1), 0 for the others. In Caffe on
    the GPU only.
    """

    bottoms = (4, 4)
    tops = (2, 2)
    constants = Layer.ALL_BOTTOMS

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.box_annotator_ohem_param
        self.roi_per_img, self.ignore_label = param.roi_per_img, param.ignore_label
        if not self.roi_per_img:
            raise LayerError("roi_per_img must be above 0")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        padded = [(*shape, 1, 1, 1)[:4] for shape in bottom_shapes]
        count, columns = padded[0][0], padded[3][1]
        wanted = [(count, width, 1, 1) for width in (5, 1, 1, columns)]
        if padded != wanted or any(len(shape) > 4 for shape in bottom_shapes):
            raise LayerError(f"takes RoIs (R, 5), losses (R, 1), labels (R, 1) and weights (R, K), not {bottom_shapes}")
        return [(count, 1, 1, 1), (count, columns, 1, 1)]

    @torch.no_grad()
    def forward(
        self, rois: torch.Tensor, loss: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count = len(rois)
        images = rois.flatten(1)[:, 0].long()
        order = ranks.by_group(images, loss.flatten())
        kept = torch.zeros(count, dtype=torch.bool, device=rois.device)
        kept[order] = ranks.places(images[order]) < self.roi_per_img
        labels = torch.where(kept, labels.flatten(), self.ignore_label)
        weights = torch.where(kept[:, None], weights.flatten(1), 0)
        return labels[:, None, None, None], weights[:, :, None, None]
