"""Kernels of the CPU: operations that take several passes in NumPy, for Numba to compile.

Arrays are passed as the address of a tuple. So the cost of a call does not depend on their number, and one compiled
function serves a model of any depth. A kernel reads data, shape, dtype and flags from the array objects and checks
them. If one does not fit, it returns 0 and leaves everything unchanged. It computes the same bits as the NumPy code
that it replaces: same operations, same order.

Only the process that compiles imports this module; others load machine code.
"""

# mypy: ignore-errors
# Numba finds the types.

from numba import float32, int64

from labnet.kernels.cpu.attention import attention, attention_backward
from labnet.kernels.cpu.channels import channels, channels_backward
from labnet.kernels.cpu.columns import column_sums
from labnet.kernels.cpu.convolution import (
    convolve,
    convolve_input,
    convolve_weight,
    depthwise,
    depthwise_input,
    depthwise_weight,
)
from labnet.kernels.cpu.layers import layers_backward, layers_forward
from labnet.kernels.cpu.optimizers import adam, sgd, sgd_with_momentum
from labnet.kernels.cpu.pooling import tile_max, tile_max_backward
from labnet.kernels.cpu.recurrence import gru, gru_backward, lstm, lstm_backward
from labnet.kernels.cpu.rows import (
    cross_entropy,
    cross_entropy_backward,
    row_sums,
    softmax,
    softmax_backward,
    standardize,
    standardize_backward,
)
from labnet.kernels.cpu.scans import prod, scan
from labnet.kernels.cpu.selection import gather, scatter_add
from labnet.kernels.cpu.team import team_help, team_publish, team_share

#: Each kernel with the types of its result and arguments.
KERNELS = {
    "team_publish": (team_publish, int64(int64, int64, int64)),
    "team_share": (team_share, int64(int64, int64, int64)),
    "team_help": (team_help, int64(*[int64] * 4)),
    "layers_forward": (layers_forward, int64(int64, int64)),
    "layers_backward": (layers_backward, int64(int64, int64)),
    "tile_max": (tile_max, int64(int64, int64, int64)),
    "tile_max_backward": (tile_max_backward, int64(int64, int64, int64)),
    "convolve": (convolve, int64(int64, int64, int64)),
    "convolve_input": (convolve_input, int64(int64, int64, int64)),
    "convolve_weight": (convolve_weight, int64(*[int64] * 4)),
    "depthwise": (depthwise, int64(int64, int64, int64)),
    "depthwise_input": (depthwise_input, int64(int64, int64, int64)),
    "depthwise_weight": (depthwise_weight, int64(int64, int64, int64)),
    "gather": (gather, int64(*[int64] * 5)),
    "scatter_add": (scatter_add, int64(*[int64] * 6)),
    "scan": (scan, int64(*[int64] * 6)),
    "prod": (prod, int64(int64, int64, int64)),
    "sgd": (sgd, int64(int64, float32)),
    "sgd_with_momentum": (sgd_with_momentum, int64(int64, float32, float32)),
    "adam": (adam, int64(int64, *[float32] * 8)),
    "row_sums": (row_sums, int64(int64, int64)),
    "column_sums": (column_sums, int64(*[int64] * 5)),
    "softmax": (softmax, int64(int64, int64)),
    "softmax_backward": (softmax_backward, int64(int64, int64)),
    "cross_entropy": (cross_entropy, int64(int64)),
    "cross_entropy_backward": (cross_entropy_backward, int64(int64)),
    "standardize": (standardize, int64(int64, int64, int64, float32)),
    "standardize_backward": (standardize_backward, int64(int64, int64, int64, float32)),
    "channels": (channels, int64(int64, float32, int64, int64)),
    "channels_backward": (channels_backward, int64(int64, int64, int64)),
    "lstm": (lstm, int64(int64)),
    "lstm_backward": (lstm_backward, int64(int64)),
    "gru": (gru, int64(int64)),
    "gru_backward": (gru_backward, int64(int64)),
    "attention": (attention, int64(*[int64] * 4)),
    "attention_backward": (attention_backward, int64(*[int64] * 4)),
}
