"""Models: finding them on disk, loading them, and what a loaded one promises."""
