"""The HTTP side: stateless, one router a noun. Of the workers it imports the kernel and nothing else."""
