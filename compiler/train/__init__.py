"""Quantization-aware training: a plan's integer semantics in PyTorch, with gradients.

>>> qat = prepare(model, "ternary", example_inputs=(x,), calibration=samples)
>>> fine_tune(qat, loader, nn.CrossEntropyLoss(), Options(epochs=3))
>>> trained, plan = finish(qat)
>>> bundle = compile(trained, example_inputs=(x,), quantize=plan)
"""

from compiler.train.loop import Epoch, Options, Training, fine_tune
from compiler.train.lower_bits import lower_bits
from compiler.train.module import FakeQuantized
from compiler.train.prepare import finish, prepare

__all__ = [
    "Epoch", "FakeQuantized", "Options", "Training", "fine_tune", "finish", "lower_bits",
    "prepare",
]  # fmt: skip
