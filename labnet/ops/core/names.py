"""Names of torch and NumPy with the functions and keywords of labnet that they mean.

The one table of names: the namespace, the methods of `Tensor`, their type stub and docs/torch.md are made from it.
Contains strings only. Where torch and the array API standard give one name different meanings, the standard's is kept;
`DIFFERENCES` says what to write.
"""

#: Keywords of torch and NumPy, and those of labnet.
KEYWORDS = {
    "dim": "axis",
    "dims": "axis",
    "keepdim": "keepdims",
    "shifts": "shift",
    "diagonal": "k",
    "offset": "k",
    "unbiased": "correction",
    "ddof": "correction",
    "p": "ord",
    "src": "value",
    "start_dim": "start_axis",
    "end_dim": "end_axis",
    "dim1": "axis1",
    "dim2": "axis2",
}
#: Functions in which torch's ``dims`` has another name.
AXES = ("permute_dims", "tensordot")

#: Ops that are methods under their own name.
METHODS = (
    *("abs", "acos", "acosh", "add", "addcdiv", "addcmul", "all", "any", "argmax", "argmin", "argsort", "asin"),
    *("asinh", "astype", "atan", "atan2", "atanh", "bitwise_and", "bitwise_invert", "bitwise_left_shift"),
    *("bitwise_or", "bitwise_right_shift", "bitwise_xor", "broadcast_to", "ceil", "clip", "copysign", "cos", "cosh"),
    *("count_nonzero", "cross", "cummax", "cummin", "cumulative_prod", "cumulative_sum", "diag", "diagonal", "diff"),
    *("divide", "equal", "erf", "exp", "expand_dims", "expm1", "flip", "floor", "floor_divide", "fmod", "frac"),
    *(
        "gather",
        "greater",
        "greater_equal",
        "hypot",
        "isclose",
        "isfinite",
        "isinf",
        "isnan",
        "lerp",
        "less",
        "less_equal",
    ),
    *("log", "log10", "log1p", "log2", "log_softmax", "logaddexp", "logcumsumexp", "logical_and", "logical_not"),
    *("logical_or", "logical_xor", "logit", "logsumexp", "matmul", "matrix_transpose", "max", "maximum", "mean"),
    *("median", "min", "minimum", "moveaxis", "multiply", "nan_to_num", "nanmean", "nansum", "negative"),
    *("nextafter", "nonzero", "not_equal", "outer", "permute_dims", "positive", "pow", "prod", "reciprocal", "relu"),
    *("remainder", "repeat", "reshape", "roll", "round", "rsqrt", "searchsorted", "sigmoid", "sign", "signbit"),
    *("sin", "sinh", "softmax", "sort", "sqrt", "square", "squeeze", "std", "subtract", "sum", "take"),
    *("take_along_axis", "tan", "tanh", "tile", "topk", "trace", "tril", "triu", "trunc", "unfold", "unstack"),
    *("var", "vecdot", "vector_norm"),
)

#: Other names of ops. Each is a function of the namespace, and a method unless the op takes a sequence of tensors.
ALIASES = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "bitwise_not": "bitwise_invert",
    "bmm": "matmul",
    "cat": "concat",
    "clamp": "clip",
    "concatenate": "concat",
    "cumprod": "cumulative_prod",
    "cumsum": "cumulative_sum",
    "dot": "matmul",
    "ger": "outer",
    "eq": "equal",
    "fix": "trunc",
    "ge": "greater_equal",
    "gt": "greater",
    "le": "less_equal",
    "lt": "less",
    "mm": "matmul",
    "movedim": "moveaxis",
    "mul": "multiply",
    "mv": "matmul",
    "ne": "not_equal",
    "neg": "negative",
    "permute": "permute_dims",
    "power": "pow",
    "sgn": "sign",
    "sub": "subtract",
    "take_along_dim": "take_along_axis",
    "true_divide": "divide",
    "unbind": "unstack",
    "unique": "unique_values",
    "unsqueeze": "expand_dims",
}

#: Functions that torch calls with an order of arguments of its own, and that are methods too.
FORMS = (
    *(
        "addmm",
        "allclose",
        "amax",
        "amin",
        "aminmax",
        "kthvalue",
        "mode",
        "std_mean",
        "argwhere",
        "bincount",
        "bucketize",
        "cdist",
        "chunk",
        "dist",
        "div",
        "expand",
        "flatten",
    ),
    *("index_add", "index_fill", "index_select", "kron", "masked_fill", "masked_select", "narrow", "norm", "numel"),
    *("pad", "quantile", "ravel", "repeat_interleave", "scatter", "scatter_add", "scatter_reduce", "select", "split"),
    *("swapaxes", "t", "transpose", "unflatten", "var_mean"),
    *("exp2", "erfc", "sinc", "xlogy", "fmax", "fmin", "clamp_min", "clamp_max", "deg2rad", "rad2deg", "addmv", "addr"),
    *("cov", "corrcoef", "trapezoid", "diag_embed", "index_copy", "masked_scatter", "isin", "histc", "msort"),
    "tensor_split",
)
#: Other names of these.
FORM_ALIASES = {"baddbmm": "addmm", "swapdims": "swapaxes", "trapz": "trapezoid"}

