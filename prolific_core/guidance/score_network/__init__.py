"""Score networks that predict eps_q in VSD."""
