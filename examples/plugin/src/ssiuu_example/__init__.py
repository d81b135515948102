"""Four additions to ssiuu, a file each: a loss, a gradient rule, an attack, a benchmark."""
