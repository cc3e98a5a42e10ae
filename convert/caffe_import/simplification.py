"""Groups of operators that are one thing in Caffe: what exporters take apart is put together again.

Each function looks for one pattern in the whole graph. They run in the order of `simplify`, which ends with dropping
what nobody reads any more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import.axis_order import keep_order
from caffe_bridge.convert.caffe_import.graph import Graph, Node, Value

_JOINING = ("add", "concat", "div", "max", "min", "mul", "sub")
_NOT_NEGATIVE = ("relu", "sigmoid", "exp", "abs", "softmax")


def simplify(graph: Graph) -> None:
    """Run every pattern."""
    graph.prune()
    for pattern in (
        join_reshapes,
        join_transposes,
        drop_expansions,
        join_lines,
        find_hard_swish,
        find_gelu,
        find_gates,
        drop_signs,
        find_lrn,
        find_shuffle,
        find_crops,
        join_slices,
        join_lines,
        find_normalize,
        add_biases,
        keep_order,
        take_padding,
        join_reshapes,
        read_rows,
    ):
        pattern(graph)
        graph.prune()


# -- shapes ----------------------------------------------------------------------------------------------


def join_reshapes(graph: Graph) -> None:
    """A reshape of a reshape is one; one that gives the shape back is none."""
    for node in graph.walk("reshape"):
        before = node.inputs[0].made_by("reshape")
        if before is not None:
            graph.rewrite(node, "reshape", before.inputs, shape=node["shape"])
        if node.inputs[0].shape == node.output.shape:
            graph.replace(node.output, node.inputs[0])


def join_transposes(graph: Graph) -> None:
    """A transpose of a transpose is one, or none."""
    for node in graph.walk("transpose"):
        before = node.inputs[0].made_by("transpose")
        if before is not None:
            graph.rewrite(node, "transpose", before.inputs, order=tuple(before["order"][i] for i in node["order"]))
        if list(node["order"]) == sorted(node["order"]):
            graph.replace(node.output, node.inputs[0])


def drop_expansions(graph: Graph) -> None:
    """Arithmetic broadcasts by itself."""
    for node in graph.walk("add", "sub", "mul", "div", "max", "min"):
        inputs = [value.node.inputs[0] if value.made_by("expand") and value.node else value for value in node.inputs]
        if inputs != node.inputs and np.broadcast_shapes(*(value.shape for value in inputs)) == node.output.shape:
            graph.rewrite(node, node.operator, inputs)


# -- scales and shifts -----------------------------------------------------------------------------------


def _line(node: Node | None) -> tuple[Any, Any] | None:
    """(scale, shift) of a node that computes scale x + shift."""
    if node is None:
        return None
    if node.operator == "power" and node["power"] == 1:
        return np.array(node["scale"], np.float32), np.array(node["shift"], np.float32)
    if node.operator == "affine":
        scale, shift = node["scale"], node["shift"]
        one, zero = np.ones((), np.float32), np.zeros((), np.float32)
        return one if scale is None else scale, zero if shift is None else shift
    return None


def join_lines(graph: Graph) -> None:
    """Scales and shifts in a row are one; what follows a power's line is left alone."""
    for node in graph.walk("power", "affine"):
        x = node.inputs[0]
        before = _line(x.node)
        if before is None or x.node is None or graph.only_user(x) is not node:
            continue
        if node.operator == "power" and node["power"] != 1:
            if x.node.operator == "power":
                scale, shift = node["scale"] * x.node["scale"], node["scale"] * x.node["shift"] + node["shift"]
                graph.rewrite(node, "power", x.node.inputs, power=node["power"], scale=scale, shift=shift)
            continue
        line = _line(node)
        assert line is not None
        arrays = [*before, *line]
        if math.prod(np.broadcast_shapes(*(a.shape for a in arrays))) > 1024 + 4 * max(a.size for a in arrays):
            continue
        scale, shift = before[0] * line[0], before[1] * line[0] + line[1]
        if x.node.inputs[0].shape == node.output.shape and (shift == 0).all() and np.allclose(scale, 1, 1e-6):
            graph.replace(node.output, x.node.inputs[0])
        elif scale.ndim == shift.ndim == 0:
            graph.rewrite(node, "power", x.node.inputs, power=1.0, scale=float(scale), shift=float(shift))
        else:
            kept = (None if (scale == 1).all() else scale, None if (shift == 0).all() else shift)
            graph.rewrite(node, "affine", x.node.inputs, scale=kept[0], shift=kept[1])


