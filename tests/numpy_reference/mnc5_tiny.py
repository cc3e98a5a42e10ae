"""The train net of prototxt/mnc5_tiny: losses and the gradients of its parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_reference import boxes, cascade, layers, rois
from numpy_reference.cascade import Truth
from numpy_reference.layers import Back

Parameters = dict[str, list[np.ndarray]]

CLASSES = 5
STRIDE = 8
CLIP_BASE = 512
CONVOLUTIONS = [("conv1_1", True), ("conv2_1", True), ("conv3_1", True), ("conv4_1", False), ("conv5_1", False)]


class Net:
    """One pass: `losses` by name after construction, `gradients` by layer name after `backward`.

    Args:
        parameters: weight and bias of each layer; stages four and five use those of two and three.
        image: [1, 3, H, W], means subtracted.
        truth: what is in it.
        settings: of the training, by their names in cfg and cfg.TRAIN.
    """

    def __init__(self, parameters: Parameters, image: np.ndarray, truth: Truth, settings: dict[str, Any]):
        self.parameters, self.truth, self.settings = parameters, truth, settings
        self.losses: dict[str, float] = {}
        self.gradients: Parameters = {name: [np.zeros_like(b) for b in blobs] for name, blobs in parameters.items()}
        features, self._trunk_back = self._trunk(image / 64)
        proposals, index, self._proposal_back, rpn_back = self._rpn(features)
        sampled, targets, fg, bg, self._sample_back = cascade.proposal_target(
            proposals, index, truth, CLASSES, settings
        )
        self._rpn_back = rpn_back(fg, bg)
        outputs, scores, self._first_back = self._stages(features, sampled, targets, "")
        refined, targets, self._bridge_back = cascade.stage_bridge(
            sampled, outputs, layers.softmax(scores), truth, CLIP_BASE, settings
        )
        _, _, self._second_back = self._stages(features, refined, targets, "_ext")

    def backward(self) -> None:
        """From the losses to the parameters."""
        to_features, to_refined = self._second_back(0)
        to_sampled, to_outputs = self._bridge_back(to_refined)
        more_features, more_sampled = self._first_back(to_outputs)
        to_deltas = self._proposal_back(self._sample_back(to_sampled + more_sampled))
        self._trunk_back(to_features + more_features + self._rpn_back(to_deltas))

    # -- layers with parameters --------------------------------------------------------------------------

    def _learnable(self, name: str, function: Any, values: np.ndarray, *more: Any) -> tuple[np.ndarray, Back]:
        top, function_back = function(values, *self.parameters[name], *more)

        def back(grad: np.ndarray) -> np.ndarray:
            to_values, *to_blobs = function_back(grad)
            for total, part in zip(self.gradients[name], to_blobs):
                total += part
            return to_values

        return top, back

    def _convolution(self, name: str, values: np.ndarray, pad: int = 1) -> tuple[np.ndarray, Back]:
        return self._learnable(name, layers.convolution, values, pad)

    def _inner_product(self, name: str, values: np.ndarray) -> tuple[np.ndarray, Back]:
        return self._learnable(name, layers.inner_product, values)

    # -- parts -------------------------------------------------------------------------------------------

    def _trunk(self, values: np.ndarray) -> tuple[np.ndarray, Back]:
        steps = []
        for name, pooled in CONVOLUTIONS:
            values, back = self._convolution(name, values)
            values, relu_back = layers.relu(values)
            steps += [back, relu_back]
            if pooled:
                values, back = layers.max_pooling(values)
                steps.append(back)
        return values, _chain(steps)

    def _rpn(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, Back, Any]:
        height, width = features.shape[2:]
        cell = boxes.anchors([0.5, 1, 2], [1.5, 3, 6])
        anchors = boxes.anchors_of_map(cell, height, width, STRIDE)
        hidden, hidden_back = self._convolution("rpn_conv_3x3", features)
        hidden, relu_back = layers.relu(hidden)
        scores, scores_back = self._convolution("rpn_cls_score", hidden, 0)
        deltas, deltas_back = self._convolution("rpn_bbox_pred", hidden, 0)
        pairs = scores.reshape(1, 2, -1, width)
        probabilities = layers.softmax(pairs).reshape(scores.shape)
        proposals, index, proposal_back = cascade.proposal(
            probabilities, deltas, self.truth, anchors, CLIP_BASE, self.settings
        )

        def losses(foreground: np.ndarray, background: np.ndarray) -> Back:
            labels, targets, inside, outside = cascade.anchor_target(
                height, width, self.truth, anchors, foreground, background, self.settings
            )
            self.losses["rpn_cls_loss"], class_back = layers.softmax_loss(pairs, labels, 1)
            self.losses["rpn_loss_bbox"], box_back = layers.smooth_l1_loss(deltas, targets, inside, outside, 3, 1)

            def back(grad_deltas: np.ndarray) -> np.ndarray:
                grad = scores_back(class_back().reshape(scores.shape)) + deltas_back(grad_deltas + box_back())
                return hidden_back(relu_back(grad))

            return back

        return proposals, index, proposal_back, losses

    def _fully_connected(self, values: np.ndarray, *names: str) -> tuple[np.ndarray, Back]:
        steps = []
        for name in names:
            values, back = self._inner_product(name, values)
            values, relu_back = layers.relu(values)
            steps += [back, relu_back]
        return values, _chain(steps)

    def _stages(
        self, features: np.ndarray, regions: np.ndarray, targets: dict[str, np.ndarray], suffix: str
    ) -> tuple[np.ndarray, np.ndarray, Back]:
        """Masks of regions, and their classes and boxes; the box regressor's outputs and the mask scores."""
        warped, warp_back = rois.roi_warping(features, regions, 28, 1 / STRIDE)
        crops, crop_back = layers.max_pooling(warped)

        hidden, mask_hidden_back = self._fully_connected(crops, "fc6_maskest")
        logits, logits_back = self._inner_product("mask_pred", hidden)
        mask_targets, mask_weight = targets["mask_targets"], targets["mask_weight"]
        mask_loss, mask_loss_back = layers.sigmoid_loss(logits, mask_targets, mask_weight, 2)
        predicted, sigmoid_back = layers.sigmoid(logits)
        masks, mask_labels, mask_layer_back = cascade.mask_layer(
            predicted, targets["mask_description"], self.truth, self.settings
        )
        masks, resize_back = rois.mask_resize(masks, 14)
        masked, masked_back = rois.mask_pooling(crops, masks)

        pooled, pooled_back = layers.max_pooling(crops)
        by_box, box_back = self._fully_connected(pooled, "fc6", "fc7")
        pooled, masked_pooled_back = layers.max_pooling(masked)
        by_mask, by_mask_back = self._fully_connected(pooled, "fc6_mask", "fc7_mask")
        joined = np.hstack([by_mask, by_box])
        scores, scores_back = self._inner_product("cls_score", joined)
        mask_scores, mask_scores_back = self._inner_product("seg_cls_score", joined)
        outputs, outputs_back = self._inner_product("bbox_pred", joined)
        class_loss, class_back = layers.softmax_loss(scores, targets["labels"], 1)
        mask_class_loss, mask_class_back = layers.softmax_loss(mask_scores, mask_labels, 1)
        inside = targets["bbox_inside_weights"]
        box_loss, box_loss_back = layers.smooth_l1_loss(outputs, targets["bbox_targets"], inside, inside, 1, 1)

        self.losses[f"cls_loss{suffix}"] = class_loss
        self.losses[f"seg_cls_loss{suffix}"] = mask_class_loss
        self.losses[f"bbox_loss{suffix}"] = box_loss
        self.losses[f"loss_mask{suffix}"] = mask_loss

        def back(grad_outputs: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
            grad = scores_back(class_back()) + mask_scores_back(mask_class_back())
            grad = grad + outputs_back(box_loss_back() + grad_outputs)
            to_mask, to_box = np.hsplit(grad, [by_mask.shape[1]])
            to_crops = pooled_back(box_back(to_box))
            through_mask, to_masks = masked_back(masked_pooled_back(by_mask_back(to_mask)))
            grad_logits = mask_loss_back() + sigmoid_back(mask_layer_back(resize_back(to_masks)))
            to_crops = to_crops + through_mask + mask_hidden_back(logits_back(grad_logits))
            return warp_back(crop_back(to_crops))

        return outputs, mask_scores, back


def _chain(steps: list[Back]) -> Back:
    """The last step's backward first."""

    def back(grad: np.ndarray) -> np.ndarray:
        for step in reversed(steps):
            grad = step(grad)
        return grad

    return back
