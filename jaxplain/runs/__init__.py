"""The run engine: subjects (photos prepared for a method) x compiled steps x sinks (where results go)."""