def add_biases(graph: Graph) -> None:
    """A term per channel after a filter is its bias."""
    for node in graph.walk("affine", "power"):
        x, line = node.inputs[0], _line(node)
        made = x.made_by("conv", "deconv", "dense")
        if line is None or made is None or len(x.users) != 1 or (line[0] != 1).any():
            continue
        axis = made["axis"] if made.operator == "dense" else 1
        shift = line[1].reshape((1,) * (len(x.shape) - line[1].ndim) + line[1].shape)
        if any(size != 1 for i, size in enumerate(shift.shape) if i != axis):
            continue
        term = np.broadcast_to(shift.reshape(-1), (x.shape[axis],))
        bias = made.inputs[2].array + term if len(made.inputs) > 2 else term
        value = Value("", bias.shape, np.asarray(bias, np.float32))
        graph.rewrite(made, made.operator, [*made.inputs[:2], value], **made.attributes)
        graph.replace(node.output, x)


# -- activations -----------------------------------------------------------------------------------------


def _is_power(node: Node | None, power: float, scale: float, shift: float) -> bool:
    if node is None or node.operator != "power":
        return False
    found = (node["power"], node["scale"], node["shift"])
    return all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-7) for a, b in zip(found, (power, scale, shift)))


def _hard_sigmoid_of(value: Value) -> tuple[Value, float] | None:
    """(x, f) where the value is f times relu6(x + 3) / 6, as exporters write it."""
    node, factor = value.node, 1.0
    if node is not None and node.operator == "power" and node["power"] == 1 and node["shift"] == 0:
        factor, node = node["scale"], node.inputs[0].node
    if node is None or node.operator != "clip" or node["low"] != 0:
        return None
    inner = node.inputs[0].node
    if inner is None or inner.operator != "power":
        return None
    if node["high"] == 6 and _is_power(inner, 1, 1, 3):
        return inner.inputs[0], factor * 6
    if node["high"] == 1 and _is_power(inner, 1, 1 / 6, 0.5):
        return inner.inputs[0], factor
    return None


def find_hard_swish(graph: Graph) -> None:
    """x relu6(x + 3) / 6, in the orders in which it is written."""
    for node in graph.walk("mul"):
        for x, gate in (node.inputs, node.inputs[::-1]):
            found = _hard_sigmoid_of(gate)
            if found is None:
                continue
            source, factor = found
            if source is x:
                _set_scaled(graph, node, "hard_swish", x, factor)
            elif x.node is not None and x.made_by("power") and x.node.inputs[0] is source:
                if x.node["power"] == 1 and x.node["shift"] == 0:
                    _set_scaled(graph, node, "hard_swish", source, factor * x.node["scale"])
            break
    for node in graph.walk("power"):
        # x relu6(x + 3), divided by 6 at the end.
        before = node.inputs[0].made_by("power")
        if before is not None and _is_power(node, 1, 1 / 6, 0) and _is_power(before, 1, 6, 0):
            if before.inputs[0].made_by("hard_swish") is not None:
                graph.replace(node.output, before.inputs[0])


def _set_scaled(graph: Graph, node: Node, operator: str, x: Value, factor: float) -> None:
    """Make a node `operator` of x, times a factor."""
    if math.isclose(factor, 1, rel_tol=1e-5):
        graph.rewrite(node, operator, [x])
        return
    made = Node(operator, [x], [], {}, node.name, node.origin)
    made.outputs.append(Value(node.name, x.shape, node=made))
    x.users.append(made)
    graph.insert(made, node)
    graph.rewrite(node, "power", [made.output], power=1.0, scale=factor, shift=0.0)


