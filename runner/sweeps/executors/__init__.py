"""Where stacks are trained. One module an executor: this machine, jobs of Slurm, tasks of Ray."""
