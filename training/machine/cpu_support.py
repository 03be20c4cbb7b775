"""What torchtitan 0.2.2 misses on a machine without an accelerator. Inactive when CUDA is there.

torchtitan picks its device module once, at import, and asks it for memory statistics that
`torch.cpu` does not have. `enable()` must therefore run before torchtitan is imported.
"""

from __future__ import annotations

import types

import torch


def enable() -> bool:
    """Let torchtitan run on CPU and gloo; returns whether anything had to be done."""
    if torch.cuda.is_available():
        return False
    torch._utils._get_available_device_type = lambda: "cpu"  # type: ignore[attr-defined]
    missing = {
        "get_device_name": lambda device=None: "CPU",
        "get_device_properties": lambda device=None: types.SimpleNamespace(name="CPU", total_memory=_total_memory()),
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "memory_stats": lambda device=None: {},
        "current_device": lambda: 0,
    }
    for name, stand_in in missing.items():
        setattr(torch.cpu, name, stand_in)
    return True


def _total_memory() -> int:
    import psutil

    return psutil.virtual_memory().total


def settle_math_library() -> None:
    """Call the vectorised functions once on one thread, before the first parallel call.

    One run of some dozens, started on an overloaded machine, took its first AdamW step with square roots
    wrong by 2e-4 in one thread's half of a tensor: as if the math library had chosen its code while two
    threads were inside it. Not reproduced since; the cause is an inference, the precaution costs a millisecond.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    numbers = torch.linspace(0.1, 0.9, 4096)
    for name in ("sqrt", "rsqrt", "exp", "log", "sin", "cos", "tanh", "erf", "sigmoid"):
        getattr(torch, name)(numbers)
    torch.set_num_threads(threads)


def sum_gradients(model: torch.nn.Module) -> None:
    """Make FSDP2's gradients plain sums, as torchtitan's loss (already divided by all tokens) expects.

    It would use PREMUL_SUM, which gloo does not have.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
