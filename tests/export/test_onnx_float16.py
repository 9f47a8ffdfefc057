"""An ONNX model in float16 keeps in float32 what float16 cannot hold."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from anchordetr_jax.export.onnx_float16 import in_float16

WIDTH = 64


def norm_of_a_product() -> onnx.ModelProto:
    """x [1,WIDTH] -> x times two, divided by the root of its mean square."""
    weights: dict[str, np.ndarray] = {
        "doubled": np.eye(WIDTH, dtype=np.float32) * 2,
        "count": np.array([WIDTH], np.float32),
        "axes": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "doubled"], ["y"], name="product"),
        helper.make_node("Mul", ["y", "y"], ["squares"], name="square"),
        helper.make_node("ReduceSum", ["squares", "axes"], ["sum"], name="sum"),
        helper.make_node("Div", ["sum", "count"], ["mean"], name="mean"),
        helper.make_node("Sqrt", ["mean"], ["root"], name="root"),
        helper.make_node("Div", ["y", "root"], ["result"], name="normal"),
    ]
    graph = helper.make_graph(
        nodes,
        "norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, [1, WIDTH])],
        [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_norm_is_right_whose_sum_of_squares_is_beyond_float16() -> None:
    x = np.random.default_rng(0).uniform(100, 200, (1, WIDTH)).astype(np.float32)
    assert np.square(2 * x).sum() > 20 * float(np.finfo(np.float16).max)
    session = onnxruntime.InferenceSession(in_float16(norm_of_a_product()), providers=["CPUExecutionProvider"])
    (found,) = session.run(["result"], {"x": x})
    np.testing.assert_allclose(found, x / np.sqrt(np.square(x).mean()), rtol=2e-3)  # float16 has eleven bits.


def test_products_and_weights_are_in_float16() -> None:
    half = onnx.load_from_string(in_float16(norm_of_a_product()))
    dtypes = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert dtypes["doubled"] == TensorProto.FLOAT16
    assert dtypes["count"] == TensorProto.FLOAT


def test_arrays_pass_between_nodes_in_float32_without_a_cast() -> None:
    half = onnx.load_from_string(in_float16(norm_of_a_product()))
    inputs = {node.name: list(node.input) for node in half.graph.node}
    outputs = {node.name: list(node.output) for node in half.graph.node}
    for first, second in (("square", "sum"), ("sum", "mean"), ("mean", "root")):
        assert outputs[first][0] in inputs[second]