def find_gelu(graph: Graph) -> None:
    """x (1 + erf(x / sqrt 2)) / 2, in the orders in which it is written."""
    for node in graph.walk("mul"):
        for x, gate in (node.inputs, node.inputs[::-1]):
            share = gate.made_by("power")
            erf = share.inputs[0].made_by("erf") if share is not None else None
            inner = erf.inputs[0].made_by("power") if erf is not None else None
            if share is None or inner is None or not _is_power(inner, 1, math.sqrt(0.5), 0):
                continue
            if not _is_power(share, 1, share["scale"], share["scale"]):
                continue
            source, half = inner.inputs[0], x.made_by("power")
            if source is x:
                _set_scaled(graph, node, "gelu", x, 2 * share["scale"])
            elif half is not None and half.inputs[0] is source and _is_power(half, 1, half["scale"], 0):
                _set_scaled(graph, node, "gelu", source, 2 * share["scale"] * half["scale"])
            break


def drop_signs(graph: Graph) -> None:
    """The sign of x times |x| is x, as torch writes its pooling by norms."""
    for node in graph.walk("relu"):
        if node.inputs[0].made_by(*_NOT_NEGATIVE):
            graph.replace(node.output, node.inputs[0])
    for node in graph.walk("mul"):
        for sign, size in (node.inputs, node.inputs[::-1]):
            signed, sized = sign.made_by("sign"), size.made_by("abs")
            if signed is not None and sized is not None and signed.inputs[0] is sized.inputs[0]:
                graph.replace(node.output, signed.inputs[0])
                break


def find_gates(graph: Graph) -> None:
    """x sigmoid(beta x) is Swish, x tanh(softplus(x)) Mish."""
    for node in graph.walk("mul"):
        for x, gate in (node.inputs, node.inputs[::-1]):
            if gate.node is None:
                continue
            inner = gate.node.inputs[0] if gate.node.inputs else x
            if gate.node.operator == "sigmoid" and inner is x:
                graph.rewrite(node, "swish", [x], beta=1.0)
            elif gate.node.operator == "sigmoid" and inner.node is not None and inner.made_by("power"):
                line = inner.node
                if line.inputs[0] is x and line["power"] == 1 and line["shift"] == 0:
                    graph.rewrite(node, "swish", [x], beta=line["scale"])
            elif gate.node.operator == "tanh" and inner.node is not None and inner.made_by("softplus"):
                if inner.node.inputs[0] is x:
                    graph.rewrite(node, "mish", [x])
            if node.operator != "mul":
                break


# -- normalisation ---------------------------------------------------------------------------------------


def _square_of(value: Value) -> Value | None:
    """x where the value is x squared."""
    node = value.node
    if node is not None and node.operator == "mul" and node.inputs[0] is node.inputs[1]:
        return node.inputs[0]
    return node.inputs[0] if _is_power(node, 2, 1, 0) and node is not None else None


