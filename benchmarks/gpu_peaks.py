"""What this GPU can do at most: multiply-adds in float32 outside of the matrix units, and bytes of its memory."""

from __future__ import annotations

import time

import torch

try:  # torch brings Triton along where there can be a GPU
    import triton
    import triton.language as tl
except ImportError:
    triton = None

BLOCK, WARPS, BLOCKS_A_MULTIPROCESSOR = 512, 4, 16
CHAINS, UNROLLED = 8, 4

if triton is not None:

    @triton.jit
    def multiply_add(out, ROUNDS: tl.constexpr, BLOCK: tl.constexpr, UNROLLED: tl.constexpr):
        """Eight independent chains for every element, so that none waits for its own last result."""
        lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        x = lane.to(tl.float32) * 1e-6
        scale, shift = 1.0 - x, x + 0.5  # known at run time only
        a, b, c, d = x, x + 1.0, x + 2.0, x + 3.0
        e, f, g, h = x + 4.0, x + 5.0, x + 6.0, x + 7.0
        for _ in range(ROUNDS):
            for _ in tl.static_range(UNROLLED):
                a, b, c, d = a * scale + shift, b * scale + shift, c * scale + shift, d * scale + shift
                e, f, g, h = e * scale + shift, f * scale + shift, g * scale + shift, h * scale + shift
        tl.store(out + lane, a + b + c + d + e + f + g + h)


def multiply_adds(rounds: int, blocks: int) -> float:
    """How many one launch of `multiply_add` makes."""
    return float(rounds) * blocks * BLOCK * CHAINS * UNROLLED


def best_of(action, device: str, repetitions: int = 6) -> float:
    """Seconds of the fastest call after the first."""
    best = float("inf")
    for repetition in range(repetitions + 1):
        _wait(device)
        start = time.perf_counter()
        action()
        _wait(device)
        if repetition:
            best = min(best, time.perf_counter() - start)
    return best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peaks(device: str) -> dict[str, float | str]:
    """Measured: `fma_per_s` (by Triton), `sgemm_fma_per_s` (a matrix product without TF32), `bytes_per_s` (a copy)."""
    torch.backends.cuda.matmul.allow_tf32 = False
    n, size = (8192, 2**30) if device == "cuda" else (256, 2**20)
    a = torch.randn(n, n, device=device)
    found: dict[str, float | str] = {"sgemm_fma_per_s": n**3 / best_of(lambda: torch.mm(a, a), device)}
    source = torch.empty(size, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    found["bytes_per_s"] = 2 * 4 * size / best_of(lambda: target.copy_(source), device)
    if device == "cuda" and triton is not None:
        try:
            found["fma_per_s"] = _chains()
        except Exception as error:  # the other numbers are still good
            found["fma_error"] = f"{type(error).__name__}: {error}"[:200]
    return found


def _chains() -> float:
    blocks = torch.cuda.get_device_properties(0).multi_processor_count * BLOCKS_A_MULTIPROCESSOR
    out, rounds = torch.empty(blocks * BLOCK, device="cuda"), 20_000

    def launch() -> None:
        multiply_add[(blocks,)](out, ROUNDS=rounds, BLOCK=BLOCK, UNROLLED=UNROLLED, num_warps=WARPS)

    return multiply_adds(rounds, blocks) / best_of(launch, "cuda")
