"""Ways to make picks of picks: `Particles` to `Particles`, or to a mask of what is left out, with the reason."""
