"""The sums and products of MACE as nodes of autograd's graph, computed by the native kernels and differentiable twice.

What a training needs is the gradient, in the weights, of a loss that holds forces: the graph is walked from the
energies to the positions, and then from the loss back through all of that to the weights. Nobody asks for second
derivatives in the positions, so these are left out: `Wanted` says which of the two walks is going on. The definition of
each node is in `mace_md.model.blocks` and `mace_md.model.contraction`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import Function


@dataclass
class Wanted:
    """What the walk through the graph that is going on is for; shared by the nodes of one evaluation."""

    weights: bool = False  # False: derivatives in the positions; True: in the weights


def geometry(wanted: Wanted, graph: Tensor, vectors: Tensor, max_ell: int) -> tuple[Tensor, Tensor]:
    """Distances of the pairs, [n_pairs, 1], and harmonics of the edges, [n_edges, (max_ell + 1)^2]; max_ell 2 or 3."""
    return _Geometry.apply(wanted, graph, vectors, max_ell)


def convolve(
    wanted: Wanted, graph: Tensor, paths: Tensor, blocks: Tensor, h: Tensor, R: Tensor, h_moves: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sums over neighbours of all paths, for l = 0 ... 3: [n_atoms, 2 l + 1, n_paths of l * C].

    Parameters
    ----------
    graph : of a `PreparedGraph`.
    paths : int64 [n_paths, 6], from `path_table`.
    blocks : [n_edges, n], every path's coupling with the harmonics, see `mace_md.model.blocks.PathSum`.
    h : [n_atoms, (L + 1)^2, C].
    R : [n_pairs, n_paths, C].
    h_moves : whether h depends on the positions.
    """
    return _Convolve.apply(wanted, h_moves, graph, paths, blocks, h, R)


def product(wanted: Wanted, program: Tensor, type_start: Tensor, A: list[Tensor], weights: Tensor) -> list[Tensor]:
    """Symmetric products, [n_atoms, 2 L + 1, C] for each L.

    Parameters
    ----------
    program : int32, from `mace_md.model.fast.programs.polynomial_program`.
    type_start : int32 [n_types + 1], first atom of each type; atoms are sorted by type.
    A : for each l, [n_atoms, 2 l + 1, C].
    weights : [n_types, n_weights, C], in the order of the program.
    """
    padded = [*A, *[A[0].new_empty(0)] * (4 - len(A))]
    return [value for value in _Product.apply(wanted, program, type_start, weights, *padded) if value.numel()]


def grouped_matmul(wanted: Wanted, rows: list[int], x: Tensor, weight: Tensor) -> Tensor:
    """x [n, K] times a matrix for each range of rows: weight [n_ranges, K, M], range z from rows[z] to rows[z + 1]."""
    return _GroupedMatmul.apply(wanted, rows, x, weight)