#: Functions with the names, and the arguments, of NumPy, and what each does.
NUMPY = {
    "atleast_1d": "Return each tensor with one dimension or more.",
    "atleast_2d": "Return each tensor with two dimensions or more; new ones come first.",
    "column_stack": "Return tensors of one dimension as the columns of a matrix, beside those of matrices.",
    "dstack": "Concatenate tensors along the third dimension.",
    "fliplr": "Reverse the second dimension.",
    "flipud": "Reverse the first dimension.",
    "hstack": "Concatenate tensors along the second dimension, those of one dimension along the first.",
    "inner": "Return the sums of products over the last dimension of both tensors.",
    "rot90": "Rotate by `k` quarter turns in the plane of two dimensions, from the first towards the second.",
    "vdot": "Return the sum of products of two tensors of equal size, as if they were flat.",
    "vstack": "Concatenate tensors along the first dimension; those of one dimension become rows.",
}

#: Activations, which are functions of the namespace too.
ACTIVATIONS = ("log_softmax", "relu", "sigmoid", "softmax")

#: Methods that write into the tensor: torch's name without the underscore, and the function of one or more arguments.
IN_PLACE = (
    *("abs", "add", "addcdiv", "addcmul", "ceil", "clamp", "clip", "cos", "div", "erf", "exp", "expm1", "floor"),
    *("floor_divide", "fmod", "index_add", "lerp", "log", "log1p", "logical_not", "masked_fill", "mul", "nan_to_num"),
    *("neg", "pow", "reciprocal", "relu", "remainder", "round", "rsqrt", "scatter", "scatter_add", "sigmoid", "sign"),
    *("sin", "sqrt", "square", "sub", "tanh", "tril", "triu", "trunc"),
    *("absolute", "acos", "acosh", "addmm", "asin", "asinh", "atan", "atan2", "atanh", "bitwise_and", "bitwise_or"),
    *("bitwise_xor", "copysign", "cosh", "cumprod", "cumsum", "divide", "erfc", "exp2", "fix", "frac", "hypot"),
    *(
        "clamp_max",
        "clamp_min",
        "index_copy",
        "index_fill",
        "log10",
        "log2",
        "logical_and",
        "logical_or",
        "logical_xor",
    ),
    *("logit", "masked_scatter", "multiply", "negative", "nextafter", "scatter_reduce", "sinh", "subtract", "tan"),
    "xlogy",
)

#: dtypes that are methods, by torch's name.
DTYPES = {
    "bool": "bool",
    "byte": "uint8",
    "char": "int8",
    "short": "int16",
    "int": "int32",
    "long": "int64",
    "half": "float16",
    "float": "float32",
    "double": "float64",
}

#: What differs from torch: torch's expression, its meaning in labnet, and what to write for torch's meaning.
DIFFERENCES = (
    (
        "x.max(1), x.min(1), x.sort(1), x.median(1)",
        "an error: `dim=` gives values and positions as in torch, `axis=` the values alone as in NumPy",
        "x.max(dim=1), x.min(dim=1), x.sort(dim=1), x.median(dim=1)",
    ),
    ("x.std(1), x.var(1)", "an error: `dim=` divides by n - 1, `axis=` by n", "x.std(dim=1), x.var(dim=1)"),
    ("x.sort()", "the values alone", "x.sort(dim=-1)"),
    ("x.median()", "the mean of the middle two for an even number", "x.sort().view(-1)[(x.numel() - 1) // 2]"),
    ("x.std(), x.var()", "divided by n", "x.std(correction=1), x.std(dim=None)"),
    ("x.repeat(2, 3)", "NumPy's repeat, as repeat_interleave; more numbers are an error", "x.tile((2, 3))"),
    ("torch.equal(x, y), x.equal(y)", "elementwise, as x == y", "(x == y).all()"),
    ("torch.nonzero(x)", "a tuple with the positions of each dimension", "ln.stack(x.nonzero(), 1)"),
    ("torch.meshgrid(x, y)", "indexing is 'xy' by default", "ln.meshgrid(x, y, indexing='ij')"),
    ("torch.round(x, decimals=2)", "no decimals", "(x * 100).round() / 100"),
    ("x.numpy()", "read-only; allowed for tensors that require gradients", "x.numpy().copy()"),
    ("loss.backward()", "returns the gradients, for opt(loss.backward()); also adds them to .grad", ""),
    ("x.data", "a view whose writes are not recorded", "x.assign(value)"),
    ("integers * 1.5, integers / 2, integers.mean()", "float64, as in NumPy", "x.float() * 1.5"),
    ("float32 tensor + int64 tensor", "float64, as in NumPy", "x + y.float()"),
    ("x + np.float64(1)", "float64, since NumPy's numbers have a dtype", "x + 1.0"),
    ("x.transpose(0, 1)", "swaps, also a matrix, which NumPy leaves as it is", ""),
    ("x.detach().mul_(2)", "a write into a tensor of its own", "x.data.mul_(2)"),
    ("torch.compile(f)", "another name", "ln.jit(f)"),
    ("torch.autograd.grad(y, [x])", "another name", "ln.grad(y, [x])"),
    ("torch.autograd.grad(y, x)[0]", "a tensor for a tensor, a tuple for a list", "ln.grad(y, x)"),
    ("model.state_dict()", "a snapshot; writes into it do not reach the model", "model.load_state_dict(d)"),
    ("torch.save(d, path), torch.load(path)", "safetensors files", "ln.io.save(path, d), ln.io.load(path)"),
)
