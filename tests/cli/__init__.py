"""The command line as newcomers run it: a process, a folder of its own, and what it leaves behind."""
