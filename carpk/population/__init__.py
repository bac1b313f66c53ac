"""Population models: what varies, covariates, priors; bound to data; virtual patients."""
