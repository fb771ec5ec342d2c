"""What a training run needs, before it is started: memory, operations, traffic, time."""

from sympformer.estimate.hardware import HARDWARE, Hardware, here
from sympformer.estimate.memory import Memory, memory
from sympformer.estimate.passes import Pass, one_pass
from sympformer.estimate.speed import Speed, speed

__all__ = ["HARDWARE", "Hardware", "Memory", "Pass", "Speed", "here", "memory", "one_pass", "speed"]
