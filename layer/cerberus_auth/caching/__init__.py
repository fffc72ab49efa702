"""How values are kept: fresh, due, overdue, gone; one flight for each; one breaker for each Cerberus."""
