"""The run engine: subjects (photos made ready for a method) x compiled steps x sinks (where results go)."""
