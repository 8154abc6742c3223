"""The run engine: runs compiled steps on subjects (prepared photos) and writes the results to sinks."""
