"""A step on a GPU as one launch: its kernels are recorded once, as a CUDA graph, and replayed from then on.

A step of small models is hundreds of kernels of microseconds each, which Python launches more slowly than the GPU runs them.
"""

from collections.abc import Callable, Hashable

import torch

from runner.core.messages import first_line, say

Graph = Callable[[], None]


def recorder() -> Callable[[Callable[[], None]], Graph]:
    """What records a function: what it does on the GPU, to be done again with what its tensors hold by then; it is not done now.

    All that it records shares memory for what a function makes on its way: nothing of that is needed once it has ended.
    """
    pool = torch.cuda.graph_pool_handle()

    def record(function: Callable[[], None]) -> Graph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            function()
        return graph.replay

    return record


class Recorded:
    """`function` of a few flags, for each choice of them recorded when it comes for the second time.

    At the first, libraries set up what may not be recorded. A function that cannot be recorded, as where a model reads a value
    off the device, is called as it is from then on, which one line says.
    """

    def __init__(self, function: Callable[..., None], record: Callable[[Callable[[], None]], Graph] | None = None):
        self.function, self.record = function, record or recorder()
        self.graphs: dict[tuple[Hashable, ...], Graph] = {}
        self.seen: set[tuple[Hashable, ...]] = set()
        self.can = True

    def __call__(self, *flags: Hashable) -> None:
        if flags in self.seen and flags not in self.graphs and self.can:
            try:
                self.graphs[flags] = self.record(lambda: self.function(*flags))
            except RuntimeError as error:  # torch's, of what is not allowed meanwhile, and of memory that runs out
                self.can = False
                self.graphs.clear()  # and with them their memory
                say(f"a step cannot be recorded ({first_line(error)}); its kernels are launched one by one")
        self.seen.add(flags)
        self.graphs.get(flags, lambda: self.function(*flags))()
