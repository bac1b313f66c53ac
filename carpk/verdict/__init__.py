"""Whether a fit can be trusted, and what in model or data raises a doubt."""
