"""Neighbour lists: every pair of atoms inside a cutoff, with all periodic images, in pure scriptable PyTorch.

Two paths that give the same set: all pairs, for few atoms whose box (if any) is at least twice the cutoff, and linked
cells, for everything else. The cells are found by sorting, not by allocating a grid, so that time and memory depend on
the number of atoms and edges only: not on where a molecule is, nor on how far apart two molecules are.

`VerletList` keeps a list that is longer than the cutoff by a skin, and knows when it has to be built again.
"""

import torch
from torch import Tensor, nn

# TorchScript functions cannot read module-level numbers: the limits below are functions without arguments.


def _all_pairs_up_to() -> int:
    return 500  # atoms; below, N^2 distances cost less than sorting into cells (measured on one core)


def _candidates_at_once() -> int:
    return 200_000  # candidate pairs looked at in one go: bounds the temporaries to about 30 MB


def _most_images() -> int:
    return 30_000  # more images of an atom than this mean that the box and the cutoff are not in the same unit


def _margin() -> float:
    return 1.0 + 1e-9  # grids are laid out for a cutoff longer by this: rounding at a cell border cannot lose a pair


def neighbor_list(positions: Tensor, cell: Tensor, periodic: bool, cutoff: float) -> tuple[Tensor, Tensor]:
    """All pairs of atoms nearer than `cutoff`, in both directions and through every periodic image.

    positions: [n_atoms, 3], A, anywhere (wrapped into the box or not). cell: [3, 3], rows are the lattice vectors, A,
    of any shape and size; ignored unless `periodic`. cutoff: A.

    Returns (edge_index, shifts): int64 [2, n_edges] of (sender, receiver), sorted by receiver, and [n_edges, 3], the
    integers S in the dtype of `positions`, with |r_receiver - r_sender + S @ cell| < cutoff. An atom is a neighbour of
    itself only for S != 0.

    Raises what `check_positions` and `check_cell` raise.
    """
    x = positions.detach().to(torch.float64)
    box = cell.detach().to(torch.float64)
    check_positions(x, cutoff)
    if periodic:
        check_cell(box, cutoff)
    if x.size(0) == 0:
        empty = torch.zeros([2, 0], dtype=torch.int64, device=x.device)
        return empty, torch.zeros([0, 3], dtype=positions.dtype, device=x.device)

    if periodic:
        inverse, heights = _inverse_and_heights(box)
        if x.size(0) <= _all_pairs_up_to() and bool((heights >= 2.0 * cutoff * _margin()).all()):
            edge_index, shifts = _all_pairs_nearest_image(x, box, inverse, cutoff)
        else:
            edge_index, shifts = _periodic_cells(x, box, inverse, heights, cutoff)
    elif x.size(0) <= _all_pairs_up_to():
        edge_index, shifts = _all_pairs(x, cutoff)
    else:
        edge_index, shifts = _open_cells(x, cutoff)
    return edge_index, shifts.to(positions.dtype)


def check_positions(x: Tensor, cutoff: float) -> None:
    """Raise RuntimeError (torch.jit.Error when scripted) for positions [n_atoms, 3] (float64, A) that are not finite,
    or so large that their distances are unknown.

    Modules that are frozen call this from their own forward: TorchScript 2.12 reads freed memory when an exception
    leaves a method of a submodule of a frozen module.
    """
    reach = 2.0**49 * cutoff  # beyond, neighbouring float64 numbers are a good part of a cutoff apart
    if x.size(0) > 0 and not bool((x.abs() < reach).all()):  # also for NaN
        bad = int(torch.nonzero(~(x.abs() < reach).all(dim=1))[0].item())
        values: list[float] = x[bad].tolist()
        raise RuntimeError(f"position of atom {bad} is not a usable number: {values} A")


def check_cell(box: Tensor, cutoff: float) -> None:
    """Raise RuntimeError for a cell [3, 3] (float64, A) without volume, or absurdly small against the cutoff (A)."""
    volume = float(torch.linalg.det(box).abs().item())
    longest = float(torch.linalg.norm(box, dim=1).max().item())
    if not volume > 1e-9 * longest**3:  # also for NaN
        vectors: list[float] = box.reshape(-1).tolist()
        raise RuntimeError(f"the box vectors {vectors} (A, one after the other) do not span a volume")
    images = int((2.0 * torch.ceil(cutoff * _margin() / _inverse_and_heights(box)[1]) + 1.0).prod().item())
    if images > _most_images():
        sides: list[float] = box.reshape(-1).tolist()
        raise RuntimeError(
            f"the box vectors {sides} (A, one after the other) are too short for a cutoff of {cutoff} A: "
            f"{images} images of each atom are in reach. Is the box in the right unit?"
        )


