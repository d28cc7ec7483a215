"""Public networks as ONNX files, built node by node, and AlexNet as a Flax module.

Weights are zeros that the file makes itself (ConstantOfShape), so that files stay small, or stored
zeros.
"""

import flax.linen as nn
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Adds nodes to a graph; every method takes and returns the name of a tensor."""

    def __init__(self, stored=False):
        self.nodes, self.weights, self.stored = [], [], stored

    def add(self, op, *inputs, outputs=1, **attributes):
        name = f"{op.lower()}_{len(self.nodes)}"
        outs = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, outs, name=name, **attributes))
        return outs[0] if outputs == 1 else outs

    def constant(self, array):
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def zeros(self, *shape):
        if self.stored:
            return self.constant(np.zeros(shape, np.float32))
        return self.add("ConstantOfShape", self.constant(np.array(shape, np.int64)))

    def conv(self, x, into, out, size, stride=1, pad=0, groups=1, bias=False):
        weights = [
            self.zeros(out, into // groups, size, size),
            *([self.zeros(out)] if bias else []),
        ]
        attributes = {
            "kernel_shape": [size] * 2,
            "strides": [stride] * 2,
            "pads": [pad] * 4,
            "group": groups,
        }
        return self.add("Conv", x, *weights, **attributes)

    def conv_bn(self, x, into, out, size, stride=1, groups=1):
        x = self.conv(x, into, out, size, stride, size // 2, groups)
        return self.add("BatchNormalization", x, *(self.zeros(out) for _ in range(4)))

    def pool(self, x, size, stride, pad=0):
        return self.add("MaxPool", x, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def linear(self, x, into, out):
        return self.add("Gemm", x, self.zeros(out, into), self.zeros(out), transB=1)

    def relu(self, x):
        return self.add("Relu", x)

    def relu6(self, x):
        return self.add("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)))

    def model(self, output, shape=(1, 3, 224, 224), domains=()):
        """The model from input `x` to the tensor `output`."""
        into = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        outs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None])
            for name in np.atleast_1d(output)
        ]
        graph = helper.make_graph(self.nodes, "net", [into], outs, self.weights)
        opsets = [
            helper.make_opsetid("", 17),
            *(helper.make_opsetid(domain, 1) for domain in domains),
        ]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def alexnet():
    """torchvision's layout, with the poolings, Flatten and Dropout of its export."""
    b, x = Builder(), "x"
    for into, out, size, stride, pad, pooled in (
        (3, 64, 11, 4, 2, True),
        (64, 192, 5, 1, 2, True),
        (192, 384, 3, 1, 1, False),
        (384, 256, 3, 1, 1, False),
        (256, 256, 3, 1, 1, True),
    ):
        x = b.relu(b.conv(x, into, out, size, stride, pad, bias=True))
        x = b.pool(x, 3, 2) if pooled else x
    x = b.add(
        "AveragePool", x, kernel_shape=[1, 1], strides=[1, 1]
    )  # AdaptiveAvgPool2d(6), which changes nothing
    x = b.add("Dropout", b.add("Flatten", x))
    x = b.add("Dropout", b.relu(b.linear(x, 9216, 4096)))
    return b.model(b.linear(b.relu(b.linear(x, 4096, 4096)), 4096, 1000))


def resnet18(shape=(1, 3, 224, 224)):
    b = Builder(stored=True)
    x = b.pool(b.relu(b.conv_bn("x", 3, 64, 7, 2)), 3, 2, 1)
    into = 64
    for out, stride in (
        (64, 1),
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        (512, 1),
    ):
        y = b.conv_bn(b.relu(b.conv_bn(x, into, out, 3, stride)), out, out, 3)
        x = b.conv_bn(x, into, out, 1, stride) if stride == 2 else x
        x, into = b.relu(b.add("Add", y, x)), out
    return b.model(b.linear(b.add("Flatten", b.add("GlobalAveragePool", x)), 512, 1000), shape)


def mobilenetv2():
    """Pooled by a mean over the picture and flattened by a shape computed from the input's, as
    older exports do.
    """
    b = Builder()
    x, into = b.relu6(b.conv_bn("x", 3, 32, 3, 2)), 32
    for widen, out, repeat, first in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for stride in (first, *[1] * (repeat - 1)):
            wide, y = widen * into, x
            y = b.relu6(b.conv_bn(y, into, wide, 1)) if widen > 1 else y
            y = b.conv_bn(b.relu6(b.conv_bn(y, wide, wide, 3, stride, wide)), wide, out, 1)
            x, into = b.add("Add", x, y) if (stride, into) == (1, out) else y, out
    x = b.relu6(b.conv_bn(x, 320, 1280, 1))
    x = b.add("ReduceMean", x, axes=[2, 3])
    batch = b.add("Gather", b.add("Shape", "x"), b.constant(np.int64(0)), axis=0)
    batch = b.add("Unsqueeze", batch, b.constant(np.array([0])))
    x = b.add("Reshape", x, b.add("Concat", batch, b.constant(np.array([-1])), axis=0))
    return b.model(b.linear(x, 1280, 1000))


def small(shape=(1, 3, 8, 8)):
    """Two convolutions, a pooling, a linear layer; little enough to run."""
    b = Builder(stored=True)
    x = b.relu(b.conv("x", 3, 4, 3, pad=1, bias=True))
    x = b.pool(b.relu(b.conv(x, 4, 8, 3, pad=1)), 2, 2)
    return b.model(b.linear(b.add("Flatten", b.add("GlobalAveragePool", x)), 8, 5), shape)


def save(model, path):
    """Writes the model to `path`, which it returns."""
    onnx.save(model, str(path))
    return path


class AlexNet(nn.Module):
    """As above, of Linen modules."""

    @nn.compact
    def __call__(self, x):
        for out, size, stride, pad, pooled in (
            (64, 11, 4, 2, True),
            (192, 5, 1, 2, True),
            (384, 3, 1, 1, False),
            (256, 3, 1, 1, False),
            (256, 3, 1, 1, True),
        ):
            x = nn.relu(nn.Conv(out, (size, size), stride, padding=pad)(x))
            x = nn.max_pool(x, (3, 3), (2, 2)) if pooled else x
        x = x.reshape(1, -1)
        x = nn.relu(nn.Dense(4096)(x))
        return nn.Dense(1000)(nn.relu(nn.Dense(4096)(x)))


class Residual(nn.Module):
    """A convolution and a normalisation, a block with a way around it, a pooling, two linear
    layers.
    """

    @nn.compact
    def __call__(self, x, train=False):
        def conv(x, out):
            return nn.BatchNorm(use_running_average=not train)(
                nn.Conv(out, (3, 3), use_bias=False)(x)
            )

        x = nn.relu(conv(x, 8))
        y = conv(nn.relu(conv(x, 8)), 8)
        x = nn.avg_pool(nn.gelu(x + y), (2, 2), (2, 2))
        x = nn.silu(nn.Dense(16)(x.reshape(1, -1)))
        return nn.softmax(nn.Dense(10)(nn.LayerNorm()(x)))
