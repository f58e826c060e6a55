"""Lines that a torch user types, with tensors of a few shapes by name: float, integer, boolean."""

import numpy as np

A = np.array([[1.5, -2.25, 3.0, 0.5], [0.25, 4.0, -1.0, 2.0], [3.5, 0.75, 1.25, -0.5]])
B = np.array([[2.0, 1.0, -1.5, 0.5], [1.25, 3.0, 2.0, -2.0], [0.5, 0.25, 1.0, 4.0]])
VALUES = {
    "x": A,
    "y": B,
    "v": A[0],
    "s": A[:, :3],
    "p": np.abs(A) / 10,
    "b": np.stack([A, B]),
    "c": np.stack([A.T, B.T]),
    "i": np.array([[0, 1, 2, 0], [2, 0, 1, 1], [1, 1, 0, 2]]),
    "j": np.array([[0, 2, 1, 0], [2, 0, 0, 1], [1, 1, 2, 2]]),
    "k": np.array([0, 2]),
    "n": np.array([3, 1, 2]),
    "m": A > 0,
}
#: Which of them gradients are taken of.
VARIABLES = ("x", "y", "v", "s", "p", "b", "c")

#: Differentiable lines; ``T`` is torch or labnet.
SMOOTH = (
    *("x.abs()", "x.add(y)", "b.bmm(c)", "x.clamp(0, 1)", "x.clamp(min=0)", "x.clone()", "x.contiguous()", "x.cos()"),
    *("x.cumprod(dim=1)", "x.cumsum(1)", "x.div(y)", "v.dot(v)", "v.expand(2, 4)", "v.expand(2, -1)", "v.expand_as(x)"),
    *("x.exp()", "x.flatten()", "b.flatten(1)", "b.flatten(start_dim=0, end_dim=1)", "x.flip(0)", "x.flip(0, 1)"),
    *(
        "x.gather(0, i)",
        "x.gather(dim=0, index=i[:2])",
        "x.index_add(0, k, y[:2])",
        "x.index_add(0, k, y[1:], alpha=2)",
    ),
    *("x.index_select(0, k)", "p.log()", "x.log_softmax(dim=1)", "x.logsumexp(dim=1)", "x.masked_fill(m, 0.0)"),
    *("x.masked_fill(m, value=-1.0)", "x.matmul(y.T)", "x.mm(y.t())", "x.mean(dim=0, keepdim=True)", "x.mean(1, True)"),
    *("x.mul(y)", "x.narrow(0, 1, 2)", "x.neg()", "x.norm()", "x.norm(dim=1)", "x.norm(p=1, dim=0)", "x.permute(1, 0)"),
    *("x.pow(2)", "x.prod(dim=1)", "x.relu()", "x.reshape(2, 6)", "x.reshape(-1)", "p.rsqrt()", "x.sigmoid()"),
    *(
        "x.scatter(0, j, y)",
        "x.scatter(1, i, 7.0)",
        "x.scatter_add(0, i, y)",
        "x.scatter_add(dim=1, index=i, src=y)",
    ),
    *(
        "x.scatter_reduce(0, i, y, 'sum')",
        "x.scatter_reduce(0, i, y, 'mean')",
        "x.scatter_reduce(0, i, y, reduce='amax')",
    ),
    *("x.scatter_reduce(1, i, y, 'amin', include_self=False)", "x.select(0, 1)", "x.softmax(-1)", "x.softmax(dim=0)"),
    *("x.std(dim=1, unbiased=False)", "x.var(0, unbiased=True)", "x.sub(y)", "x.sum(dim=1)", "x.sum(1, keepdim=True)"),
    *("x.sum((0, 1))", "x.t()", "x.tanh()", "x.tile(2, 1)", "x.transpose(0, 1)", "b.transpose(-1, 0)", "x.tril()"),
    *("x.triu(1)", "x.triu(diagonal=1)", "x.unflatten(1, (2, 2))", "x.unflatten(1, (-1, 4))", "x.unfold(1, 2, 1)"),
    *("x.unsqueeze(0)", "x.unsqueeze(-1)", "x.unsqueeze(dim=1)", "x.view(-1)", "x.view(2, 6)", "x.view_as(y)"),
    *("x.where(m, y)", "x.lerp(y, 0.5)", "x.addcmul(x, y)", "x.roll(1, 0)", "x.roll(shifts=1, dims=1)", "x.fmod(2)"),
    *("x.repeat_interleave(2, dim=0)", "x.repeat_interleave(3)", "x.swapaxes(0, 1)", "x.amax(dim=1)", "x.amin(1)"),
    *("x.movedim(0, 1)", "x.diagonal()", "x.diagonal(offset=1)", "b.diagonal(dim1=1, dim2=2)", "v.diag()", "x.float()"),
    *(
        "s.trace()",
        "x.squeeze()",
        "x.unsqueeze(0).squeeze(0)",
        "x.div(y, rounding_mode='floor') * x",
        "x.outer if 0 else v",
    ),
    *(
        "T.cat([x, y], dim=0)",
        "T.cat((x, y), 1)",
        "T.stack([x, y], dim=1)",
        "T.einsum('ij,kj->ik', x, y)",
        "x.T",
        "x.mT",
    ),
    *("T.einsum('bij,bjk->bik', b, c)", "T.einsum('...ij->...ji', b)", "T.einsum('bij,bjk->bk', [b, c])", "x.double()"),
    *(
        "T.tensordot(x, y.T, dims=1)",
        "T.addmm(s, x, y.T, beta=2)",
        "T.diag(s, 1)",
        "T.cross(s, s.T, dim=1)",
        "x.diff(dim=1)",
    ),
    *("T.permute(x, (1, 0))", "T.logcumsumexp(x, 1)", "T.where(m, x, y)", "T.nan_to_num(x)", "T.maximum(x, y)"),
    *(
        "T.cdist(x, y)",
        "T.dist(x, y)",
        "T.quantile(x, 0.3)",
        "T.quantile(x, 0.7, dim=1, keepdim=True)",
        "T.hstack([x, y])",
    ),
    *(
        "T.kron(s, s)",
        "T.baddbmm(b @ c, b, c)",
        "x.swapdims(0, 1)",
        "T.vstack([v, v])",
        "T.inner(v, v)",
        "T.index_fill(x, 0, k, 1.0)",
        "T.atan2(x, y)",
        "T.logit(p)",
        "x.to(T.float64)",
        "x.std(dim=1)",
        "x.exp2()",
        "T.erfc(x)",
        "T.sinc(x)",
        "T.xlogy(p, p)",
        "x.fmax(y)",
        "T.fmin(x, y)",
        "x.clamp_min(0.5)",
        "x.clamp_max(max=0.5)",
        "x.deg2rad()",
        "T.rad2deg(x)",
        "T.addmv(v[:3], x, v)",
        "T.addr(x, v[:3], v, beta=2, alpha=3)",
        "x.cov()",
        "x.corrcoef()",
        "v.cov(correction=0)",
        "T.trapezoid(x, dx=0.5)",
        "T.trapezoid(x, v)",
        "T.trapz(x, dim=0)",
        "T.diag_embed(x)",
        "x.diag_embed(offset=1, dim1=0, dim2=2)",
        "x.diag_embed(-1)",
        "x.index_copy(0, k, y[1:])",
        "x.masked_scatter(m, y)",
        "T.msort(x)",
        "T.block_diag(x, s, v)",
        "T.cartesian_prod(v, v[:2])",
        "T.ger(v, v)",
        "x.var(dim=(0, 1), keepdim=True)",
        "T.std(x, dim=None)",
        "T.max(x, y)",
        "T.min(x, y)",
        "T.amin(x, dim=(0, 1))",
    ),
    *("x.add(y, alpha=2)", "x.sub(y, alpha=0.5)", "x.add(2, alpha=3)", "x.norm(2, dim=1)", "x.norm(1, 0, True)"),
    *("T.norm(x, 2, 1)", "x.norm(3)", "x.norm(p='fro')"),
)
#: Lines with several results.
SEVERAL = (
    *("x.chunk(2, dim=1)", "x.chunk(3, 1)", "x.split(3, dim=1)", "x.split([1, 3], 1)", "x.unbind(0)", "x.topk(2)"),
    *("x.topk(k=1, dim=0, largest=False)", "x.cummax(1)", "T.cummin(x, dim=0)", "T.meshgrid(v, v, indexing='ij')"),
    "T.var_mean(x, dim=1, correction=0)",
    *("T.tensor_split(x, 3, dim=1)", "x.tensor_split((1, 3), 1)", "T.broadcast_tensors(v, x)"),
    *("x.max(dim=1)", "x.min(dim=0, keepdim=True)", "x.sort(dim=1)", "T.sort(x, dim=0, descending=True, stable=True)"),
    *("x.median(dim=1)", "T.median(x, dim=0, keepdim=True)", "T.max(x, dim=-1)", "x.kthvalue(2)", "x.mode(dim=1)"),
    *("T.kthvalue(x, 1, dim=0, keepdim=True)", "T.mode(x - x, 0)", "T.var_mean(x)", "T.std_mean(x, dim=1)"),
    *("x.aminmax(dim=1)", "T.aminmax(x)"),
)
#: Lines without a gradient.
EXACT = (
    *(
        "T.isin(i, T.tensor([1, 2]))",
        "x.sgn()",
        "T.histc(x, bins=4)",
        "x.histc(5, min=-1, max=2)",
        "x.all()",
        "x.any()",
        "x.argmax(dim=1)",
        "x.argmin(1)",
        "x.argsort(dim=1)",
        "x.bool()",
        "x.eq(y)",
        "x.ge(0)",
    ),
    *("x.gt(0)", "x.int()", "x.le(0)", "x.long()", "x.lt(0)", "x.ne(y)", "x.isnan()", "x.count_nonzero(dim=0)"),
    *("T.zeros(2, 3)", "T.ones((2, 3))", "T.full((2, 2), 3.0)", "T.eye(3)", "T.arange(0, 1, 0.25)", "m.logical_not()"),
    *("T.linspace(0, 1, steps=5)", "T.zeros_like(x)", "x.new_zeros(2, 3)", "x.new_ones((2,))", "x.new_full((2,), 3.0)"),
    *(
        "T.isclose(x, y)",
        "T.bucketize(x, T.tensor([0.0, 1.0, 3.0]))",
        "T.tril_indices(3, 3)",
        "T.triu_indices(3, 4, 1)",
        "x.type(T.int32)",
        "i.type_as(x)",
        "x.half()",
    ),
)
#: Lines that compiled functions refuse: they read elements, or their shape depends on these.
EAGER = (
    *("x.dim()", "x.numel()", "x.size()", "x.size(0)", "x.size(-1)", "x.nelement()", "x.element_size()", "len(x)"),
    *("x[0, 0].item()", "x.tolist()", "x.masked_select(m)", "T.argwhere(x)", "T.bincount(n)", "x.is_floating_point()"),
    *("T.bincount(n, minlength=6)", "T.allclose(x, y)", "T.unique(n)", "x.is_cuda", "x.ndim", "T.numel(x)"),
    *("[row.sum() for row in x]", "divmod(7, 2)", "x.is_contiguous()", "T.is_tensor(x)"),
)
#: Lines that write into ``x``, and then what is compared.
WRITES = (
    *("x.add_(1)", "x.sub_(y)", "x.mul_(2)", "x.div_(y)", "x.clamp_(min=0)", "x.zero_()", "x.fill_(2)", "x.copy_(y)"),
    *("x.masked_fill_(m, 1.0)", "x.relu_()", "x.neg_()", "x.exp_()", "x.index_add_(0, k, y[:2])", "x.tanh_()"),
    *("x.scatter_(0, j, y)", "x.scatter_add_(0, i, y)", "x.addcmul_(y, y, value=0.5)", "x.lerp_(y, 0.5)", "x.pow_(2)"),
    *("x.data.mul_(3)", "x[0].zero_()", "x.data[1].fill_(5)", "x.round_()", "x.addcdiv_(y, y.abs() + 1)"),
    *("x.add_(y, alpha=-0.5)", "x.data.sub_(y, alpha=2)", "x.atan_()", "x.cumsum_(1)", "x.copysign_(y)"),
    "x.index_fill_(0, k, 2.0)",
)


def names_of(module, *, variables=()):
    """The tensors of `VALUES`, made by a module."""
    return {
        "T": module,
        **{name: module.tensor(array, requires_grad=name in variables) for name, array in VALUES.items()},
    }


def evaluate(line, given):
    return eval(line, {}, given)


def used(line):
    """The variables that a line uses."""
    code = compile(line, "line", "eval")
    return [name for name in VARIABLES if name in code.co_names]


def listed(outputs):
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]
