"""An ONNX model in float16, made by onnxruntime's converter.

Half precision has eleven bits: a coordinate of 1333 pixels would be off by one, and 1 - 1e-5 would be 1, whose logit is
infinite. So positions, anchor points and boxes stay in float32, as do the inputs and outputs.
"""

import copy
from collections import defaultdict
from typing import Any


def in_float16(model: Any) -> bytes:
    """The serialized model (`onnx.ModelProto`) with weights and products in float16. `model` stays as it is."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    half = convert_float_to_float16(
        copy.deepcopy(model), keep_io_types=True, node_block_list=sorted(nodes_in_float32(model.graph))
    )
    ordered = OnnxModel(half)
    ordered.topological_sort()  # The converter puts its casts at the end.
    del ordered.model.graph.value_info[:]  # It describes the dtypes of before.
    onnx.checker.check_model(ordered.model, full_check=True)
    return ordered.model.SerializeToString()


def nodes_in_float32(graph: Any) -> set[str]:
    """The names of the nodes that compute positions (what sines, cosines and logarithms come from) and boxes (what
    becomes of the logarithm of an anchor point)."""
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

    angles = [node for node in graph.node if node.op_type in ("Sin", "Cos", "Log")]
    logits = [node for node in angles if node.op_type == "Log"]
    return _reached(angles, before) | _reached(logits, after)


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
