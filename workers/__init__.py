"""The work itself: the loop, the model, the tools, and the kernel that functions share. Nothing here imports infra."""