def _like(gradient: Tensor | None, tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if gradient is None else gradient.contiguous()


class _Geometry(Function):
    @staticmethod
    def forward(ctx, wanted, graph, vectors, max_ell):
        ctx.wanted, ctx.max_ell = wanted, max_ell
        ctx.save_for_backward(graph, vectors)
        return torch.ops.mace_md.train_geometry(graph, vectors, max_ell)

    @staticmethod
    def backward(ctx, r, Y):
        if ctx.wanted.weights:
            return None, None, None, None
        return None, None, _GeometryReverse.apply(*ctx.saved_tensors, r, Y, ctx.max_ell), None


class _GeometryReverse(Function):
    @staticmethod
    def forward(ctx, graph, vectors, r, Y, max_ell):
        ctx.max_ell = max_ell
        ctx.save_for_backward(graph, vectors)
        return torch.ops.mace_md.train_geometry_reverse(graph, vectors, r.contiguous(), Y.contiguous(), max_ell)

    @staticmethod
    def backward(ctx, vectors_dot):
        graph, vectors = ctx.saved_tensors
        r, Y = torch.ops.mace_md.train_geometry_tangent(graph, vectors, vectors_dot.contiguous(), ctx.max_ell)
        return None, None, r, Y, None


class _Convolve(Function):
    @staticmethod
    def forward(ctx, wanted, h_moves, graph, paths, blocks, h, R):
        ctx.wanted, ctx.h_moves = wanted, h_moves
        ctx.set_materialize_grads(False)
        none = R.new_empty(0)
        results = torch.ops.mace_md.train_convolve(graph, paths, blocks, h, R, none, none, none)
        ctx.save_for_backward(graph, paths, blocks, h, R, none)
        ctx.shapes = [result.shape for result in results]
        return results

    @staticmethod
    def backward(ctx, *adjoints):
        graph, paths, blocks, h, R, none = ctx.saved_tensors
        given = [
            R.new_zeros(shape) if adjoint is None else adjoint.contiguous()
            for adjoint, shape in zip(adjoints, ctx.shapes, strict=True)
        ]
        if ctx.wanted.weights:
            inputs = (graph, paths, blocks, h, R, none, none, none)
            h_adjoint, R_adjoint = torch.ops.mace_md.train_convolve_reverse(*inputs, *given, 1)
            return None, None, None, None, None, h_adjoint, R_adjoint
        results = _ConvolveReverse.apply(ctx.h_moves, graph, paths, blocks, h, R, *given)
        return None, None, None, None, *results


class _ConvolveReverse(Function):
    @staticmethod
    def forward(ctx, h_moves, graph, paths, blocks, h, R, *adjoints):
        ctx.h_moves = h_moves
        none = R.new_empty(0)
        ctx.save_for_backward(graph, paths, blocks, h, R, none, *adjoints)
        ctx.set_materialize_grads(False)
        inputs = (graph, paths, blocks, h, R, none, none, none, *adjoints)
        blocks_adjoint = torch.ops.mace_md.train_convolve_blocks(*inputs)
        h_adjoint, R_adjoint = torch.ops.mace_md.train_convolve_reverse(*inputs, int(h_moves))
        return blocks_adjoint, h_adjoint if h_moves else None, R_adjoint

    @staticmethod
    def backward(ctx, blocks_dot, h_dot, R_dot):
        graph, paths, blocks, h, R, none, *adjoints = ctx.saved_tensors
        tangents = (_like(blocks_dot, blocks), _like(h_dot, h) if ctx.h_moves else none, _like(R_dot, R))
        inputs = (graph, paths, blocks, h, R, *tangents)
        phi_dot = torch.ops.mace_md.train_convolve(*inputs)
        h_part, R_part = torch.ops.mace_md.train_convolve_reverse(*inputs, *adjoints, 1)
        return None, None, None, None, h_part, R_part, *phi_dot


class _Product(Function):
    @staticmethod
    def forward(ctx, wanted, program, type_start, weights, *A):
        ctx.wanted = wanted
        results = torch.ops.mace_md.train_product(program, type_start, *A, weights)
        ctx.save_for_backward(program, type_start, weights, *A)
        return results

    @staticmethod
    def backward(ctx, *adjoints):
        program, type_start, weights, *A = ctx.saved_tensors
        given = [adjoint.contiguous() for adjoint in adjoints]
        if ctx.wanted.weights:
            *gradients, by_weights = torch.ops.mace_md.train_product_reverse(
                program, type_start, *A, weights, *given, 1
            )
            return None, None, None, by_weights, *gradients
        return None, None, None, None, *_ProductReverse.apply(program, type_start, weights, *A, *given)


class _ProductReverse(Function):
    @staticmethod
    def forward(ctx, program, type_start, weights, a0, a1, a2, a3, *adjoints):
        inputs = (program, type_start, a0, a1, a2, a3, weights, *adjoints)
        ctx.save_for_backward(*inputs)
        *gradients, _ = torch.ops.mace_md.train_product_reverse(*inputs, 0)
        return tuple(gradients)

    @staticmethod
    def backward(ctx, *A_dot):
        results = torch.ops.mace_md.train_product_second(*ctx.saved_tensors, *(dot.contiguous() for dot in A_dot))
        tangents, by_A, by_weights = results[:3], results[3:7], results[7]
        return None, None, by_weights, *by_A, *tangents


class _GroupedMatmul(Function):
    @staticmethod
    def forward(ctx, wanted, rows, x, weight):
        ctx.wanted, ctx.rows = wanted, rows
        ctx.save_for_backward(x, weight)
        result = x.new_empty(x.shape[0], weight.shape[2])
        for z in range(weight.shape[0]):
            torch.mm(x[rows[z] : rows[z + 1]], weight[z], out=result[rows[z] : rows[z + 1]])
        return result

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        rows, by_weight = ctx.rows, None
        by_x = _GroupedMatmul.apply(ctx.wanted, rows, g, weight.transpose(1, 2)) if ctx.needs_input_grad[2] else None
        if ctx.wanted.weights and ctx.needs_input_grad[3]:
            by_weight = torch.stack([x[a:b].t() @ g[a:b] for a, b in zip(rows, rows[1:], strict=False)])
        return None, None, by_x, by_weight
