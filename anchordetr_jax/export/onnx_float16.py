"""An ONNX model in float16, made by onnxruntime's converter.

Half precision has eleven bits: a coordinate of 1333 pixels would be off by one, and 1 - 1e-5 would be 1, whose logit is
infinite. So positions, anchor points and boxes stay in float32, as do the inputs and outputs. Its largest number is
65504, which the sums of a norm exceed, so the means and variances of norms stay in float32 too.
"""

import copy
from collections import defaultdict
from typing import Any

IN_NORMS = ("Add", "Cast", "Div", "Expand", "Mul", "ReduceSum", "ReduceSumSquare", "Reshape", "Sub")
"""Operations between the products of two layers, of which a norm is made."""


def in_float16(model: Any) -> bytes:
    """The serialized model (`onnx.ModelProto`) with weights and products in float16. `model` stays as it is."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    half = convert_float_to_float16(
        copy.deepcopy(model), keep_io_types=True, node_block_list=sorted(nodes_in_float32(model.graph))
    )
    join_float32_nodes(half.graph)
    ordered = OnnxModel(half)
    ordered.prune_graph()
    ordered.topological_sort()  # The converter puts its casts at the end.
    del ordered.model.graph.value_info[:]  # It describes the dtypes of before.
    onnx.checker.check_model(ordered.model, full_check=True)
    return ordered.model.SerializeToString()


def join_float32_nodes(graph: Any) -> None:
    """Passes arrays between two nodes in float32 as they are. The converter casts them to float16 and back."""
    wide = {node.output[0]: node.input[0] for node in graph.node if node.name.endswith("_cast_to_fp16_node")}
    direct = {
        node.output[0]: wide[node.input[0]]
        for node in graph.node
        if node.name.endswith("_cast_to_fp32_node") and node.input[0] in wide
    }
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = direct.get(name, name)


def nodes_in_float32(graph: Any) -> set[str]:
    """The names of the nodes that compute positions (what sines, cosines and logarithms come from), boxes (what
    becomes of the logarithm of an anchor point), and means and variances (what the roots in norms come from)."""
    maker = {output: node for node in graph.node for output in node.output}
    users = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)

    def before(node: Any) -> list[Any]:
        # The shape of an array says nothing about its numbers.
        return [] if node.op_type == "Shape" else [maker[name] for name in node.input if name in maker]

    def after(node: Any) -> list[Any]:
        return [user for name in node.output for user in users[name]]

    def before_in_norm(node: Any) -> list[Any]:
        return [each for each in before(node) if each.op_type in IN_NORMS]

    roots = [node for node in graph.node if node.op_type == "Sqrt"]
    angles = [node for node in graph.node if node.op_type in ("Sin", "Cos", "Log")]
    logits = [node for node in angles if node.op_type == "Log"]
    return _reached(angles, before) | _reached(logits, after) | _reached(roots, before_in_norm)


def _reached(nodes: list[Any], neighbours: Any) -> set[str]:
    """The names of these nodes, and of all that a walk from neighbour to neighbour reaches."""
    names: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.name not in names:
            names.add(node.name)
            waiting += neighbours(node)
    return names