def _inverse_and_heights(box: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of the cell, and the distances [3] between its opposite faces."""
    inverse = torch.linalg.inv(box)
    return inverse, 1.0 / torch.linalg.norm(inverse, dim=0)


def _all_pairs(x: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    squared = (x[:, None] - x[None]).square().sum(dim=2)
    squared.fill_diagonal_(float("inf"))
    pairs = torch.nonzero(squared < cutoff * cutoff)  # rows sorted by the first index
    return torch.stack((pairs[:, 1], pairs[:, 0])), torch.zeros([pairs.size(0), 3], dtype=x.dtype, device=x.device)


def _all_pairs_nearest_image(x: Tensor, box: Tensor, inverse: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Exact when every height of the cell is at least twice the cutoff.

    A neighbour's fractional difference f + S obeys |f + S| * height <= r < cutoff <= height / 2, so that S is the one
    integer that rounds f away, for a cell of any shape.
    """
    fractional = x @ inverse
    shifts = fractional[None] - fractional[:, None]  # [receiver, sender]: sender - receiver
    shifts = shifts.round_()
    vectors = x[:, None] - x[None] + shifts @ box
    squared = vectors.square().sum(dim=2)
    squared.fill_diagonal_(float("inf"))
    pairs = torch.nonzero(squared < cutoff * cutoff)
    return torch.stack((pairs[:, 1], pairs[:, 0])), shifts[pairs[:, 0], pairs[:, 1]]


def _periodic_cells(x: Tensor, box: Tensor, inverse: Tensor, heights: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    reach = cutoff * _margin()
    # Cells of half a cutoff: 125 of them hold 1.7 times fewer strangers than 27 of a whole cutoff do.
    counts = torch.floor(2.0 * heights / reach).clamp(min=1.0, max=2.0**20)  # three times 20 bits fit int64
    layers = torch.ceil(reach * counts / heights).to(torch.int64)  # how many cells away a neighbour can be
    fractional = x @ inverse
    wraps = torch.floor(fractional)
    wrapped = x - wraps @ box
    number = counts.to(torch.int64)
    bins = torch.floor((fractional - wraps) * counts).to(torch.int64)
    bins = torch.minimum(bins, number - 1)  # f - floor(f) is 1 for a tiny negative f
    return _pairs_of_cells(wrapped, wraps, bins, number, layers, True, box, cutoff)


def _open_cells(x: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    reach = cutoff * _margin()
    coarse = torch.floor((x - x.min(dim=0).values) / (0.5 * reach)).to(torch.int64)
    axes = [_close_gaps(coarse[:, 0]), _close_gaps(coarse[:, 1]), _close_gaps(coarse[:, 2])]
    bins = torch.stack(axes, dim=1) + 2  # two free layers on either side: a step to a neighbour stays inside
    number = bins.max(dim=0).values + 3
    layers = torch.full([3], 2, dtype=torch.int64, device=x.device)
    return _pairs_of_cells(x, torch.zeros_like(x), bins, number, layers, False, torch.zeros_like(x[:0]), cutoff)


def _close_gaps(coordinate: Tensor) -> Tensor:
    """Grid coordinates renumbered so that no empty stretch is wider than two cells: what was at most two cells apart
    still is, what was farther still is, and no number exceeds three times the number of atoms, wherever these are."""
    occupied, inverse = torch.unique(coordinate, return_inverse=True)
    steps = (occupied[1:] - occupied[:-1]).clamp(max=3)
    first = torch.zeros([1], dtype=torch.int64, device=coordinate.device)
    return torch.cat((first, steps.cumsum(0)))[inverse]


def _pairs_of_cells(
    x: Tensor, wraps: Tensor, bins: Tensor, number: Tensor, layers: Tensor, periodic: bool, box: Tensor, cutoff: float
) -> tuple[Tensor, Tensor]:
    """Pairs inside the cutoff among atoms in the same and in neighbouring cells.

    x: positions, in the box if periodic. wraps: the lattice vectors taken off to bring them there. bins: [n, 3] cell of
    each atom. number: [3] cells along each axis. layers: [3] how far to look along each axis.
    """
    n_atoms = x.size(0)
    name = (bins[:, 0] * number[1] + bins[:, 1]) * number[2] + bins[:, 2]
    sorted_name, order = torch.sort(name)
    x_sorted = x[order]
    steps = torch.cartesian_prod(
        torch.arange(-int(layers[0]), int(layers[0]) + 1, device=x.device),
        torch.arange(-int(layers[1]), int(layers[1]) + 1, device=x.device),
        torch.arange(-int(layers[2]), int(layers[2]) + 1, device=x.device),
    )
    per_atom = steps.size(0)
    # Atoms of a block of receivers are looked at together; its size follows from the mean number of candidates, and is
    # cut further inside when a cell is much fuller than the mean.
    block = max(1, _candidates_at_once() // (per_atom * 4))
    edges = [torch.zeros([2, 0], dtype=torch.int64, device=x.device)]
    shifts = [torch.zeros([0, 3], dtype=x.dtype, device=x.device)]
    for begin in range(0, n_atoms, block):
        end = min(begin + block, n_atoms)
        around = bins[begin:end, None] + steps  # [block, per_atom, 3]
        images = torch.zeros_like(around)
        if periodic:
            images = torch.div(around, number, rounding_mode="floor")
            around = around - images * number
        wanted = ((around[..., 0] * number[1] + around[..., 1]) * number[2] + around[..., 2]).reshape(-1)
        first = torch.searchsorted(sorted_name, wanted)
        count = torch.searchsorted(sorted_name, wanted, right=True) - first
        occupied = torch.nonzero(count).squeeze(1)
        receiver = begin + torch.div(occupied, per_atom, rounding_mode="floor")
        image = images.reshape(-1, 3)[occupied].to(x.dtype)
        target = x[receiver]
        if periodic:
            target = target - image @ box  # instead of moving every sender to its image
        first, count = first[occupied], count[occupied]
        for some in _split(count):
            many = count.index_select(0, some)
            row = torch.repeat_interleave(some, many)
            place_of_first = first.index_select(0, some) - (many.cumsum(0) - many)
            place = torch.repeat_interleave(place_of_first, many) + torch.arange(row.size(0), device=x.device)
            vectors = target.index_select(0, row) - x_sorted.index_select(0, place)
            squared = vectors.square_().sum(dim=1)
            near = torch.nonzero(squared < cutoff * cutoff).squeeze(1)
            row, sender = row[near], order[place[near]]
            shift = wraps[sender] - wraps[receiver[row]] - image[row]
            real = torch.nonzero((sender != receiver[row]) | (image[row] != 0).any(dim=1)).squeeze(1)
            edges.append(torch.stack((sender[real], receiver[row[real]])))
            shifts.append(shift[real])
    return torch.cat(edges, dim=1), torch.cat(shifts)


def _in_order(edge_index: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """The same pairs, sorted by receiver, sender and shift."""
    if edge_index.size(1) == 0:
        return edge_index, shifts
    whole = shifts.to(torch.int64)
    whole = whole - whole.min(dim=0).values
    width = whole.max(dim=0).values + 1
    key = edge_index[1] * (edge_index.max() + 1) + edge_index[0]
    for axis in range(3):
        key = key * width[axis] + whole[:, axis]
    order = torch.argsort(key)
    return edge_index[:, order], shifts[order]


def _split(count: Tensor) -> list[Tensor]:
    """Indices of `count` in runs whose counts add up to about _candidates_at_once() (one entry at least)."""
    every = torch.arange(count.size(0), device=count.device)
    if int(count.sum().item()) <= _candidates_at_once():
        return [every]
    part = torch.div(count.cumsum(0) - 1, _candidates_at_once(), rounding_mode="floor")
    sizes: list[int] = torch.bincount(part).tolist()
    return list(torch.split(every, sizes))


class VerletList(nn.Module):
    """A neighbour list with a skin, built again only when it could miss a pair.

    State (buffers, so that it lives in a scripted module and each copy of the module has its own): the positions and
    the cell of the last build and its list, all pairs with r < cutoff + skin.

    The rule. Since the build the box went from h0 to h, F = h0^-1 h. With S lattice vectors taken off (a host program
    wraps molecules as it likes), an atom is now at x = x0 F + u. Every pair vector is then v = v0 F + u_j - u_i, so a
    pair with |v| < cutoff had |v0| < (cutoff + 2 max|u - t|) / s, for any common vector t (their mean is taken, a drift
    of the whole system costs nothing) and s = 1 - |F - 1| <= the smallest singular value of F. While

        cutoff + 2 max|u - t| <= (cutoff + skin) (1 - |F - 1|)

    no pair can be missing; otherwise, and when the comparison fails (NaN), the list is built from scratch. Without a
    box change this is max|u - t| <= skin / 2.
    """

    def __init__(self, cutoff: float, skin: float, periodic: bool) -> None:
        """cutoff, skin: A."""
        super().__init__()
        if not (cutoff > 0.0 and skin >= 0.0):
            raise ValueError(f"cutoff has to be positive and skin not negative, got {cutoff} and {skin}")
        self.cutoff = float(cutoff)
        self.skin = float(skin)
        self.periodic = bool(periodic)
        self.built_positions: Tensor
        self.built_cell: Tensor
        self.edge_index: Tensor
        self.shifts: Tensor
        self.builds: Tensor
        self.register_buffer("built_positions", torch.zeros([0, 3], dtype=torch.float64), persistent=False)
        self.register_buffer("built_cell", torch.zeros([3, 3], dtype=torch.float64), persistent=False)
        self.register_buffer("edge_index", torch.zeros([2, 0], dtype=torch.int64), persistent=False)
        self.register_buffer("shifts", torch.zeros([0, 3], dtype=torch.float64), persistent=False)
        self.register_buffer("builds", torch.zeros([1], dtype=torch.int64), persistent=False)

    def forward(self, positions: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """(edge_index, vectors) of all pairs with r < cutoff, now: [2, n_edges] sender and receiver, and
        r_receiver - r_sender + S @ cell [n_edges, 3] in float64, A.

        Sorted by receiver, sender and shift, so that neither the result nor a sum over it depends on when the list was
        built. positions: [n_atoms, 3], A; cell: [3, 3], A, ignored unless periodic. No gradient flows through the
        vectors. Raises what `neighbor_list` raises.
        """
        x = positions.detach().to(torch.float64)
        box = cell.detach().to(torch.float64)
        images = self._images_since_build(x, box)
        if not self._is_valid(x, box, images):
            # No assignment in place: tensors handed out earlier stay what they were.
            edge_index, shifts = neighbor_list(x, box, self.periodic, self.cutoff + self.skin)
            self.edge_index, self.shifts = _in_order(edge_index, shifts)
            self.built_positions = x.clone()
            self.built_cell = box.clone()
            self.builds = self.builds + 1
            images = torch.zeros_like(x)
        sender, receiver = self.edge_index[0], self.edge_index[1]
        if self.periodic:
            x = x - images @ box
            vectors = x[receiver] - x[sender] + self.shifts @ box
        else:
            vectors = x[receiver] - x[sender]
        near = torch.nonzero(vectors.square().sum(dim=1) < self.cutoff * self.cutoff).squeeze(1)
        return self.edge_index[:, near], vectors[near]

    def _images_since_build(self, x: Tensor, box: Tensor) -> Tensor:
        """Lattice vectors [n_atoms, 3] (integers) by which the host moved each atom since the build."""
        if not self.periodic or self.built_positions.size(0) != x.size(0) or x.size(0) == 0:
            return torch.zeros_like(x)
        # Fractional coordinates do not change when the box deforms with its atoms.
        moved = x @ torch.linalg.inv(box) - self.built_positions @ torch.linalg.inv(self.built_cell)
        return moved.round()

    def _is_valid(self, x: Tensor, box: Tensor, images: Tensor) -> bool:
        n_atoms = x.size(0)
        if int(self.builds.item()) == 0 or self.built_positions.size(0) != n_atoms or n_atoms == 0:
            return False
        carried = self.built_positions
        strain = 0.0
        if self.periodic:
            deformation = torch.linalg.inv(self.built_cell) @ box
            carried = carried @ deformation
            x = x - images @ box
            identity = torch.eye(3, dtype=box.dtype, device=box.device)
            strain = float(torch.linalg.norm(deformation - identity).item())  # Frobenius, not below the 2-norm
        moved = x - carried
        moved = moved - moved.mean(dim=0)
        farthest = float(moved.square().sum(dim=1).max().sqrt().item())
        return self.cutoff + 2.0 * farthest <= (self.cutoff + self.skin) * (1.0 - strain)
