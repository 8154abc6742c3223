"""Jobs: what a command does with every photo of a run, from the file to the folder of results."""
