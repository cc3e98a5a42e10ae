"""MultiBoxLoss of SSD."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from caffe_bridge import ssd_boxes
from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import box_matching
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.detection_output import check_predictions
from caffe_bridge.layers.sloped import Sloped
from caffe_bridge.layers.softmax_loss import normalizer, read_normalization
from caffe_bridge.layers.suppression import suppress
from caffe_bridge.registry import register

_FLT_MIN = torch.finfo(torch.float32).tiny


class Matches(NamedTuple):
    """Priors matched to a ground truth, [M] each: image, prior, location class, and row of the ground truth."""

    image: torch.Tensor
    prior: torch.Tensor
    location: torch.Tensor
    truth: torch.Tensor

    def select(self, rows: torch.Tensor) -> Matches:
        """Those of some rows."""
        return Matches(*(values[rows] for values in self))


class GroundTruth(NamedTuple):
    """Image [G], label [G] and box [G, 4] of each ground truth."""

    image: torch.Tensor
    label: torch.Tensor
    box: torch.Tensor


def read_truth(blob: torch.Tensor, batch: int, background: int, use_difficult: bool) -> GroundTruth:
    """The ground truth of a batch from (1, 1, G, 8) rows image, label, instance, box, difficult.

    Rows of image -1 are none. Raises LayerError for one of the background's label or of no image of the batch.
    """
    rows = blob.reshape(-1, 8)
    image, label = rows[:, 0].long(), rows[:, 1].long()
    wanted = image != -1
    if bool((wanted & (label == background)).any()):
        raise LayerError(f"the ground truth contains the background label {background}")
    if bool((wanted & ((image < 0) | (image >= batch))).any()):
        raise LayerError(f"the ground truth names an image that is not in the batch of {batch}")
    if not use_difficult:
        wanted &= rows[:, 7] == 0
    return GroundTruth(image[wanted], label[wanted], rows[wanted, 3:7])


@register("MultiBoxLoss", source="SSD")
class MultiBoxLoss(Layer):
    """SSD's loss of locations and confidences (Liu et al., arXiv:1512.02325, section 2.2).

    Bottoms: codes (N, P * L * 4) with L = 1 if share_location else num_classes, class scores (N, P * C) before
    softmax, PriorBox's boxes (1, 2, 4P), and ground truth (1, 1, G, 8), rows image, label, instance, box, difficult.

    Priors, or predictions, are matched with the ground truth (`caffe_bridge.layers.box_matching`); unmatched ones are
    mined for negatives; the loss is (loc_weight * location loss + confidence loss) / normaliser, without the part
    whose bottom's propagate_down is false. The gradients are the original's: with encode_variance_in_target
    that of the codes is not divided by the variances (`cfg.TRAIN.EXACT_GRADIENTS` divides), and with LOGISTIC
    confidences and no mining the targets of the second image on land in wrong rows.
    """

    bottoms = (4, 4)
    auto_tops = True
    is_loss = True
    no_gradient = (2, 3)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.settings = self.param.multibox_loss_param
        self.classes, self.background = param.num_classes, param.background_label_id
        if not self.classes:
            raise LayerError("needs multibox_loss_param.num_classes, above 0")
        self.locations = 1 if param.share_location else self.classes
        self.softmax = param.conf_loss_type == param.SOFTMAX
        self.mines = param.mining_type != param.NONE
        if param.HasField("do_neg_mining") and param.do_neg_mining != self.mines:
            raise LayerError("do_neg_mining and mining_type contradict each other; leave the former out")
        if self.mines and not param.share_location:
            raise LayerError("mining goes with share_location: true only; say mining_type: NONE")
        if (self.softmax or self.mines) and self.background >= self.classes:
            raise LayerError(f"background_label_id {self.background} is not a class: there are {self.classes}")
        if param.map_object_to_agnostic and self.classes != 2:
            raise LayerError(f"map_object_to_agnostic takes num_classes: 2, not {self.classes}")
        if param.mining_type == param.HARD_EXAMPLE and param.sample_size < 1:
            raise LayerError(f"sample_size must be above 0, not {param.sample_size}")
        self.normalization = read_normalization(self.param.loss_param)
        if self.normalization == "PRE_FIXED":
            raise LayerError("normalization: PRE_FIXED is not SSD's; it has FULL, VALID, BATCH_SIZE and NONE")
        if not self.param.propagate_down:
            self.param.propagate_down.extend([True, True, False, False])

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        check_predictions(bottom_shapes, self.locations, self.classes)
        truth = bottom_shapes[3]
        if not truth or truth[-1] != 8:
            raise LayerError(f"takes ground truth (1, 1, G, 8) as the fourth bottom, not {tuple(truth)}")
        return [()]

    def forward(
        self, codes: torch.Tensor, scores: torch.Tensor, prior: torch.Tensor, truth: torch.Tensor
    ) -> torch.Tensor:
        param, batch = self.settings, len(codes)
        priors, variances = ssd_boxes.read_priors(prior.detach())
        self._check_priors(priors, variances)
        known = read_truth(truth.detach(), batch, self.background, param.use_difficult_gt)
        codes = codes.reshape(batch, len(priors), self.locations, 4)
        scores = scores.reshape(batch, len(priors), self.classes)
        with torch.no_grad():
            index, overlap = self._match(codes, priors, variances, known)
            matches = self._matches(index, known)
            self._check_labels(known.label[matches.truth])
            negatives = None
            if self.mines:
                matches, negatives = self._mine(codes, scores, priors, variances, known, matches, index, overlap)
        loss = codes.new_zeros(())
        down = self.param.propagate_down
        if down[0]:
            loss = loss + param.loc_weight * self._location_loss(codes, priors, variances, known, matches)
        if down[1]:
            loss = loss + self._confidence_loss(scores, known, matches, negatives)
        count = loss.new_full((), len(matches.image))
        return loss / normalizer(self.normalization, batch, len(priors), count)

    def _check_priors(self, priors: torch.Tensor, variances: torch.Tensor) -> None:
        ssd_boxes.check_sizes(priors, self.settings.code_type)
        if variances.device.type == "cpu" and not bool((variances > 0).all()):
            raise LayerError("the priors' variances must be above 0")

    def _check_labels(self, labels: torch.Tensor) -> None:
        """What is matched must be a class; nobody asks where every object counts as one."""
        if self.settings.map_object_to_agnostic and not self.mines:
            return
        if bool(((labels < 0) | (labels >= self.classes)).any()):
            raise LayerError(f"the ground truth has a label that is not a class: there are {self.classes}, from 0")

    def _decode(self, codes: torch.Tensor, priors: torch.Tensor, variances: torch.Tensor) -> torch.Tensor:
        scale = None if self.settings.encode_variance_in_target else variances
        return ssd_boxes.decode(codes, priors, scale, self.settings.code_type)

    # -- matching ----------------------------------------------------------------------------------------

    def _match(
        self, codes: torch.Tensor, priors: torch.Tensor, variances: torch.Tensor, known: GroundTruth
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For each image, class of locations and prior [N, L, P]: the row of its ground truth, and its best overlap.

        -1 is without a match, -2 ignored. With priors to match, L is 1 here.
        """
        param, batch = self.settings, len(codes)
        by_class = not param.share_location and not param.use_prior_for_matching
        classes = self.locations if by_class else 1
        group = known.image * classes
        in_class = torch.ones_like(group, dtype=torch.bool)
        if by_class:
            in_class = (known.label >= 0) & (known.label < classes)
            group = group + known.label
        rows = in_class.nonzero()[:, 0]
        groups, members = box_matching.group_rows(group[rows])
        if param.use_prior_for_matching:
            boxes = priors[None]
        else:
            boxes = self._decode(codes[groups // classes, :, groups % classes], priors, variances)
        truths = torch.where(members >= 0, rows[members], -1) if len(rows) else members
        index, overlap = box_matching.match(
            boxes,
            known.box[truths],
            truths >= 0,
            per_prediction=param.match_type == param.PER_PREDICTION,
            threshold=param.overlap_threshold,
            ignored=ssd_boxes.sticks_out(boxes) if param.ignore_cross_boundary_bbox else None,
        )
        all_index = index.new_full((batch * classes, len(priors)), -1)
        all_overlap = overlap.new_zeros(batch * classes, len(priors))
        if len(groups):
            all_index[groups] = torch.where(index >= 0, truths.gather(1, index.clamp(min=0)), index)
            all_overlap[groups] = overlap
        shape = (batch, classes, len(priors))
        return all_index.view(shape), all_overlap.view(shape)

    def _matches(self, index: torch.Tensor, known: GroundTruth) -> Matches:
        image, location, prior = (index >= 0).nonzero(as_tuple=True)
        truth = index[image, location, prior]
        if self.locations > 1 and self.settings.use_prior_for_matching:
            location = known.label[truth]
            inside = (location >= 0) & (location < self.locations)
            return Matches(image, prior, location, truth).select(inside)
        return Matches(image, prior, location, truth)

    # -- mining ------------------------------------------------------------------------------------------

    def _mine(
        self,
        codes: torch.Tensor,
        scores: torch.Tensor,
        priors: torch.Tensor,
        variances: torch.Tensor,
        known: GroundTruth,
        matches: Matches,
        index: torch.Tensor,
        overlap: torch.Tensor,
    ) -> tuple[Matches, tuple[torch.Tensor, torch.Tensor]]:
        """The matches that count, and (image, prior) of the negatives chosen among the rest.

        Images without ground truth give no negatives.
        """
        param = self.settings
        index, overlap = index[:, 0], overlap[:, 0]
        loss = self._mining_loss(scores, known, matches)
        hard = param.mining_type == param.HARD_EXAMPLE
        if hard:
            eligible = torch.ones_like(index, dtype=torch.bool)
            difference, _ = self._difference(codes, priors, variances, known, matches)
            loss[matches.image, matches.prior] += self._errors(difference).sum(1)
            wanted = index.new_full((len(index), 1), param.sample_size)
        else:
            eligible = (index == -1) & (overlap < param.neg_overlap)
            positives = (index >= 0).sum(1, keepdim=True)
            # In single precision, as Caffe: ten times 0.7 is 7 there, but less than 7 in double.
            wanted = (positives.float() * param.neg_pos_ratio).long()
        with_truth = torch.zeros(len(index), 1, dtype=torch.bool, device=index.device)
        with_truth[known.image] = True
        eligible &= with_truth
        order = torch.where(eligible, loss, -torch.inf).argsort(dim=1, descending=True, stable=True)
        remaining = eligible.gather(1, order)
        if param.HasField("nms_param") and param.nms_param.nms_threshold > 0:
            boxes = priors.expand(len(index), -1, -1)
            if not param.use_prior_for_nms:
                boxes = self._decode(codes[:, :, 0], priors, variances)
            remaining = self._suppress(boxes, order, remaining)
        chosen = remaining & (remaining.cumsum(1) <= wanted)
        selected = torch.zeros_like(eligible).scatter(1, order, chosen)
        if hard:
            matches = matches.select(selected[matches.image, matches.prior])
        image, prior = (selected & (index == -1)).nonzero(as_tuple=True)
        return matches, (image, prior)

    def _suppress(self, boxes: torch.Tensor, order: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Candidates in order that survive suppression; an absent top_k is 0 and leaves none, as in the original."""
        nms = self.settings.nms_param
        if nms.top_k >= 0:
            candidates = candidates & (candidates.cumsum(1) <= nms.top_k)
        length = int(candidates.any(0).nonzero().max()) + 1 if bool(candidates.any()) else 0
        ordered = boxes.gather(1, order[:, :length, None].expand(-1, -1, 4))
        large = candidates[:, :length] & (ssd_boxes.area(ordered) >= 1e-5)
        kept = suppress(ordered, large, nms.nms_threshold)
        return F.pad(kept, (0, candidates.shape[1] - length))

    def _mining_loss(self, scores: torch.Tensor, known: GroundTruth, matches: Matches) -> torch.Tensor:
        """Confidence loss of every prior [N, P] for the label it is matched with, else for the background."""
        labels = torch.full(scores.shape[:2], self.background, device=scores.device)
        labels[matches.image, matches.prior] = known.label[matches.truth]
        if self.softmax:
            return -scores.softmax(2).gather(2, labels[..., None])[..., 0].clamp(min=_FLT_MIN).log()
        target = torch.zeros_like(scores).scatter(2, labels[..., None], 1)
        return F.binary_cross_entropy_with_logits(scores, target, reduction="none").sum(2)

    # -- losses ------------------------------------------------------------------------------------------

    def _difference(
        self, codes: torch.Tensor, priors: torch.Tensor, variances: torch.Tensor, known: GroundTruth, matches: Matches
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted less target codes [M, 4] of the matches, without a gradient, and the predictions, with one."""
        param = self.settings
        prior, variance = priors[matches.prior], variances[matches.prior]
        in_target = param.encode_variance_in_target
        target = ssd_boxes.encode(known.box[matches.truth], prior, None if in_target else variance, param.code_type)
        rows = codes[matches.image, matches.prior, matches.location]
        difference = rows.detach() - target
        if param.bp_inside:
            placed = prior if param.use_prior_for_matching else self._decode(rows.detach(), prior, variance)
            difference = torch.where((placed < 0) | (placed > 1), 0, difference)
        return (difference / variance if in_target else difference), rows

    def _errors(self, difference: torch.Tensor) -> torch.Tensor:
        squared = 0.5 * difference * difference
        if self.settings.loc_loss_type == self.settings.L2:
            return squared
        size = difference.abs()
        return torch.where(size < 1, squared, size - 0.5)

    def _location_loss(
        self, codes: torch.Tensor, priors: torch.Tensor, variances: torch.Tensor, known: GroundTruth, matches: Matches
    ) -> torch.Tensor:
        difference, rows = self._difference(codes, priors, variances, known, matches)
        slope = difference
        if self.settings.loc_loss_type == self.settings.SMOOTH_L1:
            slope = difference.clamp(-1, 1)
        if self.settings.encode_variance_in_target and cfg.TRAIN.EXACT_GRADIENTS:
            slope = slope / variances[matches.prior]
        return Sloped.apply(rows, self._errors(difference).sum(), slope)

    def _confidence_loss(
        self,
        scores: torch.Tensor,
        known: GroundTruth,
        matches: Matches,
        negatives: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        labels = known.label[matches.truth]
        if self.settings.map_object_to_agnostic:
            labels = torch.full_like(labels, self.background + 1)
        if negatives is not None:
            rows = torch.cat([scores[matches.image, matches.prior], scores[negatives]])
            targets = torch.cat([labels, labels.new_full((len(negatives[0]),), self.background)])
            return self._softmax(rows, targets) if self.softmax else self._logistic(rows, self._one_hot(targets, rows))
        if self.softmax:
            targets = labels.new_full(scores.shape[:2], -1).flatten()
            place = matches.image * scores.shape[1] + matches.prior
            # A prior that several classes' predictions match is of the last of them.
            targets = targets.scatter_reduce(0, place, labels, "amax")
            return self._softmax(scores.flatten(0, 1), torch.where(targets < 0, self.background, targets))
        target = torch.full_like(scores, self.background).flatten()
        # As published: image i's targets start at element i * P, where they belong at i * P * C.
        target[matches.image * scores.shape[1] + matches.prior * self.classes + labels] = 1
        return self._logistic(scores.flatten(), target)

    def _one_hot(self, labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Targets of the mined rows: the value of background_label_id everywhere, as published, but 1 at the label."""
        return torch.full_like(rows, self.background).scatter(1, labels[:, None], 1)

    @staticmethod
    def _softmax(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        prob = rows.detach().softmax(1)
        picked = prob.gather(1, labels[:, None])
        slope = prob.scatter_add(1, labels[:, None], prob.new_full((), -1).expand(len(labels), 1))
        return Sloped.apply(rows, -picked.clamp(min=_FLT_MIN).log().sum(), slope)

    @staticmethod
    def _logistic(rows: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(rows, target, reduction="sum")