def find_lrn(graph: Graph) -> None:
    """x / (k + alpha mean(x^2))^beta, as torch computes it by pooling along the channels."""
    for node in graph.walk("div", "mul"):
        x, scale = node.inputs
        power = scale.made_by("power")
        if power is None or len(x.shape) < 3:
            continue
        beta = power["power"] if node.operator == "div" else -power["power"]
        value, pads = power.inputs[0], (0, 0)
        pool: Node | None = None
        while value.node is not None:
            if value.node.operator == "avg_pool":
                pool = value.node
            elif value.node.operator == "pad" and pool is not None and value.node["value"] == 0:
                begin, end = value.node["begin"], value.node["end"]
                pads = (sum(begin), sum(end))
            elif value.node.operator != "reshape":
                break
            value = value.node.inputs[0]
        if pool is None or _square_of(value) is not x:
            continue
        size = math.prod(pool["kernel"])
        if any(pool["begin"]) or any(pool["end"]):
            pads = (pads[0] + sum(pool["begin"]), pads[1] + sum(pool["end"]))
            if not pool["padded"]:
                continue
        spans_channels = pool.inputs[0].shape[2] == x.shape[1] + sum(pads) - sum(pool["begin"]) - sum(pool["end"])
        along = pool["kernel"][0] == size and spans_channels and set(pool["stride"]) == {1}
        if not along or pads != (size // 2, size - 1 - size // 2) or pool.output.shape[2] != x.shape[1]:
            continue
        if pool.output.shape[0] not in (1, x.shape[0]) or pool["divisor"] is not None:
            continue
        attributes = {"size": size, "alpha": power["scale"], "beta": beta, "k": power["shift"]}
        graph.rewrite(node, "lrn", [x], **attributes)


def find_normalize(graph: Graph) -> None:
    """x divided by its L2 norm over the channels."""
    for node in graph.walk("div"):
        x, norm = node.inputs
        eps = 0.0
        if norm.made_by("clip") and norm.node is not None and norm.node["high"] == math.inf:
            if not 0 <= norm.node["low"] <= 1e-6:
                continue
            eps, norm = norm.node["low"] ** 2, norm.node.inputs[0]
        elif _is_power(norm.node, 1, 1, 0) and norm.node is not None:
            eps, norm = norm.node["shift"] ** 2, norm.node.inputs[0]
        root = norm.made_by("power")
        if root is None or (root["power"], root["scale"]) != (0.5, 1) or not 0 <= root["shift"] <= 1e-4:
            continue
        total = root.inputs[0].made_by("reduce")
        if total is None or total["axes"] != (1,):
            continue
        is_square = total["kind"] == "square" and total.inputs[0] is x
        if is_square or (total["kind"] == "sum" and _square_of(total.inputs[0]) is x):
            graph.rewrite(node, "normalize", [x], eps=max(eps, root["shift"]), scale=None)
    for node in graph.walk("affine", "power"):
        unit, line = node.inputs[0].made_by("normalize"), _line(node)
        if unit is None or line is None or unit["scale"] is not None or len(node.inputs[0].users) != 1:
            continue
        scale, shift = line
        shape = (1,) * (len(node.output.shape) - scale.ndim) + scale.shape
        if not shift.any() and scale.size in (1, node.output.shape[1]) and scale.size == shape[1]:
            blob = scale.reshape(-1) if scale.size > 1 else scale.reshape(())
            graph.rewrite(node, "normalize", unit.inputs, eps=unit["eps"], scale=blob)


# -- rearrangements --------------------------------------------------------------------------------------


def find_shuffle(graph: Graph) -> None:
    """Channels dealt out in turn: reshape to groups, swap, reshape back."""
    for node in graph.walk("reshape"):
        swap = node.inputs[0].made_by("transpose")
        groups = swap.inputs[0].made_by("reshape") if swap is not None else None
        if swap is None or groups is None:
            continue
        x, shape, order = groups.inputs[0], groups.output.shape, list(swap["order"])
        if x.shape != node.output.shape or len(x.shape) < 3 or len(shape) < 3:
            continue
        dealt = shape[0] == x.shape[0] and shape[1] * shape[2] == x.shape[1]
        if dealt and order[:3] == [0, 2, 1] and order[3:] == list(range(3, len(shape))):
            graph.rewrite(node, "shuffle", [x], group=shape[1])


def join_slices(graph: Graph) -> None:
    """Slices that make up an axis are one split."""
    seen: dict[tuple[int, int], list[Node]] = {}
    for node in graph.walk("slice"):
        if node["step"] == 1:
            seen.setdefault((id(node.inputs[0]), node["axis"]), []).append(node)
    for (_, axis), nodes in seen.items():
        x = nodes[0].inputs[0]
        parts: dict[int, list[Node]] = {}
        for node in nodes:
            parts.setdefault(node["start"], []).append(node)
        at, order = 0, []
        while at in parts and len({node["stop"] for node in parts[at]}) == 1:
            order.append(parts[at])
            at = parts[at][0]["stop"]
        if at != x.shape[axis] or len(order) != len(parts) or len(order) < 2:
            continue
        first = nodes[0]
        split = Node("split", [x], [], {}, first.name, first.origin)
        split.attributes = {"axis": axis, "sizes": tuple(same[0].output.shape[axis] for same in order)}
        graph.insert(split, first)
        x.users.append(split)
        for same in order:
            part = Value(same[0].name, same[0].output.shape, node=split)
            split.outputs.append(part)
            for node in same:
                graph.replace(node.output, part)


def find_crops(graph: Graph) -> None:
    """A slice of an image, down to the size of what it is joined with or of an input, is a crop to that."""
    place = {id(node): i for i, node in enumerate(graph.nodes)}
    for node in graph.walk("slice"):
        x, offsets = node.inputs[0], {node["axis"]: node["start"]}
        inner = x.made_by("slice")
        if inner is not None and inner["axis"] != node["axis"] and graph.only_user(x) is node and inner["step"] == 1:
            offsets[inner["axis"]] = inner["start"]
            x = inner.inputs[0]
        follows = graph.only_user(node.output)
        if follows is not None and follows.operator == "slice" and follows["axis"] != node["axis"]:
            continue
        if len(x.shape) != 4 or not set(offsets) <= {2, 3} or node["step"] != 1:
            continue
        joined = follows.inputs if follows is not None and follows.operator in _JOINING else []
        for reference in [*joined, *graph.inputs]:
            before = reference.node is None or place.get(id(reference.node), len(place)) < place[id(node)]
            fits = len(reference.shape) == 4 and reference.shape[2:] == node.output.shape[2:]
            if before and fits and reference is not node.output and reference.array is None:
                graph.rewrite(node, "crop", [x, reference], offset=(offsets.get(2, 0), offsets.get(3, 0)))
                break


def take_padding(graph: Graph) -> None:
    """Zeros around an image are the padding of the filter or pooling that reads it."""
    for pad in graph.walk("pad"):
        x = pad.inputs[0]
        users = list(dict.fromkeys(pad.output.users))
        if any((*pad["begin"][:2], *pad["end"][:2])) or len(x.shape) < 3 or graph.results in users:
            continue
        if not all(_takes(user, pad) for user in users):
            continue
        for user in users:
            attributes = dict(user.attributes)
            attributes["begin"] = _sum(pad["begin"][2:], user["begin"])
            attributes["end"] = _sum(pad["end"][2:], user["end"])
            if user.operator == "avg_pool":
                attributes["padded"] = True
            graph.rewrite(user, user.operator, [x, *user.inputs[1:]], **attributes)


def _takes(user: Node, pad: Node) -> bool:
    if user.operator == "conv":
        return pad["value"] == 0 and user.inputs[0] is pad.output
    if user.operator == "avg_pool":
        counted = user["padded"] or not any((*user["begin"], *user["end"]))
        return pad["value"] == 0 and counted and not user["ceil"]
    if user.operator != "max_pool" or user["ceil"]:
        return False
    if pad["value"] == -math.inf or pad["value"] <= -3.4e38:
        return True
    source = pad.inputs[0].node
    positive = source is not None and (
        source.operator in _NOT_NEGATIVE or (source.operator == "clip" and source["low"] >= 0)
    )
    narrow = all(b + e < k for b, e, k in zip(pad["begin"][2:], pad["end"][2:], user["kernel"]))
    return pad["value"] == 0 and positive and narrow


def _sum(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b))


def read_rows(graph: Graph) -> None:
    """A fully connected layer flattens its input itself, in whatever order its weights are stored."""
    for node in graph.walk("dense"):
        flat = node.inputs[0].made_by("reshape")
        if flat is None or node["axis"] != len(flat.output.shape) - 1:
            continue
        x, axis = flat.inputs[0], node["axis"]
        if axis >= len(x.shape) or x.shape[:axis] != flat.output.shape[:axis]:
            continue
        weight = node.inputs[1]
        turned = x.made_by("transpose")
        if turned is not None and tuple(turned["order"][:axis]) == tuple(range(axis)):
            x, order = turned.inputs[0], turned["order"]
            stored = np.asarray(weight.array).reshape(-1, *turned.output.shape[axis:])
            back = [order.index(i) - axis + 1 for i in range(axis, len(order))]
            weight = Value(weight.name, weight.shape, stored.transpose(0, *back).reshape(weight.shape))
        graph.rewrite(node, "dense", [x, weight, *node.inputs[2:]], axis=axis)
