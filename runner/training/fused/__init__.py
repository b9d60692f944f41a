"""The fused step of the toys on the CPU. In: the stacked factors. Out: losses and gradients, without any n × n product."""
