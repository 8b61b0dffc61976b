"""Scaling laws: their forms (`forms`), the fit (`fitting`), the runs to fit (`ladder`), what is written (`report`)."""
