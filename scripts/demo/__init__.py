"""`make demo`: a shipped template is applied, and reconfigured while packets flow."""
