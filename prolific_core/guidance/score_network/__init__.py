"""The score network of the particles: eps_q of VSD."""
